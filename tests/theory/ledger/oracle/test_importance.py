"""Importance sampling in d = 5 against one Gaussian by regression."""

import numpy as np
import pytest
from scipy import stats

from tests.theory.ledger.oracle.cases import INSTANTS, OneGaussian, mixture
from theory.common.tolerances import FALSE_FAILURE_RATE
from theory.ledger.oracle import conditional, importance
from theory.ledger.oracle.importance import Draw

N = 40_000
AT = INSTANTS["middle"]
HAND = OneGaussian(5, 5, seed=2)


def within(found, truth):
    """Every entry within the normal bound for the false-failure rate, shared between them."""
    value, error = found
    bound = stats.norm.isf(FALSE_FAILURE_RATE / 2 / np.size(truth))
    return bool(np.all(np.abs(value - truth) <= bound * error))


def rng():
    return np.random.default_rng(8)


def drawn() -> Draw:
    return Draw(HAND.case, HAND.x, AT, N, rng())


def test_full_rank_in_five_dimensions():
    b = 0.5
    v, cov = HAND.velocity(AT), HAND.covariance(AT)
    tilted = importance.velocity(drawn(), lambda r: np.exp(0.1 * r))
    assert within(tilted, HAND.velocity(AT, 0.1))
    assert within(importance.velocity(drawn()), v)
    assert not within(importance.velocity(drawn()), 1.2 * v)
    assert within(importance.covariance(drawn()), cov)
    assert not within(importance.covariance(drawn()), 1.2 * cov)
    nft = v + 2 / b * cov
    assert within(importance.nft_minimiser(drawn(), b), nft)
    assert not within(importance.nft_minimiser(drawn(), b), v + cov / b)
    sample = importance._Sample(drawn())
    values = (sample.y @ HAND.w + HAND.constant)[:, None]
    mean = sample.mean(values)
    assert within((mean, sample.error(values - mean)), np.array([HAND.mean_reward(AT)]))


def test_errors_are_the_right_size():
    """Estimates of a mixture, repeated: their spread is what the errors say."""
    case, x, b = mixture(1, "bumps", 2), np.array([0.3, -0.2]), 0.3
    truth = conditional.nft_minimiser(case, x, AT, b)
    scores = []
    for seed in range(40):
        found = importance.nft_minimiser(Draw(case, x, AT, 5000, np.random.default_rng(seed)), b)
        scores.append((found[0] - truth) / found[1])
    total = float((np.array(scores) ** 2).sum())  # about chi-squared with 80 degrees of freedom
    law = stats.chi2(80)
    assert law.ppf(FALSE_FAILURE_RATE / 2) < total < law.isf(FALSE_FAILURE_RATE / 2)
    assert not law.ppf(FALSE_FAILURE_RATE / 2) < 4 * total < law.isf(FALSE_FAILURE_RATE / 2)


def test_draws_have_the_laws_moments():
    y = importance.draws(HAND.case, N, rng())
    bound = stats.norm.isf(FALSE_FAILURE_RATE / 10)
    error = np.sqrt(np.diag(HAND.cov) / N)
    assert np.all(np.abs(y.mean(axis=0) - HAND.mean) < bound * error)
    spread = ((y - HAND.mean) ** 2).mean(axis=0) / np.diag(HAND.cov)
    assert np.all(np.abs(spread - 1) < 1.2 * bound * np.sqrt(2 / N))


def test_refusals():
    with pytest.raises(ValueError, match=r"effective sample size of \d+ out of 2000"):
        importance.velocity(Draw(HAND.case, HAND.x, INSTANTS["late"], 2000, rng()))
    with pytest.raises(ValueError, match="x must have shape"):
        importance.velocity(Draw(HAND.case, np.zeros(4), AT, N, rng()))
    with pytest.raises(ValueError, match="nft_beta must not be 0"):
        importance.nft_minimiser(drawn(), 0.0)
