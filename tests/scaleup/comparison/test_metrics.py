"""Metrics against closed forms; their intervals by how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg, stats

from scaleup.comparison.metrics import (
    CONFIDENCE,
    Estimate,
    accuracy,
    diversity,
    frechet,
    frechet_distance,
    mean_reward,
    reward_gain,
)
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE

MEANS = np.array([[0.3, -1.0, 0.5], [0.9, -0.7, 0.1]])
COVS = np.array(
    [
        [[1.0, 0.4, -0.2], [0.4, 0.7, 0.1], [-0.2, 0.1, 0.5]],
        [[0.5, -0.1, 0.1], [-0.1, 1.4, 0.3], [0.1, 0.3, 0.8]],
    ]
)


def distance(means, covs):
    """W2^2 of two Gaussians, by a general square root of a product that is not symmetric."""
    cross = linalg.sqrtm(covs[0] @ covs[1]).real
    return float(np.square(means[0] - means[1]).sum() + np.trace(covs[0] + covs[1] - 2 * cross))


def exactly(mean, cov, n, seed):
    """n rows with just this mean and this covariance (n - 1)."""
    rows = np.random.default_rng(seed).normal(size=(n, len(mean)))
    rows -= rows.mean(0)
    rows @= np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
    return rows @ np.linalg.cholesky(cov).T + mean


def draws(which, n, rng):
    return rng.multivariate_normal(MEANS[which], COVS[which], size=n, method="cholesky")


# --- closed forms


def test_frechet_of_known_moments():
    rows = [exactly(MEANS[k], COVS[k], n, k) for k, n in ((0, 40), (1, 25))]
    truth = distance(MEANS, COVS)
    assert QUADRATURE.holds(frechet(*rows), truth)
    assert QUADRATURE.holds(frechet(*rows[::-1]), truth)
    mutants = {
        "no means": distance(0 * MEANS, COVS),
        "root not doubled": truth + np.trace(linalg.sqrtm(COVS[0] @ COVS[1])).real,
        "diagonals only": distance(MEANS, [np.diag(np.diag(c)) for c in COVS]),
        "unsquared": math.sqrt(truth),
    }
    assert [name for name, wrong in mutants.items() if QUADRATURE.holds(wrong, truth)] == []
    assert frechet(rows[0], rows[0]) < QUADRATURE.rtol


def test_frechet_where_rows_are_fewer_than_features():
    """The singular values' route against the eigenvalues', which padding with zeros forces."""
    rng = np.random.default_rng(0)
    few = [rng.normal(size=(n, 12)) @ rng.normal(size=(12, 12)) for n in (7, 9)]
    means = [x.mean(0) for x in few]
    covs = [np.cov(x.T) for x in few]
    values, vectors = np.linalg.eigh(covs[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    inner = np.sqrt(np.linalg.eigvalsh(root @ covs[1] @ root).clip(0)).sum()
    truth = np.square(means[0] - means[1]).sum() + np.trace(covs[0] + covs[1]) - 2 * inner
    assert QUADRATURE.holds(frechet(*few), truth)
    assert not QUADRATURE.holds(frechet(few[0], few[1][:8]), truth)


def test_diversity_by_numpy():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 4)) * [1, 2, 0.5, 3] + 5
    asked = rng.integers(0, 5, size=60)
    assert ALGEBRA.holds(diversity(rows).value, np.trace(np.cov(rows.T)))
    parts = [rows[asked == p] for p in range(5)]
    within = sum((len(p) - 1) * np.trace(np.cov(p.T)) for p in parts) / (60 - 5)
    assert ALGEBRA.holds(diversity(rows, asked).value, within)
    assert not ALGEBRA.holds(diversity(rows).value, np.trace(np.cov(rows.T, ddof=0)))
    assert not ALGEBRA.holds(diversity(rows, asked).value, diversity(rows).value)
    # Prompts far apart: within them, that does not count; a prompt with one picture neither.
    apart = rows + 100 * asked[:, None]
    assert ALGEBRA.holds(diversity(apart, asked).value, within)
    lone = np.vstack([apart, np.zeros(4)])
    assert ALGEBRA.holds(diversity(lone, [*asked, 9]).value, within)


def test_rewards_by_numpy():
    rng = np.random.default_rng(2)
    base, tuned = rng.gamma(2.0, size=(2, 50))
    assert ALGEBRA.holds(mean_reward(base).value, base.sum() / 50)
    gain = (tuned.sum() - base.sum()) / 50 / base.std(ddof=1)
    found = reward_gain(base, tuned)
    assert ALGEBRA.holds(found.value, gain)
    assert not ALGEBRA.holds(found.value, -gain)
    assert not ALGEBRA.holds(found.value, (tuned - base).mean() / (tuned - base).std(ddof=1))
    # A shift by k deviations is a gain of k, in any unit, and pairs make it sharp.
    shifted = reward_gain(10 * base, 10 * (base + 0.5 * base.std(ddof=1)))
    assert ALGEBRA.holds(shifted.value, 0.5)
    turned = reward_gain(base, (base + 0.5 * base.std(ddof=1))[::-1])
    assert turned.high - turned.low > 2 * (shifted.high - shifted.low)


@pytest.mark.parametrize(("k", "n"), [(0, 12), (7, 9), (30, 40), (40, 40)])
def test_wilson_solves_its_equation(k, n):
    """Its ends are the shares p with |k/n - p| = z sqrt(p (1 - p) / n)."""
    found, z = accuracy(np.arange(n) < k), stats.norm.isf((1 - CONFIDENCE) / 2)
    assert found.value == k / n
    for end in (found.low, found.high):
        if end not in (0.0, 1.0):
            assert QUADRATURE.holds((k / n - end) ** 2, z**2 * end * (1 - end) / n)
    wald = math.sqrt(found.value * (1 - found.value) / n) * z
    assert not QUADRATURE.holds(found.high - found.low, 2 * wald)


@pytest.mark.parametrize("rows", [np.eye(1, 24)[0], np.arange(24.0)])
def test_a_model_that_did_not_change_has_a_gain_of_zero(rows):
    """Every resample is then zero, and BCa's weights are 0/0."""
    found = reward_gain(rows, rows)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_constant_samples_have_no_width():
    assert mean_reward(np.full(9, 0.25)) == Estimate(0.25, 0.25, 0.25)
    assert diversity(np.ones((9, 3))) == Estimate(0.0, 0.0, 0.0)


