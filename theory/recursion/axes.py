"""Uniform axes of one step that hold the base and its tilts up to the idealised one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from theory.common.checks import check_order
from theory.evaluation.grids import mixture_on_grid
from theory.laws.distances import GridLaw
from theory.problems.problem import Problem
from theory.recursion.grid import Array
from theory.recursion.reference import closed_law, log_density
from theory.recursion.spec import Recursion, TwoKL
from theory.samplers.chain import grid_points

NODES = {1: 256, 2: 80}
LEAST, MOST = 32, {1: 2048, 2: 200}
# Log-density below the peak at which the axes may end, for every tilt on the way.
DEPTH = 36.0
LOOK = 60.0  # standard deviations of the base looked at
SHARES = (0.0, 0.05, 0.2, 0.5, 1.0)
# A reference known by its field alone costs paths: it is looked at on one node in so many.
STRIDE = {1: 20, 2: 10}


def base_on(problem: Problem, axes: tuple[Array, ...]) -> tuple[GridLaw, Array]:
    """The base's law and the rewards on the grid."""
    law = mixture_on_grid(problem.base, axes)
    return law, problem.reward(grid_points(axes)).numpy().reshape(law.log_density.shape)


def default_axes(
    problem: Problem, recursion: Recursion | TwoKL, epochs: int, n: int | None
) -> tuple[Array, ...]:
    """n nodes on the longest axis; the others have the same step."""
    nodes = NODES[problem.dim] if n is None else n
    check_order("grid", nodes, LEAST, MOST[problem.dim])
    tilt = recursion.effective_tilt(epochs)
    centre = problem.base.expectation().numpy()
    std = problem.base.covariance().diagonal(dim1=-2, dim2=-1).sqrt().numpy()
    fine = 12001 if problem.dim == 1 else 601
    reach = LOOK if problem.dim == 1 else LOOK / 4
    wide = tuple(c + s * np.linspace(-reach, reach, fine) for c, s in zip(centre, std, strict=True))
    base, rewards = base_on(problem, wide)
    found = [_ends(wide, base.log_density, rewards, tilt)]
    reference = recursion.reference
    law = closed_law(reference)
    if law is not None:
        found.append(_ends(wide, mixture_on_grid(law, wide).log_density, rewards, tilt))
    elif reference is not None and isinstance(recursion, TwoKL):
        some = (slice(None, None, STRIDE[problem.dim]),) * problem.dim
        few = tuple(axis[some[0]] for axis in wide)
        log_start = log_density(reference, grid_points(few), look=True)
        found.append(_ends(few, log_start.reshape(rewards[some].shape), rewards[some], tilt))
    ends = [
        (min(low for low, _ in own), max(high for _, high in own))
        for own in zip(*found, strict=True)
    ]
    step = max(high - low for low, high in ends) / (nodes - 1)
    axes = []
    for low, high in ends:
        count = max(LEAST, int(np.ceil((high - low) / step - 1e-9)) + 1)
        axes.append(0.5 * (low + high) - 0.5 * step * (count - 1) + step * np.arange(count))
    return tuple(axes)


def _ends(
    axes: Sequence[Array], log_start: Array, rewards: Array, tilt: float
) -> list[tuple[float, float]]:
    """Per axis the ends, one node further out, of where a tilt on the way has mass."""
    held = np.zeros(log_start.shape, dtype=bool)
    for share in SHARES:
        log_q = log_start + share * tilt * rewards
        held |= log_q > log_q.max() - DEPTH
    ends = []
    for i, axis in enumerate(axes):
        where = np.flatnonzero(held.any(tuple(j for j in range(len(axes)) if j != i)))
        ends.append((axis[max(where[0] - 1, 0)], axis[min(where[-1] + 1, len(axis) - 1)]))
    return ends


def check_axes(grid: Sequence[Array], dim: int) -> tuple[Array, ...]:
    """Axes given by hand: one per dimension, uniform, rising, of one step."""
    axes = tuple(np.asarray(a, dtype=float) for a in grid)
    if len(axes) != dim:
        raise ValueError(f"grid must be a number or {dim} axes, got {len(axes)} axes")
    for a in axes:
        if a.ndim != 1 or not LEAST <= len(a) <= MOST[dim] or not np.isfinite(a).all():
            raise ValueError(
                f"grid must have axes of {LEAST} to {MOST[dim]} nodes, got one of shape {a.shape}"
            )
    steps = np.concatenate([np.diff(a) for a in axes])
    if steps.min() <= 0 or steps.max() - steps.min() > 1e-9 * steps.max():
        raise ValueError(
            f"grid must have uniform rising axes of one step, got steps from {steps.min():g} to "
            f"{steps.max():g}"
        )
    return axes
