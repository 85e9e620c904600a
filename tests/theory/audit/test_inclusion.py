"""Labels given their number: chances, normalisers and draws against all label vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from tests.theory.audit.synthetic import label_law
from theory.audit.data.samples import Pooled
from theory.audit.fit.inclusion import SMALL, _of_block, draw_labels, inclusion
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE


def setting(sizes, seed=0, spread=1.5):
    """Prompts (n, m): log odds a row, the chances with sum m (by brentq), and the rows."""
    rng = np.random.default_rng(seed)
    odds, chances, labels, prompt = [], [], [], []
    for g, (n, m) in enumerate(sizes):
        u = rng.normal(scale=spread, size=n)
        alpha = optimize.brentq(
            lambda a, u=u, m=m: special.expit(u + a).sum() - m, -60, 60, xtol=1e-14
        )
        odds.append(u)
        chances.append(special.expit(u + alpha))
        labels.append(rng.permutation(np.arange(n) < m).astype(float))
        prompt += [g] * n
    pooled = Pooled.sorted(
        rng.normal(size=len(prompt)), np.concatenate(labels), np.array(prompt, dtype=np.int64)
    )
    return odds, np.concatenate(chances), pooled


SIZES = [(2, 1), (5, 2), (7, 1), (7, 6), (10, 4), (9, 5), (3, 1)]


def test_chances_and_normalisers_are_those_of_all_labels():
    odds, p, pooled = setting(SIZES)
    found = inclusion(p, pooled)
    total = 0.0
    for g, (u, (n, m)) in enumerate(zip(odds, SIZES, strict=True)):
        labels, law, _ = label_law(u, m)
        rows = pooled.prompt == g
        pi = law @ labels
        assert ALGEBRA.holds(found.chance[rows], pi)
        assert not QUADRATURE.holds(p[rows], pi) or n == 2 == 2 * m
        assert ALGEBRA.holds(found.weight[rows], pi * (1 - pi) * n / (n - 1))
        ones = labels == 1
        total += math.log(np.where(ones, p[rows], 1 - p[rows]).prod(1).sum())
    assert ALGEBRA.holds(found.log_normaliser, total)


def hajek(c):
    return np.diag(c) - np.outer(c, c) / c.sum()


def test_covariance_of_pairs_and_of_equal_odds_is_exact():
    odds, p, pooled = setting([(2, 1), (2, 1)])
    c = inclusion(p, pooled).weight
    for g, u in enumerate(odds):
        labels, law, _ = label_law(u, 1)
        assert ALGEBRA.holds(hajek(c[2 * g : 2 * g + 2]), np.cov(labels.T, aweights=law, ddof=0))
    for n, m in ((6, 2), (9, 4)):
        labels, law, _ = label_law(np.zeros(n), m)
        _, p, pooled = setting([(n, m)], spread=0.0)
        true = np.cov(labels.T, aweights=law, ddof=0)
        c = inclusion(p, pooled).weight
        assert ALGEBRA.holds(hajek(c), true)
        assert not QUADRATURE.holds(hajek(c * (n - 1) / n), true)


def test_covariance_improves_with_rows():
    """Largest error against all labels, in units of the largest variance; n/(n - 1) halves it."""
    errors = {}
    for n in (4, 8, 16):
        odds, p, pooled = setting([(n, n // 2)] * 8, seed=3, spread=0.8)
        c = inclusion(p, pooled).weight
        gaps, bare = [], []
        for g, u in enumerate(odds):
            labels, law, _ = label_law(u, n // 2)
            true = np.cov(labels.T, aweights=law, ddof=0)
            own = c[pooled.prompt == g]
            gaps.append(np.abs(hajek(own) - true).max() / true.max())
            bare.append(np.abs(hajek(own * (n - 1) / n) - true).max() / true.max())
        errors[n] = np.mean(gaps)
        assert errors[n] < np.mean(bare) / 2
    assert errors[16] < errors[8] / 2 < errors[4] / 4


def test_expansion_against_the_recursion():
    """Just above SMALL rows and beyond: the error of a chance falls as 1/n^2, that of the
    normaliser as 1/n; without its correction a chance is off by 1/n."""
    errors, logs, bare = {}, {}, {}
    for n in (SMALL + 1, 4 * (SMALL + 1)):
        m = n // 3
        _, p, pooled = setting([(n, m)], seed=5, spread=1.0)
        exact, log = _of_block(p[None], np.array([m]))
        found = inclusion(p, pooled)
        errors[n] = np.abs(found.chance - exact[0]).max()
        bare[n] = np.abs(p - exact[0]).max()
        logs[n] = abs(found.log_normaliser - log)
        assert ALGEBRA.holds(found.chance.sum(), m)
        # c of a large prompt: as exact as 1/n.
        weight = exact[0] * (1 - exact[0]) * n / (n - 1)
        assert np.abs(found.weight / weight - 1).max() < 3 / n
    few, many = errors
    assert errors[few] < 1 / few**2
    assert errors[many] < errors[few] / 8
    assert errors[few] < bare[few] / 5
    assert bare[many] > bare[few] / 8
    assert logs[few] < 1 / few
    assert logs[many] < logs[few] / 3


@pytest.mark.parametrize("m", [1, 11, SMALL - 1])
def test_at_small_the_recursion_holds(m):
    """n = SMALL: e_m by a polynomial's coefficients, pi_i = u_i e_{m-1}(without i)/e_m."""
    odds, p, pooled = setting([(SMALL, m)], seed=m)
    u = np.exp(odds[0])

    def e(values, k):
        return np.polynomial.polynomial.polyfromroots(-1 / values)[k] * np.prod(values)

    # prod (1 + u x) has e_k(u) at x^k; polyfromroots is monic, hence the factor.
    pi = np.array([u[i] * e(np.delete(u, i), m - 1) for i in range(SMALL)]) / e(u, m)
    assert QUADRATURE.holds(inclusion(p, pooled).chance, pi)


