r"""Conditional expectations in any dimension by self-normalised importance sampling.

Draws y_i of X_1 ~ p with weights w_i = exp(-|x - alpha y_i|^2 / (2 sigma^2)) stand for the law of
X_1 given X_t = x. With w_i normalised, the standard error of an estimate is sqrt(sum_i w_i^2
g_i^2), g its influence function (the delta method). Every function raises ValueError where the
draws are worth fewer than SMALLEST draws from the posterior itself ((sum w)^2 / sum w^2), or where
x does not have shape (d,).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.conditional import Instant, Phi
from theory.ledger.oracle.integrals import Array, PlaneNumbers

SMALLEST = 1000
Sampled = tuple[Array, Array]  # an estimate and its standard error


def draws(case: PlaneNumbers, n: int, rng: np.random.Generator) -> Array:
    """n draws of X_1 in R^d, (n, d)."""
    which = rng.choice(len(case.weights), size=n, p=case.weights)
    noise = rng.standard_normal((n, case.dim))
    factors, e = np.linalg.cholesky(case.covs), case.plane_dim
    plane = case.means[which] + np.einsum("nij,nj->ni", factors[which], noise[:, :e])
    return np.asarray(np.hstack([plane, case.rest_std * noise[:, e:]]) @ case.frame.T)


def effective_size(weight: Array) -> float:
    """(sum w)^2 / sum w^2 of non-negative weights (n,)."""
    return float(weight.sum() ** 2 / (weight**2).sum())


class Draw(NamedTuple):
    """A point x (d,) of X_t, the path there, and how many points of X_1 are drawn by what."""

    case: PlaneNumbers
    x: Array
    at: Instant
    n: int
    rng: np.random.Generator


class _Sample:
    """Draws, their weights (sum 1), V and the reward, given X_t = x."""

    def __init__(self, draw: Draw, phi: Phi | None = None) -> None:
        case, x, at, n, rng = draw
        if np.shape(x) != (case.dim,):
            raise ValueError(f"x must have shape ({case.dim},), got {np.shape(x)}")
        self.y = draws(case, n, rng)
        gap = (x - at.alpha * self.y) / at.sigma
        self.v = at.velocity(x, self.y)
        self.r = case.reward(self.y @ case.frame[:, : case.plane_dim])
        logs = -0.5 * (gap**2).sum(axis=1)
        weight = np.exp(logs - logs.max())
        if phi is not None:
            weight = weight * phi(self.r)
        size = effective_size(np.abs(weight))
        if size < SMALLEST:
            raise ValueError(
                f"an effective sample size of {size:.0f} out of {n} draws is below {SMALLEST}: "
                "take more draws, or an x or t nearer to the bulk"
            )
        self.weight = weight / weight.sum()

    def mean(self, values: Array) -> Array:
        return np.asarray(self.weight @ values)

    def error(self, influence: Array) -> Array:
        """Standard error of an estimate with this influence function (n, m), (m,)."""
        return np.asarray(np.sqrt((self.weight**2) @ influence**2))


def velocity(draw: Draw, phi: Phi | None = None) -> Sampled:
    """E[V | X_t = x] under p phi(r) / Z and its standard error, each (d,); phi acts on reward
    values, (n,) -> (n,), None for 1."""
    sample = _Sample(draw, phi)
    mean = sample.mean(sample.v)
    return mean, sample.error(sample.v - mean)


def covariance(draw: Draw) -> Sampled:
    """Cov(V, r | X_t = x) and its standard error, each (d,)."""
    sample = _Sample(draw)
    product = (sample.v - sample.mean(sample.v)) * (sample.r - sample.mean(sample.r))[:, None]
    value = sample.mean(product)
    return value, sample.error(product - value)


def nft_minimiser(draw: Draw, nft_beta: float) -> Sampled:
    """The mu that minimises the sampled loss

        sum_i w_i (r_i |v + b (mu - v) - V_i|^2 + (1 - r_i) |v - b (mu - v) - V_i|^2),

    b = nft_beta and v the same draws' E[V | x], from its normal equations; with its standard
    error, that of v included, each (d,). Raises ValueError also for nft_beta = 0."""
    if nft_beta == 0:
        raise ValueError("nft_beta must not be 0: the loss would not depend on mu")
    sample, b = _Sample(draw), nft_beta
    v, r = sample.mean(sample.v), sample.r[:, None]
    # The two residuals as s b mu - c with s = +-1: their weights are r and 1 - r.
    terms = [(r, b, sample.v - (1 - b) * v), (1 - r, -b, sample.v - (1 + b) * v)]
    square = sum(float(sample.mean(share)[0]) * slope**2 for share, slope, _ in terms)
    mu = sum(sample.mean(share * slope * target) for share, slope, target in terms) / square
    gradient = sum(share * slope * (slope * mu - target) for share, slope, target in terms)
    by_v = sum(
        float(sample.mean(share)[0]) * slope * factor
        for (share, slope, _), factor in zip(terms, (1 - b, 1 + b), strict=True)
    )
    return np.asarray(mu), sample.error(-(gradient + by_v * (sample.v - v)) / square)