def test_the_seed_decides():
    rng = np.random.default_rng(3)
    base, tuned = draws(0, 60, rng), draws(1, 60, rng)
    for metric in (frechet_distance, lambda a, b, seed: diversity(a, seed=seed)):
        assert metric(base, tuned, seed=1) == metric(base, tuned, seed=1)
        assert metric(base, tuned, seed=1) != metric(base, tuned, seed=2)


# --- intervals: how often they cover the truth


def rejected(covered, trials, least):
    """Whether so few covered that a coverage of `least` is ruled out, at FALSE_FAILURE_RATE."""
    return stats.binom.cdf(covered, trials, least) < FALSE_FAILURE_RATE


def halved(found):
    """A mutant: an interval half as wide."""
    middle, half = (found.low + found.high) / 2, (found.high - found.low) / 4
    return Estimate(found.value, middle - half, middle + half)


def clustered(rng):
    """15 prompts of two pictures, of 3 features."""
    return draws(0, 30, rng), np.arange(30) % 15


# name: (draw and measure, truth, the least coverage that is asked for)
METRICS = {
    "mean reward": (lambda rng: mean_reward(rng.gamma(2.0, size=60), 0, 200), 2.0, 0.90),
    "gain": (
        lambda rng: reward_gain(*rng.normal([[0.0], [0.8]], 1.0, size=(2, 50)), 0, 200),
        0.8,
        0.90,
    ),
    "diversity": (lambda rng: diversity(draws(0, 60, rng), None, 0, 200), np.trace(COVS[0]), 0.85),
    "within": (lambda rng: diversity(*clustered(rng), 0, 200), np.trace(COVS[0]), 0.85),
    "frechet": (
        lambda rng: frechet_distance(draws(0, 120, rng), draws(1, 120, rng), 0, 60),
        distance(MEANS, COVS),
        0.85,
    ),
}
TRIALS = 240


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_intervals_cover(name):
    measure, truth, least = METRICS[name]
    rng = np.random.default_rng(4)
    found = [measure(rng) for _ in range(TRIALS)]
    covered = sum(f.low <= truth <= f.high for f in found)
    assert not rejected(covered, TRIALS, least), covered / TRIALS
    thin = sum(halved(f).low <= truth <= halved(f).high for f in found)
    assert rejected(thin, TRIALS, least), thin / TRIALS


