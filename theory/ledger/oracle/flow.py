r"""Flows on the line and in the plane: ODEs and SDEs driven by fields that are trapezoidal sums.

Rectified-flow path: x = t X_1 + (1 - t) X_0. With s the width of the narrowest feature of p and
r and tau = (1 - t) / t, the posterior of X_1 given x is summed

    where tau >= s:  over a fixed grid in y of step s / 5, weights p(y) exp(-(x - t y)^2 / 2(1-t)^2)
    where tau < s:   over y = x / t + tau xi, xi a fixed grid, weights p(y) exp(-xi^2 / 2),

both spectrally accurate for smooth p. In the second form the velocity (E[y] - x) / (1 - t)
is (x + E[xi]) / t, without a singularity at t = 1. A flow of monotone maps carries N(0, 1) at
t = 0 to its law at t = 1, so that the law's distribution function is Phi of the pull-back.

In the plane the same two sums are taken over tensor grids, the first with step s / 3 and where
tau >= s / 2: there the kernel is a product over axes, so that a sum is one product with the matrix
of p on the grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

from theory.ledger.oracle.integrals import Array, PlaneNumbers, slope, steps

Field = Callable[[Array, float], Array]  # x (n,) or (n, d), t -> the same shape
Rate = Callable[[Array, float], Array]  # x (n,) or (n, d), t -> (n,)
Motion = Callable[[Array, float], tuple[Array, Array]]  # a field and a rate at once

RTOL, ATOL = 1e-11, 1e-12
_TABLE = 400  # places
_FINE = 5  # grid points to a feature's width
_FAR = 14.0  # standard deviations of p that the fixed grid reaches
_FAINT = 100.0  # what is e^-100 below the peak is left out of the fixed grid
_XI = np.arange(-11.0, 11.1, 0.2)
# The plane: coarser, as far as 1e-12 allows. Widths s, s (of r) and s / 2 multiply to s / sqrt(6),
# where a step of s / 3 leaves 2 exp(-2 pi^2 9 / 6).
_PLANE_FINE, _PLANE_FAR, _PLANE_LATE = 3, 10.0, 2
_PLANE_XI = np.arange(-7.5, 7.6, 0.5)


class LineField:
    """v + scale Cov(V, r | x) of the density p on the line, x (n,), t in [0, 1] -> (n,).

    With scale = 0 the velocity E[V | x]. Raises ValueError unless the case is on the line.
    """

    def __init__(self, case: PlaneNumbers, scale: float = 0.0) -> None:
        if case.dim != 1 or case.plane_dim != 1:
            raise ValueError(f"a line field needs d = 1, got d = {case.dim}")
        self.case, self.scale, self.sign = case, scale, float(case.frame[0, 0])
        std = np.sqrt(case.covs[:, 0, 0])
        widths = [float(std.min())]
        if case.kind == "bumps":
            widths.append(1 / math.sqrt(float(case.parameters["precisions"].max())))
        self.width = min(widths)
        centre, wide = case.means[:, 0], _FAR * std
        low, high = float((centre - wide).min()), float((centre + wide).max())
        self._log_weights = np.log(case.weights / std / math.sqrt(2 * math.pi))
        y = np.arange(low, high, self.width / _FINE)
        log_p, reward = self._weigh(y)
        keep = log_p > log_p.max() - _FAINT
        self._grid = y[keep], log_p[keep], reward[keep]

    def _weigh(self, y: Array) -> tuple[Array, Array]:
        """log p and r at y, any shape."""
        white = (y[..., None] - self.case.means[:, 0]) / np.sqrt(self.case.covs[:, 0, 0])
        logs = self._log_weights - 0.5 * white**2
        top = logs.max(axis=-1)
        log_p = top + np.log(np.exp(logs - top[..., None]).sum(axis=-1))
        if not self.scale:
            return log_p, np.zeros(y.shape)  # nobody asks for r
        return log_p, self.case.reward(y.reshape(-1, 1)).reshape(y.shape)

    def _posterior(self, x: Array, t: float) -> tuple[Array, Array, Array, bool]:
        """Weights (n, k) that sum to 1; nodes y, or xi if late; rewards; and whether it is late."""
        late = 1 - t < self.width * t
        if late:
            nodes = _XI
            log_p, reward = self._weigh(x[:, None] / t + (1 - t) / t * _XI)
            logs = log_p - 0.5 * _XI**2
        else:
            nodes, log_p, reward = self._grid
            logs = log_p - 0.5 * ((x[:, None] - t * nodes) / (1 - t)) ** 2
        weight = np.exp(logs - logs.max(axis=1, keepdims=True))
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
        """The score of X_t, E[(t X_1 - x) / (1 - t)^2 | x], (n,), t < 1."""
        x = self.sign * x
        weight, nodes, _, late = self._posterior(x, t)
        mean = weight @ nodes
        return np.asarray(self.sign * (mean / (1 - t) if late else (t * mean - x) / (1 - t) ** 2))


class PlaneField:
    """v + scale Cov(V, r | x) of the density p in the plane, x (n, 2), t in [0, 1] -> (n, 2), in
    the coordinates of the case's plane (its frame is left to the caller).

    With scale = 0 the velocity E[V | x]. Raises ValueError unless the case varies in a plane.
    """

    def __init__(self, case: PlaneNumbers, scale: float = 0.0) -> None:
        if case.plane_dim != 2:
            raise ValueError(f"a plane field needs a plane, got {case.plane_dim} dimensions")
        self.case, self.scale = case, scale
        widths = [math.sqrt(float(np.linalg.eigvalsh(case.covs).min()))]
        if case.kind == "bumps":
            sharpest = float(np.linalg.eigvalsh(case.parameters["precisions"]).max())
            widths.append(1 / math.sqrt(sharpest))
        self.width = min(widths)
        wide = _PLANE_FAR * np.sqrt(np.diagonal(case.covs, axis1=1, axis2=2))
        low, high = (case.means - wide).min(0), (case.means + wide).max(0)
        step = self.width / _PLANE_FINE
        self._axes = [np.arange(a, b, step) for a, b in zip(low, high, strict=True)]
        y = np.stack(np.meshgrid(*self._axes, indexing="ij"), -1)
        log_p = case.log_density(y.reshape(-1, 2)).reshape(y.shape[:2])
        self._p = np.exp(log_p - log_p.max())
        self._reward = case.reward(y.reshape(-1, 2)).reshape(y.shape[:2])

    def mean_reward(self) -> float:
        """E[r] under p."""
        return float((self._p * self._reward).sum() / self._p.sum())

    def __call__(self, x: Array, t: float) -> Array:
        velocity, cov = self._parts(x, t)
        return np.asarray(velocity + self.scale * cov)

    def motion(self, x: Array, t: float) -> tuple[Array, Array]:
        """The field, and eta |grad m|^2 = |Cov(V, r | x)|^2 / eta with eta = (1 - t) / t, (n,)."""
        velocity, cov = self._parts(x, t)
        return velocity + self.scale * cov, over_eta(cov, t)

    def _parts(self, x: Array, t: float) -> tuple[Array, Array]:
        """E[V | x] and Cov(V, r | x), (n, 2) each; the second 0 where scale is."""
        if _PLANE_LATE * (1 - t) < self.width * t:
            mean, cov = self._late(x, t)
            return (x + mean) / t, cov / t
        mean, cov = self._early(x, t)
        return (mean - x) / (1 - t), cov / (1 - t)

    def _early(self, x: Array, t: float) -> tuple[Array, Array]:
        """E[y | x] and Cov(y, r | x), (n, 2) each, over the fixed grid."""
        rows, columns = (
            _normal((x[:, i, None] - t * axis) / (1 - t)) for i, axis in enumerate(self._axes)
        )

        def sums(table: Array) -> Array:
            """Sums of (1, y_1, y_2) times the table and the kernel, (n, 3)."""
            inner = rows @ table
            return np.stack(
                [
                    (inner * columns).sum(1),
                    ((rows * self._axes[0]) @ table * columns).sum(1),
                    (inner * columns * self._axes[1]).sum(1),
                ],
                axis=1,
            )

        plain = sums(self._p)
        mean = plain[:, 1:] / plain[:, :1]
        if not self.scale:
            return mean, np.zeros_like(mean)
        weighted = sums(self._p * self._reward) / plain[:, :1]
        return mean, weighted[:, 1:] - weighted[:, :1] * mean

    def _late(self, x: Array, t: float) -> tuple[Array, Array]:
        """The same for xi = (y - x / t) t / (1 - t), over nodes around every point."""
        xi = np.stack(np.meshgrid(_PLANE_XI, _PLANE_XI, indexing="ij"), -1).reshape(-1, 2)
        y = (x[:, None] / t + (1 - t) / t * xi).reshape(-1, 2)
        logs = self.case.log_density(y).reshape(len(x), -1) - 0.5 * (xi**2).sum(1)
        weight = np.exp(logs - logs.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        mean = weight @ xi
        if not self.scale:
            return mean, np.zeros_like(mean)
        weighted = weight * self.case.reward(y).reshape(len(x), -1)
        return mean, weighted @ xi - weighted.sum(axis=1, keepdims=True) * mean


def _normal(z: Array) -> Array:
    """exp(-z^2 / 2), rows of maximum 1."""
    exponent = -0.5 * z**2
    return np.asarray(np.exp(exponent - exponent.max(axis=1, keepdims=True)))


def over_eta(gap: Array, t: float) -> Array:
    """|gap|^2 / eta with eta = (1 - t) / t, (n, d) -> (n,), for gaps that are eta times a gradient:
    0 at t = 1."""
    return np.zeros(len(gap)) if t >= 1 else np.asarray((gap**2).sum(axis=1) * t / (1 - t))


def path_integral(field: Field, y: Array, rate: Rate) -> tuple[Array, Array]:
    """x_0 (n,) at t = 0 of the trajectories that end at y (n,) at t = 1, and the integrals of
    rate(x_t, t) dt along them, (n,). Raises RuntimeError if the solver gives up."""
    return follow(lambda x, t: (field(x, t), rate(x, t)), y)


def follow(motion: Motion, y: Array, rtol: float = RTOL, atol: float = ATOL) -> tuple[Array, Array]:
    """The same for y (n,) or (n, d) and a motion that gives velocity and rate at once."""
    y = np.asarray(y, dtype=np.float64)

    def derivative(t: float, state: Array) -> Array:
        velocity, rate = motion(state[: y.size].reshape(y.shape), t)
        return np.concatenate([velocity.ravel(), rate])

    end = solve(derivative, np.concatenate([y.ravel(), np.zeros(len(y))]), rtol=rtol, atol=atol)
    return end[: y.size].reshape(y.shape), -end[y.size :]


def push(field: Field, x0: Array) -> Array:
    """Where the flow carries x_0 (n,) at t = 0 to by t = 1. Raises RuntimeError as above."""
    return solve(lambda t, x: field(x, t), np.asarray(x0, dtype=np.float64), (0.0, 1.0))


def pull_back(field: Field, y: Array) -> Array:
    """x_0 (n,) at t = 0 for the points y (n,) at t = 1. Raises RuntimeError as above."""
    return solve(lambda t, x: field(x, t), np.asarray(y, dtype=np.float64))


def solve(
    derivative: Callable[[float, Array], Array],
    start: Array,
    times: tuple[float, float] = (1.0, 0.0),
    rtol: float = RTOL,
    atol: float = ATOL,
) -> Array:
    """The state at the last time; from t = 1 back to t = 0 unless told."""
    done = solve_ivp(derivative, times, start, method="DOP853", rtol=rtol, atol=atol)
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
