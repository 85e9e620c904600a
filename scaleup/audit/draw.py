"""More samples of a finished run, for its audit: base and tuned, with seeds of their own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from scaleup.config import TrainConfig
from scaleup.drawing import AUDIT_SEEDS, draw_samples
from scaleup.runfolder import RunFolder
from scaleup.session import Session
from scaleup.trainer import Trainer
from theory.files import read_json
from theory.progress import Progress

MOST = 2**29  # seeds of a side


@dataclass(frozen=True)
class FoundFolder(RunFolder):
    """A run's folder, wherever it was moved to."""

    place: Path = Path()

    @property
    def path(self) -> Path:
        return self.place


def read_run(folder: Path) -> FoundFolder:
    """A finished run's folder and configuration.

    Raises:
        ValueError: the folder is no run's, or not finished.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"run = {str(folder)!r}: allowed is the folder of a run of `python -m scaleup train` "
            "(it has no config.json)"
        )
    if not (folder / "done.json").is_file():
        raise ValueError(
            f"run = {str(folder)!r} is not finished: go on with it by the command that began it"
        )
    content = read_json(folder / "config.json")
    names = {f.name for f in fields(TrainConfig)}
    config = TrainConfig(**{k: v for k, v in content.items() if k in names})
    return FoundFolder(folder.parent, config, folder)


def draw(folder: Path, count: int) -> None:
    """`count` samples of the base and of the student of a finished run; those on disk are kept.

    Raises:
        ValueError: as `read_run`; the last checkpoint is not there; count out of range;
            bad input that the run's configuration names.
        OSError: the disk is full; what was written stays.
    """
    if not 1 <= count < MOST:
        raise ValueError(f"draw = {count}: allowed are whole numbers from 1 to {MOST - 1}")
    found = read_run(folder)
    session = Session(found.config, found)
    trainer = Trainer(session)
    trainer.resume()
    if trainer.step != found.config.steps:
        raise ValueError(
            f"{folder / 'checkpoints'}: the newest state that can be read is of step "
            f"{trainer.step}, the run has {found.config.steps} steps: allowed is a run with its "
            "last checkpoint"
        )
    with found.locked(), Progress(2 * count, "samples", quiet=not session.is_main) as progress:
        models = (session.base, session.student)
        for number, (which, model) in enumerate(zip(AUDIT_SEEDS, models, strict=True)):

            def report(done: int, total: int, number: int = number, which: str = which) -> None:
                progress.update("draw", number * total + done, f"{which} {done}/{total}")

            draw_samples(session, which, model, count, AUDIT_SEEDS[which], report=report)
