"""The adjoint family on named control problems, d = 10 and 20: `python -m toys cases`.

A control network u(x, t) is trained on an Euler chain's own trajectories
(`toys.experiments.cases.task`) with

    adjoint_matching     the lean adjoint at the step's end
    discrete_adjoint     the full adjoint there: the gradient of the chain's cost, and that of basic
                         Adjoint Matching
    continuous_adjoint   the full adjoint by Heun's rule, at the step's beginning

and judged along trajectories of the exact optimum of the same chain (`theory.control.processes`).
No run exceeds the budget of network evaluations, forward or vector-Jacobian. A run that was stopped
goes on from its last checkpoint to the same bits; one that is done is not trained again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from theory.common.files import read_json
from theory.common.identity import plumbline_code
from theory.common.processes import Update, side_by_side
from theory.common.progress import Progress
from theory.control.cases import control_case
from theory.control.processes import OptimalChain
from toys.experiments.cases.config import CaseConfig
from toys.experiments.cases.measure import measure
from toys.experiments.cases.trainer import Trainer
from toys.training.files import write_json


def train_cases(
    out: Path, configs: Sequence[CaseConfig], processes: int = 2
) -> list[dict[str, Any]]:
    """One row a run, in the order asked for; kept in OUT, a file a run.

    Raises:
        ValueError: a chain without a unique optimum (before anything is trained), an adjoint or a
            loss that is not finite, or a damaged file.
        OSError: OUT cannot be written (before anything is trained).
    """
    for case, steps in dict.fromkeys((c.case, c.steps) for c in configs):
        OptimalChain(control_case(case), steps)  # refuses a chain without a unique optimum
    write_json(out / ".writable", {})
    (out / ".writable").unlink(missing_ok=True)
    with Progress(sum(c.updates for c in configs), "control problems") as progress:
        items = [(out, config) for config in configs]
        return side_by_side(train_case, items, processes, progress.update)


def train_case(item: tuple[Path, CaseConfig], update: Update) -> dict[str, Any]:
    """A run to its end and measured, or what is on disk of it."""
    out, config = item
    row = kept(out, config)
    if row is None:
        trainer = Trainer(config, out)
        try:
            trainer.train(lambda step, steps, loss: update(config.digest, step, config.label))
            row = measure(trainer)
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise OSError(
                f"{config.label}: no memory for batch = {config.batch} and steps = {config.steps}: "
                f"allowed is what fits ({error})"
            ) from error
        write_json(config.place(out, ".json"), {"key": _measuring_code(), "row": row})
    update(config.digest, config.updates, config.label)
    return row


def kept(out: Path, config: CaseConfig) -> dict[str, Any] | None:
    """What today's code measured on this run; None where that is not there.

    Raises:
        ValueError: the file is damaged.
    """
    path, advice = config.place(out, ".json"), "delete this file, and the run is measured again"
    if not path.is_file():
        return None
    found = read_json(path, advice)
    try:
        row = dict(found["row"])
        if {k: row[k] for k in asdict(config)} != asdict(config):
            raise ValueError("of another run")
        return row if found["key"] == _measuring_code() else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); {advice}") from error


def _measuring_code() -> str:
    return plumbline_code("toys.experiments.cases.runs")[:12]
