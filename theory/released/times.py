r"""A field that was trained at some times only, and the exact law of what samplers make of it.

A student trained at times tau_1 < ... < tau_m has the optimum's step D = v* - v0 at those. What a
network has between them no loss says; three models, at fixed x:

    linear    piecewise linear in t, held before tau_1 and after tau_m
    nearest   that of the nearest tau_j, the earlier one of two
    none      nothing was learned there: the base's field

A sampler on the line (d = 1) is an increasing map T of the start x_0 ~ N(0, 1). With the map's
slope carried along, E r = int r(T) dN and log q(T(x_0)) = log N(x_0) - log T'(x_0): no draws are
made.

Source: the released DiffusionNFT code, which trains at the times of its own sampler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from theory.common.checks import check_choice, check_dim, check_order, check_positive, check_time
from theory.fields.mixture import DisplacedField, ExactField
from theory.fields.paths import Path
from theory.laws.distances import Array, integral_of_absolute
from theory.tilts.rewards import Reward

Between = Literal["linear", "nearest", "none"]
Method = Literal["euler", "heun", "dpm2", "ode"]
MODELS: tuple[Between, ...] = get_args(Between)
SAME_TIME = 1e-9
INSIDE = 1e-7  # stages at a kink in time are taken this far inside their own piece
REACH, LEAST_SLOPE = 8.0, 1e-12


def uniform_times(n: int) -> tuple[float, ...]:
    """k/n, k < n: the times at which n equal Euler steps ask for a velocity."""
    check_order("n", n, 1)
    return tuple(k / n for k in range(n))


def shifted_times(n: int, shift: float = 3.0, least: float = 1e-3) -> tuple[float, ...]:
    """The same of SD3's scheduler: noise levels s, equally spaced from 1 to where `least` is
    shifted to, then shifted once more by s -> shift s / (1 + (shift - 1) s); t = 1 - s."""
    check_order("n", n, 2)
    check_positive("shift", shift)

    def shifted(s: Array) -> Array:
        return np.asarray(shift * s / (1 + (shift - 1) * s))

    return tuple((1 - shifted(np.linspace(1, shifted(np.asarray(least)), n))).tolist())


@dataclass(frozen=True, eq=False)
class KnownAtTimes(ExactField):
    """v0 + D where `full` is v0 + D at `times` (increasing, in [0, 1]), by a model between them.

    All points are asked for at one time. Raises ValueError for times that do not increase.
    """

    full: DisplacedField
    times: tuple[float, ...]
    between: Between = "linear"

    def __post_init__(self) -> None:
        check_choice("between", self.between, MODELS)
        good = bool(self.times) and all(a < b for a, b in pairwise(self.times))
        if not good or self.times[0] < 0 or self.times[-1] > 1:
            raise ValueError(f"times must be increasing numbers in [0, 1], got {self.times!r}")

    @property
    def path(self) -> Path:  # type: ignore[override]
        return self.full.path

    @property
    def dim(self) -> int:
        return self.full.dim

    @property
    def dtype(self) -> torch.dtype:
        return self.full.dtype

    @property
    def breaks(self) -> tuple[float, ...]:
        """Times where the field has a kink or a jump in t."""
        if self.between == "nearest":
            return tuple((a + b) / 2 for a, b in pairwise(self.times))
        return self.times

    def weights(self, t: float) -> list[tuple[float, float]]:
        """(tau_j, weight) of the trained times whose step makes up that at t."""
        gaps = [abs(t - tau) for tau in self.times]
        j = min(range(len(gaps)), key=gaps.__getitem__)
        if gaps[j] <= SAME_TIME or self.between == "nearest":
            return [(self.times[j], 1.0)]
        if self.between == "none":
            return []
        later = next((i for i, tau in enumerate(self.times) if tau > t), len(self.times))
        if later in (0, len(self.times)):
            return [(self.times[max(later - 1, 0)], 1.0)]
        low, high = self.times[later - 1], self.times[later]
        share = (t - low) / (high - low)
        return [(low, 1 - share), (high, share)]

    def __call__(self, x: Tensor, t: Tensor | float, cond: object = None) -> Tensor:
        velocity = self.full.base(x, t)
        for tau, weight in self.weights(_one(t, x)):
            move = self.full.displacement(self.full.base.posterior(x, tau))
            velocity = velocity + weight * self._gain(tau, x) * move
        return velocity

    def with_divergence(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        velocity, trace = self.full.base.with_divergence(x, t)
        for tau, weight in self.weights(_one(t, x)):
            known = self.full.displacement.with_divergence(self.full.base.posterior(x, tau))
            if known is None:
                return super().with_divergence(x, t)
            gain = weight * self._gain(tau, x)
            velocity, trace = velocity + gain * known[0], trace + gain * known[1]
        return velocity, trace

    def _gain(self, tau: float, x: Tensor) -> Tensor:
        return self.path.gain(torch.tensor(tau, dtype=x.dtype, device=x.device))


def _one(t: Tensor | float, x: Tensor) -> float:
    time = check_time(t, x)
    if time.numel() > 1 and not bool((time == time.flatten()[0]).all()):
        raise ValueError(
            f"t must be one time for all points, got values in [{time.min().item():g}, "
            f"{time.max().item():g}]"
        )
    return float(time.flatten()[0])


# --- samplers on the line


@dataclass(frozen=True)
class Sampler:
    """A deterministic sampler: its times from 0, increasing; the last step ends at 1.

    euler, heun (asks at both ends of a step), dpm2 (DPM-Solver++ 2M: second order from the step
    before, first order in the first and last), ode (the flow itself, by about as many steps of
    Runge and Kutta's fourth order as there are times, which end where the field has kinks in t).
    """

    method: Method
    times: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        check_choice("method", self.method, get_args(Method))
        grid = (*self.times, 1.0)
        if grid[0] != 0 or not all(a < b for a, b in pairwise(grid)):
            raise ValueError(
                f"times must be increasing numbers from 0 to below 1, got {self.times!r}"
            )

    @property
    def label(self) -> str:
        if self.method == "ode":
            return "ODE"
        n = len(self.times)
        even = all(abs(t - k / n) < SAME_TIME for k, t in enumerate(self.times))
        name = {"euler": "Euler", "heun": "Heun", "dpm2": "DPM 2M"}[self.method]
        return f"{name} {n}" + ("" if even else " shifted")

    def push(self, field: ExactField, x0: Tensor) -> tuple[Tensor, Tensor]:
        """T(x_0) and T'(x_0), both (*b, n), of starts (*b, n, 1)."""
        check_dim("field", field.dim)
        with torch.no_grad():
            end = getattr(self, f"_{self.method}")(field, torch.cat([x0, torch.ones_like(x0)], -1))
        return end[..., 0], end[..., 1]

    # A state holds x and dx/dx_0; a rate v and dv/dx dx/dx_0.

    def _euler(self, field: ExactField, state: Tensor) -> Tensor:
        for t, stop in pairwise((*self.times, 1.0)):
            state = state + (stop - t) * _rate(field, state, t)
        return state

    def _heun(self, field: ExactField, state: Tensor) -> Tensor:
        for t, stop in pairwise((*self.times, 1.0)):
            first = _rate(field, state, t)
            second = _rate(field, state + (stop - t) * first, stop)
            state = state + 0.5 * (stop - t) * (first + second)
        return state

    def _dpm2(self, field: ExactField, state: Tensor) -> Tensor:
        """In log-odds l = log t/(1 - t) of the rectified flow; x_1 = x + (1 - t) v."""
        before, rise_before = state, math.inf
        for t, stop in pairwise((*self.times, 1.0)):
            data = state + (1 - t) * _rate(field, state, t)
            rise = math.inf if t == 0 or stop == 1 else _log_odds(stop) - _log_odds(t)
            ahead = data
            if math.isfinite(rise) and math.isfinite(rise_before):
                ahead = data + 0.5 * rise / rise_before * (data - before)
            # x -> (1 - t')/(1 - t) x + (t' - t (1 - t')/(1 - t)) x_1
            kept = (1 - stop) / (1 - t)
            state = kept * state + (stop - t * kept) * ahead
            before, rise_before = data, rise
        return state

    def _ode(self, field: ExactField, state: Tensor) -> Tensor:
        breaks = [b for b in getattr(field, "breaks", ()) if 0 < b < 1]
        for start, stop in pairwise((0.0, *breaks, 1.0)):
            steps = math.ceil((stop - start) * len(self.times))
            h = (stop - start) / steps
            low, high = start + INSIDE * bool(breaks), stop - INSIDE * bool(breaks)
            for i in range(steps):
                t, middle, end = (min(max(start + (i + s) * h, low), high) for s in (0.0, 0.5, 1.0))
                a = _rate(field, state, t)
                b = _rate(field, state + 0.5 * h * a, middle)
                c = _rate(field, state + 0.5 * h * b, middle)
                state = state + h / 6 * (a + 2 * b + 2 * c + _rate(field, state + h * c, end))
        return state


def _rate(field: ExactField, state: Tensor, t: float) -> Tensor:
    velocity, slope = field.with_divergence(state[..., :1], t)
    return torch.cat([velocity, slope[..., None] * state[..., 1:]], -1)


def _log_odds(t: float) -> float:
    return math.log(t / (1 - t))


# --- laws


@dataclass(frozen=True, eq=False)
class MapLaw:
    """The law of T(x_0): x_0 (n,) uniform in [-REACH, REACH], places T (n,) and slopes T' (n,)."""

    start: Array
    place: Array
    slope: Array

    def mean(self, values: Array) -> float:
        """E f from f(T(x_0)), by the trapezoidal rule under N(0, 1)."""
        weight = np.exp(-0.5 * self.start**2) / math.sqrt(2 * math.pi)
        return float(np.trapezoid(weight * values, self.start))

    def mean_reward(self, reward: Reward) -> float:
        """E r."""
        return self.mean(reward(torch.as_tensor(self.place)[:, None]).numpy())

    def std_reward(self, reward: Reward) -> float:
        """The standard deviation of r."""
        values = reward(torch.as_tensor(self.place)[:, None]).numpy()
        return math.sqrt(self.mean((values - self.mean(values)) ** 2))

    @cached_property
    def _log_density(self) -> CubicSpline:
        if self.slope.min() <= LEAST_SLOPE:
            raise ValueError(
                f"the sampler's map falls (least slope {self.slope.min():.2e}): must be a sampler "
                "whose map increases; take more steps"
            )
        logs = -0.5 * self.start**2 - 0.5 * math.log(2 * math.pi) - np.log(self.slope)
        return CubicSpline(self.place, logs)

    def density(self, y: Array) -> Array:
        """q at y (n,); 0 beyond where REACH standard deviations of the start go."""
        inside = (y >= self.place[0]) & (y <= self.place[-1])
        found = np.zeros_like(y)
        found[inside] = np.exp(self._log_density(y[inside]))
        return found


def laws(
    sampler: Sampler, field: ExactField, batch: tuple[int, ...] = (), points: int = 601
) -> list[MapLaw]:
    """What a sampler makes of a field, or of a batch of them (*batch), in its order."""
    start = torch.linspace(-REACH, REACH, points, dtype=field.dtype)
    place, slope = sampler.push(field, start.expand(*batch, points)[..., None])
    rows = zip(place.reshape(-1, points), slope.reshape(-1, points), strict=True)
    return [MapLaw(start.numpy(), p.numpy(), s.numpy()) for p, s in rows]


def total_variation(p: MapLaw, q: MapLaw, points: int = 1201) -> float:
    """TV of two laws, between roots of the difference exact for its spline, where either has mass:
    7 standard deviations of the start."""
    low, high = zip(*(np.interp([-7.0, 7.0], law.start, law.place) for law in (p, q)), strict=True)
    y = np.linspace(min(low), max(high), points)
    return 0.5 * integral_of_absolute(y, p.density(y) - q.density(y))


def distances_to(law: MapLaw, log_density: Array) -> tuple[float, float]:
    """(TV, KL(law | p)) for p's log-density at law.place, (n,): means over the law itself."""
    gap = law._log_density(law.place) - log_density
    return 0.5 * law.mean(np.abs(np.expm1(-gap))), law.mean(gap + np.expm1(-gap))
