"""A run's folder: what is where, who holds it, whether it is finished.

config.json            the TrainConfig; written first, before any work
checkpoints/           the newest two states
metrics.csv            a line a step, as of the newest checkpoint
grids/, tensorboard/   to look at while it trains
lora/                  the student, for diffusers' load_lora_weights
samples/bank           base samples that training draws from
samples/base, tuned    compared at the end, same seeds
samples/audit_base, audit_tuned    drawn for an audit, seeds of their own
audit/                 audit.json and audit.html (`python -m scaleup audit`)
comparison.png, .json, .md
done.json              written last
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleup.checkpoints import checkpoint_path
from scaleup.config import TrainConfig
from theory.files import read_json, write_atomically, write_json

ADVICE = "delete the folder, and the run starts from its first step"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a configuration below `out`."""

    out: Path
    config: TrainConfig

    @property
    def path(self) -> Path:
        return self.out / self.config.folder_name

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def is_finished(self) -> bool:
        return (self.path / "done.json").is_file()

    def begin(self) -> bool:
        """Make it (True), or find it as this configuration left it; drafts of a killed run go.

        Raises:
            ValueError: the folder holds another configuration.
        """
        content, file = self.config.as_json(), self.path / "config.json"
        if file.is_file():
            found = read_json(file, ADVICE)
            device = {"device": content["device"]}
            if not isinstance(found, dict) or {**found, **device} != content:
                raise ValueError(f"{file} is another run's, or was edited: {ADVICE}")
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

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; another run in it is refused.

        Raises:
            ValueError: it is held.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"{self.path}: another process trains here: wait for it, or choose another "
                    "--out"
                ) from error
            file.write(str(os.getpid()))
            yield

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
