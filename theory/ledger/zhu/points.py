"""zhu, Z1 to Z3: ratios, guidance and scores at one point and time."""

from __future__ import annotations

import numpy as np
import torch

from theory import GaussianSum, Power, Problem, bump_reward
from theory.common.tolerances import ALGEBRA
from theory.fields.paths import PATHS
from theory.ledger.core import Array, Context, Finding, Identity, number, row
from theory.ledger.oracle import conditional
from theory.ledger.settings.problems import Problems, Setting

EVERY_PATH = tuple(PATHS)


ANY_PATH = Problems(paths=EVERY_PATH)


POSITIVE_PATH = Problems(kinds=("bumps",), paths=EVERY_PATH)


def ratio_of_marginals(s: Setting) -> float:
    """p+_t(x) / p_old_t(x), by the closed densities of the two noised mixtures."""
    path, t = s.route_path, s.time
    weighted = s.problem.tilt(Power(1)).law
    assert weighted is not None
    above = weighted.noised(s.point, path.alpha(t), path.sigma(t)).log_abs
    below = s.problem.base.noised(s.point, path.alpha(t), path.sigma(t)).log_abs
    return float((above - below).exp()[0])


def mean_of_reward(s: Setting) -> float:
    """E[r] under the base."""
    return float(s.problem.tilt(Power(1)).log_z.exp())


Z1_PARTS = (
    Identity(
        "p+_t / p_old_t E[r] = m_t",
        POSITIVE_PATH,
        lambda s: np.array(ratio_of_marginals(s) * mean_of_reward(s)),
        lambda s: np.array(conditional.mean_reward(s.case, s.x, s.at)),
        {
            "without E[r]": lambda s: np.array(ratio_of_marginals(s)),
            "ratio turned over": lambda s: np.array(mean_of_reward(s) / ratio_of_marginals(s)),
            "weighted by r twice": lambda s: np.array(
                ratio_of_marginals(s) ** 2 * mean_of_reward(s)
            ),
        },
        lambda s: s.spread,
    ),
)


def guidance(s: Setting) -> Array:
    """m_t (v+ - v_old), v+ the velocity of the reward-weighted law."""
    gap = s.problem.reward_weighted_field()(s.point, s.t) - s.problem.base_field(s.point, s.t)
    return row(s.problem.conditional_reward.mean(s.point, s.t)[:, None] * gap)


def gradient_by_quadrature(s: Setting) -> Array:
    return conditional.mean_reward_gradient(s.case, s.x, s.at)


def eta_by_hand(s: Setting) -> float:
    """sigma (sigma alpha'/alpha - sigma'), from the second route's path."""
    at = s.at
    return at.sigma * (at.sigma * at.dalpha / at.alpha - at.dsigma)


def _guidance_size(s: Setting) -> float:
    return s.spread * (abs(s.at.dalpha) + abs(s.at.dsigma))


def factor_is_not_two_over_beta(context: Context) -> Finding:
    """One Gaussian, one bump, t = 1/2, nft_beta = 1: the factor is eta = 1, 2/nft_beta is 2."""
    base = GaussianSum.mixture([1.0], [[0.0]], stds=[1.0])
    problem = Problem("N(0, 1)", base, bump_reward(1.0, [1.0], width=1.0))
    x = torch.tensor([[-0.5], [0.3], [1.2]], dtype=torch.float64)
    reward = problem.conditional_reward
    gap = problem.reward_weighted_field()(x, 0.5) - problem.base_field(x, 0.5)
    ratio = (reward.mean(x, 0.5)[:, None] * gap / reward.gradient(x, 0.5)).numpy()
    error = ALGEBRA.error(ratio, np.ones_like(ratio))
    return Finding(
        name="N(0, 1), one bump, t = 1/2, nft_beta = 1: the factor is 1",
        role="support",
        kind="exact",
        holds=error <= ALGEBRA.rtol,
        figure=f"factor 1 within {number(error)}; the 2/beta that is printed beside it is 2",
        numbers={"error": error},
        worst="N(0, 1), bump of width 1 at 1",
        mutants={"2/beta": ALGEBRA.error(ratio, 2 * np.ones_like(ratio)) > ALGEBRA.rtol},
    )


Z2_PARTS = (
    Identity(
        "m_t (v+ - v_old) = eta_t grad m_t on every path (eta = (1 - t)/t on the RF path)",
        POSITIVE_PATH,
        guidance,
        lambda s: eta_by_hand(s) * gradient_by_quadrature(s),
        {
            "factor 1": lambda s: guidance(s) / eta_by_hand(s),
            "factor 2/beta": lambda s: 2 / s.nft_beta * guidance(s) / eta_by_hand(s),
            "sign": lambda s: -guidance(s),
            "not times m_t": lambda s: (
                guidance(s) / float(s.problem.conditional_reward.mean(s.point, s.t)[0])
            ),
        },
        _guidance_size,
    ),
    factor_is_not_two_over_beta,
)


def implied_score(s: Setting, factor: float) -> Array:
    """The score that velocity v_old + factor Cov(V, r | x) implies on the path."""
    velocity = s.problem.cumulant_field(factor, 1)(s.point, s.t)
    return row(s.route_path.convert(velocity, s.point, s.t, "velocity", "score"))


Z3_PARTS = (
    Identity(
        "score of v* = s_old + (2/beta) grad m_t",
        ANY_PATH,
        lambda s: implied_score(s, 2 / s.nft_beta),
        lambda s: conditional.score(s.case, s.x, s.at) + 2 / s.nft_beta * gradient_by_quadrature(s),
        {
            "1/beta for 2/beta": lambda s: implied_score(s, 1 / s.nft_beta),
            "sign": lambda s: implied_score(s, -2 / s.nft_beta),
            "the velocity for its score": lambda s: row(
                s.problem.nft_field(s.nft_beta)(s.point, s.t)
            ),
        },
        lambda s: (1 + 2 / s.nft_beta * s.spread) / s.at.sigma,
    ),
)
