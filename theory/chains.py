"""The discrete chain: Gaussian kernels of fixed variance whose mean follows a velocity.

    X_0 ~ N(0, sigma_0^2 I),   X_{k+1} = P_k X_k + Q_k v(X_k, t_k) + s_k xi_k,   k = 0 .. T-1

The mean is E[X_{k+1} | X_k, x_1, x_0] at the velocity's own predictions x_1, x_0 of data and noise
(DDPM's ancestral step, eta = 1 of DDIM, on any path), so the chain is memoryless: with the exact
velocity and many steps (X_k, X_T) has the path's joint law. The chain ends at X_1 + sigma_end X_0
instead of X_1: its last kernel keeps a density.

With a diffusion schedule g (`theory.schedules`) the kernels are those of Euler-Maruyama instead,

    X_{k+1} = X_k + dt (v + g^2/2 s)(X_k, t_k) + g sqrt(dt) xi_k,   s = (alpha v - alpha' x)/gain,

memoryless or not. A control u moves their mean by g dt u and costs |u|^2 dt / 2, which is
the KL |mean - mean_base|^2 / (2 s_k^2) of the kernels: both kinds are one discrete-time problem.

The KL-regularised optimum over all such kernels,

    max E[r(X_T)] - KL(chain || base chain) / scale,

is dynamic programming: with V_T = r and W_k(m) = E[V_{k+1}(m + s_k xi)],

    V_k(x) = max_m W_k(m) - |m - m_k^base(x)|^2 / (2 scale s_k^2),
    m*     = m_k^base(x) + scale s_k^2 grad W_k(m*).

As T grows its law tends to base exp(scale r) / Z; at finite T it is what a Gaussian policy can
reach. d = 1 and 2, on grids, float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline, RectBivariateSpline
from torch import Tensor

from theory.checks import check_order, check_positive, is_finite_number
from theory.divergences import Array, GridLaw
from theory.fields import VelocityModel
from theory.gaussians import GaussianSum
from theory.paths import RECTIFIED_FLOW, Path
from theory.rewards import Reward
from theory.schedules import Diffusion

# Nodes of a kernel's average: Gauss-Hermite in the plane, where they are paid for twice; on the
# line the trapezoidal rule, which wide kernels over narrow rewards need (48 Gauss-Hermite nodes
# leave 5e-5 of the control on bumps_1d in 6 steps).
HERMITE_NODES = 48
LINE_NODES = (-8.0, 8.0, 0.15)
STD_SPACING = 0.15
NEWTON_STEPS, FULL_STEPS = 120, 20
NEWTON_TOLERANCE = 1e-12
# Source points whose kernels are multiplied out at once: bounds the memory of a step.
SOURCE_ROWS = 20_000


@dataclass(frozen=True)
class Chain:
    """T = steps kernels at times t_k = t_0 + (1 - t_0) k/T on a path.

    sigma_end: the noise that stays on the last state; smaller than the noise of the state before.
    first_time: t_0, where the model begins.  start_std: X_0 ~ N(0, start_std^2 I); the path's
        sigma(t_0) by default, which is exact at t_0 = 0 alone.
    schedule: Euler-Maruyama kernels with this g(t); they end at t = 1 and have no sigma_end.
    """

    steps: int = 16
    sigma_end: float = 0.04
    path: Path = field(default=RECTIFIED_FLOW)
    first_time: float = 0.0
    start_std: float | None = None
    schedule: Diffusion | None = None

    def __post_init__(self) -> None:
        check_order("steps", self.steps, 2)
        check_positive("sigma_end", self.sigma_end)
        if not (is_finite_number(self.first_time) and 0 <= self.first_time < 1):
            raise ValueError(f"first_time = {self.first_time!r}: allowed are numbers in [0, 1)")
        if self.start_std is not None:
            check_positive("start_std", self.start_std)
        if self.schedule is not None:
            if not bool((torch.isfinite(self._rows) & (self._rows[2] > 0)).all()):
                raise ValueError(
                    f"schedule {self.schedule.label!r} with steps = {self.steps}: its kernels are "
                    "not finite; allowed are schedules and paths with g^2/eta finite before t = 1"
                )
        elif bool((self._rows[2] <= 0).any()) or not bool(torch.isfinite(self._rows).all()):
            last = self.times[-1]
            most = float(self.path.sigma(last) / self.path.alpha(last))
            raise ValueError(
                f"sigma_end = {self.sigma_end!r} with steps = {self.steps}: allowed is less than "
                f"{most:.4g}, the noise of the state before"
            )

    @cached_property
    def times(self) -> Tensor:
        """(T,) times at which the velocity is asked."""
        k = torch.arange(self.steps, dtype=torch.float64)
        return self.first_time + (1 - self.first_time) * k / self.steps

    @cached_property
    def _rows(self) -> Tensor:
        """(3, T): P, Q and s^2."""
        path, t = self.path, self.times
        if self.schedule is not None:
            dt, gain = (1 - self.first_time) / self.steps, path.gain(t)
            g2 = self.schedule.squared(path, t)
            P = 1 - dt * 0.5 * g2 * path.dalpha(t) / gain
            Q = dt * (1 + 0.5 * g2 * path.alpha(t) / gain)
            return torch.stack([P, Q, g2 * dt])
        alpha, sigma = path.alpha(t), path.sigma(t)
        dalpha, dsigma = path.dalpha(t), path.dsigma(t)
        end = torch.ones(1, dtype=torch.float64)
        alpha_next = torch.cat([alpha[1:], path.alpha(end)])
        sigma_next = torch.cat([sigma[1:], self.sigma_end * end])
        forward = sigma**2 - (alpha / alpha_next * sigma_next) ** 2
        variance = sigma_next**2 * forward / sigma**2
        kept = (sigma_next**2 - variance).clamp_min(0.0).sqrt()
        # x = alpha x1 + sigma x0, v = alpha' x1 + sigma' x0, solved for x1 and x0.
        determinant = alpha * dsigma - sigma * dalpha
        P = (alpha_next * dsigma - kept * dalpha) / determinant
        Q = (kept * alpha - alpha_next * sigma) / determinant
        return torch.stack([P, Q, variance])

    def coefficients(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """P, Q, s, each (T,), in the dtype and on the device of `like`."""
        P, Q, variance = self._rows
        return P.to(like), Q.to(like), variance.sqrt().to(like)

    def start(self, noise: Tensor) -> Tensor:
        """X_0 from N(0, I)."""
        if self.start_std is not None:
            return noise * self.start_std
        return noise * self.path.sigma(self.times[0].to(noise))

    def mean(self, model: VelocityModel, k: int, x: Tensor, cond: object = None) -> Tensor:
        """E[X_{k+1} | X_k = x], x (rows, *event)."""
        P, Q, _ = self.coefficients(x)
        t = self.times[k].to(x).expand(len(x))
        return P[k] * x + Q[k] * model(x, t, cond)

    def rollout(self, model: VelocityModel, noise: Tensor, cond: object = None) -> Tensor:
        """(rows, T + 1, *event) states from noise (rows, T + 1, *event): row 0 starts the chain."""
        _, _, s = self.coefficients(noise)
        states = [self.start(noise[:, 0])]
        for k in range(self.steps):
            states.append(self.mean(model, k, states[-1], cond) + s[k] * noise[:, k + 1])
        return torch.stack(states, 1)


# --- exact laws on grids, d = 1 and 2


def state_axes(chain: Chain, laws: Sequence[GaussianSum], spacing: float) -> tuple[Array, ...]:
    """A grid that holds the start and every law given, its step `spacing` kernels' least s_k.

    At most STD_SPACING of the first law's narrowest standard deviation: that is how far the
    posterior over its components takes to switch, however wide the kernels are.
    """
    start = 7 * float(chain.start(torch.ones(1, dtype=torch.float64)))
    least = float(chain._rows[2].sqrt().min())
    narrowest = float(torch.linalg.eigvalsh(laws[0].cov).min().sqrt())
    step = min(spacing * least, STD_SPACING * narrowest)
    axes = []
    for i in range(laws[0].dim):
        low, high = -start, start
        for law in laws:
            heavy = law.log_abs > law.log_abs.max() - 30
            std, mean = law.cov[heavy, i, i].sqrt(), law.mean[heavy, i]
            low = min(low, float((mean - 7 * std).min()))
            high = max(high, float((mean + 7 * std).max()))
        axes.append(np.linspace(low, high, math.ceil((high - low) / step) + 1))
    return tuple(axes)


def chain_law(chain: Chain, model: VelocityModel, axes: tuple[Array, ...]) -> GridLaw:
    """The law of X_T on a uniform grid that holds every state's mass.

    Each step integrates p_k(x) N(x'; mean_k(x), s_k^2 I) over the grid by the trapezoidal rule.

    Raises:
        ValueError: d is above 2, or the grid loses more than 1e-3 of the mass or is too coarse.
    """
    dim = _check_axes(axes)
    points, cell = _points(axes), float(np.prod([a[1] - a[0] for a in axes]))
    s = chain.coefficients(points)[2].tolist()
    sigma0 = float(chain.start(torch.ones(1, dtype=torch.float64)))
    density = (
        np.exp(-0.5 * (points.numpy() / sigma0) ** 2).prod(-1)
        / (sigma0 * math.sqrt(2 * math.pi)) ** dim
    )
    for k in range(chain.steps):
        with torch.no_grad():
            means = chain.mean(model, k, points).numpy()
        density = _spread(axes, density * cell, means, s[k])
    mass = float(density.sum()) * cell
    if not abs(mass - 1) <= 1e-3:
        raise ValueError(
            f"the grid of {'x'.join(str(len(a)) for a in axes)} points holds a mass of {mass:.5f} "
            "of the chain's law: allowed is 1 to 1e-3; use a wider or finer grid"
        )
    shape = tuple(len(a) for a in axes)
    with np.errstate(divide="ignore"):
        log_density = np.log(np.maximum(density, 0.0)).reshape(shape)
    cdf = CubicSpline(axes[0], density).antiderivative()(axes[0]) if dim == 1 else None
    return GridLaw(axes, log_density, cdf)


def _spread(axes: tuple[Array, ...], mass: Array, means: Array, std: float) -> Array:
    """sum_i mass_i N(x'; means_i, std^2 I) at the grid's points: kernels factor over the axes."""
    heavy = mass > 1e-18 * mass.max()
    mass, means = mass[heavy], means[heavy]
    total = np.zeros([len(a) for a in axes])
    for row in range(0, len(mass), SOURCE_ROWS):
        part = slice(row, row + SOURCE_ROWS)
        kernels = [
            np.exp(-0.5 * ((axis - means[part, i, None]) / std) ** 2) for i, axis in enumerate(axes)
        ]
        weighted = kernels[0] * mass[part, None]
        total += weighted.sum(0) if len(axes) == 1 else weighted.T @ kernels[1]
    return (total / (std * math.sqrt(2 * math.pi)) ** len(axes)).ravel()


# --- the KL-regularised optimum


@dataclass(frozen=True, eq=False)
class ChainOptimum:
    """The optimal kernels as a velocity at the chain's times, and the value functions V_k.

    A VelocityModel (x (rows, d), t (rows,) among the chain's times), float64, d = 1 and 2.
    log_z: E[V_0(X_0)] * scale, the optimal value in units of the KL.
    """

    chain: Chain
    base: VelocityModel
    scale: float
    log_z: float
    shifts: list[Surface]
    values: list[Surface]

    def __call__(self, x: Tensor, t: Tensor | float, cond: object = None) -> Tensor:
        times = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        _, Q, _ = self.chain.coefficients(x)
        index = self._index(times)
        shift = torch.zeros_like(x)
        for k in index.unique().tolist():
            rows = index == k
            shift[rows] = torch.as_tensor(self.shifts[k](x[rows].detach().numpy())) / Q[k]
        return self.base(x, times, cond) + shift

    def value(self, x: Tensor, t: Tensor | float) -> Tensor:
        """V_k(x) at t = t_k, (rows, 1)."""
        times = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        index, result = self._index(times), torch.zeros(len(x), 1, dtype=x.dtype)
        for k in index.unique().tolist():
            rows = index == k
            result[rows] = torch.as_tensor(self.values[k](x[rows].detach().numpy()))
        return result

    def _index(self, times: Tensor) -> Tensor:
        index = (times * self.chain.steps).round()
        if not bool(((times * self.chain.steps - index).abs() < 1e-6).all()) or not bool(
            (index < self.chain.steps).all()
        ):
            raise ValueError(
                f"t lies in [{times.min():g}, {times.max():g}]: allowed are the chain's times "
                f"k/{self.chain.steps}, k < {self.chain.steps}"
            )
        return index.long()


@dataclass(frozen=True, eq=False)
class Surface:
    """Values (n, c) on a tensor grid, by cubic splines; straight on beyond the grid's ends."""

    axes: tuple[Array, ...]
    values: Array

    @cached_property
    def _splines(self) -> list[CubicSpline | RectBivariateSpline]:
        columns = np.moveaxis(self.values.reshape(*(len(a) for a in self.axes), -1), -1, 0)
        if len(self.axes) == 1:
            return [CubicSpline(self.axes[0], c) for c in columns]
        return [RectBivariateSpline(*self.axes, c) for c in columns]

    def __call__(self, x: Array) -> Array:
        """Values at points (n, d), (n, c)."""
        inside = np.stack([np.clip(x[:, i], a[0], a[-1]) for i, a in enumerate(self.axes)], -1)
        found = np.stack([_at(s, inside) for s in self._splines], -1)
        beyond = x - inside
        out = np.flatnonzero(beyond.any(-1))
        if len(out):
            for i in range(len(self.axes)):
                slope = np.stack([_at(s, inside[out], i) for s in self._splines], -1)
                found[out] += slope * beyond[out, i, None]
        return found


def _at(spline: CubicSpline | RectBivariateSpline, x: Array, axis: int | None = None) -> Array:
    """A spline's values at points (n, d), or its derivatives along an axis."""
    if isinstance(spline, CubicSpline):
        return np.asarray(spline(x[:, 0], 0 if axis is None else 1))
    return np.asarray(spline.ev(x[:, 0], x[:, 1], dx=int(axis == 0), dy=int(axis == 1)))


def regularised_optimum(
    chain: Chain, base: VelocityModel, reward: Reward, scale: float, axes: tuple[Array, ...]
) -> ChainOptimum:
    """max E[r(X_T)] - KL(chain || base chain)/scale over Gaussian kernels, on a grid of states.

    Raises:
        ValueError: d is above 2, scale is not > 0, or the maximum over a kernel's mean is not
            unique (a kernel is so wide, or the reward so curved, that scale s_k^2 times the
            smoothed value's curvature reaches 1): more steps make the kernels narrower.
    """
    _check_axes(axes)
    check_positive("scale", scale)
    points = _points(axes)
    s = chain.coefficients(points)[2].tolist()

    def terminal(x: Array) -> Array:
        return reward(torch.as_tensor(x)).numpy()[:, None]

    later: Callable[[Array], Array]
    later = terminal if len(axes) == 1 else Surface(axes, terminal(points.numpy()))
    shifts: list[Surface] = []
    values: list[Surface] = []
    for k in range(chain.steps - 1, -1, -1):
        with torch.no_grad():
            start = chain.mean(base, k, points).numpy()
        mean, value = best_kernel(later, start, s[k], scale, k)
        later = Surface(axes, value[:, None])
        values.insert(0, later)
        shifts.insert(0, Surface(axes, mean - start))
    weight = np.exp(-0.5 * (points / chain.start(torch.ones(1, dtype=torch.float64))).numpy() ** 2)
    weight = weight.prod(-1)
    log_z = scale * float((weight * values[0].values[:, 0]).sum() / weight.sum())
    return ChainOptimum(chain, base, scale, log_z, shifts, values)


def best_kernel(
    later: Callable[[Array], Array], start: Array, std: float, scale: float, k: int
) -> tuple[Array, Array]:
    """The means m (n, d) that maximise E[later(m + std xi)] - |m - start|^2/(2 scale std^2), from
    the base's means `start` (n, d), and that maximum (n,); k names the kernel in errors.

    later: values (n, 1) at points (n, d), a Surface in d = 2.

    Raises:
        ValueError: the maximum is not unique, or Newton's method does not settle.
    """
    smooth = SMOOTHED[start.shape[1]](later, std)
    mean = _solve(smooth, start, scale * std**2, k)
    cost = ((mean - start) ** 2).sum(-1) / (2 * scale * std**2)
    return mean, smooth(mean)[0] - cost


Smooth = Callable[[Array], tuple[Array, Array, Array]]


def _stein(std: float, dim: int) -> tuple[Array, Array]:
    """Nodes z (q,) and the rows (3, q) that make W, W' and W'' of values at m + std z.

    W(m) = E[V(m + s xi)]; by Stein W' = E[V xi]/s and W'' = E[V (xi^2 - 1)]/s^2.
    """
    if dim == 1:
        z = np.arange(*LINE_NODES)
        w = np.exp(-0.5 * z**2)
    else:
        z, w = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
    w = w / w.sum()
    return z, np.stack([w, w * z / std, w * (z**2 - 1) / std**2])


def _smoothed_line(value: Callable[[Array], Array], std: float) -> Smooth:
    """m -> W (n,), grad W (n, 1), Hessian W (n, 1, 1), d = 1."""
    z, rows = _stein(std, 1)

    def at(m: Array) -> tuple[Array, Array, Array]:
        spread = (m + std * z).reshape(-1, 1)
        found = value(spread).reshape(len(m), len(z)) @ rows.T
        return found[:, 0], found[:, 1:2], found[:, 2:, None]

    return at


def _smoothed_plane(later: Surface, std: float) -> Smooth:
    """m -> W (n,), grad W (n, 2), Hessian W (n, 2, 2), d = 2.

    The sums over nodes factor over the axes: on the grid W and its derivatives are products
    with one matrix an axis (a spline's values at the nodes are linear in those on the grid);
    between the grid's points, splines of them.
    """
    z, rows = _stein(std, 2)
    one, two = (np.einsum("jq,nqm->jnm", rows, _readings(a, std * z)) for a in later.axes)
    V = later.values.reshape(len(later.axes[0]), -1)
    orders = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
    table = Surface(later.axes, np.stack([(one[i] @ V @ two[j].T).ravel() for i, j in orders], -1))

    def at(m: Array) -> tuple[Array, Array, Array]:
        found = table(m)
        return found[:, 0], found[:, 1:3], found[:, [3, 4, 4, 5]].reshape(-1, 2, 2)

    return at


SMOOTHED: dict[int, Callable[[Any, float], Smooth]] = {1: _smoothed_line, 2: _smoothed_plane}


def _readings(axis: Array, steps: Array) -> Array:
    """What a spline through values on the axis reads at axis + steps (q,), straight on beyond the
    ends: (n, q, n) coefficients of the values."""
    basis = CubicSpline(axis, np.eye(len(axis)))
    places = axis[:, None] + steps
    inside = np.clip(places, axis[0], axis[-1])
    return np.asarray(basis(inside) + basis(inside, 1) * (places - inside)[..., None])


def _solve(smooth: Smooth, start: Array, gain: float, k: int) -> Array:
    """m = start + gain grad W(m), by Newton's method; points that have settled are left alone."""
    mean, eye = start.copy(), np.eye(start.shape[1])
    open_ = np.arange(len(mean))
    for step in range(NEWTON_STEPS):
        _, slope, curve = smooth(mean[open_])
        matrix = eye - gain * curve
        least = np.linalg.eigvalsh(matrix)[:, 0].min()
        if least <= 0:
            raise ValueError(
                f"kernel {k}: 1 - scale s^2 (curvature of the smoothed value) reaches {least:.3g}: "
                "allowed are chains where it stays above 0, so that the best kernel is unique; "
                "use more steps or a smaller scale"
            )
        rest = start[open_] + gain * slope - mean[open_]
        move = np.linalg.solve(matrix, rest[..., None])[..., 0]
        # A point far out, between two ways to go, may go to and fro: shorter steps settle it.
        mean[open_] += move if step < FULL_STEPS else 0.5 * move
        open_ = open_[np.abs(move).max(-1) > NEWTON_TOLERANCE * (1 + np.abs(mean).max())]
        if not len(open_):
            return mean
    raise ValueError(f"kernel {k}: Newton's method did not settle in {NEWTON_STEPS} steps")


def _points(axes: tuple[Array, ...]) -> Tensor:
    grid = np.meshgrid(*axes, indexing="ij")
    return torch.as_tensor(np.stack([g.ravel() for g in grid], -1))


def _check_axes(axes: tuple[Array, ...]) -> int:
    if len(axes) not in (1, 2):
        raise ValueError(f"a grid of {len(axes)} axes: allowed are d = 1 and 2")
    for axis in axes:
        if len(axis) < 16 or np.ptp(np.diff(axis)) > 1e-9 * np.ptp(axis):
            raise ValueError("an axis is not 16 or more points in equal steps: allowed is that")
    return len(axes)
