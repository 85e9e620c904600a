"""More samples of a finished run, for its audit: base and tuned, with seeds of their own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from scaleup.samples.records import made_by
from scaleup.training.config import TrainConfig
from scaleup.training.drawing import AUDIT_SEEDS
from scaleup.training.identity import IDENTITY, differences
from scaleup.training.runfolder import RunFolder, read_content
from scaleup.training.session import Session
from scaleup.training.trainer import Trainer
from theory.common.checks import check_order
from theory.common.progress import Progress

MOST = 2**29  # seeds of a side


def read_run(folder: Path) -> RunFolder:
    """A finished run's folder and configuration.

    Raises:
        ValueError: the folder is no run's, not finished, or another version's of Plumbline.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            "run must be the folder of a run of `python -m scaleup train`, got "
            f"{str(folder)!r}, which has no config.json"
        )
    if not (folder / "done.json").is_file():
        raise ValueError(
            f"run must be finished, got {str(folder)!r}: go on with it by the command that began it"
        )
    content = read_content(folder)
    config = TrainConfig(**{k: v for k, v in content.items() if k not in IDENTITY})
    return RunFolder(folder.parent, config, folder, content)


def draw(folder: Path, count: int) -> None:
    """`count` samples of the base and of the student of a finished run; those on disk are kept.

    Raises:
        ValueError: as `read_run`; files that the run was made of are not what they were; samples on
            disk were drawn by other code; the last checkpoint is not there, or another run's; count
            out of range; bad input that the run's configuration names.
        OSError: the disk is full; what was written stays.
    """
    check_order("draw", count, 1, MOST - 1)
    found = read_run(folder)
    found.config.check_together()
    _check_unchanged(found)
    session = Session(found.config, found)
    _check_drawn(session)
    trainer = Trainer(session)
    trainer.resume()
    if trainer.step != found.config.steps:
        raise ValueError(
            f"{folder / 'checkpoints'} must hold the run's last checkpoint, of step "
            f"{found.config.steps}; the newest that can be read is of step {trainer.step}"
        )
    with found.locked(), Progress(2 * count, "samples", quiet=not session.is_main) as progress:
        session.draw_both(AUDIT_SEEDS, count, partial(progress.update, "draw"))


def _check_unchanged(found: RunFolder) -> None:
    """Other code may draw of the same model and score by the same reward; other files may not."""
    now = found.config.as_json()
    moved = {key: now[key] for key in ("code", "plumbline")}
    if differ := differences(now, {**found.content, **moved}):
        raise ValueError(
            "run must be drawn from with what it was made of, got "
            f"{str(found.path)!r}: since it was trained, {'; '.join(differ)}; put that back, or "
            "train again"
        )


def _check_drawn(session: Session) -> None:
    """Samples that other code drew are not mixed with new ones, nor removed unasked."""
    for which in AUDIT_SEEDS:
        there = made_by(session.folder.path, which)
        if there is not None and there.split("-")[:2] != list(session.drawer.name):
            place = session.folder.path / "samples"
            raise ValueError(
                f"{place / which} must be drawn by one run and code, and was by another run or by "
                "other code of Plumbline; delete "
                f"{', '.join(str(place / name) for name in AUDIT_SEEDS)}, and all are drawn again"
            )
