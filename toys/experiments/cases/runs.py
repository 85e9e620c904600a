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

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from theory.common.files import read_json
from theory.common.identity import plumbline_code
from theory.common.processes import Update, side_by_side
from theory.common.progress import Progress
from theory.control.adjoints import Field, lean_adjoint
from theory.control.cases import DoubleWell, control_case
from theory.control.processes import OptimalChain, path_costs
from toys.evaluation.control_error import ratio_of_means
from toys.experiments.cases.config import CaseConfig
from toys.experiments.cases.task import idle
from toys.experiments.cases.trainer import Trainer, generator
from toys.training.files import write_json

PART, PARTS = 512, 8  # optimal trajectories that a control is judged along
OWN_PARTS = 32  # of its own, for its cost


def measure(trainer: Trainer) -> dict[str, Any]:
    """Plain numbers; |.|^2 sums over k and coordinates, means are over trajectories of the optimum.

    control_error         E|u - u*_k|^2 / E|u*_k|^2, u*_k of the chain, and its standard error
    error_to_continuous   E|u - u*|^2 / E|u*|^2, u* of the diffusion: what papers report
    floor                 E|u*_k - u*|^2 / E|u*|^2: the same of a control that is perfect here
    adjoint_noise         E|g a + u*_k|^2 / E|u*_k|^2, a the lean adjoint: the loss of Adjoint
                          Matching at the optimum, and that of its median trajectory
    cost, least_cost      E J of the network's own trajectories, and the least there is
    crossed               double wells: shares of trajectories with x_i > 0 at T - 1, own ones and
                          the optimum's, (d,)

    Raises:
        ValueError: a number that is not finite; names it and the run.
    """
    config, case, task = trainer.config, trainer.task.case, trainer.task
    gaps: dict[str, list[Tensor]] = {}
    process, g = task.process(idle), task.noise.double()
    coordinates: list[Tensor] = []
    ends: list[Tensor] = []
    for part in range(PARTS):
        paths = trainer.optimal_paths(PART, "judge", part)
        u = trainer.along(paths)
        a = lean_adjoint(process, trainer.chain.times, paths.states)[:, 1:]
        for name, gap in (("own", u - paths.best), ("other", u - paths.continuous),
                          ("floor", paths.best - paths.continuous), ("best", paths.best),
                          ("continuous", paths.continuous),
                          ("noise", g * a + paths.best)):  # fmt: skip
            gaps.setdefault(name, []).append(gap.square().sum((1, 2)))
        coordinates.append(
            torch.stack([v.square().mean((0, 1)) for v in (u - paths.best, paths.best)])
        )
        ends.append((paths.states[:, -2] > 0).double().mean(0))
    sums = {name: torch.cat(parts) for name, parts in gaps.items()}
    value, spread = ratio_of_means(sums["own"], sums["best"])
    top, bottom = torch.stack(coordinates).mean(0)
    costs, crossed = _own(trainer, trainer.control)
    uncontrolled, _ = _own(trainer, idle)
    row: dict[str, Any] = {
        "control_error": value, "control_error_se": spread,
        "error_to_continuous": ratio_of_means(sums["other"], sums["continuous"])[0],
        "floor": ratio_of_means(sums["floor"], sums["continuous"])[0],
        "adjoint_noise": ratio_of_means(sums["noise"], sums["best"])[0],
        "adjoint_noise_median": float(sums["noise"].median() / sums["best"].mean()),
        "least_cost": trainer.chain.least_cost,
        "cost": float(costs.mean()), "cost_se": float(costs.std()) / len(costs) ** 0.5,
        "uncontrolled_cost": float(uncontrolled.mean()),
    }  # fmt: skip
    for name, number in row.items():
        if not math.isfinite(number):
            raise ValueError(
                f"{config.label}: {name} must be finite, got {number:g}; its network is in "
                f"{trainer.place}"
            )
    if isinstance(case, DoubleWell):
        row["crossed"] = crossed.tolist()
        row["crossed_of_optimum"] = torch.stack(ends).mean(0).tolist()
    return {
        **asdict(config), "dim": case.dim, "updates": config.updates, **row,
        "error_of_coordinates": (top / bottom).tolist(),
        "evaluations": config.updates * config.update_cost,
        "cpu_seconds": trainer.cpu_seconds, "curve": trainer.curve,
    }  # fmt: skip


def _own(trainer: Trainer, control: Field) -> tuple[Tensor, Tensor]:
    """Costs of a control's own trajectories, and shares of these with x_i > 0 at T - 1, (d,)."""
    task, costs, above = trainer.task, [], []
    process = task.process(control)
    for part in range(OWN_PARTS):
        shape = (PART, len(task.grid), *task.event_shape)
        states = task.simulate(process, torch.randn(shape, generator=generator("own", part)))
        costs.append(path_costs(process, task.grid, states).double())
        above.append((states[:, -2] > 0).double().mean(0))
    return torch.cat(costs), torch.stack(above).mean(0)


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
                f"{config.label}: batch and steps must fit into memory, got {config.batch} and "
                f"{config.steps} ({error})"
            ) from error
        write_json(config.place(out, ".json"), {"key": measuring_code(), "row": row})
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
        return row if found["key"] == measuring_code() else None
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); {advice}") from error


def measuring_code() -> str:
    """Names the code that trains and measures."""
    return plumbline_code("toys.experiments.cases.runs")[:12]
