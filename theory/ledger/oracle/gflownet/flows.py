r"""Flows of a denoising chain and the kernels of the chain that goes back, by adaptive quadrature.

F_k(x) = int W(y) q_k(x | y) dy with q_k the noise from X_T = y to X_k. The chain that goes back
takes a bridge to an end y that is drawn given where it is,

    P_F(x' | x) = int q(x' | x, y) W(y) q_k(x | y) dy / F_k(x),

of which nothing is rewritten: detailed balance, P_F F = P_B F', is for others to find. Gradients
are numerical derivatives of these integrals (`theory.ledger.oracle.integrals.stencils`).

Everything raises QuadratureError where an integral does not reach its tolerance, and ValueError
for an x of the wrong shape or a k that the chain does not have.
"""

from __future__ import annotations

import math

import numpy as np

from theory.ledger.oracle.gflownet.numbers import Bridge, FlowNumbers, Part, shifts
from theory.ledger.oracle.integrals import (
    Array,
    Density,
    Exponent,
    Function,
    Law,
    Region,
    radius_for,
    shifted,
    slope,
    steps,
)

_NEAR = 1 / 8  # of a weight's least width: how far stencils on the weight itself go


def log_flow(n: FlowNumbers, k: int, x: Array) -> float:
    """log F_k(x), for x (d,); log W(x) at k = T."""
    return sum(_log_flow(n, part, k, place) for part, place in places(n, k, x))


def flow_score(n: FlowNumbers, k: int, x: Array) -> Array:
    """grad log F_k(x), (d,)."""
    found = [_flow_score(n, part, k, place) for part, place in places(n, k, x)]
    return np.asarray(n.case.frame @ np.concatenate(found))


def log_backward(n: FlowNumbers, k: int, x: Array, x_next: Array) -> float:
    """log P_B(x | x'), the noise kernel's density, k < T."""
    _check(n, k, x, n.steps - 1)
    return _log_normal(x - n.ratio[k] * x_next, float(n.forward[k]))


def log_forward(n: FlowNumbers, k: int, x: Array, x_next: Array) -> float:
    """log P_F(x' | x) of the chain that goes back from x at k < T to x' at k + 1."""
    total = 0.0
    for (part, x_part), (_, next_part) in _pairs(n, k, x, x_next):
        total += _log_joint(n, part, k, x_part, next_part) - _log_flow(n, part, k, x_part)
    return total


def log_residual_flow(n: FlowNumbers, k: int, x: Array) -> float:
    """log E[R^power(X_T) | X_k = x] under the pretrained chain: two integrals' ratio."""
    return log_flow(n, k, x) - log_flow(n.without_reward(), k, x)


def residual_score(n: FlowNumbers, k: int, x: Array) -> Array:
    """Its gradient, (d,)."""
    return flow_score(n, k, x) - flow_score(n.without_reward(), k, x)


def log_ratio_of_path(n: FlowNumbers, states: Array) -> Array:
    """log P_F(x_{k+1} | x_k) - log P#_F(x_{k+1} | x_k) of every transition of states (T + 1, d),
    (T,). Their sum is what trajectory balance compares."""
    base = n.without_reward()
    return np.array(
        [
            log_forward(n, k, states[k], states[k + 1])
            - log_forward(base, k, states[k], states[k + 1])
            for k in range(n.steps)
        ]
    )


def log_normaliser(n: FlowNumbers) -> float:
    """log int W, the total flow."""
    total = 0.0
    for part in n.parts:
        law = Law(part.density, None)
        total += math.log(law.integral()[0][0]) + law.log_scale()
    return total


# --- one part


def _log_normal(gap: Array, variance: float) -> float:
    size = math.log(2 * math.pi * variance)
    return float(-0.5 * (gap**2).sum() / variance - 0.5 * len(gap) * size)


def _check(n: FlowNumbers, k: int, x: Array, last: int) -> None:
    if np.shape(x) != (n.case.dim,):
        raise ValueError(f"x must have shape ({n.case.dim},), got {np.shape(x)}")
    if not 0 <= k <= last:
        raise ValueError(f"k must be 0 to {last}, got {k}")


def places(n: FlowNumbers, k: int, x: Array) -> list[tuple[Part, Array]]:
    """Every part with x along its axes."""
    _check(n, k, x, n.steps)
    rotated = n.case.frame.T @ np.asarray(x, dtype=np.float64)
    return [(part, rotated[part.axes]) for part in n.parts]


