"""The audit where the truth is known: exact tilts, NFT's exact law, best of n, a wrong base."""

from __future__ import annotations

import numpy as np
import torch
from scipy import integrate, optimize, stats

from tests.theory.audit.known_rewards import best_of_rewards, nft_rewards
from theory.audit import audit, verdict
from theory.audit.data.inputs import audit_data
from theory.audit.known_truth import Planted, alarm_rate, coverage, tilt_interval, tilted_rewards
from theory.common.tolerances import FALSE_FAILURE_RATE
from theory.problems.problem import load_problem


def within(rate, times, chance):
    """Whether a rate of so many draws is one of that chance."""
    hits = round(rate * times)
    low, high = stats.binom.cdf(hits, times, chance), stats.binom.sf(hits - 1, times, chance)
    return min(low, high) > FALSE_FAILURE_RATE


def test_intervals_cover_exact_tilts():
    rate = coverage("linear_1d", 1.0, 400, 150)
    assert within(rate, 150, 0.95)
    assert not within(0.8, 150, 0.95)  # of intervals that are a third too narrow


def test_what_is_not_done_is_not_found():
    assert within(alarm_rate(Planted(300), 40, 39), 40, 0.05)


def test_a_lost_mode_is_found():
    assert alarm_rate(Planted(6000, lost=1.0), 3, 39) == 1.0


def test_a_base_of_another_model_is_no_tilt():
    found = audit(Planted(3000, wrong_base=0.3).draw(0), permutations=99, wrappers=("linear",))
    assert found.conditional.p_value == 0.01
    assert any("base samples of another model" in line for line in verdict(found))


def test_the_tilt_of_nfts_exact_law_is_the_likeliest():
    """Two large samples of one size: E_base log(1 - p) + E_nft log p at its maximum, by a grid of
    quantiles and scipy; and the wrapper exp(a r) is not what NFT samples."""
    base, tuned = nft_rewards(load_problem("note_1d"), 1.0, 3000)
    found = tilt_interval(base, tuned)

    def loss(x):
        return (
            np.logaddexp(0, x[0] * base + x[1]).mean()
            + np.logaddexp(0, -x[0] * tuned - x[1]).mean()
        )

    best = optimize.minimize(loss, np.zeros(2)).x[0]
    assert abs(found.value - best) < 0.01 * found.error
    assert not found.low < 2.0 < found.high  # 2/nft_beta, which the law is said to have
    report = audit(audit_data(base, tuned), wrappers=("linear",))
    assert not report.wrappers.of("exponential").explains


def test_best_of_n_is_told_by_its_n():
    """n = 4 in prompts of laws of their own, within three standard errors of sampling."""
    data = best_of_rewards(150, 4, 12, np.random.default_rng(0))
    found = audit(data, wrappers=("best_of_n",)).wrappers
    assert found.best.name == "best_of_n"
    assert found.best.explains
    assert not found.of("exponential").explains
    # Fisher's information of n per tuned row is 1/n^2; F is estimated: twice the variance.
    assert abs(found.best.fitted.parameters["n"] - 4) < 3 * 4 * np.sqrt(2 / (150 * 12))


def test_exact_draws_are_of_the_tilted_law():
    """Mean reward of the draws against int r p exp(a r) / int p exp(a r), by quadrature."""
    problem = load_problem("note_1d")
    base, tuned = tilted_rewards(problem, 2.0, 20_000, 0)

    def weight(x, power):
        point = torch.tensor([[x]], dtype=torch.float64)
        r = float(problem.reward(point))
        return r**power * np.exp(2 * r + float(problem.base.log_density(point)))

    top, bottom = (integrate.quad(weight, -8, 8, (k,), limit=200)[0] for k in (1, 0))
    assert abs(tuned.mean() - top / bottom) < 5 * tuned.std() / np.sqrt(len(tuned))
    assert abs(base.mean() - top / bottom) > 10 * base.std() / np.sqrt(len(base))
