"""Diversity and Frechet distance beyond the tilt: loops, scipy's root, and what is planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, special, stats

from tests.theory.audit.synthetic import data_of, planted
from theory.audit.data.features import deviations
from theory.audit.estimators.conditional import TooFewError, permute
from theory.audit.estimators.curve import fit_curve
from theory.audit.estimators.excess import Spread, excess, frechet, moments
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE

DRAWS = 99


def excess_of(data, seed=0):
    return excess(data, permute(data, seed, DRAWS), seed)


def within(side):
    """Standard deviations within prompts, n - 1 a prompt."""
    parts = [side.features[side.prompt == g] for g in np.unique(side.prompt)]
    square = sum(np.square(f - f.mean(0)).sum(0) for f in parts)
    return np.sqrt(square / (len(side) - len(parts)))


def test_moments_are_numpys():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    mean, cov = moments(x, np.full(40, 1 / 40))
    assert ALGEBRA.holds(mean, x.mean(0))
    assert ALGEBRA.holds(cov, np.cov(x.T), 1.0)
    w = rng.dirichlet(np.ones(40))
    mean, cov = moments(x, w)
    assert ALGEBRA.holds(cov, np.cov(x.T, aweights=w), 1.0)
    assert not QUADRATURE.holds(cov, np.cov(x.T, aweights=w, ddof=0), 1.0)


def test_frechet_is_that_of_gaussians():
    rng = np.random.default_rng(1)
    A, B = rng.normal(size=(2, 4, 4))
    p, q = (rng.normal(size=4), A @ A.T), (rng.normal(size=4), B @ B.T)
    cross = linalg.sqrtm(p[1] @ q[1]).real
    true = np.square(p[0] - q[0]).sum() + np.trace(p[1] + q[1] - 2 * cross)
    assert QUADRATURE.holds(frechet(p, q), true)
    assert not QUADRATURE.holds(true + np.trace(cross), true)
    assert QUADRATURE.holds(1 + frechet(p, p), 1.0)


def test_variances_are_loops():
    data = planted(np.random.default_rng(2), 3, 50)
    spread = Spread.of(data, deviations(data))
    curve, pooled = fit_curve(data.pooled), data.pooled
    unit = within(data.base)
    for g in range(3):
        f = data.base.features[data.base.prompt == g] / unit
        own = data.tuned.features[data.tuned.prompt == g] / unit
        rows, tuned = ((pooled.prompt == g) & side for side in (pooled.is_base, ~pooled.is_base))
        w = special.softmax(curve.log_ratio[rows])
        assert QUADRATURE.holds(spread.base[g], np.trace(np.cov(f.T)))
        assert QUADRATURE.holds(spread.implied[g], np.trace(np.cov(f.T, aweights=w)))
        # Where they overlap: base rows by pi, tuned rows by 1 - pi; not the other way round.
        pi = curve.chance
        assert QUADRATURE.holds(spread.overlap_base[g], np.trace(np.cov(f.T, aweights=pi[rows])))
        right = np.trace(np.cov(own.T, aweights=1 - pi[tuned]))
        assert QUADRATURE.holds(spread.overlap_tuned[g], right)
        assert not QUADRATURE.holds(right, np.trace(np.cov(own.T, aweights=pi[tuned])))
    found = excess_of(data)
    shares = np.bincount(pooled.prompt, curve.weight)
    lost = 1 - (shares @ spread.overlap_tuned) / (shares @ spread.overlap_base)
    assert QUADRATURE.holds(found.base, spread.base.mean())
    assert QUADRATURE.holds(found.implied, spread.implied.mean())
    assert QUADRATURE.holds(found.lost.value, lost, 1.0)


@pytest.mark.parametrize(
    ("prompts", "n", "what"),
    [pytest.param(2, 90, "samples", marks=pytest.mark.slow), (12, 40, "prompts")],
)
def test_lost_covers_no_loss_under_a_tilt(prompts, n, what):
    found = [excess_of(planted(np.random.default_rng(s), prompts, n), s) for s in range(24)]
    assert {f.resampled for f in found} == {what}
    hits = sum(f.lost.low <= 0 <= f.lost.high for f in found)
    assert stats.binom.cdf(hits, 24, 0.95) > FALSE_FAILURE_RATE
    for level in (0.02, 0.1, 0.3):
        for p in ([f.p_value for f in found], [f.frechet_p for f in found]):
            assert stats.binom.sf(sum(x <= level for x in p) - 1, 24, level) > FALSE_FAILURE_RATE


@pytest.mark.parametrize(("prompts", "n"), [(2, 160), (12, 50)])
def test_planted_shrinkage_is_measured(prompts, n):
    """Noise of 4 axes by 0.7: V = 1.96 + 1.96 Var(r) of 4 + 1.96 Var(r), r of law pq/(p + q)."""
    r = np.linspace(-8, 9, 4001)
    p, q = stats.norm.pdf(r), stats.norm.pdf(r, 0.6)
    h = p * q / (p + q)
    of_r = (h @ r**2) / h.sum() - ((h @ r) / h.sum()) ** 2
    truth = (1 - 0.7**2) / (1 + 0.7**2 * of_r)
    found = excess_of(planted(np.random.default_rng(3), prompts, n, scale=0.7))
    assert found.lost.low > 0
    assert found.lost.low < truth < found.lost.high
    assert found.p_value < 0.001
    wider = excess_of(planted(np.random.default_rng(3), prompts, n, scale=1.4))
    assert wider.lost.high < 0
    assert wider.p_value < 0.001
    assert found.frechet_p <= 2 / 61


def test_interval_and_p_value_are_one_statement():
    """p = 5 % is where the interval ends at no loss, whatever the number of prompts."""
    for prompts, n in ((2, 90), (12, 40)):
        for s in range(6):
            found = excess_of(planted(np.random.default_rng(s), prompts, n, scale=0.93), s)
            assert (found.p_value < 0.05) == (found.lost.low * found.lost.high > 0)


def test_a_tilt_that_narrows_is_no_loss():
    """Tuned rewards of half the width, features the reward's: V falls, and is implied."""
    rng = np.random.default_rng(4)
    r, s = rng.normal(size=400), 0.3 + 0.6 * rng.normal(size=300)
    f, g = (x[:, None] * [1.0, 2.0] + 0.3 * rng.normal(size=(len(x), 2)) for x in (r, s))
    found = excess_of(data_of([r], [s], [f], [g]))
    assert found.implied < 0.6 * found.base
    assert found.lost.low < 0 < found.lost.high


