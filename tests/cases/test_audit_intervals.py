"""A1: the tilt's interval and KL's, whatever the spread of rows over prompts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from theory.audit.data.inputs import audit_data
from theory.audit.estimators.tilt import ONE_TILT, PROMPTS_LIKE, THESE_PROMPTS, effective_tilt
from theory.audit.families.families import FAMILIES
from theory.audit.page.verdict import verdict
from theory.audit.report import audit
from theory.common.tolerances import FALSE_FAILURE_RATE


def drawn(rng, large, small, others=9):
    """N(0, 1) on both sides, `large` rows a side in one prompt, `small` in each of the others."""
    prompts = np.repeat(np.arange(others + 1), [large] + [small] * others)
    sides = rng.normal(size=(2, len(prompts)))
    return audit_data(*sides, prompts, prompts).pooled


def by_sums_of_prompts(fitted, pooled):
    """What was wrong: a large prompt's score is minus the others' sum at the maximum, so that its
    own noise is not in the variance of prompts' sums."""
    sums = pooled.sums(fitted.fit.scores(pooled)[:, 0])
    error = np.sqrt(len(sums) * sums.var(ddof=1)) / fitted.fit.information[0, 0] / pooled.spread
    return abs(fitted.parameters["a"]) < stats.t.isf(0.025, len(sums) - 1) * error


REPEATS = 200


@pytest.mark.parametrize(
    ("large", "small", "others", "was_wrong"),
    [
        (2000, 3, 9, True),  # covered in 0.24 of the sets
        (2000, 3, 40, True),  # 0.46
        (2000, 20, 40, True),  # 0.77
        (40, 20, 9, False),  # no prompt holds most rows
    ],
)
def test_a1_one_prompt_with_most_rows(large, small, others, was_wrong):
    hits = wrong = 0
    for seed in range(REPEATS):
        pooled = drawn(np.random.default_rng(seed), large, small, others)
        fitted = FAMILIES["exponential"].fit(pooled)
        found = effective_tilt(fitted, pooled)
        assert found.scope == (THESE_PROMPTS if was_wrong else PROMPTS_LIKE)
        hits += found.low <= 0 <= found.high
        wrong += by_sums_of_prompts(fitted, pooled)
    least = stats.binom(REPEATS, 0.95).ppf(FALSE_FAILURE_RATE)
    assert hits >= least
    assert (wrong < least) == was_wrong


def test_a1_by_hand():
    """The interval that claimed [-0.0449, -0.0294] without any tilt."""
    rng = np.random.default_rng(3)
    names = np.array(["main"] * 2000 + [f"p{i}" for i in range(9) for _ in range(3)])
    pooled = audit_data(rng.normal(size=2027), rng.normal(size=2027), names, names).pooled
    fitted = FAMILIES["exponential"].fit(pooled)
    found = effective_tilt(fitted, pooled)
    assert found.low < 0 < found.high
    assert found.scope == THESE_PROMPTS
    assert found.alone is not None
    assert np.bincount(pooled.prompt)[found.alone] == 4000
    stated = effective_tilt(fitted, pooled, one_tilt=True)
    assert stated.scope == ONE_TILT
    assert stated.low < 0 < stated.high


def test_a1_one_tilt_stated_is_concluded_from_few_rows():
    """15 rows a side: nothing else is said of them."""
    rng = np.random.default_rng(6)
    names = np.repeat([f"p{i}" for i in range(10)], [1, 2] * 5)
    sides = rng.normal(size=15), rng.normal(size=15)
    data = audit_data(*sides, names, names)
    found = audit(data, one_tilt=True)
    assert not found.conclusive
    assert found.tilt_holds
    first, *more = verdict(found)
    assert first.startswith(f"effective tilt {found.tilt} per unit of reward")
    assert "if all prompts have one tilt, as was said" in first
    assert more[0] == "more cannot be concluded, because base has 15 samples, 20 are needed"
    unsaid = audit(data)
    assert unsaid.tilt is None
    assert not unsaid.tilt_holds
    assert verdict(unsaid)[0].startswith("cannot conclude, because base has 15 samples")


def test_a1_one_row_decides_a_stated_tilt():
    """Which is then no conclusion."""
    rng = np.random.default_rng(1)
    data = audit_data(rng.normal(size=15), np.append(rng.normal(size=14), 30.0), None, None)
    found = audit(data, one_tilt=True)
    assert found.influence.row.changes
    assert not found.tilt_holds
    assert verdict(found)[0].startswith("cannot conclude")
