r"""Conditional quantities at one (x, t) of a plane problem in R^d, by brute force.

X_t = alpha X_1 + sigma X_0 with X_0 ~ N(0, I) independent of X_1 ~ p, V = alpha' X_1 + sigma' X_0,
r the reward, m(x) = E[r | X_t = x]. Nothing is rewritten: a velocity is an integral of V, a
gradient in x a numerical derivative of integrals, a slope in a parameter one in that parameter
(`theory.ledger.oracle.integrals.stencils`), and a minimiser is found from values of its loss. A
loss is quadratic in mu, so that its central differences over any step are exact.

x (d,) is rotated by frame'. In the plane the adaptive oracle integrates; along each other
direction p is N(0, rest_std^2), independent of the plane and of r, and a trapezoidal sum over the
posterior's peak does. Results are rotated back. Everything raises QuadratureError where an
integral does not reach its tolerance, ValueError for an x of the wrong shape or sigma <= 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.integrals import (
    Array,
    Function,
    Law,
    PlaneNumbers,
    radius_for,
    shifted,
    slope,
    steps,
)

Phi = Callable[[Array], Array]

_XI = np.arange(-12.0, 12.01, 0.25)  # trapezoidal nodes, in standard deviations of a peak
_TILT = 2.0**30  # no reward varies so little over a posterior that a radius is larger


class Instant(NamedTuple):
    """The path at one time: alpha, sigma and their time derivatives."""

    alpha: float
    sigma: float
    dalpha: float
    dsigma: float

    @property
    def eta(self) -> float:
        """sigma (sigma alpha' / alpha - sigma')."""
        return self.sigma * (self.sigma * self.dalpha / self.alpha - self.dsigma)

    def velocity(self, x: Array, y: Array) -> Array:
        """V = alpha' X_1 + sigma' X_0 where X_t = x and X_1 = y."""
        return self.dalpha * y + self.dsigma * (x - self.alpha * y) / self.sigma


class _Split:
    """A problem and a point, rotated: the law of X_1's plane part given X_t = x, and the rest."""

    def __init__(self, case: PlaneNumbers, x: Array, at: Instant, phi: Phi | None = None) -> None:
        x = np.asarray(x, dtype=np.float64)
        if x.shape != (case.dim,):
            raise ValueError(f"x must have shape ({case.dim},), got {x.shape}")
        rotated = case.frame.T @ x
        self.case, self.at, self.e = case, at, case.plane_dim
        self.x, self.rest = rotated[: self.e], rotated[self.e :]

        def weight(y: Array) -> Array:
            assert phi is not None
            return phi(case.reward(y))

        self.law = Law(case.density(), None if phi is None else weight, self.x, at.alpha, at.sigma)

    def v(self, y: Array) -> Array:
        """V's plane part as a function of X_1's, (n, e) -> (n, e)."""
        return self.at.velocity(self.x, y)

    def rest_mean(self, f: Callable[[Array], Array]) -> Array:
        """E[f(V)] along the other directions, (..., d - e), for f that acts on V's coordinates,
        (d - e, n) -> (..., d - e, n)."""
        a, s = self.at, self.case.rest_std

        def log_h(z: Array) -> Array:
            return -0.5 * (z / s) ** 2 - 0.5 * ((self.rest[:, None] - a.alpha * z) / a.sigma) ** 2

        low, middle, high = log_h(s * np.array([[-1.0, 0.0, 1.0]])).T
        bend = (2 * middle - low - high) / s**2
        peak, width = (high - low) / (2 * s * bend), 1 / np.sqrt(bend)
        z = peak[:, None] + width[:, None] * _XI
        h = np.exp(log_h(z) - log_h(peak[:, None]))
        return np.asarray((f(a.velocity(self.rest[:, None], z)) * h).sum(axis=-1) / h.sum(axis=-1))

    def back(self, plane: Array, rest: Array | None = None) -> Array:
        """The vector with these coordinates in the plane and in the rest (0 without), (d,)."""
        rest = np.zeros(len(self.rest)) if rest is None else rest
        return np.asarray(self.case.frame @ np.concatenate([plane, rest]))

    def reward(self, y: Array) -> Array:
        """r as a column, (n, e) -> (n, 1)."""
        return self.case.reward(y)[:, None]

    def shift(self, axis: int) -> tuple[float, Function]:
        """A radius and the exponents by which the law changes as x moves along the axis."""
        a = self.at

        def exponent(y: Array, s: Array) -> Array:
            gap = (a.alpha * y[:, axis, None] - self.x[axis]) / a.sigma
            return gap * (s / a.sigma) - 0.5 * (s / a.sigma) ** 2

        radius = radius_for(self.law, exponent, a.sigma)
        return radius, lambda y: exponent(y, steps(radius))


