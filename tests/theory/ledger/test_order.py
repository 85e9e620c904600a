"""The slope of log error against log parameter, on errors whose order is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, SLOPE
from theory.ledger.core.order import ABOVE_FLOOR, CONFIDENCE, LEAST_POINTS, Slope, fit_slope

EPS = np.geomspace(1e-3, 1e-1, 14)
FLOOR = 1e-16


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pure_power(k):
    slope = fit_slope(EPS, 3.7 * EPS**k, FLOOR)
    assert slope.order == k
    assert slope.is_order
    assert (slope.low, slope.high) == pytest.approx((EPS.min(), EPS.max()))


@pytest.mark.parametrize("k", [1, 2])
def test_bends_are_taken_up(k):
    """Higher orders that change the error by a fifth at the largest parameter."""
    errors = EPS**k * (1 + 2 * EPS - 3 * EPS**2)
    bent = fit_slope(EPS, errors, FLOOR)
    assert bent.is_order
    assert bent.order == k
    straight = fit_slope(EPS, errors, FLOOR, bends=0)
    assert abs(straight.slope - k) > abs(bent.slope - k)


@pytest.mark.parametrize("bends", [0, 1, 2])
def test_floor_is_left_out(bends):
    floor = 1e-8
    errors = 0.3 * EPS**2 + floor
    kept = EPS[errors > ABOVE_FLOOR * floor]
    slope = fit_slope(EPS, errors, floor, bends)
    assert slope.low == kept.min() > EPS.min()
    assert slope.order == 2
    # Without leaving it out the floor is fitted as if it were the error.
    assert fit_slope(EPS, errors + 1e-5, FLOOR, 0).order != 2


def test_interval_holds_the_slope_under_noise():
    """99 % intervals over 200 seeds: a handful may miss. Ten times the noise, ten times the width:
    the fit is linear in log error, so that with the same draws both scale exactly."""
    halves, missed = {}, {}
    for noise in (0.001, 0.01):
        rng = np.random.default_rng(0)
        fits = [
            fit_slope(EPS, EPS**2 * np.exp(noise * rng.normal(size=len(EPS))), FLOOR)
            for _ in range(200)
        ]
        missed[noise] = sum(abs(f.slope - 2) > f.half for f in fits)
        halves[noise] = np.array([f.half for f in fits])
    # Binomial(200, 0.01): 13 and more have probability below the agreed rate.
    most = 12
    assert binom.sf(most, 200, 1 - CONFIDENCE) < FALSE_FAILURE_RATE
    assert max(missed.values()) <= most
    assert ALGEBRA.holds(halves[0.01], 10 * halves[0.001])


@pytest.mark.parametrize("power", [0.5, 1.5, 2.2, 1.85])
def test_no_whole_order(power):
    assert not fit_slope(EPS, EPS**power, FLOOR).is_order


def test_wide_interval_is_no_order():
    rng = np.random.default_rng(1)
    noisy = fit_slope(EPS, EPS**2 * np.exp(0.5 * rng.normal(size=len(EPS))), FLOOR)
    assert noisy.half > SLOPE
    assert not noisy.is_order
    assert not Slope(2.0, float("nan"), 1e-3, 1e-1).is_order


def test_first_order_part_is_seen():
    """1 % of a first-order error on top of a second-order one, over two decades."""
    assert fit_slope(EPS, EPS**2 + 0.01 * EPS, FLOOR).order != 2


def test_too_few_points():
    errors = EPS**2
    floor = float(errors[-LEAST_POINTS + 1]) / ABOVE_FLOOR / 1.01
    with pytest.raises(ValueError, match=rf"100 times above .* got {LEAST_POINTS - 1} such"):
        fit_slope(EPS, errors, floor)
    fit_slope(EPS, errors, float(errors[-LEAST_POINTS]) / ABOVE_FLOOR / 1.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_errors_that_are_no_numbers(bad):
    errors = EPS**2
    errors[4] = bad
    with pytest.raises(ValueError, match="errors must be finite numbers"):
        fit_slope(EPS, errors, FLOOR)


def test_words():
    text = str(fit_slope(EPS, EPS**2, FLOOR))
    assert text.startswith("2.000 ± 0.000")
    assert "[0.001, 0.1]" in text
