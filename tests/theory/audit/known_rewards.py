"""Rewards whose tilt is known: NFT's on a named problem, the best of several."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import erfinv

from theory.audit.data.inputs import audit_data
from theory.audit.data.samples import Array, AuditData
from theory.problems.problem import Problem
from theory.samplers.flow import FlowLaw


def nft_rewards(problem: Problem, nft_beta: float, n: int) -> tuple[Array, Array]:
    """The same of base and NFT's exact law on the line, at n even quantiles: no randomness."""
    levels = (np.arange(n) + 0.5) / n
    noise = torch.from_numpy(np.sqrt(2) * erfinv(2 * levels - 1))[:, None]
    found = []
    for field in (problem.base_field, problem.nft_field(nft_beta)):
        found.append(problem.reward(FlowLaw(field).push(noise)).numpy())
    return found[0], found[1]


def best_of_rewards(n: int, of: int, prompts: int, rng: np.random.Generator) -> AuditData:
    """n rewards a prompt and side, tuned ones the best of `of`; prompts differ in law."""
    centre, width = rng.normal(size=(prompts, 1)), np.exp(0.5 * rng.normal(size=(prompts, 1)))
    base = centre + width * rng.normal(size=(prompts, n))
    tuned = centre + width * rng.normal(size=(prompts, n, of)).max(2)
    who = np.repeat(np.arange(prompts), n)
    return audit_data(base.ravel(), tuned.ravel(), who, who)