def velocity(case: PlaneNumbers, x: Array, at: Instant, phi: Phi | None = None) -> Array:
    """E[V | X_t = x] under the density p phi(r) / Z, (d,); phi acts on reward values, (n,) ->
    (n,), None for 1."""
    parts = _Split(case, x, at, phi)
    return parts.back(parts.law.mean(parts.v).value, parts.rest_mean(lambda v: v))


def mean_reward(case: PlaneNumbers, x: Array, at: Instant) -> float:
    """m(x) = E[r(X_1) | X_t = x]."""
    parts = _Split(case, x, at)
    return float(parts.law.mean(parts.reward).value[0])


def mean_reward_gradient(case: PlaneNumbers, x: Array, at: Instant) -> Array:
    """grad m(x), (d,): the numerical derivative of m at points around x, axis by axis. m is
    taken relative to the reward at the posterior's peak, which costs no digits."""
    parts = _Split(case, x, at)
    level = parts.reward(parts.law.charts[0].centre[None])
    return parts.back(_derivatives(parts, lambda y: parts.reward(y) - level)[1])


def score(case: PlaneNumbers, x: Array, at: Instant, phi: Phi | None = None) -> Array:
    """grad in x of the log-density of X_t under p phi(r) / Z, (d,): the numerical derivative of
    the log of int p phi(r) N(x; alpha y, sigma^2) dy, axis by axis."""
    parts = _Split(case, x, at, phi)
    plane = _derivatives(parts, lambda y: y[:, :0])[0]
    s, radius = case.rest_std, at.sigma / 4
    rest = np.zeros(len(parts.rest))
    for j, place in enumerate(parts.rest):
        logs = _log_convolution(place + steps(radius), s, at)
        rest[j] = slope(logs - _log_convolution(np.array([place]), s, at), radius)
    return parts.back(plane, rest)


