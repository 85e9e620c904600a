"""TV, KL and W1 of two densities by adaptive integration."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq
from scipy.special import rel_entr

from theory.ledger.oracle.integrals.integrate import (
    RTOL,
    TV_RTOL_2D,
    Estimate,
    Function,
    Region,
    integrate,
    rule,
    split,
)


def _check_normalised(p: Function, q: Function, region: Region) -> None:
    mass = integrate(lambda y: np.column_stack([p(y), q(y)]), region).value
    if np.any(np.abs(mass - 1) > 1e-6):
        raise ValueError(f"the densities integrate to {mass} over the region, not to 1")


def _cut(p: Function, q: Function, region: Region) -> Region:
    """The region with the sign changes of p - q, bracketed on a fine grid, added to its points
    (d = 1)."""
    low, high = split(region)
    grid = np.unique(low + np.linspace(0, 1, 129) * (high - low))
    gap, noise = p(grid[:, None]) - q(grid[:, None]), 1e-15 * p(grid[:, None]).max()
    grid, gap = grid[np.abs(gap) > noise], gap[np.abs(gap) > noise]

    def at(s: float) -> float:
        return float((p(np.array([[s]])) - q(np.array([[s]])))[0])

    flips = np.flatnonzero(np.sign(gap[1:]) != np.sign(gap[:-1]))
    zeros = [brentq(at, grid[i], grid[i + 1], xtol=1e-15) for i in flips]
    return replace(region, points=np.unique([*region.points[:, 0], *zeros])[:, None])


def distance(p: Function, q: Function, region: Region) -> tuple[Estimate, Estimate]:
    """TV = int |p - q| / 2 and KL = int p log(p / q), each (), of normalised densities (n, d) ->
    (n,). In d = 1 the sign changes of p - q are bracketed, so TV is as accurate as KL; in d = 2
    TV is held to 1e-6. KL is inf if q = 0 (or underflows) where p is not negligible. Raises
    ValueError unless both integrate to 1 within 1e-6, and QuadratureError."""
    _check_normalised(p, q, region)
    line = len(region.lower) == 1
    cut = _cut(p, q, region) if line else region
    tv = integrate(
        lambda y: np.abs(p(y) - q(y))[:, None] / 2, cut, RTOL if line else TV_RTOL_2D, 1e-15
    )
    low, high = split(cut)
    d = low.shape[1]
    y = (low[:, None] + (high - low)[:, None] * (rule(d)[0] + 1) / 2).reshape(-1, d)
    if np.any((q(y) == 0) & (p(y) > 1e-30 * p(y).max())):
        kl = Estimate(np.array([np.inf]), np.zeros(1))
    else:
        kl = integrate(
            lambda y: rel_entr(p(y), np.maximum(q(y), 5e-324))[:, None], cut, RTOL, 1e-15
        )
    return Estimate(tv.value[0], tv.error[0]), Estimate(kl.value[0], kl.error[0])


def wasserstein_1d(p: Function, q: Function, region: Region) -> Estimate:
    """W1 = int |F - G|, (), of normalised densities (n, 1) -> (n,) with distribution functions
    F, G. F - G is monotone between sign changes of p - q, so its zeros are bracketed; between
    two, int_a^b (F - G) = (b - a) (F - G)(b) - int_a^b (y - a) (p - q). Raises ValueError in d =
    2 and unless both integrate to 1 within 1e-6."""
    if len(region.lower) != 1:
        raise ValueError("wasserstein_1d needs d = 1")
    _check_normalised(p, q, region)

    def moments(a: float, b: float) -> Estimate:
        """int_a^b (p - q) (1, y - a), (2,)."""
        inner = region.points[(region.points[:, 0] > a) & (region.points[:, 0] < b)]
        piece = Region(np.array([a]), np.array([b]), inner)
        return integrate(
            lambda y: (p(y) - q(y))[:, None] * np.hstack([y**0, y - a]), piece, atol=1e-15
        )

    def difference(a: float, gap: float, c: float) -> float:
        return gap + (float(moments(a, c).value[0]) if c > a else 0.0)

    value, error, gap = 0.0, 0.0, 0.0  # gap = (F - G)(a)
    knots = np.unique([*region.lower, *_cut(p, q, region).points[:, 0], *region.upper])
    for a, b in pairwise(knots):
        ends = [a, b]
        if gap * (gap + moments(a, b).value[0]) < 0:
            ends.append(brentq(partial(difference, a, gap), a, b))
        for left, right in pairwise(np.unique(ends)):
            piece = moments(left, right)
            gap += piece.value[0]
            value += abs((right - left) * gap - piece.value[1])
            error += (right - left) * piece.error[0] + piece.error[1]
    return Estimate(np.asarray(value), np.asarray(error))