def test_two_pictures_of_a_prompt_are_one_piece_of_evidence():
    """A mutant that draws pictures, not prompts, claims too narrow an interval."""
    rng = np.random.default_rng(5)
    widths = []
    for _ in range(40):
        rows, asked = clustered(rng)
        right = diversity(rows, asked, 0, 200)
        gaps = np.square(rows[:15] - rows[15:]).sum(1) / 2
        ends = stats.bootstrap(
            (np.repeat(gaps, 2),), np.mean, n_resamples=200, rng=np.random.default_rng(0)
        ).confidence_interval
        widths.append((ends.high - ends.low) / (right.high - right.low))
    # Twice the evidence that there is: narrower by sqrt 2.
    assert 0.6 < np.mean(widths) < 0.8


# --- the Frechet distance's bias


@pytest.mark.slow
def test_bias_of_the_frechet_distance():
    """Between samples of one law the plain value is positive, `corrected` much less so; the floor
    lies above the plain value, and a law that is another one lies above the floor."""
    rng = np.random.default_rng(6)
    same = [frechet_distance(draws(0, 150, rng), draws(0, 150, rng), 0, 40) for _ in range(30)]
    plain, corrected, floor = (
        np.mean([getattr(f, k) for f in same]) for k in ("value", "corrected", "floor")
    )
    assert corrected < 0.6 * plain
    assert floor > 1.5 * plain
    others = [frechet_distance(draws(0, 150, rng), draws(1, 150, rng), 0, 40) for _ in range(10)]
    assert all(f.value > 4 * f.floor for f in others)
    # Far from zero `corrected` has no bias that a t-test sees; the plain value at n = 12 has.
    truth = distance(MEANS, COVS)
    small = [frechet_distance(draws(0, 12, rng), draws(1, 12, rng), 0, 40) for _ in range(400)]

    def surely_off(values):
        gap = np.array(values) - truth
        bound = stats.t.isf(FALSE_FAILURE_RATE / 2, len(gap) - 1)
        return abs(gap.mean()) > bound * gap.std(ddof=1) / math.sqrt(len(gap))

    assert surely_off([f.value for f in small])
    assert not surely_off([f.corrected for f in small])


# --- bad input


@pytest.mark.parametrize(
    ("call", "needle"),
    [
        (lambda: mean_reward([1.0]), r"values must have shape \(n,\) .* got \(1,\)"),
        (lambda: mean_reward([1.0, math.nan]), "must be finite"),
        (lambda: reward_gain([1.0, 2.0], [1.0, 2.0, 3.0]), "base's shape"),
        (lambda: reward_gain([1.0, 1.0], [1.0, 2.0]), "base must be rewards that vary"),
        (lambda: accuracy([]), "booleans"),
        (lambda: accuracy([0.0, 1.0]), "booleans"),
        (lambda: diversity(np.ones(5)), r"must have shape \(n, d\)"),
        (
            lambda: diversity(np.ones((3, 2)), [1, 2]),
            r"prompt_index must have shape \(3,\).* got \(2,\)",
        ),
        (lambda: diversity(np.ones((3, 2)), [1, 2, 3]), "one prompt must have two pictures"),
        (lambda: frechet_distance(np.ones((5, 2)), np.ones((5, 4))), r"shape, \(5, 2\).* \(5, 4\)"),
        (lambda: frechet_distance(np.ones((3, 2)), np.ones((3, 2))), "n at least 4"),
        (lambda: frechet_distance(np.ones((5, 2)), np.ones((4, 2))), "base's shape"),
        (lambda: mean_reward([1.0, 2.0], resamples=2), "resamples must .*got 2"),
    ],
)
def test_bad_input(call, needle):
    with pytest.raises(ValueError, match=needle):
        call()