# --- draws


def test_drawn_labels_have_their_law():
    sizes = [(4, 2), (5, 1), (2, 1)]
    odds, p, pooled = setting(sizes, seed=1, spread=1.0)
    draws = 20_000
    drawn = draw_labels(p, pooled, draws, np.random.default_rng(0))
    for g, (u, (n, m)) in enumerate(zip(odds, sizes, strict=True)):
        own = drawn[:, pooled.prompt == g]
        assert (own.sum(1) == m).all()
        labels, law, _ = label_law(u, m)
        code = own @ (1 << np.arange(n))
        seen = np.array([(code == c).sum() for c in labels @ (1 << np.arange(n))])
        assert seen.sum() == draws
        assert stats.chisquare(seen, draws * law).pvalue > FALSE_FAILURE_RATE
        # Labels as likely as each other, and odds of the wrong sign, are not that law.
        assert stats.chisquare(seen).pvalue < FALSE_FAILURE_RATE
        wrong = label_law(-u, m)[1]
        assert stats.chisquare(seen, draws * wrong).pvalue < FALSE_FAILURE_RATE
    # Prompts are independent.
    first = [drawn[:, np.flatnonzero(pooled.prompt == g)[0]] for g in range(3)]
    for a, b in ((0, 1), (1, 2)):
        table = np.array([[(first[a] == x)[first[b] == y].sum() for x in (0, 1)] for y in (0, 1)])
        assert stats.chi2_contingency(table).pvalue > FALSE_FAILURE_RATE


def test_counts_hold_where_odds_are_extreme():
    sizes = [(32, 5), (20, 19), (6, 3)]
    _, p, pooled = setting(sizes, seed=2, spread=12.0)
    drawn = draw_labels(p, pooled, 200, np.random.default_rng(0))
    for g, (_, m) in enumerate(sizes):
        assert (drawn[:, pooled.prompt == g].sum(1) == m).all()


def test_large_prompts_are_not_drawn():
    _, p, pooled = setting([(SMALL + 1, 4)])
    with pytest.raises(ValueError, match=r"at most 32 rows, got 33"):
        draw_labels(p, pooled, 3, np.random.default_rng(0))
