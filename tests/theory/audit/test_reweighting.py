"""Weights and the lower bound of KL against loops and Gaussian closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import special

from tests.theory.audit.synthetic import SIGMAS, data_of, gaussians
from theory.audit.estimators.reweighting import kl_bound, reweighted
from theory.audit.families.families import FAMILIES
from theory.common.tolerances import ALGEBRA, QUADRATURE


@pytest.mark.parametrize("shift", [0.0, 5000.0])
def test_weights_by_prompt(shift):
    pooled = gaussians(np.random.default_rng(0), 4, 9, 5, 0.5).pooled
    logs = np.random.default_rng(1).normal(scale=2, size=len(pooled)) + shift
    found = reweighted(logs, pooled)
    weights, largest = [], 0.0
    for g in range(4):
        own = special.softmax(logs[(pooled.prompt == g) & pooled.is_base])
        weights += own.tolist()
        largest = max(largest, own.max())
        assert QUADRATURE.holds(found.effective[g], own.sum() ** 2 / (own**2).sum())
    assert QUADRATURE.holds(found.weights, weights)
    assert QUADRATURE.holds(found.largest, largest)
    assert QUADRATURE.holds(found.total, found.effective.sum())
    whole = special.softmax(logs[pooled.is_base])
    assert not QUADRATURE.holds(found.weights, whole)


def test_no_tilt_keeps_all_samples():
    pooled = gaussians(np.random.default_rng(0), 3, 7, 5, 0.5).pooled
    found = reweighted(np.zeros(len(pooled)), pooled)
    assert ALGEBRA.holds(found.effective, np.full(3, 7.0))
    assert ALGEBRA.holds(kl_bound(np.full(len(pooled), 3.0), pooled).value + 1, 1.0)


def test_effective_share_of_a_gaussian_tilt():
    """n_eff/n -> exp(-a^2 s^2), the variance being that of a lognormal law."""
    pooled = gaussians(np.random.default_rng(2), 1, 200_000, 10, 0.7).pooled
    found = reweighted(0.7 * pooled.reward, pooled)
    # Of relative variance (E w^4 ...)/n: well within 3 %.
    assert abs(found.total / 200_000 / math.exp(-0.49) - 1) < 0.03
    assert abs(found.total / 200_000 / math.exp(-0.49 / 2) - 1) > 0.1


# --- KL


def test_bound_is_reached_by_the_true_ratio():
    """KL of exp(a r) on N(0, 1) is a^2/2, within the interval's error; a doubled f falls short."""
    a = 0.9
    for prompts, n in ((1, 20_000), (40, 500)):
        pooled = gaussians(np.random.default_rng(3), prompts, n, n, a).pooled
        found = kl_bound(a * pooled.reward, pooled)
        assert abs(found.value - a**2 / 2) < SIGMAS * found.error
        assert found.error < 0.02
        # E_1[f] - log E_0[exp f] of f = c r: c a - c^2/2.
        for c in (0.4, 1.5):
            other = kl_bound(c * pooled.reward, pooled)
            assert abs(other.value - (c * a - c**2 / 2)) < SIGMAS * other.error
            assert other.value < found.value


def test_fitted_ratio_reaches_it_too():
    pooled = gaussians(np.random.default_rng(4), 20, 400, 300, 0.6).pooled
    found = kl_bound(FAMILIES["exponential"].fit(pooled).fit.log_ratio, pooled)
    assert abs(found.value - 0.18) < SIGMAS * found.error
    assert found.low < 0.18 < found.high


def test_bound_is_below_what_rewards_do_not_show():
    """Features that move by d beside the reward: KL = a^2/2 + d^2/2, of which a^2/2 is seen."""
    a, d = 0.6, 0.8
    pooled = gaussians(np.random.default_rng(5), 20, 300, 300, a).pooled
    found = kl_bound(a * pooled.reward, pooled)
    assert found.value + SIGMAS * found.error < a**2 / 2 + d**2 / 2


def replications(draw, a, repeats):
    found = [
        kl_bound(a * p.reward, p)
        for s in range(repeats)
        if (p := draw(np.random.default_rng(s)).pooled)
    ]
    return np.array([f.value for f in found]), np.array([f.error for f in found])


def test_bias_of_the_logarithm_is_taken_off():
    """30 base rows: without it the bound is too high by var/(2 n mean^2) = (exp(a^2) - 1)/60.
    The estimate's linear part, whose mean is known, is taken off: it is most of the noise."""
    a, repeats, gaps = 0.7, 1500, []
    for seed in range(repeats):
        pooled = gaussians(np.random.default_rng(seed), 1, 30, 10, a).pooled
        f = a * (pooled.reward - pooled.reward[0])  # any constant may be added
        mu = np.random.default_rng(seed).normal()
        exact = a * (pooled.reward - mu)
        linear = exact[~pooled.is_base].mean() - a**2
        linear -= np.exp(exact[pooled.is_base] - a**2 / 2).mean() - 1
        gaps.append(kl_bound(f, pooled).value - a**2 / 2 - linear)
    left = SIGMAS * np.std(gaps, ddof=1) / math.sqrt(repeats)
    bias = (math.exp(a**2) - 1) / 60
    # What remains is of second order: a third of it.
    assert left < bias / 3
    assert abs(np.mean(gaps)) < bias / 3 + left
    assert abs(np.mean(gaps) + bias) > bias / 3 + left


@pytest.mark.parametrize(
    ("prompts", "n0", "n1"),
    [(1, 300, 200), (4, 90, 40), pytest.param(25, 40, 30, marks=pytest.mark.slow)],
)
def test_errors_are_those_of_replications(prompts, n0, n1):
    values, errors = replications(lambda rng: gaussians(rng, prompts, n0, n1, 0.5), 0.5, 400)
    # A standard deviation of 400 draws: +- 17 % at the false-failure rate, the rest for kurtosis.
    assert 0.8 < errors.mean() / values.std(ddof=1) < 1.25


def test_prompts_count_by_their_tuned_samples():
    rng = np.random.default_rng(6)
    data = data_of(
        [rng.normal(size=50), rng.normal(size=70)], [1 + rng.normal(size=8), rng.normal(size=40)]
    )
    pooled = data.pooled
    f = 0.5 * pooled.reward
    one = [
        kl_bound(0.5 * p.reward, p).value
        for g in range(2)
        if (p := data.take(data.base.prompt == g, data.tuned.prompt == g).pooled)
    ]
    assert QUADRATURE.holds(kl_bound(f, pooled).value, (8 * one[0] + 40 * one[1]) / 48)
