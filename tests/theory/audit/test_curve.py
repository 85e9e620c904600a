"""The free curve and Neyman's test: p-values under the null, power, directions that are left."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from tests.helpers import ks_bound, ks_distance
from tests.theory.audit.synthetic import data_of, gaussians
from theory.audit.estimators.curve import DEGREE, RIDGE, basis, fit_curve, goodness
from theory.audit.families.families import FAMILIES
from theory.audit.fit.likelihood import maximise, value_at
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE

EXP = FAMILIES["exponential"]


def test_basis_is_legendre_of_midranks():
    data = data_of([[0.0, 1, 1, 5] * 3, np.arange(9.0)], [[2.0, 1, 7] * 2, np.arange(8.0) * 2])
    pooled = data.pooled
    found = basis(pooled)
    assert found.shape == (len(pooled), 3 + 2 * DEGREE)

    def ranks(values):
        share = [(values < x).mean() + (values <= x).mean() for x in values]
        return np.array(share) - 1  # on (-1, 1), ties in the middle of their step

    assert ALGEBRA.holds(found[:, 0], pooled.z)
    # Normal scores: what is left of the ranks' law above each, by the error function's inverse.
    scores = math.sqrt(2) * special.erfinv(ranks(pooled.reward))
    assert ALGEBRA.holds(found[:, 1], scores, 1.0)
    assert ALGEBRA.holds(found[:, 2], special.eval_hermitenorm(2, scores) / 2, 1.0)
    for k in range(1, DEGREE + 1):
        assert ALGEBRA.holds(found[:, 2 + k], special.eval_legendre(k, ranks(pooled.reward)), 1.0)
        for g in range(2):
            rows = pooled.prompt == g
            own = special.eval_legendre(k, ranks(pooled.reward[rows]))
            assert ALGEBRA.holds(found[rows, 2 + DEGREE + k], own, 1.0)
    assert basis(data_of([[0.0, 1, 2]] * 2, [[3.0, 1]] * 2).pooled).shape[1] == 3 + DEGREE
    assert basis(data_of([np.arange(9.0)], [np.arange(9.0)]).pooled).shape[1] == 3 + DEGREE


def test_basis_sees_no_labels():
    rng = np.random.default_rng(0)
    r = rng.normal(size=(2, 40))
    one, other = data_of(r[:, :30], r[:, 30:]), data_of(r[:, 10:], r[:, :10])
    for g in range(2):
        rows = [basis(d.pooled)[d.pooled.prompt == g] for d in (one, other)]
        order = [np.argsort(d.pooled.reward[d.pooled.prompt == g]) for d in (one, other)]
        assert ALGEBRA.holds(rows[0][order[0]], rows[1][order[1]], 1.0)


def test_curve_follows_a_ratio():
    """Held by its ridge, it is the log ratio of two Gaussians, of another width, where rows are."""
    rng = np.random.default_rng(1)
    data = data_of([rng.normal(size=6000)], [0.5 + 0.7 * rng.normal(size=6000)])
    fit, r = fit_curve(data.pooled), data.pooled.reward
    true = stats.norm.logpdf(r, 0.5, 0.7) - stats.norm.logpdf(r)
    middle = np.abs(r - 0.3) < 1
    gap = (fit.log_ratio - true)[middle]
    assert np.abs(gap - gap.mean()).max() < 0.2
    straight = EXP.fit(data.pooled).fit.log_ratio[middle] - true[middle]
    assert np.abs(straight - straight.mean()).max() > 0.35


def test_ridge_is_that_of_the_curve():
    pooled = gaussians(np.random.default_rng(2), 2, 30, 30, 0.5).pooled
    H = basis(pooled)
    fit = fit_curve(pooled)

    def worth(theta):
        return value_at(lambda t: (H @ t, H), theta, pooled) - RIDGE * theta @ theta / 2

    for e in np.eye(H.shape[1]) * 1e-4:
        slope = (worth(fit.theta + e) - worth(fit.theta - e)) / 2e-4
        assert QUADRATURE.holds(1 + slope, 1.0)


# --- p-values


def p_values(draw, repeats=200, family=EXP, clusters=False):
    found = []
    for seed in range(repeats):
        pooled = draw(np.random.default_rng(seed)).pooled
        fit = family.fit(pooled).fit
        found.append(goodness(fit, pooled, basis(pooled), clusters).p_value)
    return torch.as_tensor(found)


def uniform(p):
    return ks_distance(p, lambda x: x) < ks_bound(len(p))


@pytest.mark.parametrize("prompts", [1, 4])
def test_p_values_are_uniform_under_the_null(prompts):
    """One prompt: the expansion; several small ones: exact chances."""
    n = 120 // (2 * prompts)
    assert uniform(p_values(lambda rng: gaussians(rng, prompts, n, n, 0.7)))


def test_wrong_wrappers_have_small_p_values():
    """Tuned rewards of half the width: no exp(a r)."""
    p = p_values(lambda rng: data_of([rng.normal(size=80)], [0.4 + 0.5 * rng.normal(size=80)]), 20)
    assert not uniform(p)
    assert float(p.median()) < 1e-2
    large = np.random.default_rng(0)
    pooled = data_of([large.normal(size=900)], [0.4 + 0.5 * large.normal(size=900)]).pooled
    found = goodness(EXP.fit(pooled).fit, pooled, basis(pooled))
    assert found.p_value < FALSE_FAILURE_RATE
    assert ALGEBRA.holds(found.p_value, stats.chi2.sf(found.statistic, found.freedom))


def paired(rng, noise=0.2, n=60):
    first = rng.normal(size=n)
    seeds = np.arange(n)
    # Two steps of one autoregression: equal laws but for the tilt, far from independent.
    second = np.sqrt(1 - noise**2) * first + noise * rng.normal(size=n)
    return data_of([first], [0.5 + second], base_seed=seeds, tuned_seed=seeds)


def test_rows_of_one_seed_count_as_one():
    assert uniform(p_values(paired))
    blind = []
    for seed in range(200):
        data = paired(np.random.default_rng(seed))
        apart = data_of([data.base.reward], [data.tuned.reward]).pooled
        blind.append(goodness(EXP.fit(apart).fit, apart, basis(apart)).p_value)
    assert not uniform(torch.as_tensor(blind))


def test_prompts_as_units_where_their_ratios_differ():
    """Two bends of opposite sign, by prompt, that cancel on average: Hotelling's p-values stay,
    those with the labels as units are too small."""

    def values(clusters):
        found = []
        for seed in range(60):
            rng = np.random.default_rng(seed)
            # Labels of given odds: tuned with chance expit(0.4 r + b_g (r^2 - 1)).
            r, sign = rng.normal(size=(48, 60)), rng.choice([-1.0, 1.0], size=(48, 1))
            y = rng.uniform(size=r.shape) < special.expit(0.4 * r + 0.9 * sign * (r**2 - 1))
            rows = zip(r, y, strict=True)
            base, tuned = zip(*((x[~own], x[own]) for x, own in rows), strict=True)
            pooled = data_of(base, tuned).pooled
            H = (pooled.z**2)[:, None]
            found.append(goodness(EXP.fit(pooled).fit, pooled, H, clusters).p_value)
        return torch.as_tensor(found)

    assert uniform(values(True))
    assert not uniform(values(False))


def test_clusters_need_prompts_enough():
    pooled = gaussians(np.random.default_rng(0), 12, 20, 20, 0.4).pooled
    H = basis(pooled)
    fit = EXP.fit(pooled).fit
    # 10 directions, 12 prompts: the labels' variance either way.
    assert goodness(fit, pooled, H, True) == goodness(fit, pooled, H, False)
    few = goodness(fit, pooled, H[:, 1:4], True)
    assert few.freedom == 3
    assert few != goodness(fit, pooled, H[:, 1:4], False)


def test_hotelling_by_hand():
    """One direction, clusters: the square of Student's t of the prompts' sums."""
    pooled = gaussians(np.random.default_rng(3), 30, 20, 20, 0.4).pooled
    fit = EXP.fit(pooled).fit
    bend = pooled.z**2
    found = goodness(fit, pooled, bend[:, None], True)
    # The bend less its regression, weighted and within prompts, on the wrapper's slope.
    c, prompt = fit.weight, pooled.prompt
    centred = bend - (np.bincount(prompt, c * bend) / np.bincount(prompt, c))[prompt]
    slope = np.polyfit(fit.slope[:, 0], centred, 0, w=np.sqrt(c))  # the mean is zero
    assert ALGEBRA.holds(1 + slope, 1.0)
    factor = np.linalg.lstsq(np.sqrt(c)[:, None] * fit.slope, np.sqrt(c) * centred, rcond=None)[0]
    rest = centred - fit.slope @ factor
    sums = np.bincount(prompt, (pooled.label - fit.chance) * rest)
    expected = stats.ttest_1samp(sums, 0.0)
    assert QUADRATURE.holds(found.statistic, expected.statistic**2)
    assert QUADRATURE.holds(found.p_value, expected.pvalue)


# --- directions


def test_what_a_wrapper_explains_leaves_no_direction():
    pooled = gaussians(np.random.default_rng(1), 3, 40, 40, 0.5).pooled
    H = basis(pooled)
    fit = EXP.fit(pooled).fit
    assert goodness(fit, pooled, H).freedom == H.shape[1] - 1
    alone = goodness(fit, pooled, H[:, :1])
    assert (alone.statistic, alone.freedom, alone.p_value) == (0.0, 0, 1.0)
    whole = maximise(lambda t: (H @ t, H), np.zeros(H.shape[1]), pooled)
    assert goodness(whole, pooled, H).freedom == 0
    # A function twice is no direction more.
    more = np.column_stack([H, H[:, 2]])
    found, before = goodness(fit, pooled, more), goodness(fit, pooled, H)
    assert found.freedom == before.freedom
    assert QUADRATURE.holds(found.statistic, before.statistic)


def test_binary_rewards_leave_no_direction():
    base, tuned = np.repeat([0.0, 1.0], [60, 40]), np.repeat([0.0, 1.0], [30, 70])
    pooled = data_of([base], [tuned]).pooled
    assert goodness(EXP.fit(pooled).fit, pooled, basis(pooled)).freedom == 0


def test_functions_constant_in_every_prompt_leave_no_direction():
    """As even Legendre polynomials are of two values, each of half the rows."""
    base, tuned = np.repeat([0.0, 1.0], [57, 43]), np.repeat([0.0, 1.0], [43, 57])
    pooled = data_of([base] * 3, [tuned] * 3).pooled
    assert goodness(EXP.fit(pooled).fit, pooled, basis(pooled)).freedom == 0


def test_blocks_do_not_matter(monkeypatch):
    pooled = gaussians(np.random.default_rng(4), 5, 30, 30, 0.5).pooled
    fit, H = EXP.fit(pooled).fit, basis(pooled)
    before = goodness(fit, pooled, H)
    monkeypatch.setattr("theory.audit.estimators.curve.BLOCK", 7)
    after = goodness(fit, pooled, H)
    assert QUADRATURE.holds(after.statistic, before.statistic)
    assert after.freedom == before.freedom
