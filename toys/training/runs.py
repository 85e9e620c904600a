"""Runs as folders: one a network, with config, metrics, weights and manifest.

    OUT/runs/PROBLEM-METHOD-sSEED-DIGEST/
        config.json          what was asked for (toys/training/config.py)
        weights.safetensors  the trained student
        snapshots.safetensors  networks kept along the way, if asked for
        metrics.csv          step, loss and what else the method logs
        manifest.json        seed, versions, commit, device, CPU-seconds, digests of the files above
    OUT/groups/DIGEST/       only while networks train: members.json, checkpoint.safetensors

The manifest is written last: a folder that has one is finished.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from theory.common.files import locked, sha256, write_atomically, write_json, write_tensors
from theory.methods.contract.states import under
from toys.networks.mlp import StackedMLP, single
from toys.training.config import RunConfig
from toys.training.files import read_json, read_state, read_tensors, write_state

PACKAGES = ("torch", "numpy", "scipy", "torchdiffeq", "safetensors", "plumbline")
FORMAT = 1
GROUP_ADVICE = "delete its folder, and its runs are trained again"


@dataclass(frozen=True)
class Run:
    """A run's folder under OUT."""

    out: Path
    config: RunConfig

    @property
    def folder(self) -> Path:
        return self.out / "runs" / self.config.folder_name

    @property
    def is_finished(self) -> bool:
        """Whether its manifest is there.

        Raises:
            ValueError: the folder holds another run's config, or what it holds is damaged.
        """
        return (self.folder / "manifest.json").exists() and bool(self.manifest())

    def manifest(self) -> dict[str, Any]:
        """The manifest, after checking that folder and config belong together.

        Raises:
            ValueError: they do not, or a file is damaged; names it.
        """
        found = read_json(self.folder / "manifest.json")
        if not isinstance(found, dict) or found.get("digest") != self.config.digest:
            theirs = found.get("digest") if isinstance(found, dict) else found
            raise ValueError(
                f"{self.folder} must hold the run {self.config.digest!r}, got {theirs!r}: it was "
                "moved or edited; delete it or choose another --out"
            )
        if read_json(self.folder / "config.json") != self.config.as_json():
            raise ValueError(
                f"{self.folder / 'config.json'}: differs from the run's config: it was edited; "
                "delete the folder or choose another --out"
            )
        for name, digest in found["files"].items():
            path = self.folder / name
            if not path.exists() or sha256(path) != digest:
                what = "damaged (its digest is not the manifest's)" if path.exists() else "missing"
                raise ValueError(f"{path}: {what}; delete its folder, and the run is trained again")
        return found

    def weights(self) -> dict[str, Tensor]:
        """The trained network's parameters.

        Raises:
            ValueError: not finished, or damaged.
        """
        self.manifest()
        return read_tensors(self.folder / "weights.safetensors")[0]

    def network(self) -> StackedMLP:
        """The trained network, in float64 and frozen.

        Raises:
            ValueError: not finished, or damaged.
        """
        return single(self.weights())

    @property
    def base(self) -> Run:
        """The run that trained this one's base.

        Raises:
            ValueError: it has none.
        """
        found = self.config.base()
        if found is None:
            raise ValueError(f"{self.config.label}: trains from scratch, and has no base")
        return Run(self.out, found)

    def snapshots(self) -> list[dict[str, Tensor]]:
        """The networks kept along the way, first to last.

        Raises:
            ValueError: not finished, damaged, or trained without snapshots.
        """
        self.manifest()
        path = self.folder / "snapshots.safetensors"
        if not path.exists():
            raise ValueError(f"{path}: missing: the run was trained with snapshots = 0")
        tensors = read_tensors(path)[0]
        return [under(f"{n}.", tensors) for n in sorted({name.split(".")[0] for name in tensors})]

    def finish(
        self,
        weights: Mapping[str, Tensor],
        metrics: Sequence[Mapping[str, float]],
        snapshots: Mapping[str, Tensor] | None = None,
        **facts: Any,
    ) -> None:
        """Write the folder, the manifest last; snapshots as NUMBER.PARAMETER."""
        write_json(self.folder / "config.json", self.config.as_json())
        write_tensors(self.folder / "weights.safetensors", weights)
        names = list(metrics[0]) if metrics else ["step", "loss"]
        rows = [",".join(names), *(",".join(f"{row[k]:.9g}" for k in names) for row in metrics)]
        write_atomically(self.folder / "metrics.csv", ("\n".join(rows) + "\n").encode())
        files = ["config.json", "weights.safetensors", "metrics.csv"]
        if snapshots:
            write_tensors(self.folder / "snapshots.safetensors", snapshots)
            files.append("snapshots.safetensors")
        write_json(
            self.folder / "manifest.json",
            {
                "format": FORMAT,
                "digest": self.config.digest,
                "seed": self.config.seed,
                "versions": versions(),
                "commit": commit(),
                **facts,
                "files": {name: sha256(self.folder / name) for name in files},
            },
        )


