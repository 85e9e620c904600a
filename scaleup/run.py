"""One run from its configuration to its comparison sheet."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from scaleup.comparison import Comparison
from scaleup.config import TrainConfig
from scaleup.drawing import COMPARISON_SEED, GRID_SEED, draw_samples, prompts_of, sampled_rows
from scaleup.features import Statistics
from scaleup.lora import save_lora
from scaleup.rewards.shapes import Shapes
from scaleup.runfolder import RunFolder
from scaleup.session import Session
from scaleup.sheet import comparison_sheet, sample_grid
from scaleup.trainer import Trainer
from theory.progress import Progress

GRID, SHEET_PAIRS = 24, 24
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def run(config: TrainConfig, out: Path, *, tensorboard: bool = True) -> Path:
    """Train, or go on; then compare base and tuned. The run's folder.

    Raises:
        ValueError, FileNotFoundError: bad input, found before a folder is made.
        RuntimeError: the folder is held by another process.
        MemoryError: out of memory; says which micro_batch fits.
        OSError: the disk is full; the folder can be gone on with.
    """
    config.check_together()
    folder = RunFolder(out, config)
    if folder.is_finished:
        _say(f"finished before: {folder.path / 'comparison.png'}")
        return folder.path
    session = Session(config, folder)
    with _held(session, folder):
        session.accelerator.wait_for_everyone()
        started, cpu = time.monotonic(), time.process_time()
        with Progress(_units(config), "scaleup", quiet=not session.is_main) as progress:
            trainer = Trainer(
                session,
                lambda part, done, total, text: progress.update(part, done, text),
                _Watcher(session, tensorboard),
            )
            try:
                trainer.train()
            except (RuntimeError, torch.OutOfMemoryError) as error:
                raise _explained(error, trainer) from error
            progress.update("train", config.steps, "comparing base and tuned")
            found = compare_with_base(session, progress)
        if session.is_main and found is not None:
            save_lora(session.model, folder.path / "lora")
            folder.finish(
                {
                    "seconds": round(time.monotonic() - started, 1),
                    "cpu_seconds": round(time.process_time() - cpu, 1),
                    "torch": torch.__version__,
                    "device": str(session.device),
                    "processes": session.world,
                }
            )
            _say(f"{found.markdown()}\n{folder.path / 'comparison.png'}")
        session.accelerator.wait_for_everyone()
    return folder.path


def compare_with_base(session: Session, progress: Progress) -> Comparison | None:
    """Samples of base and student with the same seeds, and their sheet (by the first process)."""
    config, sets = session.config, []
    also = () if config.prompts else (Shapes(),)  # the built-in prompts have a verifier
    for number, (which, model) in enumerate((("base", session.base), ("tuned", session.student))):

        def report(done: int, total: int, number: int = number, which: str = which) -> None:
            progress.update("compare", number * total + done, f"{which} {done}/{total}")

        sets.append(
            draw_samples(
                session, which, model, config.evaluate, COMPARISON_SEED, Statistics(), also, report
            )
        )
    if not session.is_main:
        return None
    rows = min(SHEET_PAIRS, config.evaluate)
    base, tuned = sets
    return comparison_sheet(base, tuned, rows, session.folder.path / "comparison.png", config.seed)


def _units(config: TrainConfig) -> int:
    """Work of a run in the progress bar's units: a step, or a picture of the comparison."""
    return config.steps + 2 * config.evaluate


@contextlib.contextmanager
def _held(session: Session, folder: RunFolder) -> Iterator[None]:
    """The folder begun and locked, by the first process for all."""
    if not session.is_main:
        yield
        return
    with folder.locked():
        folder.begin()
        yield


class _Watcher:
    """What looks on while a run trains: TensorBoard, and a grid of samples every so often."""

    def __init__(self, session: Session, tensorboard: bool) -> None:
        self.session, self.tracked = session, False
        if tensorboard:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TensorBoard's own imports
                session.accelerator.init_trackers("tensorboard")
            self.tracked = True

    def __call__(self, step: int, row: dict[str, float]) -> None:
        config = self.session.config
        if self.tracked:
            self.session.accelerator.log(row, step=step)
        every = config.grid_every
        if every and self.session.is_main and (step % every == 0 or step == config.steps):
            self._grid(step)

    def _grid(self, step: int) -> None:
        session = self.session
        index = torch.arange(GRID)
        x1, _ = sampled_rows(session, session.student, GRID_SEED, index)
        with torch.no_grad():
            images = session.model.decode(x1)
        texts = session.task.texts(prompts_of(session, index))
        sample_grid(images.cpu(), texts, session.folder.path / "grids" / f"step-{step:06d}.png")


def _explained(error: BaseException, trainer: Trainer) -> BaseException:
    """Out of memory, with the micro_batch that fits; any other error as it is."""
    if not any(text in str(error).lower() for text in OUT_OF_MEMORY):
        return error
    rows, session = trainer.config.rows, trainer.session
    fits = 0
    if session.world == 1:
        while rows > 1 and not fits:
            rows //= 2
            fits = rows if trainer.fits(rows) else 0
    advice = f"micro_batch = {fits} fits" if fits else "a smaller micro_batch may fit"
    return MemoryError(
        f"out of memory with {trainer.config.rows} rows at once: {advice} (also "
        "gradient_checkpointing, precision = 'bf16', a smaller chunk)"
    )


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)
