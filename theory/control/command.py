"""`python -m theory control`: what optimal control of a problem samples, under any schedule."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from rich.table import Column, Table

from theory.common.checks import check_order
from theory.common.console import console
from theory.control.cases import CASES, Case, DoubleWell, control_case
from theory.control.grid import GridOptimum
from theory.control.value import MemorylessOptimum, value_at_noise
from theory.evaluation.grids import mixture_on_grid, tilt_on_grid
from theory.fields.diffusion import Diffusion
from theory.laws.distances import GridLaw, grid_distances
from theory.problems.problem import Problem, load_problem
from theory.samplers.chain import grid_points
from theory.tilts.wrappers import Exponential

SCHEDULES = ("0.2", "1", "memoryless")
STEPS = (16, 64, 256)
NUMBERS = {  # of a schedule: their headings
    "value": "E V(X_0, 0)",
    "reward": "E r",
    "reward_of_tilt": "E r of the tilt",
    "tv_to_tilt": "TV to the tilt",
    "tv_to_base": "TV to the base",
    "mass": "mass",
}


def add_options(control: argparse.ArgumentParser) -> None:
    """The options of `control`."""
    what = control.add_mutually_exclusive_group(required=True)
    what.add_argument("--problem", help="a named problem, or a path to a .toml file, d = 1 or 2")
    what.add_argument("--case", help=f"a named control problem: {', '.join(CASES)}")
    control.add_argument("--scale", type=float, help="inverse temperature (the problem's)")
    control.add_argument(
        "--schedule", nargs="+", metavar="G",
        help=f"numbers g, 'memoryless', or 'offset:h' ({', '.join(SCHEDULES)})",
    )  # fmt: skip
    control.add_argument("--points", type=int, help="of the grid, an axis")
    control.add_argument(
        "--steps", type=int, nargs="+", help=f"time grids of --case ({', '.join(map(str, STEPS))})"
    )
    control.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """The command; its exit status."""
    if options.case:
        for name in ("scale", "schedule", "points"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} must come with --problem, got --case")
        return _case(options)
    if options.steps is not None:
        raise ValueError("--steps must come with --case, got --problem")
    problem = load_problem(options.problem)
    scale = problem.scale if options.scale is None else options.scale
    schedules = [Diffusion.parse(text) for text in options.schedule or SCHEDULES]
    rows = [_measure(problem, scale, schedule, options.points or 0) for schedule in schedules]
    if options.json:
        print(json.dumps({"problem": problem.name, "scale": scale, "schedules": rows}, indent=1))
        return 0
    table = Table(
        "schedule",
        *(Column(heading, justify="right") for heading in NUMBERS.values()),
        title=f"{problem.name}, c = -{scale:g} r: the optimum under each schedule",
    )
    for row in rows:
        table.add_row(row["schedule"], *(f"{row[key]:.6g}" for key in NUMBERS))
    console().print(table)
    return 0


def _measure(problem: Problem, scale: float, schedule: Diffusion, points: int) -> dict[str, Any]:
    target = problem.tilt(Exponential(scale))
    forgets = float(problem.path.alpha(torch.zeros((), dtype=torch.float64))) == 0.0
    if schedule.memoryless == 1.0 and not schedule.offset and forgets:
        axes = GridOptimum(problem, scale, Diffusion.of_constant(1.0), points=points).axes
        value = value_at_noise(MemorylessOptimum(problem, scale))
        law, mass = tilt_on_grid(target, axes), 1.0
    else:
        grid = GridOptimum(problem, scale, schedule, points=points)
        law, mass, value = grid.law, grid.mass, _mean_at_start(grid)
    tilted, base = tilt_on_grid(target, law.axes), mixture_on_grid(problem.base, law.axes)
    rewards = problem.reward(grid_points(law.axes)).numpy().reshape(law.density.shape)
    return {
        "schedule": schedule.label,
        "value": value,
        "reward": law.integrate(rewards),
        "reward_of_tilt": tilted.integrate(rewards),
        "tv_to_tilt": grid_distances(law, tilted)["TV"].value,
        "tv_to_base": grid_distances(law, base)["TV"].value,
        "mass": mass,
    }


def _mean_at_start(grid: GridOptimum) -> float:
    """E V(X_start, start), X_start from the path's own law."""
    begin, start = grid.at_start, grid.schedule.start
    x, path = begin.points(start), grid.problem.path
    axes = tuple(np.unique(x[:, i]) for i in range(x.shape[1]))
    t = torch.tensor(start, dtype=torch.float64)
    log_p = grid.problem.base.noised(torch.as_tensor(x), path.alpha(t), path.sigma(t)).log_abs
    shape = [len(a) for a in axes]
    return GridLaw(axes, log_p.numpy().reshape(shape)).integrate(begin.at(start).reshape(shape))


def _case(options: argparse.Namespace) -> int:
    case = control_case(options.case)
    rows = [_on_grid(case, n) for n in options.steps or STEPS]
    result = {"case": case.name, "dim": case.dim, "value": case.expected_value(), "grids": rows}
    if options.json:
        print(json.dumps(result, indent=1))
        return 0
    table = Table(
        "time",
        "value",
        "u* of the diffusion on this chain, E|u - u_k|²/E|u_k|²",
        title=f"{case.name}, d = {case.dim}: least expected cost",
    )
    table.add_row("continuous", f"{result['value']:.8g}", "")
    for row in rows:
        table.add_row(
            f"{row['steps']} steps",
            row.get("refused") or f"{row['value']:.8g}",
            f"{row['control_error']:.3g}" if "control_error" in row else "",
        )
    console().print(table)
    return 0


def _on_grid(case: Case, n: int) -> dict[str, Any]:
    """The optimum of Euler's chain of n steps, or why it has none that is unique."""
    check_order("steps", n, 1)
    times = np.linspace(0, 1, n + 1).tolist()
    if isinstance(case, DoubleWell):
        try:
            return {"steps": n, "value": float(case.discrete(times).value(case.begin[None])[0])}
        except ValueError as refused:
            return {"steps": n, "refused": str(refused)}
    best = case.discrete(times)
    value = float(best.value(case.mean[None])[0]) + 0.5 * float(np.trace(best.matrix @ case.cov))
    return {"steps": n, "value": value, "control_error": best.distance()}
