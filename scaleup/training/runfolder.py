"""A run's folder: what is where, who holds it, whether it is finished.

config.json            the TrainConfig; written first, before any work
checkpoints/           the newest two states
metrics.csv            a line a step, as of the newest checkpoint
log.txt                what happened to it: checkpoints that could not be read
grids/, tensorboard/   to look at while it trains
lora/                  the student, for diffusers' load_lora_weights
samples/bank           base samples that training draws from
samples/base, tuned    compared at the end, same seeds
samples/audit_base, audit_tuned    drawn for an audit, seeds of their own
audit/, audit-2/, ...  audit.json and audit.html (`python -m scaleup audit`), other questions apart
comparison.png, .json, .md
done.json              written last
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scaleup.samples.samples import SampleSet
from scaleup.training.checkpoints import checkpoint_path
from scaleup.training.config import TrainConfig
from scaleup.training.identity import IDENTITY, differences, run_digest
from theory.common.files import locked, read_json, write_atomically, write_json

ADVICE = "delete the folder, and the run starts from its first step"


class RunFolder:
    """The folder of a configuration below `out`.

    path: where it lies, if it was moved. content: what it says that the run is, fields and digests
    of what they name; else what the configuration says now. digest: names the run.
    """

    def __init__(
        self,
        out: Path,
        config: TrainConfig,
        path: Path | None = None,
        content: dict[str, Any] | None = None,
    ) -> None:
        self.out, self.config = out, config
        self.path = path or out / config.folder_name
        self.content = content or config.as_json()
        self.digest, self.checkpoints = run_digest(self.content), self.path / "checkpoints"

    @property
    def is_finished(self) -> bool:
        """Whether it is done.

        Raises:
            ValueError: the folder holds another run.
        """
        return (self.path / "done.json").is_file() and self._is_there()

    def _is_there(self) -> bool:
        file = self.path / "config.json"
        if not file.is_file():
            return False
        if differ := differences(read_content(self.path, ADVICE), self.content):
            words = "; ".join(differ)
            raise ValueError(f"{file} is another run's, or was edited ({words}): {ADVICE}")
        return True

    def relatives(self) -> list[str]:
        """Other runs of the same settings below `out`, and what makes them others; in words."""
        lines = []
        names = [f.name for f in fields(TrainConfig) if f.name != "device"]
        for file in sorted(self.out.glob("*/config.json")):
            try:
                found = dict(read_json(file))
            except (ValueError, TypeError):
                continue  # what it was cannot be told
            if file.parent != self.path and all(found.get(n) == self.content[n] for n in names):
                differ = "; ".join(differences(self.content, found))
                lines.append(f"{file.parent} has these settings and is another run: {differ}")
        return lines

    def begin(self) -> bool:
        """Make it (True), or find it as this configuration left it; drafts of a killed run go.

        Raises:
            ValueError: the folder holds another run.
        """
        content, file = self.content, self.path / "config.json"
        if self._is_there():
            for draft in self.path.rglob(".*.part"):
                draft.unlink(missing_ok=True)
            return False
        write_json(file, content)
        return True

    def drop_if_empty(self) -> None:
        """Remove a folder that holds nothing to go on with: no step, no samples."""
        first = checkpoint_path(self.checkpoints, 0)
        later = [p for p in self.checkpoints.glob("*.safetensors") if p != first]
        if not later and not list(self.path.glob("samples/*/*/*.safetensors")):
            shutil.rmtree(self.path, ignore_errors=True)

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder.

        Raises:
            ValueError: another run holds it.
        """
        return locked(self.path, "trains here")

    def note(self, text: str) -> None:
        """A line in log.txt, with the time: what a person should find there later."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  {text}\n")

    def write_metrics(self, rows: Sequence[dict[str, float]]) -> None:
        """The whole table, again; a method need not log the same at every step."""
        text = io.StringIO()
        if rows:
            writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
        write_atomically(self.path / "metrics.csv", text.getvalue().encode())

    def finish(self, summary: dict[str, Any]) -> None:
        """Say that it is finished."""
        write_json(self.path / "done.json", summary)


def read_content(folder: Path, advice: str = "train it again") -> dict[str, Any]:
    """What the run in a folder is, as `TrainConfig.as_json` gave it.

    Raises:
        ValueError: config.json is missing, damaged, or of another version of Plumbline: one that
            knows other options, or that noted less of what a run depends on.
    """
    file = folder / "config.json"
    found = read_json(file, advice)
    known = {*(f.name for f in fields(TrainConfig)), *IDENTITY}
    if not isinstance(found, dict) or set(found) != known:
        differ = sorted(known ^ set(found)) if isinstance(found, dict) else [type(found).__name__]
        raise ValueError(
            f"{file} must be of this version of Plumbline, and is another's ({', '.join(differ)} "
            f"differ); {advice}"
        )
    return found


def check_makers(folder: Path, sets: Sequence[SampleSet]) -> None:
    """Samples are of the run whose folder it is, and drawn by one code.

    Raises:
        ValueError: they are not.
    """
    own = run_digest(read_content(folder))
    makers = [part.made_by.split("-")[:2] for part in sets]
    for part, maker in zip(sets, makers, strict=True):
        if maker[0] != own or maker != makers[0]:
            raise ValueError(
                f"{folder / 'samples' / part.which} must be drawn by this run and by one code, and "
                "was by another run or by other code of Plumbline; delete its folder, and they are "
                "drawn again (by `train`, or by an audit's --draw N)"
            )
