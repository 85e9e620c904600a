"""Distances between laws, each with the numerical or sampling floor below which it says nothing.

    TV = 1/2 int |p - q|         KL(p || q) = int p log(p/q)
    W1 = int |F - G| (d = 1)     sliced W2^2 = mean over directions of W2^2 of the projections

d = 1: densities on a grid, cubic splines, exact between sign changes. d = 2: sums over a
grid. Floor there: the change when every second grid line is dropped, and at least the mass that
the grid does not see. KL is infinite where q vanishes and p does not. Any d: Monte Carlo over draws
of p, floor: four standard errors (KL, TV), or the distance of two exact samples (sliced W2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from scipy.optimize.elementwise import find_root
from torch import Tensor

Array = NDArray[np.float64]
DIRECTIONS = 64
STANDARD_ERRORS = 4.0


@dataclass(frozen=True)
class Distance:
    """A distance and its floor: a value below the floor is not told from zero."""

    value: float
    floor: float

    def at_least(self, floor: float) -> Distance:
        """The same with a floor no lower than the one given."""
        return Distance(self.value, max(self.floor, floor))


@dataclass(frozen=True)
class GridLaw:
    """A density on a grid of the line (any spacing) or the plane (uniform); its cdf in d = 1."""

    axes: tuple[Array, ...]
    log_density: Array
    cdf: Array | None = None

    @property
    def density(self) -> Array:
        return np.exp(self.log_density)

    def every_second(self) -> GridLaw:
        """The law on every second grid line."""
        return GridLaw(
            tuple(a[::2] for a in self.axes),
            self.log_density[(slice(None, None, 2),) * len(self.axes)],
            None if self.cdf is None else self.cdf[::2],
        )

    def integrate(self, values: Array) -> float:
        """int p(y) values(y) dy on the grid: a cubic spline (d = 1), sums (d = 2)."""
        weighted = self.density * values
        if len(self.axes) == 1:
            return _integral(self.axes[0], weighted)
        return float(weighted.sum() * np.prod([a[1] - a[0] for a in self.axes]))

    def mass(self) -> float:
        """Total mass on the grid."""
        return self.integrate(np.ones_like(self.log_density))

    def moments(self) -> tuple[Array, Array]:
        """(mean (d,), covariance (d, d)), relative to the mass on the grid."""
        mass, places = self.mass(), np.meshgrid(*self.axes, indexing="ij")
        mean = np.array([self.integrate(y) for y in places]) / mass
        gaps = [y - m for y, m in zip(places, mean, strict=True)]
        return mean, np.array([[self.integrate(a * b) for b in gaps] for a in gaps]) / mass

    def quantile(self, u: Array) -> Array:
        """The quantiles at levels u in (0, 1), d = 1, by a cubic spline of the cdf whose slopes are
        the density; levels that the grid does not reach get the last point with mass.
        """
        if self.cdf is None:
            raise ValueError("law must have a cdf, as laws in d = 1 do, for its quantiles")
        if not np.all((np.asarray(u) > 0) & (np.asarray(u) < 1)):
            raise ValueError(f"u must hold numbers in (0, 1), got {u!r}")
        # Rises too small to divide by carry no mass worth a quantile.
        rise = np.concatenate([[True], np.diff(np.maximum.accumulate(self.cdf)) > 1e-30])
        y, cdf = self.axes[0][rise], self.cdf[rise]
        spline = CubicHermiteSpline(y, cdf, self.density[rise])
        level = np.clip(u, cdf[0], cdf[-1])
        cell = np.clip(np.searchsorted(cdf, level) - 1, 0, len(y) - 2)
        ends = (y[cell], y[cell + 1])
        return np.asarray(find_root(lambda x, u: spline(x) - u, ends, args=(level,)).x)


def grid_distances(p: GridLaw, q: GridLaw) -> dict[str, Distance]:
    """TV, KL and W1 (d = 1) or sliced W2 (d = 2) of two laws on one grid."""
    if len(p.axes) != len(q.axes) or any(
        not np.array_equal(a, b) for a, b in zip(p.axes, q.axes, strict=True)
    ):
        raise ValueError("p and q stand on different grids: need one grid for both")
    measure = _line_distances if len(p.axes) == 1 else _plane_distances
    fine, coarse = measure(p, q), measure(p.every_second(), q.every_second())
    lost = abs(1 - p.mass()) + abs(1 - q.mass())
    return {
        name: Distance(value, max(abs(value - coarse[name]), lost) if np.isfinite(value) else 0.0)
        for name, value in fine.items()
    }


def _line_distances(p: GridLaw, q: GridLaw) -> dict[str, float]:
    (y,) = p.axes
    result = {
        "TV": 0.5 * integral_of_absolute(y, p.density - q.density),
        "KL": _integral(y, _kl_integrand(p, q)),
    }
    if p.cdf is not None and q.cdf is not None:
        result["W1"] = integral_of_absolute(y, p.cdf - q.cdf)
    return result


def integral_of_absolute(y: Array, values: Array) -> float:
    """int |f| by a cubic spline of f, exact between its roots."""
    spline = CubicSpline(y, values)
    roots = spline.roots(discontinuity=False, extrapolate=False)
    cuts = np.concatenate([[y[0]], roots[np.isfinite(roots)], [y[-1]]])
    return float(np.abs(np.diff(spline.antiderivative()(np.sort(cuts)))).sum())


def _integral(y: Array, values: Array) -> float:
    return (
        float(CubicSpline(y, values).integrate(y[0], y[-1]))
        if np.isfinite(values).all()
        else np.inf
    )


def _kl_integrand(p: GridLaw, q: GridLaw) -> Array:
    """p log(p/q); an isolated zero of q (log-integrable) takes its neighbours' mean, others inf."""
    with np.errstate(invalid="ignore"):
        values = np.where(p.density > 0, p.density * (p.log_density - q.log_density), 0.0)
    for index in np.argwhere(~np.isfinite(values)):
        i, rest = index[-1], tuple(index[:-1])
        around = values[(*rest, slice(max(i - 1, 0), i + 2))]
        finite = around[np.isfinite(around)]
        if len(finite) == 2:
            values[tuple(index)] = finite.mean()
    return np.asarray(values)


