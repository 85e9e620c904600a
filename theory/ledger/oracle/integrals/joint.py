"""A family of couplings as plain numbers: what the second routes see of it.

gamma^a(x_0, x_1) = sum_k w_k(a) N((x_0, x_1); mean_k + a mean_rate_k, L_k(a) L_k(a)'), with
w(a) = softmax(logits + a logit_rates) and L_k(a) = factor_k + a factor_rate_k, in a line or plane
of R^d; in the other directions X_0 ~ N(0, 1) and X_1 ~ N(0, rest_std^2), independent of all else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from theory.ledger.oracle.integrals.integrate import Array, Region


@dataclass(frozen=True)
class JointNumbers:
    """logits (K,), means (K, 2e), factors (K, 2e, 2e) lower triangular, and their rates in a;
    x_0's e coordinates come first. frame (d, d) orthogonal, its first e columns span the plane."""

    logits: Array
    means: Array
    factors: Array
    logit_rates: Array
    mean_rates: Array
    factor_rates: Array
    frame: Array
    rest_std: float = 1.0

    @property
    def plane_dim(self) -> int:
        return self.means.shape[1] // 2

    @property
    def dim(self) -> int:
        return len(self.frame)

    def log_joint(self, x0: Array, x1: Array, a: float) -> Array:
        """log gamma^a in the plane, (n, e), (n, e) -> (n,)."""
        logits = self.logits + a * self.logit_rates
        log_w = logits - logsumexp(logits)
        whitener = np.linalg.inv(self.factors + a * self.factor_rates)
        gap = np.concatenate([x0, x1], axis=1)[:, None, :] - (self.means + a * self.mean_rates)
        white = np.einsum("kij,nkj->nki", whitener, gap)
        log_size = log_w + np.log(np.abs(np.linalg.det(whitener)))
        log_size -= self.plane_dim * math.log(2 * math.pi)
        return np.asarray(logsumexp(log_size - 0.5 * (white**2).sum(-1), axis=1))

    def region(self, a: float, reach: float) -> Region:
        """Where X_1 lives for parameters within `reach` of a."""
        e = self.plane_dim
        std = np.sqrt((self.factors**2).sum(-1)[:, e:]) + reach * np.sqrt(
            (self.factor_rates**2).sum(-1)[:, e:]
        )
        centre = (self.means + a * self.mean_rates)[:, e:]
        wide = 12 * std + reach * np.abs(self.mean_rates[:, e:])
        return Region((centre - wide).min(0), (centre + wide).max(0), centre)


def random_joint(dim: int, seed: int, dependent: bool = True) -> JointNumbers:
    """A family of two or three components: X_0 ~ N(0, I) at every a, X_1 depends on it, or not."""
    rng = np.random.default_rng(seed)
    e, k = min(dim, 2), int(rng.integers(1, 4))
    factors, rates = np.zeros((k, 2 * e, 2 * e)), np.zeros((k, 2 * e, 2 * e))
    factors[:, :e, :e] = np.eye(e)
    if dependent:
        factors[:, e:, :e] = 0.5 * rng.normal(size=(k, e, e))
        rates[:, e:, :e] = 0.4 * rng.normal(size=(k, e, e))
    lower = np.tril(rng.normal(size=(k, e, e)), -1) * 0.4
    factors[:, e:, e:] = lower + np.eye(e) * rng.uniform(0.4, 1.1, size=(k, 1, e))
    rates[:, e:, e:] = np.tril(rng.normal(size=(k, e, e))) * 0.2
    zeros = np.zeros((k, e))
    return JointNumbers(
        logits=rng.normal(size=k),
        means=np.concatenate([zeros, 1.3 * rng.normal(size=(k, e))], axis=1),
        factors=factors,
        logit_rates=rng.normal(size=k),
        mean_rates=np.concatenate([zeros, rng.normal(size=(k, e))], axis=1),
        factor_rates=rates,
        frame=np.linalg.qr(rng.normal(size=(dim, dim)))[0],
        rest_std=float(rng.uniform(0.4, 1.3)),
    )
