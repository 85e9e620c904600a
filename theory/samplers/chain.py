"""The discrete chain: Gaussian kernels of fixed variance whose mean follows a velocity.

    X_0 ~ N(0, sigma_0^2 I),   X_{k+1} = P_k X_k + Q_k v(X_k, t_k) + s_k xi_k,   k = 0 .. T-1

The mean is E[X_{k+1} | X_k, x_1, x_0] at the velocity's own predictions x_1, x_0 of data and noise
(DDPM's ancestral step, eta = 1 of DDIM, on any path), so the chain is memoryless: with the exact
velocity and many steps (X_k, X_T) has the path's joint law. The chain ends at X_1 + sigma_end X_0
instead of X_1: its last kernel keeps a density.

With a diffusion schedule g (`theory.fields.diffusion`) the kernels are those of Euler-Maruyama
instead,

    X_{k+1} = X_k + dt (v + g^2/2 s)(X_k, t_k) + g sqrt(dt) xi_k,   s = (alpha v - alpha' x)/gain,

memoryless or not. A control u moves their mean by g dt u and costs |u|^2 dt / 2, which is
the KL |mean - mean_base|^2 / (2 s_k^2) of the kernels: both kinds are one discrete-time problem.

Its KL-regularised optimum is in `theory.control.chain_optimum`. Laws on grids (d <= 2), float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from theory.common.checks import check_count, check_finite, check_positive, check_share
from theory.fields.diffusion import Diffusion
from theory.fields.mixture import VelocityModel
from theory.fields.paths import RECTIFIED_FLOW, Path
from theory.laws.distances import Array, GridLaw
from theory.laws.gaussians import GaussianSum

STD_SPACING = 0.15
# Source points whose kernels are multiplied out at once: bounds the memory of a step.
SOURCE_ROWS = 20_000
SAME_TIME = 1e-6  # float32's times are as near
MOST_STEPS = 100_000


@dataclass(frozen=True)
class Chain:
    """T = steps kernels at times t_k = t_0 + (1 - t_0) k/T on a path.

    sigma_end: the noise that stays on the last state; smaller than the noise of the state before.
    first_time: t_0, where the model begins.  start_std: X_0 ~ N(0, start_std^2 I); the path's
        sigma(t_0) by default, which is exact at t_0 = 0 alone.
    schedule: Euler-Maruyama kernels with this g(t); they end at t = 1 and have no sigma_end.
    last_time: t_{T-1}; the kernels' times are then equal steps from t_0 to it. None: as above.
    """

    steps: int = 16
    sigma_end: float = 0.04
    path: Path = field(default=RECTIFIED_FLOW)
    first_time: float = 0.0
    start_std: float | None = None
    schedule: Diffusion | None = None
    last_time: float | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 2, MOST_STEPS)
        check_positive("sigma_end", self.sigma_end)
        check_share("first_time", self.first_time)
        if self.start_std is not None:
            check_positive("start_std", self.start_std)
        if self.last_time is not None:
            check_finite("last_time", self.last_time)
            if not self.first_time < self.last_time < 1 or self.schedule is not None:
                raise ValueError(
                    f"last_time must be between first_time = {self.first_time:g} and 1, and None "
                    f"with a schedule, got {self.last_time!r}"
                )
        if self.schedule is not None:
            if not bool((torch.isfinite(self._rows) & (self._rows[2] > 0)).all()):
                raise ValueError(
                    f"schedule {self.schedule.label!r} with steps = {self.steps}: its kernels are "
                    "not finite; must be a schedule and path with g^2/eta finite before t = 1"
                )
        elif bool((self._rows[2] <= 0).any()) or not bool(torch.isfinite(self._rows).all()):
            last = self.times[-1]
            most = float(self.path.sigma(last) / self.path.alpha(last))
            raise ValueError(
                f"sigma_end must be less than {most:.4g}, the noise of the state before, with "
                f"steps = {self.steps}, got {self.sigma_end!r}"
            )

    @cached_property
    def times(self) -> Tensor:
        """(T,) times at which the velocity is asked."""
        k = torch.arange(self.steps, dtype=torch.float64)
        if self.last_time is not None:
            return self.first_time + (self.last_time - self.first_time) * k / (self.steps - 1)
        return self.first_time + (1 - self.first_time) * k / self.steps

    def rows_by_state(self, t: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(k, the rows whose t (rows,) is t_k) of every state 0 .. T that has any; t_T = 1.

        Raises:
            ValueError: a time that is none of the chain's.
        """
        times = torch.cat([self.times, torch.ones(1, dtype=torch.float64)]).to(t)
        index = torch.searchsorted((times[1:] + times[:-1]) / 2, t.contiguous())
        if not bool(((t - times[index]).abs() < SAME_TIME).all()):
            raise ValueError(
                f"t must be one of the chain's {self.steps} times, from {self.first_time:g} to "
                f"{float(times[-2]):g}, or 1, got values in [{t.min():g}, {t.max():g}]"
            )
        for k in index.unique().tolist():
            yield k, index == k

    @cached_property
    def levels(self) -> tuple[Tensor, Tensor]:
        """alpha_k and sigma_k of X_k, k = 0 .. T, each (T + 1,); X_T's noise is sigma_end."""
        end = torch.ones(1, dtype=torch.float64)
        alpha = torch.cat([self.path.alpha(self.times), self.path.alpha(end)])
        return alpha, torch.cat([self.path.sigma(self.times), self.sigma_end * end])

    @cached_property
    def noising(self) -> tuple[Tensor, Tensor]:
        """The kernels that noise, X_k | X_{k+1} = x ~ N(ratio_k x, variance_k I): ratio and
        variance, each (T,).

        Raises:
            ValueError: the chain has a schedule: its kernels are not those of the path.
        """
        if self.schedule is not None:
            raise ValueError(
                "the noising kernels are known of ancestral chains: schedule must be None, got "
                f"{self.schedule.label!r}"
            )
        alpha, sigma = self.levels
        ratio = alpha[:-1] / alpha[1:]
        return ratio, sigma[:-1] ** 2 - (ratio * sigma[1:]) ** 2

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
        (alpha, alpha_next), (sigma, sigma_next) = ((x[:-1], x[1:]) for x in self.levels)
        dalpha, dsigma = path.dalpha(t), path.dsigma(t)
        _, forward = self.noising
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
        own = self.path.sigma(self.times[0].to(noise))
        return noise * (own if self.start_std is None else self.start_std)

    def mean(self, model: VelocityModel, k: int, x: Tensor, cond: object = None) -> Tensor:
        """E[X_{k+1} | X_k = x], x (rows, *event)."""
        P, Q, _ = self.coefficients(x)
        return P[k] * x + Q[k] * model(x, self.times[k].to(x).expand(len(x)), cond)

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
    low, high = span(laws, 7.0, 30.0)
    corners = zip(low.clamp_max(-start).tolist(), high.clamp_min(start).tolist(), strict=True)
    return tuple(np.linspace(a, b, math.ceil((b - a) / step) + 1) for a, b in corners)