@cache
def versions() -> dict[str, str]:
    """What the run was made with."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


@cache
def commit() -> str:
    """The project's commit, with + where the work tree differs; "unknown" outside git."""
    here = Path(__file__).resolve().parents[2]
    try:
        head = _git(here, "rev-parse", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *words: str) -> str:
    call = ["git", "-C", str(folder), *words]
    return subprocess.check_output(call, stderr=subprocess.DEVNULL, text=True).strip()


# --- groups of networks that train as one


@dataclass(frozen=True)
class Group:
    """Runs of one method, shape and budget, trained side by side; always the same members."""

    out: Path
    members: tuple[RunConfig, ...]

    @property
    def folder(self) -> Path:
        return self.out / "groups" / hashlib.sha256(self._names.encode()).hexdigest()[:12]

    @property
    def _names(self) -> str:
        return "".join(c.digest for c in self.members)

    @property
    def label(self) -> str:
        """method @ problem, and how many networks."""
        first, count = self.members[0], len(self.members)
        return f"{first.method_label} @ {first.problem_label}" + (
            f" x {count}" if count > 1 else ""
        )

    def begin(self) -> None:
        """Write down who trains together, so that any later command goes on with the same."""
        write_json(
            self.folder / "members.json",
            [{"digest": c.digest, "config": asdict(c)} for c in self.members],
        )

    def save(self, step: int, tensors: Mapping[str, Tensor], metrics: Tensor, names: str) -> None:
        """The whole state after `step` steps, in one file, with its digest."""
        words = {"metrics": names, "members": self._names}
        write_state(self._checkpoint, step, {**tensors, "metrics": metrics}, words)

    def load(self) -> tuple[int, dict[str, Tensor], Tensor, list[str]] | None:
        """(step, tensors, metrics, their names) of the checkpoint, or None where there is none.

        Raises:
            ValueError: it is damaged, or of other runs.
        """
        if not self._checkpoint.exists():
            return None
        step, tensors, words = read_state(self._checkpoint, {"members": self._names}, GROUP_ADVICE)
        return step, tensors, tensors.pop("metrics"), words["metrics"].split(",")

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def locked(self) -> AbstractContextManager[None]:
        """Only one process trains a group.

        Raises:
            ValueError: another process is at it.
        """
        return locked(self.folder, "trains these runs", "lock")

    def end(self) -> None:
        """All members are finished: the checkpoint has served."""
        shutil.rmtree(self.folder, ignore_errors=True)


def unfinished_groups(out: Path) -> list[Group]:
    """Groups that were begun and not ended, and whose runs this code would train the same way.

    Raises:
        ValueError: a damaged members.json.
    """
    found = []
    for path in sorted((out / "groups").glob("*/members.json")):
        rows = read_json(path)
        try:
            members = tuple(RunConfig(**row["config"]) for row in rows)
            same = [c.digest == row["digest"] for c, row in zip(members, rows, strict=True)]
        except (TypeError, KeyError) as error:
            raise ValueError(f"{path}: damaged ({error}); {GROUP_ADVICE}") from error
        except (ValueError, OSError):
            continue  # its method file or problem is gone: nothing asks for it any more
        if all(same):
            found.append(Group(out, members))
    return found
