"""Is a problem worth asking? How far its target lies from its base, and from the first-order one.

Named problems must have W1(base, target) >= 0.3 standard deviations and TV between exp(a r) and
1 + a r of at least 0.05, so that a network that learned nothing, or only the first order, fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from theory.evaluation.grids import TAIL_STDS, mixture_on_grid
from theory.laws.distances import grid_distances
from theory.problems.problem import Problem
from theory.tilts.wrappers import Exponential, TruncatedExponential

LEAST_SHIFT = 0.3
LEAST_FIRST_ORDER_GAP = 0.05
DRAWS = 20_000


@dataclass(frozen=True)
class Nontriviality:
    """shift: W1 over standard deviations; first_order_gap: TV of exp and `polynomial`."""

    shift: float
    first_order_gap: float
    polynomial: str


def nontriviality(problem: Problem) -> Nontriviality:
    """Measure both; the shift along the line from the base's mean to the target's (a lower bound).

    Where 1 + a r is no density, the lowest truncated exponential that is one stands in.
    """
    target = problem.tilt(Exponential(problem.scale))
    if target.law is None:
        raise ValueError(
            f"problem {problem.name!r} has no mixture as exponential tilt: must be one whose "
            "reward has a closed form"
        )
    step = target.expectation() - problem.base.expectation()
    line = (step / step.norm())[None, :]
    base, tilted = problem.base.affine(line), target.law.affine(line)
    std = base.cov[..., 0, 0].sqrt()
    ends = torch.stack([base.mean[:, 0] - TAIL_STDS * std, base.mean[:, 0] + TAIL_STDS * std])
    axis = np.linspace(float(ends.min()), float(ends.max()), 2001)
    shift = grid_distances(mixture_on_grid(base, (axis,)), mixture_on_grid(tilted, (axis,)))["W1"]

    for order in (1, 2):
        try:
            polynomial = problem.tilt(TruncatedExponential(problem.scale, order))
            break
        except ValueError:
            if order == 2:
                raise
    # TV as a mean over draws of the base: no grid, any d, a relative error of about 1 %.
    x = problem.base.sample(DRAWS, torch.Generator().manual_seed(0)).to(problem.base.dtype)
    own = problem.base.log_density(x)
    gap = (target.log_density(x) - own).exp() - (polynomial.log_density(x) - own).exp()
    return Nontriviality(
        shift.value / float(base.covariance()[0, 0].sqrt()),
        0.5 * float(gap.abs().mean()),
        polynomial.wrapper.label,
    )
