"""One run from its configuration to its comparison sheet."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from traceback import clear_frames

import torch

from scaleup.adapter.lora import save_lora
from scaleup.adapter.sharding import release
from scaleup.comparison.comparison import Comparison
from scaleup.comparison.features import Statistics
from scaleup.comparison.sheet import comparison_sheet, sample_grid
from scaleup.rewards.shapes import Shapes
from scaleup.samples.samples import SampleSet
from scaleup.training.checkpoints import CHECKPOINTS, step_of
from scaleup.training.config import TrainConfig
from scaleup.training.drawing import COMPARISON_SEED, GRID_SEED, drawn_samples
from scaleup.training.peers import PEER_TIMEOUT, is_lost_peer
from scaleup.training.runfolder import RunFolder, check_makers
from scaleup.training.session import Session
from scaleup.training.trainer import Trainer
from theory.common.files import read_json
from theory.common.identity import plumbline_code
from theory.common.progress import Progress
from theory.common.signals import Stopped

GRID, SHEET_PAIRS = 24, 24
COMPARED_BY = "scaleup.comparison.sheet"
# Parts of a run, as they are reported.
BANK, TRAINING, COMPARING = "base samples", "training", "comparing"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def run(
    config: TrainConfig,
    out: Path,
    *,
    tensorboard: bool = True,
    peer_timeout: float = PEER_TIMEOUT,
) -> Path:
    """Train, or go on; then compare base and tuned. The run's folder.

    peer_timeout: seconds in which all processes must have started.

    Raises:
        ValueError, FileNotFoundError, NotImplementedError: bad input; found before a folder is
            made, or before its first step, and then it is removed. Another process holds it. Loss,
            gradient, adjoint or reward are not finite: the folder can be gone on with.
        MemoryError: out of memory; says which micro_batch fits.
        OSError: the disk is full; the folder can be gone on with.
    """
    config.check_together()
    _check_out(out)
    folder = RunFolder(out, config)
    first = os.environ.get("RANK", "0") == "0"
    if folder.is_finished:
        if first:
            _compare_anew(folder)
            print(f"finished before: {folder.path / 'comparison.png'}", flush=True)
        return folder.path
    if first and not folder.path.exists():
        for line in folder.relatives():
            print(line, flush=True)
    with stops_explained(folder):
        _train(Session(config, folder, peer_timeout=peer_timeout), tensorboard)
    return folder.path


def _train(session: Session, tensorboard: bool) -> None:
    """From the newest checkpoint to the comparison."""
    config, folder = session.config, session.folder
    with _held(session, folder):
        session.accelerator.wait_for_everyone()
        started, cpu = time.monotonic(), time.process_time()
        # A run's parts, in pictures or steps: what one takes says nothing of the others.
        units = {BANK: config.bank, TRAINING: config.steps, COMPARING: 2 * config.evaluate}
        with Progress(units, "scaleup", quiet=not session.is_main) as progress:
            session.bank_report = lambda done, total: progress.update(
                BANK, done, f"{BANK} {done}/{total}"
            )
            with _trackers(session, tensorboard, progress):
                trainer = Trainer(
                    session,
                    partial(progress.update, TRAINING),
                    partial(_look_on, session, progress),
                )
                with _memory_explained(trainer), trainer.named():
                    trainer.train()
            release(session.model.network)
            if session.is_main:
                save_lora(session.model, folder.path / "lora")
            progress.update(TRAINING, config.steps, "comparing base and tuned")
            with _memory_explained(), trainer.named():
                found = compare_with_base(session, progress)
        if session.is_main and found is not None:
            folder.finish(
                {
                    "seconds": round(time.monotonic() - started, 1),
                    "cpu_seconds": round(time.process_time() - cpu, 1),
                    "torch": torch.__version__,
                    "device": str(session.device),
                    "processes": session.world,
                    "compared_by": plumbline_code(COMPARED_BY),
                }
            )
            print(f"{found.markdown()}\n{folder.path / 'comparison.png'}", flush=True)
        session.accelerator.wait_for_everyone()


def compare_with_base(session: Session, progress: Progress) -> Comparison | None:
    """Samples of base and student with the same seeds, and their sheet (by the first process)."""
    sets = session.draw_both(
        {"base": COMPARISON_SEED, "tuned": COMPARISON_SEED},
        session.config.evaluate,
        partial(progress.update, COMPARING),
        features=Statistics(),
        also=() if session.config.prompts else (Shapes(),),  # the built-in prompts have a verifier
    )
    return _compared(session.folder, *sets) if session.is_main else None


def _compared(folder: RunFolder, base: SampleSet, tuned: SampleSet) -> Comparison:
    rows = min(SHEET_PAIRS, folder.config.evaluate)
    return comparison_sheet(base, tuned, rows, folder.path / "comparison.png", folder.config.seed)


def _compare_anew(folder: RunFolder) -> None:
    """Of a finished run's samples, where other code made its comparison."""
    done = read_json(folder.path / "done.json")
    if done.get("compared_by") == plumbline_code(COMPARED_BY):
        return
    label = folder.config.parsed_reward.label
    sets = [drawn_samples(folder.path, which, label) for which in ("base", "tuned")]
    check_makers(folder.path, sets)
    _compared(folder, *sets)
    folder.finish(done | {"compared_by": plumbline_code(COMPARED_BY)})


