r"""The Fisher divergence (21) and the loss it is said to be, at one state of a chain on the line.

The policy is N(m, s^2) given X_k = x, the other law is P_B(x | x') F(x') / F(x), with the score
u(x') = d/dx' log P_B(x | x') + d/dx' log F(x'), and e = d/dx' log policy - u:

    divergence   E[e^2] / 2 under the policy; its derivative in m moves the policy's law too
    half loss    the same with data from N(m_0, s^2): its derivative in m, at m = m_0, holds them
    printed      d/dx' log P_B where the policy's score belongs: E[(d/dx' log F)^2] / 2

Sums over x' are trapezoidal; derivatives in m are complex steps, and the scores those of sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theory.ledger.oracle.gflownet.flows import slopes_at
from theory.ledger.oracle.gflownet.numbers import FlowNumbers
from theory.ledger.oracle.integrals import Array

Complex = NDArray[np.complex128]
_STEP = 1e-30
_XI = np.arange(-9.0, 9.01, 0.125)  # standard deviations of the policy
_FINE = 6.0  # points of a sum over X_T in its narrowest feature


class Divergence(NamedTuple):
    """Values, and derivatives in the policy's mean m."""

    value: float
    printed: float
    slope: float
    held_slope: float
    printed_slope: float


def fisher(n: FlowNumbers, k: int, x: float, mean: float, std: float) -> Divergence:
    """All of them at X_k = x for the policy N(mean, std^2), k < T. Raises ValueError off the line
    or for another k."""
    if n.case.dim != 1:
        raise ValueError(f"n must be on the line, got d = {n.case.dim}")
    if not 0 <= k < n.steps:
        raise ValueError(f"k must be 0 to {n.steps - 1}, got {k}")
    places = mean + std * _XI
    noise, flow = _noise_score(n, k, x, places), _flow_score(n, k + 1, places)
    weight = np.exp(-0.5 * _XI**2)
    weight /= weight.sum()

    def averaged(f: Callable[[complex], Complex], law_moves: bool) -> tuple[float, float]:
        """E f(m) under the policy at m, and d/dm, the law following m or held."""
        m = mean + 1j * _STEP
        density = np.exp(-0.5 * ((places - m) / std) ** 2 + 0.5 * _XI**2)
        total = (weight * (density if law_moves else 1.0) * f(m)).sum()
        return float(total.real), float(total.imag / _STEP)

    def squared(m: complex) -> Complex:
        error = -(places - m) / std**2 - noise - flow
        return np.asarray(0.5 * error**2, dtype=np.complex128)

    value, slope = averaged(squared, True)
    _, held = averaged(squared, False)
    printed, printed_slope = averaged(
        lambda m: np.asarray(0.5 * flow**2, dtype=np.complex128), True
    )
    return Divergence(value, printed, slope, held, printed_slope)


def _noise_score(n: FlowNumbers, k: int, x: float, places: Array) -> Array:
    """d/dx' log P_B(x | x') by a complex step."""
    moved = places + 1j * _STEP
    logs = -0.5 * (x - n.ratio[k] * moved) ** 2 / n.forward[k]
    return np.asarray(logs.imag / _STEP)


def _flow_score(n: FlowNumbers, k: int, places: Array) -> Array:
    """d/dx' log F_k at x' (m,): a complex step of the sum over X_T."""
    part = n.parts[0]
    if k == n.steps:
        log_density = part.density.log_density
        return np.array([float(slopes_at(log_density, p, part.width)[0]) for p in places[:, None]])
    rho, tau = n.noising(k)
    region, width = part.density.region, min(part.width, tau / rho)
    count = math.ceil(_FINE * float(region.upper[0] - region.lower[0]) / width) + 1
    y = np.linspace(region.lower[0], region.upper[0], count)
    logs = n.log_weight(y[:, None]) - 0.5 * ((places[:, None] - rho * y) / tau) ** 2
    top = logs.max(axis=1, keepdims=True)
    moved = logs - top - 1j * _STEP * (places[:, None] - rho * y) / tau**2
    return np.asarray(np.log(np.exp(moved).sum(axis=1)).imag / _STEP)