def _log_convolution(x: Array, s: float, at: Instant) -> Array:
    """log int N(z; 0, s^2) exp(-(x - alpha z)^2 / (2 sigma^2)) dz up to a constant, (n,), by
    trapezoidal sums over the same nodes around the middle x."""
    middle = x[len(x) // 2]
    around = np.array([-s, 0.0, s])
    gap = (middle - at.alpha * around) / at.sigma
    low, level, high = -0.5 * (around / s) ** 2 - 0.5 * gap**2
    bend = (2 * level - low - high) / s**2
    z = (high - low) / (2 * s * bend) + np.arange(-16.0, 16.01, 0.25) / np.sqrt(bend)
    logs = -0.5 * (z / s) ** 2 - 0.5 * ((x[:, None] - at.alpha * z) / at.sigma) ** 2
    top = logs.max(axis=1, keepdims=True)
    return np.asarray(top[:, 0] + np.log(np.exp(logs - top).sum(axis=1)))


def _derivatives(parts: _Split, f: Function) -> tuple[Array, Array]:
    """The plane gradients at x of log of the law's mass, (e,), and of the mean of f, (e,) (or
    (0,) for an f with no columns), in one integral."""
    shifts = [parts.shift(j) for j in range(parts.e)]
    logs, means = shifted(
        parts.law, lambda y: np.concatenate([move(y) for _, move in shifts], axis=1), f
    )
    pieces = [(radius, len(steps(radius))) for radius, _ in shifts]
    mass, mean = np.zeros(parts.e), np.zeros((parts.e, means.shape[1]))
    for j, (radius, n) in enumerate(pieces):
        mass[j] = slope(logs[j * n : (j + 1) * n], radius)
        mean[j] = slope(means[j * n : (j + 1) * n], radius)
    return mass, mean[:, 0] if mean.shape[1] else mean.ravel()


def covariance(case: PlaneNumbers, x: Array, at: Instant) -> Array:
    """Cov(V, r | X_t = x), (d,), as the mean of the product of what is centred first."""
    parts = _Split(case, x, at)
    e = parts.e
    means = parts.law.mean(lambda y: np.hstack([parts.v(y), parts.reward(y)])).value

    def product(y: Array) -> Array:
        return (parts.v(y) - means[:e]) * (parts.reward(y) - means[e])

    return parts.back(parts.law.mean(product).value)


def tilted_velocity_slope(case: PlaneNumbers, x: Array, at: Instant, a: float) -> Array:
    """d/da of the velocity of p exp(a r) / Z, (d,): the numerical derivative of velocities at
    Chebyshev nodes around a."""
    parts = _Split(case, x, at, None if a == 0 else lambda r: np.exp(a * r))
    level = parts.v(parts.law.charts[0].centre[None])

    def exponent(y: Array, s: Array) -> Array:
        return parts.reward(y) * s

    radius = radius_for(parts.law, exponent, _TILT)
    _, means = shifted(
        parts.law, lambda y: exponent(y, steps(radius)), lambda y: parts.v(y) - level
    )
    return parts.back(slope(means, radius))


def nft_minimiser(
    case: PlaneNumbers, x: Array, at: Instant, nft_beta: float, v_old: Array | None = None
) -> Array:
    """The mu (d,) that minimises

        E[r |v + b (mu - v) - V|^2 + (1 - r) |v - b (mu - v) - V|^2 | X_t = x],  b = nft_beta,

    with v = E[V | X_t = x], or any v_old (d,), from values of this loss. Along a direction outside
    the plane V is independent of r given x, so that the loss takes E[r] there. Raises ValueError
    for nft_beta = 0 or a v_old of the wrong shape."""
    if nft_beta == 0:
        raise ValueError("nft_beta must not be 0: the loss would not depend on mu")
    parts = _Split(case, x, at)
    e, level = parts.e, parts.v(parts.law.charts[0].centre[None])

    def first(y: Array) -> Array:
        gap = parts.v(y) - level
        return np.hstack([gap, parts.reward(y), (gap**2).sum(axis=1, keepdims=True)])

    found = parts.law.mean(first).value
    mean, share = level[0] + found[:e], found[e]
    if v_old is None:
        v = np.concatenate([mean, parts.rest_mean(lambda w: w)])
    elif np.shape(v_old) == (case.dim,):
        v = case.frame.T @ v_old
    else:
        raise ValueError(f"v_old must have shape ({case.dim},), got {np.shape(v_old)}")
    width = float(np.sqrt(found[e + 1]) + np.abs(v[:e] - mean).max()) / abs(nft_beta)

    def losses(mu: Array, target: Array, v: Array, r: Array | float) -> Array:
        """The loss by coordinates; mu, target and v broadcast."""
        push = nft_beta * (mu - v)
        return np.asarray(r * (v + push - target) ** 2 + (1 - r) * (v - push - target) ** 2)

    def plane(mu: Array, y: Array) -> Array:
        return losses(mu, parts.v(y)[:, None, :], v[:e], parts.reward(y)[:, :, None]).sum(axis=-1)

    def rest(mu: Array, w: Array) -> Array:
        return losses(mu[..., None], w, v[e:, None], share)

    return _minimiser(parts, plane, rest, v, width)


def weighted_minimiser(case: PlaneNumbers, x: Array, at: Instant, phi: Phi) -> Array:
    """The mu (d,) that minimises E[phi(r) |mu - V|^2 | X_t = x], from values of this loss; phi
    acts on reward values, (n,) -> (n,). It enters as the weight of the integral, and along a
    direction outside the plane, given x independent of V, as a factor that moves no minimum."""
    parts = _Split(case, x, at, phi)
    top = parts.law.charts[0]
    start = np.concatenate([parts.v(top.centre[None])[0], at.dsigma * parts.rest])
    width = float(np.abs(parts.v(top.centre + top.frame.T) - start[: parts.e]).max())

    def plane(mu: Array, y: Array) -> Array:
        return ((mu - parts.v(y)[:, None, :]) ** 2).sum(axis=-1)

    def rest(mu: Array, w: Array) -> Array:
        return (mu[..., None] - w) ** 2

    return _minimiser(parts, plane, rest, start, width)


def _minimiser(
    parts: _Split,
    plane: Callable[[Array, Array], Array],
    rest: Callable[[Array, Array], Array],
    start: Array,
    width: float,
) -> Array:
    """Where a quadratic loss is stationary, (d,). plane: mu (J, e), y (n, e) -> (n, J); rest, by
    coordinates: mu (3, d - e), V (d - e, n) -> (3, d - e, n). Steps `width` around start (d,)."""
    e, unit = parts.e, width * np.eye(parts.e)
    pairs = [(j, k) for j in range(e) for k in range(j)]
    moves = np.array([np.zeros(e), *unit, *-unit, *(unit[j] + unit[k] for j, k in pairs)])
    loss = parts.law.mean(lambda y: plane(start[:e] + moves, y)).value
    middle, up, down, both = np.split(loss, [1, 1 + e, 1 + 2 * e])
    slopes, hessian = (up - down) / 2, np.diag(up - 2 * middle + down)
    for value, (j, k) in zip(both, pairs, strict=True):
        hessian[j, k] = hessian[k, j] = value - up[j] - up[k] + middle[0]
    found = start[:e] - width * np.linalg.solve(hessian, slopes)
    line = start[e:] + width * np.array([[0.0], [1.0], [-1.0]])
    middle, up, down = parts.rest_mean(lambda w: rest(line, w))
    return parts.back(found, start[e:] - width * (up - down) / 2 / (up - 2 * middle + down))
