"""The effective tilt: intervals that cover, prompts' own tilts, their spread."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.theory.audit.synthetic import data_of, gaussians
from theory.audit.estimators.tilt import CONFIDENCE, Interval, effective_tilt, prompt_tilts
from theory.audit.families.families import FAMILIES
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE, QUADRATURE_2D

EXP = FAMILIES["exponential"]


def test_interval():
    found = Interval.of(2.0, 0.5)
    low, high = stats.norm.interval(0.95, 2.0, 0.5)
    assert ALGEBRA.holds([found.low, found.high], [low, high])
    few = Interval.of(2.0, 0.5, 4)
    assert ALGEBRA.holds([few.low, few.high], stats.t.interval(0.95, 4, 2.0, 0.5))
    assert few.high > found.high
    assert found.error == few.error == 0.5


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23456, 0.5, "1.23 [0.25, 2.21]"),
        (1.23456, 0.05, "1.235 [1.137, 1.333]"),
        (1234.5, 70.0, "1234 [1097, 1372]"),
        (0.5, 0.0, "0.500 [0.500, 0.500]"),
        (0.5, math.nan, "0.500 [nan, nan]"),
    ],
)
def test_interval_in_words(value, error, text):
    assert str(Interval.of(value, error)) == text


def covers(draw, a, repeats=200, family=EXP):
    return sum(
        (found := effective_tilt(family.fit(p := draw(np.random.default_rng(s)).pooled), p)).low
        <= a
        <= found.high
        for s in range(repeats)
    )


def plausible(hits, repeats=200):
    """A count that the interval's confidence gives, but for FALSE_FAILURE_RATE."""
    law = stats.binom(repeats, CONFIDENCE)
    return law.sf(hits - 1) > FALSE_FAILURE_RATE / 2 and law.cdf(hits) > FALSE_FAILURE_RATE / 2


def test_interval_of_rows_covers():
    assert plausible(covers(lambda rng: gaussians(rng, 2, 60, 40, 0.6), 0.6))
    assert not plausible(covers(lambda rng: gaussians(rng, 2, 60, 40, 0.6), 0.9))


@pytest.mark.slow
def test_interval_of_prompts_covers_their_mean():
    """Tilts of the prompts' own: rows as units would cover too seldom."""

    def draw(rng):
        return gaussians(rng, 30, 10, 10, 0.8 * rng.normal(size=30))  # the likeliest of all is 0

    assert plausible(covers(draw, 0.0))
    rows = sum(
        abs(fit.fit.theta[0]) < 1.96 / math.sqrt(fit.fit.information[0, 0])
        for s in range(200)
        if (fit := EXP.fit(draw(np.random.default_rng(s)).pooled))
    )
    assert not plausible(rows)


def test_interval_of_paired_rows_covers():
    def draw(rng, seeds=True):
        noise, n = rng.normal(size=70), np.arange(70)
        tuned = 0.5 + math.sqrt(0.75) * noise + 0.5 * rng.normal(size=70)
        return data_of([noise], [tuned], **({"base_seed": n, "tuned_seed": n} if seeds else {}))

    assert plausible(covers(draw, 0.5, 300), 300)
    assert not plausible(covers(lambda rng: draw(rng, False), 0.5, 300), 300)  # far too wide


def test_units_of_the_tilt():
    rng = np.random.default_rng(0)
    base, tuned = rng.gamma(3, size=(1, 80)), rng.gamma(4, size=(1, 90))
    one, other = (
        effective_tilt(EXP.fit(d.pooled), d.pooled)
        for d in (data_of(base, tuned), data_of(5 + 4 * base, 5 + 4 * tuned))
    )
    assert QUADRATURE.holds(
        [4 * other.value, 4 * other.low, 4 * other.error], [one.value, one.low, one.error]
    )
    logs = data_of(np.log(base), np.log(tuned))
    power = FAMILIES["power"].fit(data_of(base, tuned).pooled)
    interval = effective_tilt(power, data_of(base, tuned).pooled)
    same = effective_tilt(EXP.fit(logs.pooled), logs.pooled)
    assert QUADRATURE.holds([interval.value, interval.error], [same.value, same.error])


# --- prompts


def test_own_tilts_are_separate_fits():
    """Every prompt alone, by the family's own fit (tested by brute force in test_likelihood)."""
    rng = np.random.default_rng(1)
    sizes = [(12, 9), (40, 30), (200, 150), (10, 25)]
    base = [3 * g + rng.normal(size=n) for g, (n, _) in enumerate(sizes)]
    tuned = [3 * g + 0.5 * g + rng.normal(size=m) for g, (_, m) in enumerate(sizes)]
    found = prompt_tilts(data_of(base, tuned).pooled)
    for g, (b, t) in enumerate(zip(base, tuned, strict=True)):
        own = EXP.fit(data_of([b], [t]).pooled)
        pooled = data_of([b], [t]).pooled
        error = 1 / (math.sqrt(float(own.fit.information[0, 0])) * pooled.spread)
        assert QUADRATURE_2D.holds(found.tilt[g], own.parameters["a"])
        assert QUADRATURE_2D.holds(found.error[g], error)


def test_prompts_without_a_tilt():
    rng = np.random.default_rng(2)
    base = [rng.normal(size=20), np.zeros(5), np.arange(5.0)]
    tuned = [0.5 + rng.normal(size=20), np.zeros(5), 10 + np.arange(5.0)]
    found = prompt_tilts(data_of(base, tuned).pooled)
    assert np.isfinite(found.tilt).tolist() == [True, False, False]
    assert np.isfinite(found.error).tolist() == [True, False, False]
    assert (found.spread, found.p_value) == (0.0, 1.0)


def test_spread_between_prompts():
    """tau = 0.5 of 150 prompts is recovered within five of its standard errors, about
    tau/sqrt(2 P) times the share that is noise; none is not told from none."""
    rng = np.random.default_rng(3)
    own = 0.3 + 0.5 * rng.normal(size=150)
    found = prompt_tilts(gaussians(rng, 150, 80, 80, own).pooled)
    assert abs(found.spread - 0.5) < 5 * 0.5 / math.sqrt(2 * 150) * 1.3
    assert found.p_value < FALSE_FAILURE_RATE
    values = [
        prompt_tilts(gaussians(np.random.default_rng(s), 60, 60, 60, 0.3).pooled) for s in range(40)
    ]
    assert (
        stats.binomtest(
            sum(v.p_value < 0.05 for v in values), 40, 0.05, alternative="greater"
        ).pvalue
        > FALSE_FAILURE_RATE
    )
    assert np.mean([v.spread for v in values]) < 0.1


def test_cochran_by_hand():
    rng = np.random.default_rng(4)
    found = prompt_tilts(gaussians(rng, 12, 50, 40, 0.5 * rng.normal(size=12)).pooled)
    w = 1 / found.error**2
    mean = np.average(found.tilt, weights=w)
    q = (w * (found.tilt - mean) ** 2).sum()
    assert ALGEBRA.holds(found.p_value, stats.chi2.sf(q, 11))
    # tau^2 of DerSimonian and Laird: that with which E[Q] is Q, and E[Q] is by simulation-free
    # algebra a trace: E[Q] = tr((W - w w'/sum w) (W^-1 + tau^2)).
    M = np.diag(w) - np.outer(w, w) / w.sum()
    expected = np.trace(M @ (np.diag(1 / w) + found.spread**2 * np.eye(12)))
    assert ALGEBRA.holds(max(expected, 11.0), max(q, 11.0))
    assert found.spread > 0