def span(laws: Sequence[GaussianSum], stds: float, light: float) -> tuple[Tensor, Tensor]:
    """(low, high), (d,) each: `stds` standard deviations about every component of the laws, but
    for those that weigh less than exp(-light) of their law's heaviest."""
    low = torch.cat([reach(law, -stds, light) for law in laws]).amin(0)
    return low, torch.cat([reach(law, stds, light) for law in laws]).amax(0)


def reach(law: GaussianSum, stds: float, light: float) -> Tensor:
    """mean + stds * std of these components, (K, d)."""
    heavy = law.log_abs > law.log_abs.max() - light
    return (law.mean + stds * law.cov.diagonal(dim1=-2, dim2=-1).sqrt())[heavy]


def chain_law(chain: Chain, model: VelocityModel, axes: tuple[Array, ...]) -> GridLaw:
    """The law of X_T on a uniform grid that holds every state's mass.

    Each step integrates p_k(x) N(x'; mean_k(x), s_k^2 I) over the grid by the trapezoidal rule.

    Raises:
        ValueError: d is above 2, or the grid loses more than 1e-3 of the mass or is too coarse.
    """
    dim = check_axes(axes)
    points, cell = grid_points(axes), float(np.prod([a[1] - a[0] for a in axes]))
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
    return grid_law(axes, density)


def grid_law(axes: tuple[Array, ...], density: Array) -> GridLaw:
    """A law on a uniform grid from its density at the grid's points (n,).

    Raises:
        ValueError: the grid loses more than 1e-3 of the mass or is too coarse.
    """
    mass = float(density.sum()) * float(np.prod([a[1] - a[0] for a in axes]))
    if not abs(mass - 1) <= 1e-3:
        raise ValueError(
            f"the grid of {'x'.join(str(len(a)) for a in axes)} points must hold a mass of 1 to "
            f"1e-3 of the chain's law, got {mass:.5f}; use a wider or finer grid"
        )
    with np.errstate(divide="ignore"):
        log_density = np.log(np.maximum(density, 0.0)).reshape([len(a) for a in axes])
    cdf = CubicSpline(axes[0], density).antiderivative()(axes[0]) if len(axes) == 1 else None
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


def grid_points(axes: tuple[Array, ...]) -> Tensor:
    """A grid's points (n, d), the last axis fastest."""
    return torch.as_tensor(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)))


def check_axes(axes: tuple[Array, ...]) -> int:
    """d of a uniform grid.

    Raises:
        ValueError: d above 2, fewer than 16 points an axis, or steps that are not equal.
    """
    if len(axes) not in (1, 2):
        raise ValueError(f"grid must have 1 or 2 axes, got {len(axes)}")
    for axis in axes:
        if len(axis) < 16 or np.ptp(np.diff(axis)) > 1e-9 * np.ptp(axis):
            raise ValueError("an axis must be 16 or more points in equal steps")
    return len(axes)
