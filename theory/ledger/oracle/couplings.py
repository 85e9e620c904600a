r"""Velocities of dependent couplings: integrals along the fibre t X_1 + (1 - t) X_0 = x.

For a joint density gamma(x_0, x_1), given that X_t = x, X_1 = y has the density
gamma((x - t y) / (1 - t), y) up to a constant, and X_1 - X_0 = (y - x) / (1 - t).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from theory.ledger.oracle.integrals import (
    Array,
    Density,
    Law,
    Region,
    radius_for,
    shifted,
    slope,
    steps,
)

# log gamma^a has singularities of its own in a, that no difference over y shows.
LARGEST = 1 / 64
LogJoint = Callable[[Array, Array], Array]  # x_0 (n, d), x_1 (n, d) -> (n,)


def _fibre(x: Array, t: float, y: Array) -> Array:
    """X_0 where X_1 = y, (n, d)."""
    return (x - t * y) / (1 - t)


def _law(log_joint: LogJoint, x: Array, t: float, region: Region) -> Law:
    """The law of X_1 given X_t = x."""
    if np.shape(x) != region.lower.shape:
        raise ValueError(f"x must have shape {region.lower.shape}, got {np.shape(x)}")
    if not 0 <= t < 1:
        raise ValueError(f"t must be in [0, 1), got {t}")
    near = np.clip([x, x / t] if t else [x], region.lower, region.upper)  # late, X_1 is near x
    places = Region(region.lower, region.upper, np.concatenate([region.points, near]))
    return Law(Density(lambda y: log_joint(_fibre(x, t, y), y), places), None)


def velocity(log_joint: LogJoint, x: Array, t: float, region: Region) -> Array:
    """E[X_1 - X_0 | t X_1 + (1 - t) X_0 = x], (d,), d = 1 or 2, t in [0, 1). log_joint is the log
    of the joint density up to a constant, region holds the mass of X_1. Raises ValueError for a t
    or x that does not fit, QuadratureError."""
    return np.asarray(_law(log_joint, x, t, region).mean(lambda y: (y - x) / (1 - t)).value)


def velocity_slope(
    log_joint_at: Callable[[float], LogJoint], a: float, x: Array, t: float, region: Region
) -> Array:
    """d/da of the velocity under log_joint_at(a), (d,): the numerical derivative of velocities
    at Chebyshev nodes around a. Raises as `velocity` does."""
    law = _law(log_joint_at(a), x, t, region)
    level = law.charts[0].centre

    def exponent(y: Array, s: Array) -> Array:
        x0 = _fibre(x, t, y)
        here = log_joint_at(a)(x0, y)
        return np.stack([log_joint_at(a + float(step))(x0, y) - here for step in s], axis=1)

    radius = radius_for(law, exponent, LARGEST)
    _, means = shifted(law, lambda y: exponent(y, steps(radius)), lambda y: (y - level) / (1 - t))
    return slope(means, radius)
