"""liu, L12: noise of gradients on the note's toy, at random problems, and in a network."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from theory.laws.distances import Array
from theory.ledger.liu.noise import MarginalNoise, noise_moments
from theory.ledger.settings.unit import UnitRewards
from theory.problems.problem import load_problem

TOY = "note_1d"


MATCHED = 1.0  # the beta whose v* has the note's weight 1 + 2r


def pointwise_ratios(count: int, seed: int) -> dict[str, Array]:
    """NFT's noise over that of 1 + 2r at random problems, points and times with r in [0, 1];
    level: E[(2r - 1)^2] given x."""
    rows: dict[str, list[float]] = {"v0": [], "optimum": [], "level": []}
    domain = UnitRewards()
    for i in range(count):
        s = domain.draw((1, 1, 5)[i % 3], seed + i)
        m = noise_moments(s.problem, s.point, s.t)
        own = float(m.nft(MATCHED)[0])
        rows["v0"].append(own / float(m.weighted(2.0)[0]))
        rows["optimum"].append(own / float(m.weighted(2.0, "optimum")[0]))
        rows["level"].append(float(1 - 4 * m.mean[0] + 4 * m.powers[0, 2]))
    return {k: np.array(v) for k, v in rows.items()}


@lru_cache(maxsize=1)
def toy() -> MarginalNoise:
    """The note's mixture and bump, over all of X_t and t."""
    return MarginalNoise.of(load_problem(TOY))


RANGES = ((0.0, 1.0), (0.0, 0.1), (0.9, 1.0), (0.4, 0.6))


def network_ratio(
    low: float, high: float, n: int, seed: int, width: int = 16
) -> tuple[float, float]:
    """(ratio, standard error) of the noise of parameter gradients at v_0, over the scalar
    curvature E[weight |J|^2]: v = v_0 + a tanh network with two hidden layers whose last layer is
    zero but for its gradient, so that every layer's direction J counts through a small one.

    Standard error over 20 batches.
    """
    generator = torch.Generator().manual_seed(seed)
    problem = load_problem(TOY)
    normal = {"generator": generator, "dtype": torch.float64}
    x1 = problem.base.sample(n, generator)
    x0 = torch.randn(n, 1, **normal)  # type: ignore[call-overload]
    t = torch.rand(n, **normal)  # type: ignore[call-overload]
    x = t[:, None] * x1 + (1 - t[:, None]) * x0
    r = low + (high - low) * problem.reward(x1)
    D = (x1 - x0 - problem.base_field(x, t))[:, 0]
    jacobian = _network_jacobian(torch.cat([x, t[:, None]], 1), width, generator)
    nft, other = -(2 * r - 1) * D, -(1 + 2 * r) * D
    size = (jacobian**2).sum(1)
    nft_curve, other_curve = size.mean(), ((1 + 2 * r) * size).mean()

    def noise(g: torch.Tensor) -> torch.Tensor:
        batches = (g[:, None] * jacobian).reshape(20, n // 20, -1)
        return ((batches - batches.mean(1, keepdim=True)) ** 2).sum(-1).mean(1)

    ratios = (noise(nft) / nft_curve**2) / (noise(other) / other_curve**2)
    return float(ratios.mean()), float(ratios.std() / 20**0.5)


def _network_jacobian(inputs: torch.Tensor, width: int, generator: torch.Generator) -> torch.Tensor:
    """Derivatives of a network's output in all its parameters, (n, parameters)."""
    normal = {"generator": generator, "dtype": torch.float64}
    W1 = torch.randn(width, inputs.shape[1], **normal)  # type: ignore[call-overload]
    W2 = torch.randn(width, width, **normal) / width**0.5  # type: ignore[call-overload]
    w3 = torch.randn(width, **normal) / width**0.5  # type: ignore[call-overload]
    h1 = torch.tanh(inputs @ W1.T)
    h2 = torch.tanh(h1 @ W2.T)
    back2 = w3 * (1 - h2**2)
    back1 = (back2 @ W2) * (1 - h1**2)
    parts = [h2, back2[:, :, None] * h1[:, None, :], back2, back1[:, :, None] * inputs[:, None, :]]
    rows = [p.reshape(len(inputs), -1) for p in (*parts, back1, torch.ones_like(h1[:, :1]))]
    return torch.cat(rows, 1)
