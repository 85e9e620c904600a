"""The run folder's samples of the base and the tuned model, as they are produced.

    samples/base/prompts.json               the prompts, by prompt index
    samples/base/rank-00000/manifest.json   world, rewards, shards with their digests
    samples/base/rank-00000/000001.safetensors
    samples/tuned/...                       the same; bank, audit_base, audit_tuned too

Every process writes its own folder: a shard first, then the manifest that lists it, each
atomically. So a crash leaves the samples that were listed, and an unlisted shard that the next
writer removes. A sample that is added again replaces the one before; a shard all of whose samples
are replaced is dropped. A sample is known by its index, global: no two processes share one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaleup.samples.samples import SampleSet
from theory.common.checks import check_choice, check_order
from theory.common.files import read_json, read_tensors, sha256, write_json, write_tensors

WHICH = ("bank", "base", "tuned", "audit_base", "audit_tuned")
FORMAT = 1
REWARD = "reward/"
X1_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
ADVICE = "delete the folder that holds it, and the samples are drawn again"


class SampleWriter:
    """Writes one process's samples of one model; close it (or use `with`) when all are added.

    folder: the run's. which: "base" or "tuned". prompts: of the whole run. shard: samples a file.
    made_by: what tells the model apart (its weights' digest, the step): samples that are there of
    another one are removed, so that a run that is trained further does not mix two models.

    Raises:
        ValueError: an argument out of range; the folder holds samples of other prompts or of
            another number of processes.
        OSError: the disk is full, or the folder cannot be written; names the path.
    """

    def __init__(
        self,
        folder: Path,
        which: str,
        prompts: Sequence[str],
        rank: int = 0,
        world: int = 1,
        shard: int = 64,
        made_by: str = "",
    ) -> None:
        check_choice("which", which, WHICH)
        check_order("world", world, 1)
        check_order("rank", rank, 0, world - 1)
        check_order("shard", shard, 1)
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be at least one text, in a sequence, got {prompts!r}")
        self.which, self.prompts, self.shard = which, tuple(prompts), shard
        self.folder = folder / "samples" / which / f"rank-{rank:05d}"
        self._pending: list[dict[str, Tensor]] = []
        self._manifest = self._open(rank, world, made_by)
        self._clean()

    def _open(self, rank: int, world: int, made_by: str) -> dict[str, Any]:
        listed = self.folder.parent / "prompts.json"
        if listed.exists() and read_json(listed, ADVICE) != {"prompts": list(self.prompts)}:
            raise ValueError(
                f"{listed} must hold the same {len(self.prompts)} prompts, and holds others: take "
                "another run folder"
            )
        # Every process writes the same bytes, so it does not matter who is last.
        if not listed.exists():
            write_json(listed, {"prompts": list(self.prompts)})
        path = self.folder / "manifest.json"
        fresh = {
            "format": FORMAT,
            "rank": rank,
            "world": world,
            "made_by": made_by,
            "closed": False,
            "shards": [],
        }
        if path.exists():
            found = _manifest(path)
            if found["world"] != world:
                raise ValueError(
                    f"{path}: world must be {found['world']}, the number of processes that wrote "
                    f"it, got {world}"
                )
            if found["made_by"] == made_by:
                return found
        # Before another model's shards go: a crash between leaves unlisted ones only.
        write_json(path, fresh)
        return fresh

    def _clean(self) -> None:
        """Remove drafts, and shards that a crash left unlisted."""
        names = {entry["file"] for entry in self._manifest["shards"]}
        for path in [*self.folder.glob("*.safetensors"), *self.folder.glob(".*.part")]:
            if path.name not in names:
                path.unlink(missing_ok=True)

    @property
    def written(self) -> Tensor:
        """Indices of the samples on disk, (n,) int64, rising: what a resumed run need not draw."""
        found = {i for entry in self._manifest["shards"] for i in entry["index"]}
        return torch.tensor(sorted(found), dtype=torch.int64)

    def add(
        self,
        index: Tensor,
        seed: Tensor,
        prompt_index: Tensor,
        rewards: Mapping[str, Tensor],
        images: Tensor | None = None,
        x1: Tensor | None = None,
        features: Tensor | None = None,
    ) -> None:
        """Add n samples; fields as in SampleSet, on any device. Full shards go to disk.

        Raises:
            ValueError: wrong shape, dtype or range; an index twice; other fields than before.
            OSError: the disk is full; nothing half-written, and `flush` may be tried again.
        """
        rows = {"index": index, "seed": seed, "prompt_index": prompt_index}
        rows |= {REWARD + label: values for label, values in rewards.items()}
        extra = {"images": images, "x1": x1, "features": features}
        rows |= {name: values for name, values in extra.items() if values is not None}
        rows = {name: values.detach().cpu() for name, values in rows.items()}
        self._check(rows)
        if len(index):
            self._pending.append(rows)
        while sum(len(part["index"]) for part in self._pending) >= self.shard:
            self.flush()

    def _check(self, rows: dict[str, Tensor]) -> None:
        n = len(rows["index"])
        for name, values in rows.items():
            shape, dtypes = _form(name, n)
            if values.ndim < len(shape) or any(
                have != want for have, want in zip(values.shape, shape, strict=False) if want >= 0
            ):
                wanted = ", ".join("*" if size < 0 else str(size) for size in shape)
                raise ValueError(f"{name} must have shape ({wanted}), got {tuple(values.shape)}")
            if values.dtype not in dtypes:
                kinds = " or ".join(map(str, dtypes))
                raise ValueError(f"{name} must be {kinds}, got {values.dtype}")
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise ValueError(f"{name} must be finite, got values that are not")
        known, asked = len(self.prompts), rows["prompt_index"]
        if n and not bool(((asked >= 0) & (asked < known)).all()):
            raise ValueError(f"prompt_index must be from 0 to {known - 1}, got {asked.tolist()}")
        if len(set(rows["index"].tolist())) != n:
            raise ValueError(f"index must be every index once, got {rows['index'].tolist()}")
        form = {k: [list(v.shape[1:]), str(v.dtype)] for k, v in rows.items()}
        if self._manifest.setdefault("form", form) != form:
            raise ValueError(
                "samples must have one form (fields, shapes, dtypes), that of those before, "
                f"{self._manifest['form']}, got {form}"
            )

    def flush(self) -> None:
        """Write what was added, up to a shard's size, as one shard.

        Raises:
            OSError: the disk is full; what was added is kept, and may be flushed again.
        """
        if not self._pending:
            return
        rows = {k: torch.cat([part[k] for part in self._pending]) for k in self._pending[0]}
        later = {k: v[self.shard :] for k, v in rows.items()}
        rows = _last_of_each({k: v[: self.shard] for k, v in rows.items()})
        shards = self._manifest["shards"]
        number = 1 + max((int(entry["file"][:6]) for entry in shards), default=0)
        path = self.folder / f"{number:06d}.safetensors"
        write_tensors(path, rows, {"format": str(FORMAT), "which": self.which})
        new = {"file": path.name, "sha256": sha256(path), "index": rows["index"].tolist()}
        fresh = set(new["index"])
        replaced = [entry for entry in shards if fresh >= set(entry["index"])]
        kept = [entry for entry in shards if entry not in replaced]
        self._write_manifest(shards=[*kept, new], closed=False)
        self._pending = [later] if len(later["index"]) else []
        for entry in replaced:
            (self.folder / entry["file"]).unlink(missing_ok=True)

    def close(self) -> None:
        """Write what is left, and say in the manifest that this process is done.

        Raises:
            OSError: as `flush`.
        """
        while self._pending:
            self.flush()
        self._write_manifest(closed=True)

    def _write_manifest(self, **changes: Any) -> None:
        manifest = self._manifest | changes
        write_json(self.folder / "manifest.json", manifest)
        self._manifest = manifest

    def __enter__(self) -> SampleWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        # After an error the part is not complete: a resumed run adds the rest.
        if kind is None:
            self.close()


def _form(name: str, n: int) -> tuple[tuple[int, ...], tuple[torch.dtype, ...]]:
    """(leading shape, -1 where free; dtypes) of a field."""
    if name == "images":
        return (n, 3, -1, -1), (torch.uint8,)
    if name == "x1":
        return (n, -1), X1_DTYPES
    if name == "features":
        return (n, -1), (torch.float32,)
    return (n,), (torch.float64 if name.startswith(REWARD) else torch.int64,)


def _last_of_each(rows: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rows without those whose index comes again later: the later one counts."""
    last = {index: row for row, index in enumerate(rows["index"].tolist())}
    keep = torch.tensor(sorted(last.values()), dtype=torch.int64)
    return {name: values[keep] for name, values in rows.items()}


# --- reading


def read_samples(
    folder: Path, which: str, *, pictures: bool = True, partial: bool = False
) -> SampleSet:
    """All processes' samples of one model, by rising index.

    folder: the run's. pictures: whether images and x_1 are read too. partial: whether samples of
    processes that are not done yet are allowed.

    Raises:
        ValueError: which is unknown; no samples there; a process's folder, a manifest or a shard
            is missing or damaged (named); two processes wrote the same index; not all processes
            are done, and partial is False.
    """
    check_choice("which", which, WHICH)
    place = folder / "samples" / which
    if not (place / "prompts.json").is_file():
        raise ValueError(
            f"{place} must be of a run's folder, and holds no samples (no prompts.json)"
        )
    prompts = tuple(read_json(place / "prompts.json", ADVICE)["prompts"])
    manifests = _manifests(place)
    complete = all(manifest["closed"] for manifest in manifests)
    if not complete and not partial:
        open_ones = [manifest["rank"] for manifest in manifests if not manifest["closed"]]
        raise ValueError(
            f"{place}: processes {open_ones} have not written all of their samples: resume the "
            "run, or ask for partial = True"
        )
    owner: dict[int, str] = {}
    parts: list[dict[str, Tensor]] = []
    for manifest in manifests:
        name = f"rank-{manifest['rank']:05d}"
        part = _read_rank(place / name, manifest, pictures)
        if part is None:
            continue
        for index in part["index"].tolist():
            if index in owner:
                raise ValueError(
                    f"{place}: sample {index} must be there once, got it in {owner[index]} and "
                    f"in {name}"
                )
            owner[index] = name
        parts.append(part)
    if not parts:
        raise ValueError(f"{place}: holds no samples yet")
    if any(set(part) != set(parts[0]) for part in parts):
        raise ValueError(f"{place}: processes must record the same fields, and did not")
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = rows["index"].argsort()
    rows = {name: values[order] for name, values in rows.items()}
    rewards = {k.removeprefix(REWARD): v for k, v in rows.items() if k.startswith(REWARD)}
    return SampleSet(
        which,
        prompts,
        rows["index"],
        rows["seed"],
        rows["prompt_index"],
        rewards,
        rows.get("images"),
        rows.get("x1"),
        rows.get("features"),
        complete,
        manifests[0]["made_by"],
    )


def made_by(folder: Path, which: str) -> str | None:
    """What drew the samples of one model that are there; None where there are none."""
    place = folder / "samples" / which
    return _manifests(place)[0]["made_by"] if any(place.glob("rank-*/manifest.json")) else None


def _manifest(path: Path) -> dict[str, Any]:
    found = read_json(path, ADVICE)
    known = {"format", "rank", "world", "made_by", "closed", "shards"}
    if not isinstance(found, dict) or known - set(found) or found["format"] != FORMAT:
        raise ValueError(f"{path}: no manifest of format {FORMAT}; {ADVICE}")
    return found


def _manifests(place: Path) -> list[dict[str, Any]]:
    """One a process, by rank; every process's must be there, and say the same world."""
    found = [_manifest(folder / "manifest.json") for folder in sorted(place.glob("rank-*"))]
    worlds = {(manifest["world"], manifest["made_by"]) for manifest in found}
    if len(worlds) != 1:
        raise ValueError(f"{place}: manifests must say one (world, made_by), got {sorted(worlds)}")
    ((world, _),) = worlds
    if missing := sorted(set(range(world)) - {manifest["rank"] for manifest in found}):
        raise ValueError(
            f"{place / f'rank-{missing[0]:05d}'}: missing; {world} processes wrote these samples"
        )
    return found


def _read_rank(
    folder: Path, manifest: Mapping[str, Any], pictures: bool
) -> dict[str, Tensor] | None:
    parts = []
    for entry in manifest["shards"]:
        path = folder / entry["file"]
        if path.is_file() and sha256(path) != entry["sha256"]:
            raise ValueError(f"{path}: damaged (its digest is not the manifest's); {ADVICE}")
        rows, _ = read_tensors(path, ADVICE)
        if not pictures:
            rows = {k: v for k, v in rows.items() if k not in ("images", "x1")}
        parts.append(rows)
    if not parts:
        return None
    return _last_of_each({k: torch.cat([part[k] for part in parts]) for k in parts[0]})