@pytest.mark.slow
def test_lost_covers_none_where_rewards_narrow():
    """log Phi = c r - d r^2 does all: no loss given the reward."""
    hits = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        r, s = rng.normal(size=1500), 0.3 + 0.6 * rng.normal(size=1500)
        f, g = (x[:, None] * [1.0, 2.0] + 0.3 * rng.normal(size=(len(x), 2)) for x in (r, s))
        lost = excess_of(data_of([r], [s], [f], [g]), seed).lost
        hits += lost.low <= 0 <= lost.high
    assert stats.binom.cdf(hits, 10, 0.95) > FALSE_FAILURE_RATE


def test_the_prompt_is_named():
    found = excess_of(planted(np.random.default_rng(5), 4, 80, scale=[1, 0.4, 1, 1]))
    assert found.by_prompt_p[1] == 1 / (DRAWS + 1)
    assert np.nanargmax(found.by_prompt) == 1
    assert np.delete(found.by_prompt_p, 1).min() > 2 / (DRAWS + 1)


def test_a_shift_moves_the_frechet_distance():
    """By d along one axis, given the reward: an excess of d^2, in units of the feature's variance
    of 1 + 0.7^2; total and implied as they are."""
    found = excess_of(planted(np.random.default_rng(6), 1, 600, shift=1.0, a=0.5))
    variance = 1 + 0.7**2
    assert abs(found.frechet_excess - 1.0 / variance) < 0.25 / variance
    # The tilt moves 4 axes by 0.7 a each.
    assert abs(found.frechet_implied - 4 * (0.7 * 0.5) ** 2 / variance) < 0.2 / variance
    assert found.frechet_total > found.frechet_implied + 0.5
    assert found.frechet_p == 1 / 61
    assert found.frechet_floor < 0.1


def test_too_few_tuned_rows_a_prompt():
    rng = np.random.default_rng(7)
    base, tuned = rng.normal(size=(60, 20)), rng.normal(size=(60, 3))
    data = data_of(base, tuned, rng.normal(size=(60, 20, 2)), rng.normal(size=(60, 3, 2)))
    permuted = permute(data, 0, 19)
    with pytest.raises(TooFewError, match="no prompt has 4 tuned samples"):
        excess(data, permuted)


def constant_in_one_prompt():
    rng = np.random.default_rng(8)
    f, g = rng.normal(size=(2, 3, 60, 2))
    f[1], g[1] = 0.1, 0.1
    return data_of(rng.normal(size=(3, 60)), rng.normal(size=(3, 60)), f, g)


def test_constant_features_of_a_prompt_have_no_loss():
    assert np.isnan(excess_of(constant_in_one_prompt()).by_prompt[1])


def test_an_even_choice_may_lose_a_prompt(monkeypatch):
    monkeypatch.setattr("theory.audit.estimators.excess.MOST_ROWS", 60)
    rng = np.random.default_rng(9)
    sizes = [60, 2, 60]
    rows = [[rng.normal(size=n) for n in sizes] for _ in range(2)]
    features = [[rng.normal(size=(n, 2)) for n in sizes] for _ in range(2)]
    data = data_of(*rows, *features)
    found = excess(data, permute(data, 0, 19))
    assert len(found.by_prompt) == 3
    assert np.isfinite(found.by_prompt[[0, 2]]).all()
