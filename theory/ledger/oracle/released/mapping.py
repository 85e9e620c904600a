r"""Second routes to the released reward mapping, by sums alone.

A prompt's rewards have the density p on the line; the sum z of n - 1 others has the density

    g(z) = (1/2 pi) int psi(u)^(n-1) exp(-i u z) du,    psi(u) = int p(y) exp(i u y) dy,

both by the trapezoidal rule, which is spectrally accurate for smooth p; integrals of the clipped
line against p or g are cut at its two kinks, Gauss and Legendre on every piece. Small batches of
atoms are enumerated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.special import gammaln

from theory.ledger.oracle.integrals.integrate import Array

_FAR = 9.5  # standard deviations that a component reaches


_FINE = 5  # nodes to the narrowest component


_WIDE = 6.0  # of a panel, in standard deviations of the narrowest component


_PANELS, _ORDER = 10, 24
_ROWS = 200  # at once
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_ORDER)


@dataclass(frozen=True, eq=False)
class MixtureLine:
    """A mixture density on uniform nodes, (K,) each: weights, means, stds."""

    weights: Array
    means: Array
    stds: Array

    def density(self, y: Array) -> Array:
        gaps = (np.asarray(y)[..., None] - self.means) / self.stds
        return np.asarray(np.exp(-0.5 * gaps**2) / self.stds / np.sqrt(2 * np.pi) @ self.weights)

    @property
    def ends(self) -> tuple[float, float]:
        low, high = self.means - _FAR * self.stds, self.means + _FAR * self.stds
        return float(low.min()), float(high.max())

    def nodes(self) -> tuple[Array, float]:
        step = float(self.stds.min()) / _FINE
        low, high = self.ends
        return np.arange(low, high + step, step), step

    def moments(self) -> tuple[float, float]:
        """Mean and variance, by sums."""
        y, step = self.nodes()
        p = self.density(y) * step
        mean = float(p @ y)
        return mean, float(p @ (y - mean) ** 2)


def pooled_std(weights: Array, means: Array, stds: Array) -> float:
    """Standard deviation of the pooled rewards of P prompts, arrays (P, K), by sums."""
    pooled = MixtureLine((1 / len(weights) * weights).ravel(), means.ravel(), stds.ravel())
    return float(np.sqrt(pooled.moments()[1]))


def _sum_of_others(law: MixtureLine, others: int) -> tuple[Array, Array]:
    """Nodes z and g(z) dz of the sum of `others` rewards."""
    y, step = law.nodes()
    mean, variance = law.moments()
    p = law.density(y) * step
    # The sum lies within reach of its own standard deviation, and within what its parts reach.
    low, high = law.ends
    reach = 12 * np.sqrt(others * variance) + (high - low)
    start, stop = (
        max(others * low, others * mean - reach),
        min(others * high, others * mean + reach),
    )
    width = float(np.sqrt(others) * law.stds.min())
    u_step = np.pi / (1.05 * (stop - start))
    u = np.arange(0.0, 9.0 / width + u_step, u_step)
    psi = np.exp(1j * np.outer(u, y - mean)) @ p
    z_step = width / _FINE
    z = np.arange(start, stop + z_step, z_step)
    power = psi**others
    power[0] *= 0.5
    g = (np.exp(-1j * np.outer(z - others * mean, u)) @ power).real * u_step / np.pi
    return z, g * z_step


def pieces(cuts: Array, panels: int) -> tuple[Array, Array]:
    """Nodes and weights (m, panels * order) on the pieces between cuts (m, 4)."""
    nodes, weights = [], []
    for left, right in zip(cuts.T[:-1], cuts.T[1:], strict=True):
        edges = np.linspace(left, right, panels + 1).T
        half = 0.5 * np.diff(edges, axis=1)[..., None]
        nodes.append((edges[:, :-1, None] + half * (1 + _NODES)).reshape(len(cuts), -1))
        weights.append((half * _WEIGHTS).reshape(len(cuts), -1))
    return np.hstack(nodes), np.hstack(weights)


def advantages(
    law: MixtureLine, size: float, group: int, kinks: Array
) -> Iterator[tuple[Array, Array, Array, Array]]:
    """A = (R - mean of the group) / size in blocks: chances (m,) of the other rows' sum, and (m, n)
    each at nodes that are cut where A is one of `kinks`: shares of R, R - E R, and A. group = 0:
    infinite."""
    mean, _ = law.moments()
    if group:
        z, g = _sum_of_others(law, group - 1)
        own, taken = 1 - 1 / group, z / group
    else:
        g, own, taken = np.ones(1), 1.0, np.array([mean])
    low, high = law.ends
    places = np.clip((taken[:, None] + size * kinks) / own, low, high)
    cuts = np.column_stack([np.full(len(g), low), places, np.full(len(g), high)])
    panels = max(_PANELS, int((high - low) / (_WIDE * law.stds.min())))
    for first in range(0, len(g), _ROWS):
        rows = slice(first, first + _ROWS)
        y, w = pieces(cuts[rows], panels)
        yield g[rows], w * law.density(y), y - mean, (own * y - taken[rows, None]) / size


def mapped_slope(
    weights: Array, means: Array, stds: Array, size: float, group: int, clip: float
) -> float:
    """Cov(clip(A), R) / Var R; weights, means, stds (K,) of the prompt's rewards."""
    law, total = MixtureLine(weights, means, stds), 0.0
    for chances, shares, offsets, A in advantages(law, size, group, clip * np.array([-1.0, 1.0])):
        total += float(chances @ (shares * np.clip(A, -clip, clip) * offsets).sum(axis=1))
    return total / law.moments()[1]


