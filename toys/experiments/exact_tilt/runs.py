"""Trials, each kept as one file, written whole; and docs/exact_tilt.json, which the page reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from theory.common.processes import Update, side_by_side
from theory.common.progress import Progress
from toys.experiments.exact_tilt.measure import measure
from toys.experiments.exact_tilt.plan import BATCH, SEEDS, WIDTH, Trial, code_key
from toys.experiments.exact_tilt.train import SAMPLING_STEPS, fine_tune
from toys.training.files import keep, kept

FOLDER = "exact_tilt"
SUMMARY = Path("docs/exact_tilt.json")
KEPT = (
    "problem", "loss", "total", "stages", "steps", "rewards", "shares", "floor", "reward_shares",
    "reward_floor", "cpu_seconds",
)  # fmt: skip


def run(out: Path, wanted: Sequence[Trial], processes: int = 1) -> list[dict[str, Any]]:
    """The results of all trials, in their order; trained where OUT does not hold them yet."""
    missing = [trial for trial in wanted if kept(file_of(out, trial), trial.digest) is None]
    with Progress(len(missing), "training") as progress:
        side_by_side(_run_one, [(out, trial) for trial in missing], processes, progress.update)
    return [kept(file_of(out, trial), trial.digest) for trial in wanted]


def _run_one(job: tuple[Path, Trial], update: Update) -> None:
    out, trial = job
    update(trial.digest, 0, trial.label)
    keep(file_of(out, trial), trial.digest, measure(trial, *fine_tune(trial)))
    update(trial.digest, 1, trial.label)


def file_of(out: Path, trial: Trial) -> Path:
    """Where a finished trial is kept."""
    return out / FOLDER / f"{trial.problem}-{trial.loss}-{trial.stages}-{trial.digest}.json"


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What docs/exact_tilt.json holds: the trials' numbers, rounded, and how they were made."""
    return {
        "command": "python -m toys exact-tilt --write",
        "code": code_key(),
        "seeds": SEEDS,
        "width": WIDTH,
        "batch": BATCH,
        "sampling_steps": SAMPLING_STEPS,
        "cpu_seconds": round(sum(r["cpu_seconds"] * r["seeds"] for r in rows), 1),
        "rows": [{key: _short(row[key]) for key in KEPT} for row in rows],
    }


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return [_short(v) for v in value] if isinstance(value, list) else value
