"""Mixtures as plain numbers, their densities by torch.distributions, and integrals on grids.

Nothing here uses theory's formulas: it is the second route of the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import settings
from torch import Tensor, distributions

from theory.common.tolerances import FALSE_FAILURE_RATE
from theory.laws.gaussians import GaussianSum

FEW = settings(derandomize=True, deadline=None, max_examples=20)


def tensor(*values) -> Tensor:
    """Numbers as a float64 tensor."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


@dataclass(frozen=True)
class Plain:
    """A mixture as numbers: weights (K,), means (K, d), covs (K, d, d)."""

    weights: Tensor
    means: Tensor
    covs: Tensor

    @property
    def law(self) -> GaussianSum:
        return GaussianSum.mixture(self.weights, self.means, covs=self.covs)

    @property
    def reference(self) -> distributions.MixtureSameFamily:
        return distributions.MixtureSameFamily(
            distributions.Categorical(self.weights),
            distributions.MultivariateNormal(self.means, self.covs),
        )

    def density(self, x: Tensor) -> Tensor:
        return self.reference.log_prob(x).exp()


LINE = Plain(
    tensor(0.55, 0.3, 0.15), tensor([[-1.0], [0.6], [2.3]]), tensor([[[0.5]], [[0.9]], [[0.15]]])
)
LINE_B = Plain(tensor(0.8, 0.2), tensor([[0.4], [-1.7]]), tensor([[[0.7]], [[0.3]]]))
PLANE = Plain(
    tensor(0.5, 0.2, 0.3),
    tensor([[-1.0, 0.4], [1.1, 1.0], [0.3, -1.2]]),
    tensor([[[0.6, 0.3], [0.3, 0.4]], [[0.3, -0.1], [-0.1, 0.7]], [[0.5, 0.05], [0.05, 0.2]]]),
)
PLANE_B = Plain(
    tensor(0.35, 0.65),
    tensor([[0.5, -0.3], [-0.8, 0.9]]),
    tensor([[[0.8, -0.4], [-0.4, 0.6]], [[0.4, 0.1], [0.1, 0.9]]]),
)
SPACE = Plain(
    tensor(0.7, 0.3),
    tensor([[-0.5, 0.4, 0.1], [0.9, -0.2, 0.8]]),
    tensor(
        [
            [[0.6, 0.2, -0.1], [0.2, 0.5, 0.15], [-0.1, 0.15, 0.4]],
            [[0.3, -0.1, 0.05], [-0.1, 0.7, 0.2], [0.05, 0.2, 0.8]],
        ]
    ),
)
BY_DIM = {1: (LINE, LINE_B), 2: (PLANE, PLANE_B)}
ALL = {"line": LINE, "plane": PLANE, "space": SPACE}


def random_plain(seed: int, dim: int, k: int) -> Plain:
    """An asymmetric mixture with condition numbers below about 50."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(k, 3.0))
    roots = 0.4 * rng.normal(size=(k, dim, dim))
    covs = roots @ roots.swapaxes(-1, -2) + 0.15 * np.eye(dim)
    covs = 0.5 * (covs + covs.swapaxes(-1, -2))
    return Plain(*map(torch.as_tensor, (weights, rng.normal(size=(k, dim)), covs)))


def points(n: int, dim: int, seed: int = 0, spread: float = 1.5) -> Tensor:
    """n points (n, dim)."""
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n, dim, dtype=torch.float64, generator=generator)


def size(values: Tensor) -> float:
    """The largest absolute value: the scale of a comparison where values cross zero."""
    return float(values.abs().max())


def grid(dim: int, half: float = 12.0, count: int | None = None) -> tuple[Tensor, float]:
    """(points (n, dim), cell): the trapezoidal rule, exact to rounding for smooth densities."""
    axis = torch.linspace(-half, half, count or {1: 2401, 2: 241}[dim], dtype=torch.float64)
    mesh = torch.meshgrid(*[axis] * dim, indexing="ij")
    return torch.stack([m.reshape(-1) for m in mesh], -1), float(axis[1] - axis[0]) ** dim


def integral(f: Callable[[Tensor], Tensor], dim: int) -> Tensor:
    """int f over R^dim of a smooth f that decays; f: (n, dim) -> (n, ...)."""
    y, cell = grid(dim)
    return f(y).sum(0) * cell


def derivative(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient at every point of f (n, d) -> (n,), or derivative of f (n,) -> (n,)."""
    place = x.detach().clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(f(place).sum() + 0 * place.sum(), place)
    return slope


def ks_bound(n: int, checks: int = 1) -> float:
    """sup|F_n - F| stays below this but for FALSE_FAILURE_RATE (Dvoretzky-Kiefer-Wolfowitz)."""
    return math.sqrt(math.log(2 * checks / FALSE_FAILURE_RATE) / (2 * n))


def ks_distance(sample: Tensor, cdf: Callable[[np.ndarray], np.ndarray]) -> float:
    """sup|F_n - F| of draws (n,)."""
    values = cdf(np.sort(sample.numpy()))
    n = len(values)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - values).max(), (values - steps[:-1]).max()))


def stack(laws: Sequence[Plain]) -> GaussianSum:
    """A batch of mixtures of one shape."""
    return GaussianSum.mixture(
        torch.stack([p.weights for p in laws]),
        torch.stack([p.means for p in laws]),
        covs=torch.stack([p.covs for p in laws]),
    )
