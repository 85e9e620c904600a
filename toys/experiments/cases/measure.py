"""What a trained control is worth, along trajectories of the exact optimum of its chain."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from theory.control.adjoints import Field, lean_adjoint
from theory.control.cases import DoubleWell
from theory.control.processes import path_costs
from toys.evaluation.control_error import ratio_of_means
from toys.experiments.cases.task import idle
from toys.experiments.cases.trainer import Trainer, generator

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
        squares = ((u - paths.best).square().mean((0, 1)), paths.best.square().mean((0, 1)))
        coordinates.append(torch.stack(squares))
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
                f"{config.label}: {name} is {number:g}, allowed are finite numbers; its network is "
                f"in {trainer.place}"
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
