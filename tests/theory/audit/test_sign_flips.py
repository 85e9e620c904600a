"""Sign flips: exact where all are counted, close where drawn, ends where the decision turns."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from tests.theory.audit.synthetic import SIGMAS, statistic
from theory.audit.estimators.sign_flips import DRAWS, ENUMERATED, LARGEST, interval, p_value
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE

LEVEL = 0.05
RANGE = stats.binom(8000, LEVEL)


@pytest.mark.parametrize("count", [1, 2, 6, ENUMERATED])
def test_all_signs_are_counted(count):
    u = np.random.default_rng(count).normal(0.4, 1, size=count)
    signs = np.array(list(product([-1.0, 1.0], repeat=count)))
    far = np.abs(statistic(signs * u)) >= np.abs(statistic(u)) - 1e-12
    assert ALGEBRA.holds(p_value(u), far.mean())


@pytest.mark.parametrize("count", [ENUMERATED + 3, LARGEST, LARGEST + 1, 400])
def test_many_terms_by_draws_of_their_own(count):
    """Of sizes that fall like 1/k: the largest matter one by one, the others together."""
    rng = np.random.default_rng(count)
    u = rng.choice([-1.0, 1.0], size=count) / np.arange(1, count + 1)
    u[0] = abs(u[0])
    signs = rng.choice([-1.0, 1.0], size=(40_000, count))
    own = (np.abs(statistic(signs * u)) >= abs(statistic(u))).mean()
    error = np.sqrt(own * (1 - own) * (1 / DRAWS + 1 / 40_000))
    assert abs(p_value(u) - own) < SIGMAS * error + 1 / DRAWS
    normal = 2 * stats.norm.sf(abs(u.sum()) / np.linalg.norm(u))
    assert abs(normal - own) > SIGMAS * np.sqrt(own * (1 - own) / 40_000) or count < LARGEST


def test_level_is_held_however_unlike_the_terms_are():
    """Scales from 1 to 1e3, one far above all: where a t-test of the terms is wrong by much."""
    rng = np.random.default_rng(0)
    scale = np.concatenate([[1e5], np.geomspace(1, 1e3, 9)])
    draws = scale * rng.standard_t(3, size=(4000, 10))
    refused = sum(p_value(u) <= LEVEL for u in draws)
    by_t = (stats.ttest_1samp(draws, 0, axis=1).pvalue <= LEVEL).sum()
    law = stats.binom(4000, LEVEL)
    ends = law.ppf(FALSE_FAILURE_RATE / 2), law.isf(FALSE_FAILURE_RATE / 2)
    assert ends[0] <= refused <= ends[1]
    assert not ends[0] <= by_t <= ends[1]


@pytest.mark.parametrize("count", [30, pytest.param(LARGEST + 6, marks=pytest.mark.slow)])
def test_level_is_held_by_skew_terms(count):
    """Exponential ones less their mean: flips of the sum alone refuse the truth too often."""
    rng = np.random.default_rng(count)
    draws = rng.exponential(size=(8000, count)) - 1
    refused = sum(p_value(u) <= LEVEL for u in draws)
    sums = np.abs(draws.sum(1)) / np.linalg.norm(draws, axis=1)
    alone = (sums >= stats.norm.isf(LEVEL / 2)).sum()
    ends = RANGE.ppf(FALSE_FAILURE_RATE / 2), RANGE.isf(FALSE_FAILURE_RATE / 2)
    assert refused <= ends[1] < alone


def test_no_term_is_far():
    assert p_value(np.zeros(7)) == 1


def check_level(count, seed=0):
    """p-values of all of 12 and of many skew terms, as drawn signs have them."""
    u = np.random.default_rng((count, seed)).exponential(size=count) ** 2 - 0.8
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=(40_000, count))
    if count <= ENUMERATED:
        signs = np.array(list(product([-1.0, 1.0], repeat=count)))
    own = (np.abs(statistic(signs * u)) >= abs(statistic(u)) - 1e-12).mean()
    if count <= ENUMERATED:
        return ALGEBRA.holds(p_value(u), own)
    return abs(p_value(u) - own) < SIGMAS * np.sqrt(own * (1 - own) * (1 / DRAWS + 1 / 40_000))


def check_levels():
    return all(check_level(ENUMERATED, seed) for seed in range(9)) and check_level(LARGEST + 6)


def test_skew_terms():
    assert check_levels()


@pytest.mark.parametrize("bent", [0.0, 0.3])
@pytest.mark.parametrize("count", [10, 40])
def test_ends_are_where_the_decision_turns(bent, count):
    rng = np.random.default_rng(count)
    noise, weight = rng.normal(size=count), rng.uniform(0.2, 3, size=count)
    noise -= weight * noise.sum() / weight.sum()

    def terms(x):
        return noise - weight * (x + bent * np.tanh(x) * abs(x))

    for end in interval(terms, weight, LEVEL, 0.5, 0.0):
        assert p_value(terms(0.96 * end)) > LEVEL
        assert p_value(terms(1.04 * end)) <= LEVEL


def test_terms_that_differ_in_nothing():
    none = np.zeros(12)
    assert interval(lambda x: none - x, np.ones(12), LEVEL, 0.0, 0.0) == (0.0, 0.0)


def test_too_few_terms_reach_no_end():
    """Of four signs 1/8 agree: no level of 5 % is ever reached."""
    low, high = interval(lambda x: np.full(4, -x), np.ones(4), LEVEL, 1.0, 0.0)
    assert (low, high) == (-np.inf, np.inf)
