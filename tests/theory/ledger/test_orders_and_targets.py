"""L8 to L10: what an order part accepts and rejects; which target is nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from theory.common.tolerances import QUADRATURE
from theory.ledger.core.claim import PROFILES, Context, Extra
from theory.ledger.core.laws import LOG_FLOOR, exponential_tilts
from theory.ledger.liu import laws as liu_laws
from theory.ledger.liu import nearest as liu_nearest
from theory.ledger.liu.laws import law_gaps, order_part, perturbation_gaps, spread_gaps
from theory.problems.problem import load_problem

FAST = Context(PROFILES["fast"])


def planted(order: float, seen: bool = True):
    """Errors of that order, and 10 % of a first-order one where the field is stretched."""

    def measure(problem, scales, stretch):
        return 0.2 * scales**order + seen * (stretch - 1) * scales

    return order_part("planted", measure, 1e-12)


def test_second_order_is_found():
    found = planted(2)(FAST)
    assert found.holds
    assert found.order == 2
    assert found.mutants == {"first order 10 % off": True}
    assert found.numbers["at_scale"] == {"note_1d": pytest.approx(0.2 * 2.0**2)}


@pytest.mark.parametrize("order", [1, 1.5, 3])
def test_another_order_is_rejected(order):
    assert not planted(order)(FAST).holds


def test_a_measure_that_is_blind_to_the_field_is_seen():
    assert planted(2, seen=False)(FAST).mutants == {"first order 10 % off": False}


@pytest.mark.parametrize(
    "measure",
    [
        law_gaps,
        pytest.param(perturbation_gaps, marks=pytest.mark.slow),
        pytest.param(spread_gaps, marks=pytest.mark.slow),
    ],
)
def test_measures_of_one_law(measure):
    """The three say the same of one reward: a law of v* at exponent a e of r; and a longer step is
    further from the tilt than any size of it."""
    problem = load_problem("note_1d")  # its own scale is 2, that of v*+
    sizes = np.array([0.02, 0.02])
    own, stretched = measure(problem, sizes, np.array([1.0, 1.1]))
    unit = problem.scale if measure is perturbation_gaps else 1.0
    expected = law_gaps(problem, unit * sizes[:1], np.ones(1))
    assert QUADRATURE.holds(own, expected[0], LOG_FLOOR / QUADRATURE.rtol)
    assert stretched > 5 * own


def test_scaled_rewards():
    problem = load_problem("quadratic_1d")
    e = torch.tensor([0.3, 1.0], dtype=torch.float64)
    many = liu_laws.scaled_reward(problem, e)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    assert torch.equal(many.reward(x.expand(2, 5, 1))[1], problem.reward(x))
    two = torch.full((2,), 2.0, dtype=torch.float64)
    one = exponential_tilts(many, two).log_density(x.expand(2, 5, 1))[0]
    other = exponential_tilts(problem, 2.0 * e).log_density(x.expand(2, 5, 1))[0]
    assert QUADRATURE.holds(one.numpy(), other.numpy())


def test_nearest_target():
    toy, everywhere = liu_nearest.nearest_in_the_toy(FAST), liu_nearest.nearest_everywhere(FAST)
    assert toy.holds
    assert not everywhere.holds
    for found in (toy, everywhere):
        assert found.mutants
        assert all(found.mutants.values())
    assert sum(everywhere.numbers["share"].values()) == pytest.approx(1)


def test_marks():
    assert [isinstance(p, Extra) for p in liu_laws.L8_PARTS] == [False, False, False, True]
