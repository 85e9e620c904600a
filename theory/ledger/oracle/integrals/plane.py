"""A problem as plain numbers: what the second routes see of it.

Mixture and reward vary in a line or plane of R^d only; the rest is an independent Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from theory.ledger.oracle.integrals.integrate import Array, Region
from theory.ledger.oracle.integrals.law import Density

RewardFunction = Callable[[Array], Array]


@dataclass(frozen=True)
class PlaneNumbers:
    """Numbers of a problem that varies in a line or plane (e = 1 or 2) of R^d.

    weights (K,), means (K, e), covs (K, e, e); a reward of `kind` with `parameters` (those of the
    constructors in theory.tilts.rewards); frame (d, d) orthogonal, its first e columns span the
    plane; rest_std: standard deviation along the others.
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

    @cached_property
    def _whiteners(self) -> tuple[Array, Array]:
        """Inverse Cholesky factors (K, e, e), and log of weight over size (K,)."""
        whitener = np.linalg.inv(np.linalg.cholesky(self.covs))
        log_size = np.log(self.weights) + np.log(np.linalg.det(whitener))
        return whitener, log_size - 0.5 * self.plane_dim * math.log(2 * math.pi)

    def log_density(self, y: Array) -> Array:
        """log of the mixture in the plane, (n, e) -> (n,)."""
        logs = np.empty((len(self.weights), len(y)))
        for k, (whitener, log_size) in enumerate(zip(*self._whiteners, strict=True)):
            logs[k] = log_size - 0.5 * (((y - self.means[k]) @ whitener.T) ** 2).sum(axis=1)
        if len(logs) == 1:
            return np.asarray(logs[0])
        top = logs.max(axis=0)
        with np.errstate(invalid="ignore"):  # -inf - -inf, where nothing is left of any component
            total = top + np.log(np.exp(logs - top).sum(axis=0))
        return np.where(np.isinf(top), top, total)

    def reward(self, y: Array) -> Array:
        """r in the plane, (n, e) -> (n,); of complex places too."""
        p = self.parameters
        if self.kind == "bumps":
            rows = zip(p["heights"], p["centres"], p["precisions"], strict=True)
            return np.asarray(
                sum(h * np.exp(-0.5 * (((y - c) @ A) * (y - c)).sum(axis=1)) for h, c, A in rows)
            )
        value = y @ p["vector"] + float(p["constant"])
        if self.kind == "quadratic":
            value = value + 0.5 * ((y @ p["matrix"]) * y).sum(axis=1)
        return value

    def density(self, *also: Array) -> Density:
        """What the oracle integrates; `also`: places (e,) of kinks and the like."""
        std = np.sqrt(np.diagonal(self.covs, axis1=1, axis2=2))
        lower, upper = (self.means - 12 * std).min(0), (self.means + 12 * std).max(0)
        points = np.concatenate([self.means, *(np.clip(p, lower, upper)[None] for p in also)])
        return Density(self.log_density, Region(lower, upper, points))
