r"""Flows on the line: ODEs and SDEs driven by fields that are trapezoidal sums.

Rectified-flow path: x = t X_1 + (1 - t) X_0. With s the width of the narrowest feature of p and
r and tau = (1 - t) / t, the posterior of X_1 given x is summed

    where tau >= s:  over a fixed grid in y of step s / 5, weights p(y) exp(-(x - t y)^2 / 2(1-t)^2)
    where tau < s:   over y = x / t + tau xi, xi a fixed grid, weights p(y) exp(-xi^2 / 2),

both spectrally accurate for smooth p phi(r). In the second form the velocity (E[y] - x) / (1 - t)
is (x + E[xi]) / t, without a singularity at t = 1. A flow of monotone maps carries N(0, 1) at
t = 0 to its law at t = 1, so that the law's distribution function is Phi of the pull-back.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

from theory.oracle.integrate import Array
from theory.oracle.plane import PlaneNumbers
from theory.oracle.stencils import slope, steps

Phi = Callable[[Array], Array]
Field = Callable[[Array, float], Array]  # x (n,), t -> (n,)

RTOL, ATOL = 1e-11, 1e-12
_TABLE = 400  # places
_FINE = 5  # grid points to a feature's width
_FAR = 14.0  # standard deviations of p that the fixed grid reaches
_FAINT = 100.0  # what is e^-100 below the peak is left out of the fixed grid
_XI = np.arange(-11.0, 11.1, 0.2)


class LineField:
    """v + scale Cov(V, r | x) of the density p phi(r) / Z on the line, x (n,), t in [0, 1] -> (n,).

    With scale = 0 the velocity E[V | x]; phi acts on reward values, (n,) -> (n,), and may be
    signed where its posterior integral does not vanish. phi must be smooth, and no narrower than
    p and r. Raises ValueError unless the case is on the line.
    """

    def __init__(self, case: PlaneNumbers, phi: Phi | None = None, scale: float = 0.0) -> None:
        if case.dim != 1 or case.plane_dim != 1:
            raise ValueError(f"a line field needs d = 1, got d = {case.dim}")
        self.case, self.phi, self.scale, self.sign = case, phi, scale, float(case.frame[0, 0])
        std = np.sqrt(case.covs[:, 0, 0])
        widths = [float(std.min())]
        if case.kind == "bumps":
            widths.append(1 / math.sqrt(float(case.parameters["precisions"].max())))
        self.width = min(widths)
        centre, wide = case.means[:, 0], _FAR * std
        low, high = float((centre - wide).min()), float((centre + wide).max())
        self._log_weights = np.log(case.weights / std / math.sqrt(2 * math.pi))
        y = np.arange(low, high, self.width / _FINE)
        log_h, sign, reward = self._weigh(y)
        keep = log_h > log_h.max() - _FAINT
        self._grid = y[keep], log_h[keep], sign[keep], reward[keep]

    @classmethod
    def nft(cls, case: PlaneNumbers, scale: float) -> LineField:
        """v + scale Cov(V, r | x) of p."""
        return cls(case, None, scale)

    def _weigh(self, y: Array) -> tuple[Array, Array, Array]:
        """log |p phi(r)|, the sign of phi(r), and r at y, any shape."""
        white = (y[..., None] - self.case.means[:, 0]) / np.sqrt(self.case.covs[:, 0, 0])
        logs = self._log_weights - 0.5 * white**2
        top = logs.max(axis=-1)
        log_h = top + np.log(np.exp(logs - top[..., None]).sum(axis=-1))
        if self.phi is None and not self.scale:
            return log_h, np.ones(y.shape), np.zeros(y.shape)  # nobody asks for r
        reward = self.case.reward(y.reshape(-1, 1)).reshape(y.shape)
        if self.phi is None:
            return log_h, np.ones(y.shape), reward
        phi = self.phi(reward)
        with np.errstate(divide="ignore"):
            return log_h + np.log(np.abs(phi)), np.sign(phi), reward

    def _posterior(self, x: Array, t: float) -> tuple[Array, Array, Array, bool]:
        """Weights (n, k) that sum to 1; nodes y, or xi if late; rewards; and whether it is late."""
        late = 1 - t < self.width * t
        if late:
            nodes = _XI
            log_h, sign, reward = self._weigh(x[:, None] / t + (1 - t) / t * _XI)
            logs = log_h - 0.5 * _XI**2
        else:
            nodes, log_h, sign, reward = self._grid
            logs = log_h - 0.5 * ((x[:, None] - t * nodes) / (1 - t)) ** 2
        weight = sign * np.exp(logs - logs.max(axis=1, keepdims=True))
        return weight / weight.sum(axis=1, keepdims=True), nodes, reward, late

    def __call__(self, x: Array, t: float) -> Array:
        x = self.sign * x  # the line's own coordinate
        weight, nodes, reward, late = self._posterior(x, t)
        mean = weight @ nodes
        field = (x + mean) / t if late else (mean - x) / (1 - t)
        if self.scale:
            gap = reward - (weight * reward).sum(axis=1, keepdims=True)
            cov = (weight * gap * (nodes - mean[:, None])).sum(axis=1)
            field = field + self.scale * cov / (t if late else 1 - t)
        return np.asarray(self.sign * field)

    def score(self, x: Array, t: float) -> Array:
        """The score of X_t under p phi(r) / Z, E[(t X_1 - x) / (1 - t)^2 | x], (n,), t < 1."""
        x = self.sign * x
        weight, nodes, _, late = self._posterior(x, t)
        mean = weight @ nodes
        return np.asarray(self.sign * (mean / (1 - t) if late else (t * mean - x) / (1 - t) ** 2))


def nft(case: PlaneNumbers, scale: float) -> LineField:
    """v + scale Cov(V, r | x) of p."""
    return LineField.nft(case, scale)


def path_integral(field: Field, y: Array, rate: Field) -> tuple[Array, Array]:
    """x_0 (n,) at t = 0 of the trajectories that end at y (n,) at t = 1, and the integrals of
    rate(x_t, t) dt along them, (n,). Raises RuntimeError if the solver gives up."""
    y = np.asarray(y, dtype=np.float64)

    def derivative(t: float, state: Array) -> Array:
        x = state[: len(y)]
        return np.concatenate([field(x, t), rate(x, t)])

    end = _solve(derivative, np.concatenate([y, np.zeros_like(y)]))
    return end[: len(y)], -end[len(y) :]


def pull_back(field: Field, y: Array) -> Array:
    """x_0 (n,) at t = 0 for the points y (n,) at t = 1. Raises RuntimeError as above."""
    return _solve(lambda t, x: field(x, t), np.asarray(y, dtype=np.float64))


def _solve(derivative: Callable[[float, Array], Array], start: Array) -> Array:
    """From t = 1 back to t = 0."""
    done = solve_ivp(derivative, (1.0, 0.0), start, method="DOP853", rtol=RTOL, atol=ATOL)
    if not done.success:
        raise RuntimeError(f"the flow could not be followed: {done.message}")
    return np.asarray(done.y[:, -1])


def cdf(field: Field, y: Array) -> Array:
    """The distribution function at y (n,) of the law that the field carries N(0, 1) to."""
    return np.asarray(ndtr(pull_back(field, y)))


def density(field: Field, y: Array, radius: float | None = None) -> Array:
    """That law's density at y (n,): phi(x_0) dx_0/dy, the derivative numerical over a stencil of
    this radius, a fraction of the width of the law's narrowest feature (a LineField's: 1/4). All
    points share the solver's steps, whose error is smooth in y. Raises ValueError without a
    radius for another field."""
    if radius is None:
        if not isinstance(field, LineField):
            raise ValueError("density needs a radius unless the field is a LineField")
        radius = field.width / 4
    y = np.asarray(y, dtype=np.float64)
    around = np.concatenate([np.zeros(1), steps(radius)])[:, None] + y
    x = pull_back(field, around.ravel()).reshape(around.shape)
    return np.asarray(np.exp(-0.5 * x[0] ** 2) / math.sqrt(2 * math.pi) * slope(x[1:], radius))


def simulate(
    field: Field,
    score: Field,
    g: Callable[[float], float],
    n: int,
    steps: int,
    rng: np.random.Generator,
) -> Array:
    """Draws (n,) at t = 1 of dX = (v + g(t)^2 / 2 s) dt + g(t) dB from N(0, 1) at t = 0, by `steps`
    steps of Euler and Maruyama; where there are more draws than _TABLE the drift is a cubic spline
    through that many places, whose error is far below the draws' noise. Raises ValueError for
    steps < 1."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    x, dt = rng.standard_normal(n), 1 / steps
    for k in range(steps):
        t = k / steps
        places = x if n <= _TABLE else np.linspace(x.min(), x.max(), _TABLE)
        drift = field(places, t) + 0.5 * g(t) ** 2 * score(places, t)
        if n > _TABLE:
            drift = CubicSpline(places, drift)(x)
        x = x + drift * dt + g(t) * math.sqrt(dt) * rng.standard_normal(n)
    return np.asarray(x)
