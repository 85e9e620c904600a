"""Whether a grid can hold the law at hand: ends, length scale, mass; errors name the epoch.

A law is resolved where its shortest length 1/sqrt(-(log q)'') spans RESOLVED steps: sums over every
second node (which early times use) are then exact to 2 exp(-pi^2 RESOLVED^2 / 2). What is asked
depends on the dimension: 1e-9 is wanted in d = 1, 1e-4 in d = 2.
"""

from __future__ import annotations

import math

import numpy as np

from theory.recursion.grid import Array

RESOLVED = {1: 2.8, 2: 1.9}
NEAR = 12.0  # log-density below the peak down to which lengths are looked at
EDGE = 27.0  # log-density below the peak that every end of the grid must have
HALVES = {1: 1e-7, 2: 1e-6}  # largest change of the mass by dropping every second node
MASS = {1: 1e-6, 2: 1e-4}  # largest error of the mass


class GridError(ValueError):
    """The grid does not hold or resolve the law of some epoch."""


class DivergedError(ValueError):
    """Trajectories of the field that matter leave the grid."""


def steps_of(axes: tuple[Array, ...]) -> list[float]:
    """The step of every axis."""
    return [float(a[1] - a[0]) for a in axes]


def mass_of(log_q: Array, axes: tuple[Array, ...], stride: int = 1) -> float:
    """Trapezoidal sum of exp(log q): exact to rounding for resolved laws inside the grid."""
    cut = log_q[tuple(slice(None, None, stride) for _ in axes)]
    return float(np.exp(cut).sum() * math.prod(stride * h for h in steps_of(axes)))


def shortest_length(log_q: Array, steps: list[float]) -> list[float]:
    """Least 1/sqrt(-d^2 log q) near the peak, per axis: of modes, not of the valleys between."""
    near = log_q > log_q.max() - NEAR
    result = []
    for axis, h in enumerate(steps):
        moved, mask = np.moveaxis(log_q, axis, 0), np.moveaxis(near, axis, 0)
        bend = -(moved[2:] - 2 * moved[1:-1] + moved[:-2]) / h**2
        bend = np.where(mask[1:-1], bend, 0.0)
        result.append(1 / math.sqrt(max(float(bend.max()), 1e-300)))
    return result


def check_law(log_q: Array, axes: tuple[Array, ...], epoch: int, start_mass: float) -> None:
    """Raises GridError where the axes do not hold or resolve the law, or mass was lost."""
    steps, d = steps_of(axes), len(axes)
    size = " x ".join(str(len(a)) for a in axes)
    if not np.isfinite(log_q).all():
        raise DivergedError(
            f"epoch {epoch}: log-densities are not finite on the grid of {size} nodes"
        )
    peak = log_q.max()
    for i, a in enumerate(axes):
        moved = np.moveaxis(log_q, i, 0)
        for end, value in ((a[0], moved[0].max()), (a[-1], moved[-1].max())):
            if value > peak - EDGE:
                raise GridError(
                    f"epoch {epoch}: grid = {size} nodes on [{a[0]:g}, {a[-1]:g}] does not hold "
                    f"the mass: the density at its ends must be less than exp(-{EDGE:g}) of its "
                    f"peak, got exp({value - peak:.1f}) at {end:g}"
                )
    lengths = shortest_length(log_q, steps)
    halves = abs(mass_of(log_q, axes) / mass_of(log_q, axes, 2) - 1)
    coarse = max(RESOLVED[d] * h / length for h, length in zip(steps, lengths, strict=True))
    if coarse > 1 or halves > HALVES[d]:
        # Where the length would do, the density is rough: errors of trajectories, or valleys.
        why = f"a density of shortest length {min(lengths):.3g}"
        more = 1.1 * coarse
        if coarse <= 1:
            why = f"a density whose mass by every second node differs by {halves:.1g}"
            more = 1.25
        need = " x ".join(str(math.ceil((len(a) - 1) * more) + 1) for a in axes)
        raise GridError(
            f"epoch {epoch}: grid = {size} nodes is too coarse: steps of {max(steps):.3g} for "
            f"{why}; must be about {need} nodes or more on these "
            f"axes{'' if coarse > 1 else ', more steps of the trajectories'}, or fewer epochs"
        )
    mass = mass_of(log_q, axes)
    if abs(mass - start_mass) > MASS[d]:
        raise GridError(
            f"epoch {epoch}: grid = {size} nodes must keep the mass to {MASS[d]:g}, got "
            f"{mass:.12g} from {start_mass:.12g}; more nodes, more steps or a smaller step of the "
            "tilt mend it"
        )