def gaussian_batch_slope(group: int, prompts: int) -> float:
    """Cov(A, R) of N(0, 1) rewards in a batch of `prompts` groups, clip and floor off.

    R less its group's mean is sqrt(1 - 1/n) z, z standard normal, and N S^2 is z^2 plus an
    independent chi-square q of N - 2: E[(1 - 1/n) z^2 sqrt(N / (z^2 + q))], by sums in polar
    coordinates of (z, sqrt(q)).
    """
    rows, own = group * prompts, 1 - 1 / group
    freedom = rows - 2
    if freedom == 0:
        z, w_z = _gauss(0.0, 12.0, 200)
        half_normal = np.sqrt(2 / np.pi) * np.exp(-0.5 * z**2)
        return float(own * np.sqrt(rows) * (w_z @ (z * half_normal)))
    # The root is singular at z = q = 0: not in polar coordinates.
    angle, w_angle = _gauss(0.0, 0.5 * np.pi, 60 + 6 * int(np.sqrt(rows)))
    radius, w_radius = _gauss(0.0, np.sqrt(rows) + 12.0, 400)
    # z = rho cos, sqrt(q) = rho sin; the chi density of sqrt(q).
    rho, phi = radius[:, None], angle[None]
    log_chi = (freedom - 1) * np.log(rho * np.sin(phi)) - 0.5 * (rho * np.sin(phi)) ** 2
    log_chi = log_chi - (0.5 * freedom - 1) * np.log(2.0) - gammaln(0.5 * freedom)
    half_normal = np.sqrt(2 / np.pi) * np.exp(-0.5 * (rho * np.cos(phi)) ** 2)
    value = own * rho * np.cos(phi) ** 2 * np.sqrt(rows) * half_normal * np.exp(log_chi)
    return float(w_radius @ (value * rho) @ w_angle)


@lru_cache(maxsize=64)
def _legendre(count: int) -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(count)


def _gauss(low: float, high: float, count: int) -> tuple[Array, Array]:
    nodes, weights = _legendre(count)
    half = 0.5 * (high - low)
    return low + half * (1 + nodes), half * weights


def enumerated_slopes(
    values: Array, chances: Array, group: int, floor: float, clip: float, spread: float
) -> Array:
    """Cov(r, R) / Var R of every prompt, (P,), by all batches: `group` rows of each prompt.

    values (P, k), chances (P, k): what rewards a prompt's rows have. r as the code computes it."""
    prompts, k = values.shape
    if k ** (group * prompts) > 300_000:
        raise ValueError("too many batches to enumerate")
    cells = np.array(list(product(range(k), repeat=group * prompts)))
    cells = cells.reshape(-1, prompts, group)
    owner = np.arange(prompts)[None, :, None]
    raw, chance = values[owner, cells], chances[owner, cells].prod(axis=(1, 2))
    spread_of_batch = raw.std(axis=(1, 2))[:, None, None]
    advantage = (raw - raw.mean(axis=2, keepdims=True)) / (spread_of_batch + floor)
    r = np.clip(0.5 + np.clip(advantage, -clip, clip) / spread, 0.0, 1.0)
    mean = (values * chances).sum(axis=1)
    variance = ((values - mean[:, None]) ** 2 * chances).sum(axis=1)
    gap = raw - mean[None, :, None]
    return np.asarray((chance[:, None] * (r * gap).mean(axis=2)).sum(axis=0) / variance)
