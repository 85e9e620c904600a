"""Wrappers ranked by rows held out: the true one wins, refused ones are named."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.theory.audit.synthetic import data_of, gaussians
from theory.audit.estimators.compare import _folds, compare_wrappers
from theory.audit.families.families import FAMILIES
from theory.audit.fit.likelihood import NoFitError, row_values
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE

LARGE = 5000


def drawn(rng, log_phi, n=LARGE):
    """Rewards 0.3 + 2 Beta(2, 3), tuned ones by accepting with chance Phi/max Phi."""
    base = 0.3 + 2 * rng.beta(2, 3, size=n)
    more = 0.3 + 2 * rng.beta(2, 3, size=60 * n)
    top = log_phi(np.linspace(0.3, 2.3, 999)).max()
    tuned = more[np.log(rng.uniform(size=60 * n)) < log_phi(more) - top][:n]
    assert len(tuned) == n
    return data_of([base], [tuned]).pooled


TRUTHS = {
    "exponential": lambda r: 1.5 * r,
    "linear": lambda r: np.log(2.32 - r),
    "clipped": lambda r: 4 * np.minimum(r, 1.0),
    "power": lambda r: 3 * np.log(r),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_the_true_wrapper_wins(name):
    names = ("exponential", "linear", "clipped", "power")
    found = compare_wrappers(drawn(np.random.default_rng(0), TRUTHS[name]), names)
    own = found.of(name)
    assert own.p_value > FALSE_FAILURE_RATE
    assert abs(own.explained - 1) < 0.06
    assert own.as_good
    # The best is it, or holds it: a cap beyond all rewards.
    assert found.best.name in (name, "clipped")
    assert (found.best.behind, found.best.error) == (0.0, 0.0)
    values = [c.held_out for c in found.candidates]
    assert values == sorted(values, reverse=True)
    wrong = [c for c in found.candidates if c.name != name and c.p_value < FALSE_FAILURE_RATE]
    assert wrong or name in ("power", "linear")  # which the others come near to
    assert all(c.explained < own.explained and not c.explains for c in wrong)


def test_refused_wrappers_are_named():
    pooled = gaussians(np.random.default_rng(1), 6, 12, 12, 0.4).pooled
    found = compare_wrappers(pooled, ("exponential", "power", "rank", "best_of_n"))
    assert [c.name for c in found.candidates] == ["exponential"]
    assert "rewards > 0" in found.refused["power"]
    assert "20 base samples" in found.refused["rank"]
    assert found.of("rank") is None
    with pytest.raises(NoFitError, match="rewards > 0"):
        compare_wrappers(pooled, ("power",))
    with pytest.raises(ValueError, match=r"wrapper must be one of exponential, .*got 'exp'"):
        compare_wrappers(pooled, ("exp",))


def test_ranks_need_rows_in_every_prompt():
    """19 base rows in one prompt: refused by name; 20 are enough, and folds rank among all."""
    few = gaussians(np.random.default_rng(1), 3, 19, 20, 0.4).pooled
    assert compare_wrappers(few, ("exponential", "rank")).refused["rank"].startswith("ranks need")
    enough = gaussians(np.random.default_rng(1), 3, 20, 20, 0.4).pooled
    assert compare_wrappers(enough, ("exponential", "rank")).refused == {}


def test_folds_are_a_partition():
    pooled = gaussians(np.random.default_rng(2), 5, 23, 11, 0.4).pooled
    folds = _folds(pooled)
    assert len(folds) == 5
    held = np.sum([f.rows for f in folds], axis=0)
    assert held.max() == 1
    assert held.mean() > 0.9
    for fold in folds:
        train, test = set(fold.train.reward), set(fold.test.reward)
        assert not train & test
        assert test == set(pooled.reward[fold.rows])
        assert (fold.test.n1 > 0).all()
        assert (fold.test.n0 > 0).all()
        # Labels are dealt evenly: fold sizes differ by one a cell at most.
        assert abs(len(fold.test) - len(pooled) / 5) <= 10


def test_held_out_is_no_tilts_loss_less_its_own():
    """By hand: fit on the rest, value of the fold, over all rows."""
    pooled = gaussians(np.random.default_rng(3), 3, 40, 40, 0.6).pooled
    found = compare_wrappers(pooled, ("exponential",)).of("exponential")
    total = 0.0
    for fold in _folds(pooled):
        a = FAMILIES["exponential"].fit(fold.train).parameters["a"]
        for tilt, sign in ((a, 1), (0.0, -1)):
            T = fold.test.reward
            values = row_values(lambda t, T=T: (t[0] * T, T[:, None]), np.array([tilt]), fold.test)
            total += sign * values.sum()
    assert QUADRATURE.holds(found.held_out, total / len(pooled))


def test_nothing_to_explain_has_no_share():
    rng = np.random.default_rng(4)
    pooled = data_of([rng.normal(size=60)], [rng.normal(size=60)]).pooled
    found = compare_wrappers(pooled, ("exponential", "linear"))
    assert all(math.isnan(c.explained) for c in found.candidates)
    assert ALGEBRA.holds(len(pooled), found.held_out_rows)


def test_pairs_can_be_compared():
    """One base and one tuned row a prompt: whole prompts could be held out."""
    found = compare_wrappers(gaussians(np.random.default_rng(5), 60, 1, 1, 0.5).pooled)
    assert found.of("exponential") is not None
