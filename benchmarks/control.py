"""Control's floors, for `python -m benchmarks theory --only control`.

The closed value function and control against the Hamilton-Jacobi-Bellman equation on a grid, over
times in [0.02, 1], where X_t's law has 99.9 % of its mass (d = 1: all within e^-12 of its peak);
in d = 2 with the order that three grids show. Ten CPU-minutes, most of them the plane's.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.rows import Row
from theory.common.tolerances import QUADRATURE, QUADRATURE_2D
from theory.control.grid import GridOptimum
from theory.control.value import MemorylessOptimum
from theory.fields.diffusion import Diffusion
from theory.problems.problem import load_problem

TIMES = (0.98, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1, 0.05, 0.02)
START = 0.02
LINE = ("note_1d", "bumps_1d", "linear_1d", "quadratic_1d")
LINE_POINTS, LINE_DEPTH = 401, 12.0
# Deviations that the grid reaches: too near, and the one-sided stencils at its edges are unstable.
PLANE = {"bump_2d": 4.5, "quadratic_2d": 5.5}
PLANE_POINTS, PLANE_DEPTH = (61, 81, 111), 6.9


def errors(name: str, points: int, depth: float, reach: float = 0.0) -> dict[str, float]:
    """Of one problem on one grid: the largest of V and of u* = -g grad V over the times, relative
    to V's range and to the largest |u*| there."""
    problem = load_problem(name)
    optimum = MemorylessOptimum(problem, problem.scale)
    schedule = Diffusion.of_memoryless(1.0, START)
    run = GridOptimum(problem, problem.scale, schedule, points=points, reach=reach).solve_at(TIMES)
    gaps, sizes = np.zeros((len(TIMES), 2)), np.zeros((len(TIMES), 2))
    for i, t in enumerate(TIMES):
        x, time = torch.as_tensor(run.points(t)), torch.tensor(t, dtype=torch.float64)
        log_p = problem.base_field.log_density(x, time)
        inside = (log_p > log_p.max() - depth).numpy()
        g = float(schedule.squared(problem.path, time).sqrt())
        value, slope = optimum.value(x[inside], t).numpy(), optimum.gradient(x[inside], t).numpy()
        gaps[i] = (
            np.abs(run.at(t)[inside] - value).max(),
            g * np.abs(run.gradient_at(t)[inside] - slope).max(),
        )
        sizes[i] = np.ptp(value), g * np.abs(slope).max()
    return dict(zip(("V", "u*"), (gaps.max(0) / sizes.max(0)).tolist(), strict=True))


def measure() -> list[Row]:
    """Every floor."""
    rows = []
    for name in LINE:
        for label, error in errors(name, LINE_POINTS, LINE_DEPTH).items():
            what, note = f"{name}: {label} against HJB", f"{LINE_POINTS} points"
            rows.append(Row.at_most(what, error, QUADRATURE.rtol, note))
    for name, reach in PLANE.items():
        grids = [errors(name, n, PLANE_DEPTH, reach) for n in PLANE_POINTS]
        ratio = np.log(PLANE_POINTS[-1] / PLANE_POINTS[0])
        for label in ("V", "u*"):
            sizes = [grid[label] for grid in grids]
            order = float(np.log(sizes[0] / sizes[-1]) / ratio)
            note = f"{', '.join(f'{s:.1e}' for s in sizes)} at {PLANE_POINTS}: order {order:.1f}"
            rows.append(
                Row.at_most(f"{name}: {label} against HJB", sizes[-1], QUADRATURE_2D.rtol, note)
            )
    return rows
