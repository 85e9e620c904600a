"""theory.released.penalty and theory.released.exact: the KL term, alone and in the recursion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import MANY
from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.problems.problem import load_problem
from theory.recursion import Recursion, carry
from theory.recursion.checks import GridError
from theory.released.exact import Epoch, carry_epochs
from theory.released.penalty import Penalty, law_tilt, law_weights, matching_weight

positive = st.floats(1e-3, 1e2)


@MANY
@given(beta=positive, kl=positive, t=st.floats(0, 0.99), epochs=st.integers(0, 40))
def test_tilt_is_the_recursion_carried_on(beta, kl, t, epochs):
    """B <- omega (B + 2/b), epoch by epoch, against eta_0 (1 - omega^k); dropping the anchor or
    the step is seen."""
    rule = Penalty(beta, kl)
    share, b = float(rule.share(t)), 0.0
    for _ in range(epochs):
        b = share * (b + 2 / beta)
    size = max(b, 1e-300)
    assert abs(float(rule.tilt(t, epochs)) - b) <= 1e3 * ALGEBRA.rtol * size
    if epochs:
        assert float(rule.tilt(t, epochs)) < epochs * 2 / beta


@MANY
@given(beta=positive, kl=positive, t=st.floats(0, 0.99), std=st.floats(0.1, 10.0))
def test_matching_weight_inverts_the_limit(beta, kl, t, std):
    for normaliser in ("off", "x1"):
        rule = Penalty(beta, kl, normaliser, std)
        back = matching_weight(float(rule.eta_0(t)), t, normaliser, std)
        assert float(back) == pytest.approx(kl, rel=ALGEBRA.rtol)


def test_velocity_penalty_of_the_method_is_the_other_convention():
    """theory.recursion.spec has the loss on velocities: kl there is kl b w / (5 (1-t)^2) here."""
    beta, kl, t = 0.7, 0.02, 0.6
    there = Recursion(beta, kl_weight=kl * beta / (5 * (1 - t) ** 2))
    here = Penalty(beta, kl)
    assert there.anchor == pytest.approx(float(here.share(t)))
    assert there.limit == pytest.approx(float(here.eta_0(t)))
    assert there.effective_tilt(9) == pytest.approx(float(here.tilt(t, 9)))


def test_ends_and_extremes():
    rule = Penalty(1.0, 1e-4)
    assert float(rule.share(1.0)) == 0
    assert float(rule.tilt(1.0, 5)) == 0
    assert float(rule.eta_0(1.0)) == 0
    free = Penalty(1.0, 0.0)
    assert float(free.tilt(1.0, 5)) == 10
    assert float(free.eta_0(0.5)) == np.inf
    assert float(free.kept(0.5, 7)) == 1
    assert float(rule.limit_per_std(0.5)) == pytest.approx(2500.0)
    assert float(rule.limit_per_std(0.5, 0.2)) == pytest.approx(5000.0)
    assert float(matching_weight(3.0, 1.0, "x1")) == 0


def test_law_weights():
    for std in (0.1, 1.0, 30.0):
        t, w = law_weights(std)
        assert w.sum() == pytest.approx(1.0)
        assert law_tilt(lambda s: np.full(s.shape, 2.5), std) == pytest.approx(2.5)
        # int t d sin(phi) for s = 1: by parts 1 - int sin(phi) dt
        if std == 1.0:
            grid = np.linspace(0, 1, 200_001)
            sine = grid / np.sqrt(grid**2 + (1 - grid) ** 2)
            assert w @ t == pytest.approx(1 - np.trapezoid(sine, grid), abs=QUADRATURE_TIGHT.rtol)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Penalty(0.0), "nft_beta"),
        (lambda: Penalty(1.0, -1e-4), "kl_weight"),
        (lambda: Penalty(1.0, float("nan")), "kl_weight"),
        (lambda: Penalty(1.0, 1e-4, "velocity"), "normaliser"),
        (lambda: Penalty(1.0, 1e-4, data_std=0.0), "data_std"),
        (lambda: Penalty(1.0).tilt(0.5, -1), "epochs"),
        (lambda: Penalty(1.0).kept(0.5, 0), "epochs"),
        (lambda: matching_weight(0.0, 0.5), "eta_0"),
        (lambda: law_tilt(lambda t: t, -1.0), "data_std"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- on the grid


def test_without_penalty_it_is_the_recursion_of_theory():
    """Steps of one size, refitted: the same laws as theory.recursion's, to the last digits."""
    problem, lam = load_problem("note_1d"), 0.3
    ours = carry_epochs(problem, [Epoch(lam, 0.25)] * 3, mode="refit")
    theirs = carry(problem, Recursion(2 / lam, "refit", ema=0.25), 3, ours.axes)
    assert np.abs(ours.laws[-1].density - theirs.laws[-1].density).max() <= ALGEBRA.rtol
    other = carry_epochs(problem, [Epoch(lam, 0.0)] * 3, mode="refit")
    assert ours.summary()[-1]["tilt"] < 0.8 * other.summary()[-1]["tilt"]


def test_a_strong_penalty_keeps_the_base():
    problem = load_problem("note_1d")
    run = carry_epochs(problem, [Epoch(0.5, 0.0, Penalty(1.0, 1e6))] * 2)
    assert abs(run.summary()[-1]["tilt"]) < 1e-4


def test_rewards_may_be_shifted():
    """The mapping subtracts the mean: a constant in r changes no law."""
    from dataclasses import replace

    from theory.tilts.quadratic import linear_reward

    problem = load_problem("linear_1d")
    moved = replace(problem, reward=linear_reward([0.45], 7.0))
    laws = [carry_epochs(p, [Epoch(0.4)] * 2).laws[-1].density for p in (problem, moved)]
    assert np.abs(laws[0] - laws[1]).max() <= QUADRATURE_TIGHT.rtol


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": lambda e, m, s: Epoch(0.1)}, "epochs and reach must .*got epochs = None"),
        ({"plan": [Epoch(0.1)], "mode": "frozen"}, "mode"),
        ({"plan": []}, "epochs must .*got 0"),
    ],
)
def test_bad_plans_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        carry_epochs(load_problem("note_1d"), **options)


def test_a_law_that_does_not_fit_the_grid_is_told():
    problem = load_problem("quadratic_1d")
    with pytest.raises((GridError, ValueError), match="epoch"):
        carry_epochs(problem, lambda e, m, s: Epoch(0.3 / s), 60, 1.0, grid=96)
