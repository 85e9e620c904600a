"""released, N2 given X_t: the mean loss at and about the old copy, and how far it can move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from theory.ledger.core import Array, Identity, path_points
from theory.ledger.liu.identities import covariance
from theory.ledger.oracle import conditional
from theory.ledger.oracle.released import loss as released_loss
from theory.ledger.settings.problems import Problems, Setting
from theory.methods.matching.reward_mapping import SPREAD
from theory.problems.problem import Problem
from theory.tilts.moments import reward_moments

SETTINGS = Problems()


def spread_of_target(s: Setting) -> float:
    """tr Cov(Y | x), Y = X_1 - X_0: Cov(X_1 | x) / (1 - t)^2."""
    inside = s.problem.base_field.posterior_covariance(s.point, s.t)[0]
    return float(torch.diagonal(inside).sum()) / (1 - s.t) ** 2


def branch_mean(s: Setting, share: float = 1.0) -> float:
    """tr Cov(Y | x) + b^2 |D|^2 at the student that is D = x away from the old copy."""
    return spread_of_target(s) + share * s.nft_beta**2 * float(s.x @ s.x)


def mean_values(s: Setting, share: float = 1.0, pull: float = -4.0) -> Array:
    """E|v+ - Y|^2, E|v- - Y|^2 and the mean loss there: what the reward adds is -4 b D.C."""
    mean = branch_mean(s, share)
    return np.array([mean, mean, mean + pull * s.nft_beta * float(s.x @ covariance(s))])


def least_value(s: Setting, factor: float = 4.0) -> Array:
    """tr Cov(Y | x) - 4 |C|^2: nft_beta has gone."""
    c = covariance(s)
    return np.array(spread_of_target(s) - factor * float(c @ c))


def _least_by_quadrature(s: Setting) -> Array:
    best = conditional.nft_minimiser(s.case, s.x, s.at, s.nft_beta)
    step = best - conditional.velocity(s.case, s.x, s.at)
    return np.array(released_loss.branch_means(s.case, s.x, s.at, s.nft_beta, step)[2])


def _mean_size(s: Setting) -> float:
    return 1.0 + branch_mean(s)


GIVEN_PARTS = (
    Identity(
        "mean gradient -4 beta Cov(r, Y | x)",
        SETTINGS,
        lambda s: -4 * s.nft_beta * covariance(s),
        lambda s: released_loss.gradient_at_old(s.case, s.x, s.at, s.nft_beta),
        {
            "no reward in it": lambda s: 0 * covariance(s),
            "sign": lambda s: 4 * s.nft_beta * covariance(s),
            "2 for 4": lambda s: -2 * s.nft_beta * covariance(s),
        },
        lambda s: 1.0 + 4 * s.nft_beta * s.spread,
        role="instead",
        dims=(1, 2),
    ),
    Identity(
        "mean |v+ - Y|² = mean |v- - Y|², at any student",
        SETTINGS,
        mean_values,
        lambda s: released_loss.branch_means(s.case, s.x, s.at, s.nft_beta, s.x),
        {
            "the step left out": lambda s: mean_values(s, 0.0),
            "2 for 4 in what the reward adds": lambda s: mean_values(s, pull=-2.0),
            "nothing added": lambda s: mean_values(s, pull=0.0),
        },
        _mean_size,
        role="instead",
        dims=(1, 2),
        share=0.6,
    ),
    Identity(
        "least mean loss tr Cov(Y | x) - 4 |C|²",
        SETTINGS,
        least_value,
        _least_by_quadrature,
        {
            "2 for 4": lambda s: least_value(s, 2.0),
            "4/beta for 4": lambda s: least_value(s, 4 / s.nft_beta),
            "nothing falls": lambda s: least_value(s, 0.0),
        },
        _mean_size,
        role="instead",
        dims=(1, 2),
        share=0.6,
    ),
)


NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)


TIMES = 0.5 * (NODES + 1)


@dataclass(frozen=True)
class Sizes:
    """floor = E[tr Cov(Y | X_t)], pull = E|C|² for r in units of its standard deviation, over X_t
    and over t on [0, 1] by weights; tightest: the largest |C|² / (Var(r | x) tr Cov(Y | x))."""

    floor: float
    pull: float
    tightest: float

    @property
    def fall(self) -> float:
        """What the released mapping lets the loss fall by, as a share of it."""
        return 4 * self.pull / SPREAD**2 / self.floor


def sizes(problem: Problem, draws: int) -> Sizes:
    """Times weigh as (1 - t)^2, as the loss on predictions of the data has them."""
    generator = torch.Generator().manual_seed(7)
    floor = pull = tightest = 0.0
    spread = reward_moments(problem.base, problem.moments)[1]
    for t, weight in zip(TIMES.tolist(), (0.5 * WEIGHTS).tolist(), strict=True):
        x = path_points(problem, t, draws, generator)
        post = problem.base_field.posterior(x, t)
        trace = torch.diagonal(post.covariance(), dim1=-2, dim2=-1).sum(-1)  # (1 - t)^2 tr Cov(Y)
        c = (1 - t) * problem.conditional_reward.covariance(x, t) / spread
        series = problem.moments.series(post, 2)
        inside = (2 * series.F[..., 2] - series.F[..., 1] ** 2) / spread**2
        floor += weight * float(trace.mean())
        pull += weight * float((c**2).sum(-1).mean())
        tightest = max(tightest, float(((c**2).sum(-1) / (inside * trace)).max()))
    return Sizes(floor, pull, tightest)
