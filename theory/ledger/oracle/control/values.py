r"""Value functions and densities on a path with their rates, by adaptive quadrature.

X_t = alpha X_1 + sigma X_0, X_1 ~ p a plane problem in R^d. Under the memoryless schedule
(X_t, X_1) has the path's joint law, so that the value function of the terminal cost -scale r is

    V(x, t) = -log E[exp(scale r(X_1)) | X_t = x].

It is taken from one law, p tilted by half of what is asked for: with q = scale (r - level) / 2 and
E_h under p exp(scale r / 2),

    V = -scale level - log E_h[exp(q)] + log E_h[exp(-q)],

so that neither mean reaches far into the other law's tail; `level` is r at the peak. Derivatives in
x and t are numerical ones of such integrals over shared nodes
(`theory.ledger.oracle.integrals.stencils`): the law moves by an exponent, which in t is the
difference of -|x - alpha y|^2 / (2 sigma^2) at two times. Nothing knows that p is a mixture. Along
the directions outside the plane p is N(0, rest_std^2): V does not vary along them, and a
log-density adds that of a line problem for each.

Everything raises QuadratureError where an integral does not reach its tolerance and ValueError for
an x of the wrong shape or sigma <= 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.conditional import Instant, _Split
from theory.ledger.oracle.instants import PATHS, instant
from theory.ledger.oracle.integrals import (
    Array,
    Exponent,
    Function,
    PlaneNumbers,
    radius_for,
    shifted,
    slope,
    steps,
)

_REACH = 1 / 16  # of 1 - t, the way to where sigma vanishes, that a stencil in t may take


class ValueRates(NamedTuple):
    """V, dV/dt, grad V (d,) and the Laplacian of V at one (x, t)."""

    value: float
    rate: float
    gradient: Array
    laplacian: float


class DensityRates(NamedTuple):
    """log p_t and its d/dt, grad (d,) and Laplacian; the velocity v (d,) and div v, at one (x, t).

    The law p_t of X_t solves p_t = -div(b p) + g^2/2 lap p with b = v + g^2/2 grad log p for every
    g(t): d/dt log p = -div b - b . s + g^2/2 (lap log p + |s|^2), div b = div v + g^2/2 lap log p.
    """

    log_density: float
    rate: float
    score: Array
    laplacian: float
    velocity: Array
    divergence: float


def memoryless_noise(at: Instant) -> float:
    """g = sqrt(2 eta), eta = sigma (sigma alpha' / alpha - sigma'). Raises ValueError for
    alpha <= 0, where it is infinite."""
    if at.alpha <= 0:
        raise ValueError(f"the memoryless schedule needs alpha > 0, got {at.alpha}")
    return math.sqrt(2 * at.eta)


def value(case: PlaneNumbers, x: Array, at: Instant, scale: float) -> float:
    """V(x, t) = -log E[exp(scale r(X_1)) | X_t = x], for x (d,)."""
    parts = _half_tilted(case, x, at, scale)
    level = _level(parts)
    return float(_values(parts.law.mean(_tilts(parts, scale, level)).value[None], scale, level)[0])


def value_gradient(case: PlaneNumbers, x: Array, at: Instant, scale: float) -> Array:
    """grad V(x, t), (d,); the optimal control under the memoryless schedule is -g times it."""
    parts = _half_tilted(case, x, at, scale)
    radii, exponents = _in_space(parts)
    level = _level(parts)
    _, means = shifted(parts.law, _stacked(exponents, radii), _tilts(parts, scale, level))
    return parts.back(_slopes(_values(means, scale, level), radii))


def value_rates(case: PlaneNumbers, x: Array, path: str, t: float, scale: float) -> ValueRates:
    """V and what its Hamilton-Jacobi-Bellman equation needs,

        V_t + b . grad V + g^2/2 lap V - g^2/2 |grad V|^2 = 0,   b = v + g^2/2 s,  g^2 = 2 eta,

    on the default path of that name. Raises KeyError for an unknown path."""
    parts = _half_tilted(case, x, instant(path, t), scale)
    level, (radii, exponents) = _level(parts), _in_space_and_time(parts, path, t)
    _, means = shifted(parts.law, _stacked(exponents, radii), _tilts(parts, scale, level))
    values = _values(means, scale, level)
    first, second = _slopes(values, radii), _curvatures(values, radii)
    gradient = parts.back(first[: parts.e])
    return ValueRates(float(values[0]), first[-1], gradient, float(second[: parts.e].sum()))


def log_density_rates(case: PlaneNumbers, x: Array, path: str, t: float) -> DensityRates:
    """The law of X_t at x (d,) with what its Fokker-Planck equation needs, on the default path of
    that name. Raises KeyError for an unknown path."""
    parts = _Split(case, x, instant(path, t))
    found = _plane_rates(parts, path, t)
    velocity, score = found.velocity, found.score
    for place in parts.rest:
        along = _plane_rates(_Split(_rest(case), np.array([place]), parts.at), path, t)
        velocity, score = np.append(velocity, along.velocity), np.append(score, along.score)
        found = DensityRates(
            found.log_density + along.log_density,
            found.rate + along.rate,
            score,
            found.laplacian + along.laplacian,
            velocity,
            found.divergence + along.divergence,
        )
    return found._replace(score=case.frame @ score, velocity=case.frame @ velocity)


def _rest(case: PlaneNumbers) -> PlaneNumbers:
    """One direction outside the plane as a problem on the line, without a reward."""
    return PlaneNumbers(
        weights=np.ones(1),
        means=np.zeros((1, 1)),
        covs=np.full((1, 1, 1), case.rest_std**2),
        kind="linear",
        parameters={"vector": np.zeros(1), "constant": np.array(0.0)},
        scale=1.0,
        frame=np.eye(1),
    )


def _plane_rates(parts: _Split, path: str, t: float) -> DensityRates:
    """The rates of the plane's part of X_t, in the plane's coordinates."""
    e, at = parts.e, parts.at
    level = parts.v(parts.law.charts[0].centre[None])
    radii, exponents = _in_space_and_time(parts, path, t)
    logs, means = shifted(parts.law, _stacked(exponents, radii), lambda y: parts.v(y) - level)
    sizes = np.array([PATHS[path](t + s)[1].real for s in steps(radii[-1])])
    logs[-len(sizes) :] -= e * np.log(sizes / at.sigma)  # the kernel's normaliser
    first, second = _slopes(logs, radii), _curvatures(logs, radii)
    # V moves with x at fixed X_1 too, by sigma' / sigma.
    spread = sum(_slopes(means[:, j], radii)[j] + at.dsigma / at.sigma for j in range(e))
    mass = math.log(parts.law.integral()[0][0]) + parts.law.log_scale()
    return DensityRates(
        mass - 0.5 * e * math.log(2 * math.pi * at.sigma**2),
        first[-1],
        first[:e],
        float(second[:e].sum()),
        level[0] + means[0],
        float(spread),
    )


def _half_tilted(case: PlaneNumbers, x: Array, at: Instant, scale: float) -> _Split:
    return _Split(case, x, at, lambda r: np.exp(0.5 * scale * r))


def _level(parts: _Split) -> float:
    return float(parts.reward(parts.law.charts[0].centre[None])[0, 0])


def _tilts(parts: _Split, scale: float, level: float) -> Function:
    """expm1(q) and expm1(-q), (n, e) -> (n, 2)."""

    def tilts(y: Array) -> Array:
        q = 0.5 * scale * (parts.reward(y) - level)
        return np.expm1(np.hstack([q, -q]))

    return tilts


def _values(means: Array, scale: float, level: float) -> Array:
    """V from the means (J, 2) of the tilts, (J,)."""
    return np.asarray(np.log1p(means[:, 1]) - np.log1p(means[:, 0]) - scale * level)


def _in_space(parts: _Split) -> tuple[list[float], list[Function]]:
    """Radii and exponents of moves of x along the plane's axes."""
    shifts = [parts.shift(j) for j in range(parts.e)]
    return [radius for radius, _ in shifts], [move for _, move in shifts]


