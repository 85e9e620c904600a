"""Given the reward: level under the null, power against what is planted, strata and witness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from tests.helpers import ks_bound, ks_distance
from tests.theory.audit.synthetic import data_of, planted
from theory.audit.data.features import deviations
from theory.audit.estimators.conditional import (
    LEAST_INFORMED,
    TooFewError,
    at_most,
    conditional_test,
    fourier_features,
    orthogonal,
    permute,
    prompt_sums,
    rank,
    standardised,
    stratify,
)
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, FLOAT32

DRAWS = 99


def p_of(data, seed=0, second=False):
    return conditional_test(data, permute(data, seed, DRAWS), seed, second)


def test_level_under_a_tilt():
    """Features follow the reward; the tilt moves them, but not given the reward."""
    p = [p_of(planted(np.random.default_rng(s), 2, 70, dim=3), s).p_value for s in range(40)]
    # Of a permutation test P(p <= x) <= x: only the lower side.
    assert ks_distance(torch.as_tensor(p) - 0.005, lambda x: x.clip(0, 1)) < ks_bound(40)
    for level in (0.02, 0.1, 0.3):
        hits = sum(x <= level for x in p)
        assert stats.binom.sf(hits - 1, 40, level) > FALSE_FAILURE_RATE


@pytest.mark.parametrize("what", [{"scale": 0.4}, {"shift": 1.0}])
def test_planted_changes_are_found(what):
    found = p_of(planted(np.random.default_rng(1), 2, 150, **what))
    assert found.p_value == 1 / (DRAWS + 1)
    assert found.permutations == DRAWS


def test_mode_collapse_is_found():
    """Two modes beside the reward; the tuned model has one of them, with the same mean reward."""
    rng = np.random.default_rng(2)
    n = 200
    r, s = rng.normal(size=n), 0.5 + rng.normal(size=n)
    f, g = ([rng.choice(m, size=n), *rng.normal(size=(2, n))] for m in ([-2, 2], [-2, -2, -2, 2]))
    data = data_of([r], [s], [np.stack(f, 1)], [np.stack(g, 1)])
    assert p_of(data).p_value == 1 / (DRAWS + 1)


def test_the_prompt_is_named():
    found = p_of(planted(np.random.default_rng(3), 4, 80, scale=[1, 1, 0.35, 1]))
    assert found.prompt_p[2] == 1 / (DRAWS + 1)
    assert np.delete(found.prompt_p, 2).min() > 2 / (DRAWS + 1)


def test_prompts_of_few_rows_have_no_p_value():
    rng = np.random.default_rng(4)
    base, tuned = rng.normal(size=(2, 150)), [rng.normal(size=150), rng.normal(size=2)]
    features = [rng.normal(size=(150, 2))] * 2, [rng.normal(size=(len(t), 2)) for t in tuned]
    found = p_of(data_of(base, tuned, *features))
    assert np.isnan(found.prompt_p).tolist() == [False, True]


def test_witness_is_high_where_tuned_samples_are_too_many():
    data = planted(np.random.default_rng(5), 1, 300, shift=1.2, a=0.3)
    found = p_of(data)
    for values, side in zip(found.witness, (data.base, data.tuned), strict=True):
        known = ~np.isnan(values)
        assert known.mean() > 0.9
        by_row = np.empty(len(side))
        by_row[side.row] = side.features[:, -1] - side.features[:, :-1].mean(1)
        assert np.corrcoef(values[known], by_row[known])[0, 1] > 0.3
    assert np.nanmean(found.witness[1]) > np.nanmean(found.witness[0])


def test_classifier_sees_what_is_planted():
    changed = p_of(planted(np.random.default_rng(6), 1, 500, shift=0.9), second=True)
    assert changed.c2st_p == 1 / (DRAWS + 1)
    assert changed.accuracy > 0.6
    same = p_of(planted(np.random.default_rng(6), 1, 500), second=True)
    assert same.c2st_p > 2 / (DRAWS + 1)
    assert abs(same.accuracy - 0.5) < 0.1
    few = p_of(planted(np.random.default_rng(6), 1, 100), second=True)
    assert (few.accuracy, few.c2st_p) == (None, None)


# --- pieces


def test_strata_are_narrow_and_two_sided():
    data = planted(np.random.default_rng(7), 3, 90)
    strata = stratify(data)
    pooled = strata.pooled
    assert (pooled.n0 > 0).all()
    assert (pooled.n1 > 0).all()
    assert pooled.sizes.max() <= 32
    for s in range(pooled.count):
        rows = pooled.prompt == s
        assert len(set(strata.prompt[rows])) == 1
        # No other row of this prompt has a reward in between.
        low, high = pooled.reward[rows].min(), pooled.reward[rows].max()
        others = pooled.reward[(strata.prompt == strata.prompt[rows][0]) & ~rows]
        assert not ((others > low) & (others < high)).any()
    for side, label in ((data.base, 0), (data.tuned, 1)):
        rows = pooled.label == label
        back = np.argsort(side.row)[strata.side_row[rows]]
        assert ALGEBRA.holds(side.reward[back], pooled.reward[rows])
        units = deviations(data)
        standard = (side.features[back] - units.centre) / units.unit
        assert FLOAT32.holds(strata.raw[rows], standard, 1.0)
        assert (side.prompt[back] == strata.prompt[rows]).all()
    # Within prompts features have mean 0 and variance 1, but for the strata left out.
    whole = strata.features
    assert np.abs(whole.mean(0)).max() < 0.05
    assert np.abs(whole.std(0) - 1).max() < 0.05
    assert FLOAT32.holds(strata.informed, 2 * strata.weight.sum())


def test_rows_of_one_seed_are_on_one_side():
    rng = np.random.default_rng(8)
    n = 120
    noise = rng.normal(size=(n, 3))
    data = data_of(
        [noise[:, 0]],
        [0.4 + noise[:, 0]],
        [noise],
        [noise + 0.01],
        base_seed=np.arange(n),
        tuned_seed=np.arange(n),
    )
    strata = stratify(data)
    label = strata.pooled.label
    assert not set(strata.side_row[label == 0]) & set(strata.side_row[label == 1])
    assert p_of(data).p_value > 1 / (DRAWS + 1)


def test_permutations_keep_the_counts_of_strata():
    permuted = permute(planted(np.random.default_rng(9), 2, 80), 0, DRAWS)
    pooled = permuted.strata.pooled
    assert permuted.labels.shape == (DRAWS + 1, len(pooled))
    assert (permuted.labels[0] == (pooled.label == 1)).all()
    for s in range(pooled.count):
        assert (permuted.labels[:, pooled.prompt == s].sum(1) == pooled.n1[s]).all()
    assert FLOAT32.holds(permuted.residual[0], pooled.label - permuted.strata.chance, 1.0)
    # Their mean is the chance, within the draws' noise.
    gap = permuted.labels[1:].mean(0) - permuted.strata.chance
    assert np.abs(gap).max() < 6 * 0.5 / np.sqrt(DRAWS)


def test_projection():
    """By weighted least squares on stratum dummies and the curve's functions."""
    strata = stratify(planted(np.random.default_rng(10), 2, 60))
    phi = next(fourier_features(strata, np.random.default_rng(0)))[:, :3]
    dummies = np.eye(strata.pooled.count)[strata.pooled.prompt]
    X = np.hstack([dummies, strata.functions])
    root = np.sqrt(strata.weight)[:, None]
    fit = np.linalg.lstsq(root * X, root * phi.astype(float), rcond=1e-10)[0]
    found = orthogonal(phi, strata)
    assert FLOAT32.holds(found, phi - X @ fit, np.abs(phi).max() * 10)
    assert not FLOAT32.holds(phi, phi - X @ fit, np.abs(phi).max() * 10)


