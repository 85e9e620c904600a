"""Situations in which the audit's comparison of wrappers failed."""

import numpy as np

from theory.audit import audit_data
from theory.audit.estimators.compare import _folds, compare_wrappers
from theory.audit.families.families import FAMILIES


def ragged(seed):
    """60 prompts with 2, 3, ..., 61 rows a side, N(0, 1) rewards."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(60), np.arange(2, 62))
    return audit_data(rng.normal(size=len(who)), rng.normal(size=len(who)), who, who).pooled


def test_a10_prompts_of_uneven_size_are_compared():
    pooled = ragged(0)
    folds = _folds(pooled)
    # The folds do lose prompts: there are rows that are neither trained on nor held out.
    assert any((~fold.kept & ~fold.rows).any() for fold in folds)
    for fold in folds:
        assert not (fold.kept & fold.rows).any()
        assert (fold.train.reward == pooled.reward[fold.kept]).all()
        assert (fold.test.reward == pooled.reward[fold.rows]).all()
    found = compare_wrappers(pooled, ["exponential", "linear"])
    assert {c.name for c in found.candidates} == {"exponential", "linear"}


def test_a10_ranks_too():
    rng = np.random.default_rng(1)
    sizes = np.arange(20, 32)
    who = [np.repeat(np.arange(12), sizes), np.repeat(np.arange(12), np.arange(3, 15))]
    pooled = audit_data(*(rng.normal(size=len(w)) for w in who), *who).pooled
    assert any((~fold.kept & ~fold.rows).any() for fold in _folds(pooled))
    found = compare_wrappers(pooled, ["rank", "best_of_n"])
    assert {c.name for c in found.candidates} == {"rank", "best_of_n"} <= set(FAMILIES)
