r"""The tilt by a reward whose logarithm is averaged over Gaussian noise, by quadrature.

E_eps grad log R(x + eps), eps ~ N(0, c^2 I), is the gradient of (log R) * N(0, c^2 I), so its
target is p_T(x) exp(power (log R * N)(x)) / Z. The average is a trapezoidal sum over eps, of
log R as it stands, in steps that follow the noise and the least width of W; Z is an adaptive
integral. Nothing else is known of bumps or parabolas. R must not vary outside the plane; other axes
are p_T's.
"""

from __future__ import annotations

import math

import numpy as np

from theory.ledger.oracle.gflownet.flows import slopes_at
from theory.ledger.oracle.gflownet.numbers import FlowNumbers
from theory.ledger.oracle.integrals import Array, Density, Law

_REACH, _STEP = {1: 8.0, 2: 7.2}, {1: 0.25, 2: 0.4}  # in units of c, by axes
_FINEST = 0.5  # a step in units of the least width
_ROWS = 400_000  # values of log R at once


def smoothed_log_reward(n: FlowNumbers, y: Array, c: float) -> Array:
    """(log R * N(0, c^2 I))(y) in the plane, (n, e) -> (n,). Raises ValueError for c <= 0 or an R
    that varies outside the plane."""
    if c <= 0 or math.isfinite(n.reward_std):
        raise ValueError(f"c must be positive and R of the plane alone, got c = {c}")
    e = n.case.plane_dim
    step = min(_STEP[e], _FINEST * n.parts[0].width / c)
    count = math.ceil(_REACH[e] / step)
    xi = step * np.arange(-count, count + 1)
    weight = np.exp(-0.5 * xi**2)
    weight /= weight.sum()
    steps = c * np.stack(np.meshgrid(*[xi] * e, indexing="ij"), axis=-1).reshape(-1, e)
    shares = weight if e == 1 else np.outer(weight, weight).ravel()
    found, rows = np.empty(len(y)), max(1, _ROWS // len(steps))
    for i in range(0, len(y), rows):
        part = y[i : i + rows, None] + steps
        found[i : i + rows] = n.log_reward(part.reshape(-1, e)).reshape(-1, len(steps)) @ shares
    return found


def smoothed_score(n: FlowNumbers, x: Array, c: float) -> Array:
    """power grad (log R * N)(x), (d,): the derivative of the average, at x (d,)."""
    e = n.case.plane_dim
    along = np.zeros(n.case.dim)
    along[:e] = slopes_at(
        lambda y: smoothed_log_reward(n, y, c), (n.case.frame.T @ x)[:e], n.parts[0].width
    )
    return np.asarray(n.power * n.case.frame @ along)


def smoothed_log_density(n: FlowNumbers, x: Array, c: float) -> float:
    """log of p_T exp(power log R * N) / Z at x (d,)."""
    e, base = n.case.plane_dim, n.without_reward()

    def log_weight(y: Array) -> Array:
        return np.asarray(base.log_weight(y) + n.power * smoothed_log_reward(n, y, c))

    law = Law(Density(log_weight, n.parts[0].density.region), None)
    log_z = math.log(law.integral()[0][0]) + law.log_scale()
    rotated = n.case.frame.T @ x
    total = float(log_weight(rotated[None, :e])[0]) - log_z
    for part in base.parts[1:]:
        total += float(part.density.log_density(rotated[None, part.axes])[0])
    return total
