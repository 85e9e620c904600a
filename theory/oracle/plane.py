"""A problem as plain numbers: what the second routes see of it.

Mixture and reward vary in a line or plane of R^d only; the rest is an independent Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from theory.oracle.integrate import Array, Region
from theory.oracle.law import Density

RewardFunction = Callable[[Array], Array]


@dataclass(frozen=True)
class PlaneNumbers:
    """Numbers of a problem that varies in a line or plane (e = 1 or 2) of R^d.

    weights (K,), means (K, e), covs (K, e, e); a reward of `kind` with `parameters` (those of the
    constructors in theory.rewards); frame (d, d) orthogonal, its first e columns span the plane;
    rest_std: standard deviation along the others.
    """

    weights: Array
    means: Array
    covs: Array
    kind: str
    parameters: dict[str, Array]
    scale: float
    frame: Array
    rest_std: float = 1.0
    condition: float = math.nan

    @property
    def plane_dim(self) -> int:
        return self.means.shape[1]

    @property
    def dim(self) -> int:
        return len(self.frame)

    def log_density(self, y: Array) -> Array:
        """log of the mixture in the plane, (n, e) -> (n,)."""
        whitener = np.linalg.inv(np.linalg.cholesky(self.covs))  # (K, e, e)
        white = np.einsum("kij,nkj->nki", whitener, y[:, None, :] - self.means)
        log_size = np.log(self.weights) + np.log(np.linalg.det(whitener))
        log_size -= 0.5 * self.plane_dim * math.log(2 * math.pi)
        return np.asarray(logsumexp(log_size - 0.5 * (white**2).sum(-1), axis=1))

    def reward(self, y: Array) -> Array:
        """r in the plane, (n, e) -> (n,)."""
        p = self.parameters
        if self.kind == "bumps":
            total = np.zeros(len(y))
            for h, c, A in zip(p["heights"], p["centres"], p["precisions"], strict=True):
                total += h * np.exp(-0.5 * np.einsum("ni,ij,nj->n", y - c, A, y - c))
            return total
        value = y @ p["vector"] + float(p["constant"])
        if self.kind == "quadratic":
            value = value + 0.5 * np.einsum("ni,ij,nj->n", y, p["matrix"], y)
        return value

    def density(self, *also: Array) -> Density:
        """What the oracle integrates; `also`: places (e,) of kinks and the like."""
        std = np.sqrt(np.diagonal(self.covs, axis1=1, axis2=2))
        lower, upper = (self.means - 12 * std).min(0), (self.means + 12 * std).max(0)
        points = np.concatenate([self.means, *(np.clip(p, lower, upper)[None] for p in also)])
        return Density(self.log_density, Region(lower, upper, points))
