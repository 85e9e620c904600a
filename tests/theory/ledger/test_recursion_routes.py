"""theory.recursion against `theory.ledger.oracle.online`, and mistakes in either that the ledger
would see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from theory.common.tolerances import QUADRATURE, SLOPE
from theory.ledger.core.claim import PROFILES, Context
from theory.ledger.zhu.ema import DECAY, averaged_parameters, parameter_gaps
from theory.ledger.zhu.online import (
    densities_apart,
    epochs_of_tilts,
    frozen_laws,
    law_gap,
    recursion_in_the_gaussian_case,
    rotated_gaussian,
    second_route,
)
from theory.ledger.zhu.student import growth, old_velocity_gaps
from theory.problems.problem import load_problem
from theory.recursion import Recursion, carry
from theory.recursion.grid import Clock
from theory.recursion.online import STEPS

PROBLEM = load_problem("note_1d")
BETA, EPOCHS = 3.0, 2
RULES = {
    "refit": Recursion(BETA),
    "student": Recursion(BETA, "student", ema=0.3),
    "frozen": Recursion(BETA, "frozen", ema=0.3),
}


@pytest.fixture(scope="module")
def theirs():
    return {name: second_route(PROBLEM, rule, EPOCHS) for name, rule in RULES.items()}


def apart(theirs, name: str) -> float:
    return densities_apart(carry(PROBLEM, RULES[name], EPOCHS), theirs[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_two_routes(name, theirs):
    assert apart(theirs, name) <= QUADRATURE.rtol


@pytest.mark.slow
def test_laws_in_a_rotated_plane():
    """Frozen and refitted epochs of a linear reward along a Gaussian direction of R^5 are tilts; of
    a base that is no Gaussian there they are not."""
    assert max(epochs_of_tilts(rotated_gaussian(5), 0.8, 2)) <= QUADRATURE.rtol
    assert min(epochs_of_tilts(load_problem("linear_2d"), 0.8, 1)) > QUADRATURE.rtol
    for problem, holds in ((rotated_gaussian(5), True), (load_problem("linear_2d"), False)):
        points = problem.base.expectation()[None]
        log_q, log_p = frozen_laws(problem, np.array([1.5]), points)
        assert (float(np.abs(log_q - log_p).max()) <= QUADRATURE.rtol) == holds


def test_gaussian_case_in_the_fast_profile():
    found = recursion_in_the_gaussian_case(Context(PROFILES["fast"]))
    assert found.holds
    assert all(found.mutants.values())


def test_growth_of_known_series():
    """A factor of 1.3 an epoch, and what only adds up."""
    late, early = growth(1.3 ** np.arange(14))
    assert late == pytest.approx(1.3)
    assert early == pytest.approx(1.3)
    late, early = growth(np.arange(1.0, 15.0))
    assert 1 < late < early
    late, early = growth(np.exp(0.01 * np.arange(14.0) ** 2))
    assert late > early > 1


@pytest.mark.slow
def test_gaps_of_the_old_velocity(theirs):
    """After one epoch, against the second route's fields at the same places; a run that ends early
    says where."""
    gaps, ended = old_velocity_gaps("note_1d", BETA, 1)
    assert ended == ""
    first, second = theirs["refit"][:2]
    squares = []
    times = Clock.even(STEPS[1]).times
    for t in (float(times[np.abs(times - t).argmin()]) for t in (0.2, 0.4, 0.6, 0.8)):
        x = np.linspace(-8.0, 8.0, 601)
        points = torch.as_tensor(x)[:, None]
        density = PROBLEM.base.noised(points, torch.tensor(t), torch.tensor(1 - t)).log_abs.exp()
        gap = first.epoch(x, t, BETA)[1] - second.velocity(x, t)
        squares.append(float((density.numpy() * gap**2).sum() / density.sum()))
    assert QUADRATURE.holds(gaps[0], np.sqrt(np.mean(squares)))
    gaps, ended = old_velocity_gaps("quadratic_1d", 4.0, 12)
    assert ended.startswith("epoch ")
    assert len(gaps) < 12


@pytest.mark.parametrize("kind", ["weights", "lora"])
def test_averages_of_parameters(kind):
    """Second order in the step with the same decay; first with another."""
    steps = np.array([1e-3, 2e-3])
    for decay, order in ((DECAY, 2), (1 - DECAY, 1)):
        one, two = parameter_gaps(steps, kind, decay)
        assert abs(np.log2(two / one) - order) < SLOPE
    assert averaged_parameters(Context(PROFILES["fast"])).holds


def test_law_gap_is_zero_at_the_start():
    start = carry(PROBLEM, Recursion(BETA), 0)
    assert law_gap(start, 0.0) <= QUADRATURE.rtol
    assert law_gap(start, 0.1) > QUADRATURE.rtol