def test_prompt_sums_are_loops():
    permuted = permute(planted(np.random.default_rng(11), 3, 60), 0, 19)
    strata, residual = permuted.strata, permuted.residual
    phi = np.random.default_rng(0).normal(size=(len(strata.prompt), 2)).astype(np.float32)
    found = prompt_sums(strata, residual, phi)
    for g in range(3):
        rows = np.flatnonzero(strata.prompt == g)
        loop = sum(residual[:, i, None] * phi[i] for i in rows)
        assert FLOAT32.holds(found[g], loop, np.abs(loop).max())


def test_random_features_are_a_gaussian_kernel():
    strata = stratify(planted(np.random.default_rng(12), 1, 150))
    x = strata.features.astype(float)
    gap = np.linalg.norm(x[:, None] - x[None], axis=-1)
    median = np.median(gap)
    errors = []
    for factor, phi in zip(
        (0.5, 1, 2), fourier_features(strata, np.random.default_rng(0)), strict=True
    ):
        kernel = np.exp(-(gap**2) / (2 * (factor * median) ** 2))
        errors.append(np.sqrt(np.square(phi @ phi.T - kernel).mean()))
    assert max(errors) < 0.12  # about 1/sqrt(256), and the sampled median


def test_ranks_and_standardisation():
    values = np.array([[3.0, 1, 2, 3], [0, 1, 2, 3], [5, 1, 2, 3]])
    assert ALGEBRA.holds(rank(values), [0.5, 1.0, 0.25])
    assert ALGEBRA.holds(standardised(values), stats.zscore(values, axis=1), 1.0)
    assert ALGEBRA.holds(standardised(np.ones((1, 3))), np.zeros((1, 3)))


def test_constant_features_are_dropped_or_refused():
    data = planted(np.random.default_rng(13), 2, 80)
    more = [
        np.hstack([s.features, np.full((len(s), 1), 0.1) + s.prompt[:, None]])
        for s in (data.base, data.tuned)
    ]
    split = [
        [f[s.prompt == g] for g in range(2)]
        for f, s in zip(more, (data.base, data.tuned), strict=True)
    ]
    rewards = [[s.reward[s.prompt == g] for g in range(2)] for s in (data.base, data.tuned)]
    with_constant = data_of(*rewards, *split)
    assert stratify(with_constant).features.shape[1] == data.dim
    alone = data_of(*rewards, *[[f[:, -1:] for f in side] for side in split])
    with pytest.raises(TooFewError, match="no feature varies"):
        stratify(alone)


def test_too_few_rows():
    with pytest.raises(TooFewError, match=rf"information of .* pairs.*{LEAST_INFORMED}"):
        permute(planted(np.random.default_rng(14), 1, 30), 0, 19)
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="features must be given for both sides"):
        stratify(data_of(rng.normal(size=(1, 90)), rng.normal(size=(1, 90))))


def test_an_even_choice():
    data = planted(np.random.default_rng(15), 3, 100)
    found = at_most(data, 30)
    assert len(found.base) == len(found.tuned) == 30
    assert np.bincount(found.base.prompt).tolist() == [10, 10, 10]
    assert at_most(data, 300) is data