def _in_space_and_time(parts: _Split, path: str, t: float) -> tuple[list[float], list[Function]]:
    """The same, and last those of a move of t."""
    radii, exponents = _in_space(parts)
    move = _in_time(parts, path, t)
    radius = radius_for(parts.law, move, _REACH * (1 - t))
    return [*radii, radius], [*exponents, lambda y: move(y, steps(radius))]


def _in_time(parts: _Split, path: str, t: float) -> Exponent:
    """log of the kernel at t + s over that at t. With z = (x - alpha y) / sigma at either time it
    is (z - z_s)(z + z_s) / 2, without the cancellation of two large squares."""
    at = parts.at

    def exponent(y: Array, s: Array) -> Array:
        later = np.array([PATHS[path](t + step) for step in s]).real[:, :, None]
        alpha, sigma = later[:, 0], later[:, 1]  # (J, 1)
        z = ((parts.x - at.alpha * y) / at.sigma)[:, None]
        fall = z * (1 - at.sigma / sigma) + (alpha - at.alpha) / sigma * y[:, None]
        return np.asarray((fall * (z - fall / 2)).sum(axis=-1))

    return exponent


def _stacked(exponents: list[Function], radii: list[float]) -> Function:
    """The law itself, then every move's stencil: (n, e) -> (n, 1 + sum of stencils)."""
    assert len(exponents) == len(radii)
    return lambda y: np.hstack([np.zeros((len(y), 1)), *(move(y) for move in exponents)])


def _slopes(values: Array, radii: list[float]) -> Array:
    """First derivatives along every move, from values at the law itself and the stencils."""
    blocks = np.split(values[1:], len(radii))
    return np.array([slope(b, radius) for b, radius in zip(blocks, radii, strict=True)])


def _curvatures(values: Array, radii: list[float]) -> Array:
    """Second derivatives: (v(s) - v(0)) / s has half of v'' as its slope."""
    return np.array(
        [
            2 * float(slope((b - values[0]) / steps(radius), radius))
            for b, radius in zip(np.split(values[1:], len(radii)), radii, strict=True)
        ]
    )