def _pairs(
    n: FlowNumbers, k: int, x: Array, x_next: Array
) -> list[tuple[tuple[Part, Array], tuple[Part, Array]]]:
    _check(n, k, x, n.steps - 1)
    return list(zip(places(n, k, x), places(n, k + 1, x_next), strict=True))


def _log_integral(law: Law) -> float:
    return math.log(law.integral()[0][0]) + law.log_scale()


def _law(n: FlowNumbers, part: Part, k: int, x: Array) -> Law:
    """X_T given X_k = x, W its weight."""
    rho, tau = n.noising(k)
    return Law(part.density, None, x, rho, tau)


def _log_flow(n: FlowNumbers, part: Part, k: int, x: Array) -> float:
    if k == n.steps:
        return float(part.density.log_density(x[None])[0])
    tau = n.noising(k)[1]
    unit = 0.5 * len(x) * math.log(2 * math.pi * tau**2)
    return _log_integral(_law(n, part, k, x)) - unit


def _flow_score(n: FlowNumbers, part: Part, k: int, x: Array) -> Array:
    if k == n.steps:
        return slopes_at(part.density.log_density, x, part.width)
    law, (rho, tau) = _law(n, part, k, x), n.noising(k)
    return derivatives(law, shifts(x, rho, tau), tau)


def _bridged(n: FlowNumbers, part: Part, k: int, x: Array, x_next: Array) -> tuple[Law, Bridge]:
    """X_T given X_k = x and X_{k+1} = x', k < T - 1: the bridge is part of the density."""
    bridge, region = n.bridge(k), part.density.region

    def log_density(y: Array) -> Array:
        gap = x_next - bridge.here * x - bridge.end * y
        return np.asarray(part.density.log_density(y) - 0.5 * (gap**2).sum(1) / bridge.variance)

    centre = (x_next - bridge.here * x) / bridge.end if bridge.end else x_next
    inside = np.clip(centre, region.lower, region.upper)[None]
    points = Region(region.lower, region.upper, np.concatenate([region.points, inside]))
    return Law(Density(log_density, points), None, x, *n.noising(k)), bridge


def _log_joint(n: FlowNumbers, part: Part, k: int, x: Array, x_next: Array) -> float:
    """log int W(y) q_k(x | y) q(x' | x, y) dy."""
    rho, tau = n.noising(k)
    if k == n.steps - 1:  # x' is the end itself
        kernel = _log_normal(x - rho * x_next, tau**2)
        return float(part.density.log_density(x_next[None])[0]) + kernel
    law, bridge = _bridged(n, part, k, x, x_next)
    unit = math.log(2 * math.pi * tau**2) + math.log(2 * math.pi * bridge.variance)
    return _log_integral(law) - 0.5 * len(x) * unit


def stencilled(
    law: Law, exponents: list[Exponent], largest: float, f: Function
) -> tuple[Array, Array, Array]:
    """Radii (J,), and on every exponent's stencil the log of the law's mass relative to the law
    itself (J, S) and the mean of f (J, S, m), f (n, e) -> (n, m), all in one integral."""
    radii = np.array([radius_for(law, exponent, largest) for exponent in exponents])

    def stacked(y: Array) -> Array:
        return np.hstack([e(y, steps(r)) for e, r in zip(exponents, radii, strict=True)])

    logs, means = shifted(law, stacked, f)
    rows = len(radii)
    return radii, logs.reshape(rows, -1), means.reshape(rows, len(logs) // rows, -1)


def derivatives(law: Law, exponents: list[Exponent], largest: float) -> Array:
    """Derivatives at 0 of the log of the law's mass along every exponent, (J,)."""
    radii, logs, _ = stencilled(law, exponents, largest, lambda y: y[:, :1])
    return np.array([float(slope(b, r)) for b, r in zip(logs, radii, strict=True)])


def slopes_at(f: Function, x: Array, width: float) -> Array:
    """The gradient at x of f (n, e) -> (n,), by differences."""
    radius = _NEAR * width
    found = np.empty(len(x))
    for j in range(len(x)):
        points = np.tile(x, (len(steps(radius)), 1))
        points[:, j] += steps(radius)
        found[j] = float(slope(f(points) - f(x[None]), radius))
    return found