def _check_out(out: Path) -> None:
    """Refuse a folder that cannot be written, before a model is loaded."""
    existing = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"out must be a folder that can be made and written, got {str(out)!r}")


@contextlib.contextmanager
def _held(session: Session, folder: RunFolder) -> Iterator[None]:
    """The folder begun and locked, by the first process for all."""
    if not session.is_main:
        yield
        return
    with folder.locked():
        new = folder.begin()
        try:
            yield
        except (ValueError, NotImplementedError):
            if new:  # bad input that only the first step could tell
                folder.drop_if_empty()
            raise


@contextlib.contextmanager
def stops_explained(folder: RunFolder) -> Iterator[None]:
    """SIGINT, SIGTERM or a lost peer: says where one stands, and how to go on."""
    try:
        yield
    except Stopped as stop:
        if os.environ.get("RANK", "0") == "0":
            stop.add_note(_where(folder))
        raise
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        raise OSError(
            f"another of the {folder.config.processes} processes ended, its own output may say "
            f"why (out of memory?): {_where(folder)}"
        ) from error


def _where(folder: RunFolder) -> str:
    steps = [step_of(path) for path in folder.checkpoints.glob(CHECKPOINTS)]
    if not steps:
        return "no step is saved; the same command starts again"
    return (
        f"step {max(steps)} of {folder.config.steps} is saved in {folder.path}; the same command "
        "goes on from there"
    )


def _look_on(session: Session, progress: Progress, step: int, row: dict[str, float]) -> None:
    """While a run trains: TensorBoard, and a grid of samples every so often."""
    session.accelerator.log(row, step=step)  # to those trackers that there are
    every = session.config.grid_every
    if not every or (step % every and step != session.config.steps):
        return
    index = torch.arange(GRID)
    if session.is_main or session.sharded:  # a sharded network is run by all
        x1, _ = session.drawer.rows(session.student, GRID_SEED, index)
    if not session.is_main:
        return
    with torch.no_grad():
        texts = session.task.texts(session.drawer.prompts(index))
        images = session.task.pictures(x1, texts)
        reward = float(session.task.scorer(images, texts).mean())
    session.accelerator.log({"student_reward": reward}, step=step)
    progress.note(f"step {step}: the student's reward is {reward:.4g} on {GRID} pictures")
    sample_grid(images.cpu(), texts, session.folder.path / "grids" / f"step-{step:06d}.png")


@contextlib.contextmanager
def _trackers(session: Session, tensorboard: bool, progress: Progress) -> Iterator[None]:
    """With TensorBoard's files closed at the end, else the last minutes would not be in them."""
    if tensorboard and find_spec("tensorboard") is None:  # accelerate would say nothing
        progress.note(
            "no TensorBoard files: it is not installed (pip install 'plumbline[scaleup]')"
        )
    elif tensorboard:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorBoard's own imports
            session.accelerator.init_trackers("tensorboard")
    try:
        yield
    finally:
        for tracker in session.accelerator.trackers:
            tracker.finish()


@contextlib.contextmanager
def _memory_explained(trainer: Trainer | None = None) -> Iterator[None]:
    """Out of memory becomes a MemoryError that says what would fit; other errors pass."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not any(text in str(error).lower() for text in OUT_OF_MEMORY):
            raise
        clear_frames(error.__traceback__)  # they hold what was allocated
        raise MemoryError(_advice(trainer)) from error


def _advice(trainer: Trainer | None) -> str:
    if trainer is None:
        return "out of memory while sampling: need a smaller chunk"
    config = trainer.config
    fits = trainer.fitting_rows() if config.processes == 1 else 0
    found = f"micro_batch = {fits} fits" if fits else "a smaller micro_batch may fit"
    return (
        f"out of memory with {config.rows} rows at once: {found} (also gradient_checkpointing, "
        f"precision = 'bf16', a chunk below {config.chunk})"
    )
