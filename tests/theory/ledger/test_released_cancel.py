"""N2: what the reward leaves in the loss where student and old copy coincide."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import SOME, seeds
from tests.theory.ledger.test_second_routes import offences, quick, strangers
from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.ledger.core.claim import PROFILES, Context
from theory.ledger.core.identity import Identity
from theory.ledger.core.search import search
from theory.ledger.oracle.released import loss as released_loss
from theory.ledger.oracle.released.loss import Sample
from theory.ledger.released import cancel as released_cancel
from theory.ledger.released import cancel_given
from theory.ledger.released.cancel import N2, NORMALISERS, gradient, value
from theory.ledger.released.cancel_given import Sizes, sizes
from theory.ledger.run import measure
from theory.ledger.settings.lemma import Lemmas, LemmaSetting
from theory.ledger.settings.problems import full_rank_setting
from theory.problems.problem import load_problem

IDENTITIES = [p for p in N2.parts if isinstance(p, Identity)]
named = pytest.mark.parametrize("part", IDENTITIES, ids=lambda p: p.name)


def test_the_row():
    result = measure(N2, PROFILES["fast"])
    assert result.verdict == N2.recorded == "conditional"
    claim = result.findings[0]
    assert not claim.holds
    assert claim.numbers["value"] <= ALGEBRA.rtol
    assert claim.numbers["counterexample"]["r = 1"] == {"value": 5.0, "gradient": -10.0}
    assert claim.numbers["counterexample"]["r = 0"] == {"value": 5.0, "gradient": 10.0}


@pytest.mark.parametrize("part", N2.parts, ids=lambda p: getattr(p, "name", "function"))
def test_every_part_and_its_mutants(part):
    found = part(Context(replace(PROFILES["fast"], problems={1: 4, 2: 1})))
    assert found.holds == (found.role != "claim")
    assert found.mutants
    assert all(found.mutants.values())


@named
def test_second_routes_are_independent(part):
    assert offences(part.second) == set()
    assert strangers(quick(part, part.second)) == set()


@named
def test_search_climbs(part):
    found = search(part, replace(PROFILES["fast"], starts=3, steps=2), seed=1)
    assert found.errors
    assert max(found.errors) <= part.tier.rtol


# --- of one sample


@given(seed=seeds, dim=st.sampled_from([1, 2, 5]), normaliser=st.sampled_from(NORMALISERS))
@SOME
def test_any_two_rewards_give_one_value_and_two_gradients(seed, dim, normaliser):
    s = Lemmas().draw(dim, seed)
    size = released_cancel._value_scale(s, normaliser)
    values = [float(value(s, r, normaliser)) for r in (0.0, 0.3, 1.0)]
    assert ALGEBRA.holds(values[1:], values[:1], size)
    low, high = (gradient(s, r, normaliser) for r in (0.0, 1.0))
    assert ALGEBRA.holds(low, -high)
    assert not ALGEBRA.holds(low, high, np.abs(high).max())
    # Away from the old copy the value does depend on r.
    away = [float(value(s, r, normaliser, away=1.0)) for r in (0.0, 1.0)]
    assert away[0] != away[1]


def test_the_penalty_pulls_whatever_the_reward():
    s = Lemmas().draw(2, 3)
    values = [float(value(s, r, "off", kl_weight=0.5)) for r in (0.0, 1.0)]
    penalty = 0.5 * 5 / s.b * np.sum((s.v - s.other) ** 2)
    assert ALGEBRA.holds(values, float(value(s, 0.0, "off")) + penalty, values[0])


def test_loss_by_hand():
    """v = 1, y = 3, mu = 2, r = 3/4, b = 1/2: x+- - y = -2 +- 1/2."""
    sample = Sample([Fraction(1)], [Fraction(3)], Fraction(3, 4), Fraction(1, 2))
    mu = [Fraction(2)]
    assert released_loss.value(sample, mu) == 10 * (
        Fraction(3, 4) * Fraction(9, 4) + Fraction(1, 4) * Fraction(25, 4)
    )
    assert released_loss.gradient(sample, mu) == [
        10 * (Fraction(3, 4) * Fraction(-3, 2) + Fraction(1, 4) * Fraction(5, 2))
    ]
    normal = sample._replace(normalised=True)
    assert released_loss.weights(normal, mu) == (Fraction(3, 2), Fraction(5, 2))
    assert released_loss.value(normal, mu) == 10 * (
        Fraction(3, 4) * Fraction(3, 2) + Fraction(1, 4) * Fraction(5, 2)
    )
    assert released_loss.weights(normal, [Fraction(5)])[0] == released_loss.LEAST_WEIGHT


def test_a_gradient_that_sees_its_weights_is_another():
    """The code holds w fixed: with d = 1 the full derivative of |e|²/|e| is half the semi one."""
    s = LemmaSetting(np.array([0.5]), np.array([2.0]), np.zeros(1), np.zeros(1), 1.0, 1.0)
    step = Fraction(1, 2**20)
    sample = Sample([Fraction(1, 2)], [Fraction(2)], Fraction(1), Fraction(1), True)
    up, down = (
        released_loss.value(sample, [Fraction(1, 2) + sign * step]) for sign in (Fraction(1), -1)
    )
    assert ALGEBRA.holds(gradient(s, 1.0, "x1"), 2 * float((up - down) / (2 * step)))


# --- given X_t = x


def test_given_parts_refuse_more_directions():
    s = full_rank_setting(5, 0)
    case = replace(s.case, means=s.case.means[:, :2], covs=s.case.covs[:, :2, :2])
    with pytest.raises(ValueError, match=r"must vary in all .*, got .* d = 5, plane of 2"):
        released_loss.gradient_at_old(case, s.x, s.at, 1.0)


def test_branches_tell_apart_where_old_is_not_the_datas_velocity():
    """The means of |v+ - Y|² and |v- - Y|² are one because v_old = E[Y|x]: about another v_old
    they differ by 4 b D.(v_old - E[Y|x])."""
    s = cancel_given.SETTINGS.draw(1, 4)
    given = released_loss._Given(s.case, s.x, s.at)
    same = released_loss.branch_means(s.case, s.x, s.at, s.nft_beta, s.x)
    assert QUADRATURE_TIGHT.holds(same[0], same[1])
    true, given.mean = given.mean, given.mean + 0.1
    turned = s.case.frame.T @ s.x
    apart = given.law.mean(lambda y: np.stack(given.values(y, turned, s.nft_beta), axis=1)).value
    gap = 4 * s.nft_beta * float(turned @ (given.mean - true))
    assert QUADRATURE_TIGHT.holds(apart[0] - apart[1], gap, same[0])
    assert not QUADRATURE_TIGHT.holds(apart[0], apart[1])


def test_sizes_in_the_gaussian_case():
    """One Gaussian of variance s², r linear: C² = Var(r|x) tr Cov at every x, so that the ratio
    is 1; the floor is the mean of s² (1 - t)² / (t² s² + (1 - t)²)."""
    problem = load_problem("linear_1d")
    base = problem.base
    one = type(base).mixture([1.0], [[0.3]], stds=[0.8])
    found = sizes(replace(problem, base=one), 8)
    t = np.linspace(0, 1, 20_001)
    inside = 0.64 * (1 - t) ** 2 / (t**2 * 0.64 + (1 - t) ** 2)
    assert ALGEBRA.holds(found.tightest, 1.0)
    # Eight nodes in time.
    assert abs(found.floor / np.trapezoid(inside, t) - 1) < 1e-5
    pull = np.trapezoid(inside**2, t) / 0.64
    assert abs(found.pull / pull - 1) < 1e-4


def test_region():
    region = released_cancel.cancel_region(5)
    assert region.errors.shape == (5, 5)
    assert np.all(np.diff(region.errors, axis=0) > 0)
    found = sizes(load_problem("note_1d"), 1024)
    assert isinstance(found, Sizes)
    assert ALGEBRA.holds(
        region.errors[-1, -1], 2 * found.pull / found.floor / (1 + found.pull / found.floor)
    )
    assert torch.get_num_threads() >= 1
