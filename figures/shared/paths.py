"""Draws along the path of a problem, for questions about the noise of a step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from theory.problems.problem import Problem


class PathDraws(NamedTuple):
    """x_1; Y = X_1 - X_0; the base's velocity at (X_t, t), t uniform; Cov(Y, r | X_t) there."""

    x1: Tensor
    y: Tensor
    old: Tensor
    cov: Tensor


def path_draws(problem: Problem, count: int, seed: int) -> PathDraws:
    """`count` of them."""
    generator = torch.Generator().manual_seed(seed)
    x1 = problem.base.sample(count, generator)
    x0 = torch.randn(x1.shape, generator=generator, dtype=x1.dtype)
    t = torch.rand(count, generator=generator, dtype=x1.dtype)
    x = t[:, None] * x1 + (1 - t[:, None]) * x0
    old = problem.base_field(x, t)
    # (2/nft_beta) Cov is the step of NFT's optimum, at nft_beta = 2.
    return PathDraws(x1, x1 - x0, old, problem.nft_field(2.0)(x, t) - old)
