"""Flows by plain numpy: trapezoidal sums over X_T, with the chain's formulas written out anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.theory.samplers.chain_routes import normal
from theory.samplers.chain import Chain

Array = np.ndarray
STATES = np.array([-2.3, -1.1, -0.2, 0.4, 1.3, 2.6])
NODES, STEP = np.linspace(-14, 14, 14001, retstep=True)


def levels(chain: Chain, k: int) -> tuple[float, float]:
    """(alpha_k, sigma_k) on the rectified flow."""
    if k == chain.steps:
        return 1.0, chain.sigma_end
    t = chain.first_time + (1 - chain.first_time) * k / chain.steps
    return t, 1 - t


def noise(chain: Chain, k: int, later: int) -> tuple[float, float]:
    """(ratio, std) of X_k given X_later."""
    (alpha, sigma), (alpha_later, sigma_later) = levels(chain, k), levels(chain, later)
    ratio = alpha / alpha_later
    return ratio, (sigma**2 - (ratio * sigma_later) ** 2) ** 0.5


@dataclass
class LineRoute:
    """Of a weight W on the line."""

    chain: Chain
    weight: Callable[[Array], Array]

    def joint(self, k: int, x: Array) -> tuple[Array, Array, float]:
        """W(y) q(x | y) at (x, nodes y), x - ratio y, and the noise."""
        ratio, std = noise(self.chain, k, self.chain.steps)
        gap = x[:, None] - ratio * NODES
        return self.weight(NODES) * normal(gap, 0.0, std), gap, std

    def flow(self, k: int, x: Array) -> Array:
        """F_k(x)."""
        if k == self.chain.steps:
            return self.weight(x)
        return self.joint(k, x)[0].sum(1) * STEP

    def score(self, k: int, x: Array) -> Array:
        """grad log F_k(x), by the derivative under the integral; k < T."""
        joint, gap, std = self.joint(k, x)
        return -(joint * gap).sum(1) / std**2 / joint.sum(1)

    def mean(self, k: int, x: Array) -> Array:
        """E[X_T | X_k = x]; k < T."""
        joint = self.joint(k, x)[0]
        return (joint * NODES).sum(1) / joint.sum(1)

    def log_kernel(self, k: int, x: Array, x_next: Array) -> Array:
        """log P_F(x_next | x): Bayes' rule on the joint law."""
        ratio, std = noise(self.chain, k, k + 1)
        backward = normal(x, ratio * x_next, std)
        return np.log(backward * self.flow(k + 1, x_next) / self.flow(k, x))


def mixture(weights: Array, means: Array, stds: Array) -> Callable[[Array], Array]:
    return lambda x: (weights * normal(np.asarray(x)[..., None], means, stds)).sum(-1)