def _plane_distances(p: GridLaw, q: GridLaw) -> dict[str, float]:
    area = float(np.prod([a[1] - a[0] for a in p.axes]))
    return {
        "TV": 0.5 * float(np.abs(p.density - q.density).sum()) * area,
        "KL": float(_kl_integrand(p, q).sum()) * area,
        "SW2": _sliced_w2_of_grids(p, q),
    }


def _sliced_w2_of_grids(p: GridLaw, q: GridLaw) -> float:
    points = np.stack(np.meshgrid(*p.axes, indexing="ij"), -1).reshape(-1, 2)
    mass_p, mass_q = (law.density.ravel() / law.density.sum() for law in (p, q))
    squares = []
    for angle in np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS:
        place = points @ np.array([np.cos(angle), np.sin(angle)])
        order = np.argsort(place)
        squares.append(_w2_squared(place[order], mass_p[order], mass_q[order]))
    return float(np.sqrt(np.mean(squares)))


def _w2_squared(place: Array, mass_p: Array, mass_q: Array) -> float:
    """W2^2 of two laws on the same sorted places: int (F^-1 - G^-1)^2 du."""
    F, G = np.cumsum(mass_p), np.cumsum(mass_q)
    levels = np.sort(np.concatenate([[0.0], F, G]))
    widths, middles = np.diff(levels), 0.5 * (levels[1:] + levels[:-1])
    last = len(place) - 1
    one, other = (place[np.minimum(np.searchsorted(H, middles), last)] for H in (F, G))
    return float((widths * (one - other) ** 2).sum())


def sample_distances(
    x: Tensor, log_p: Tensor, log_q: Tensor, target: Tensor, target_again: Tensor
) -> dict[str, Distance]:
    """TV, KL(p || q) and sliced W2 in any d, from draws.

    x: (n, d) draws of p; log_p, log_q: (n,) both log-densities there; target, target_again:
    two independent samples (m, d) of q.
    """
    ratio = log_q - log_p
    total = (1 - ratio.exp()).clamp_min(0)  # TV = E_p (1 - q/p)_+: bounded, so its error is honest
    return {
        "TV": _mean_with_error(total),
        "KL": _mean_with_error(-ratio),
        "SW2": Distance(sliced_w2(x, target), sliced_w2(target, target_again)),
    }


def _mean_with_error(values: Tensor) -> Distance:
    error = float(values.std()) / len(values) ** 0.5
    return Distance(float(values.mean()), STANDARD_ERRORS * error)


def sliced_w2(x: Tensor, y: Tensor, seed: int = 0) -> float:
    """Sliced W2 of two samples of one size, over DIRECTIONS random directions (fixed by seed)."""
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {tuple(x.shape)} and {tuple(y.shape)}")
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(x.shape[-1], DIRECTIONS, generator=generator, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(dtype=x.dtype, device=x.device)
    gap = (x @ directions).sort(dim=0).values - (y @ directions).sort(dim=0).values
    return float(gap.square().mean().sqrt())
