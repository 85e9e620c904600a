"""Section 2.1's kernels: what they multiply out to, and what is printed."""

from __future__ import annotations

import numpy as np
import pytest

from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE
from theory.ledger.oracle.gflownet.printed_noise import as_printed, multiplied

LEVELS = np.array([0.05, 0.2, 0.5, 0.9])


def test_standard_deviations_preserve_variance():
    """sqrt(1 - ratio) as a standard deviation: factor sqrt(a_t / a_T), variance 1 - a_t / a_T."""
    found = multiplied(LEVELS)
    assert ALGEBRA.holds(found.factor, np.sqrt(LEVELS[:-1] / LEVELS[-1]))
    assert ALGEBRA.holds(found.variance, 1 - LEVELS[:-1] / LEVELS[-1])
    assert not ALGEBRA.holds(multiplied(LEVELS, as_variance=True).variance, found.variance)
    assert not ALGEBRA.holds(as_printed(LEVELS).factor, found.factor)


def test_variances_by_draws():
    found, rng, n = multiplied(LEVELS, as_variance=True), np.random.default_rng(0), 400_000
    x = np.ones(n)
    for t in (2, 1, 0):
        ratio = LEVELS[t] / LEVELS[t + 1]
        x = np.sqrt(ratio) * x + (1 - ratio) ** 0.25 * rng.standard_normal(n)
        bound = found.variance[t] * np.sqrt(-4 * np.log(FALSE_FAILURE_RATE) / n)
        assert abs(x.var() - found.variance[t]) < bound
        assert abs(x.var() - multiplied(LEVELS).variance[t]) > bound


def test_the_printed_end_is_no_law_for_clean_data():
    assert np.isnan(as_printed(np.array([0.1, 0.5, 1.0])).variance).all()
    assert not np.isnan(as_printed(np.array([0.1, 0.2, 0.4])).variance).any()
    with pytest.raises(ValueError, match="a must be three levels or more"):
        multiplied(np.array([0.5, 0.1, 0.9]))
