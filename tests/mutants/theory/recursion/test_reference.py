"""Another law or another grid in the place of a reference that is known by its field alone."""

from __future__ import annotations

import pytest

import theory.recursion.axes as axes_module
import theory.recursion.online as online
from tests.theory.recursion import test_reference as checks
from tests.theory.recursion.test_reference import CLASS
from theory.recursion import GridError
from theory.samplers.flow import FlowLaw


def the_base_for_the_reference(monkeypatch):
    monkeypatch.setattr(
        online, "log_density", lambda reference, points: CLASS.base.log_density(points).numpy()
    )


def the_conditional_for_the_guided(monkeypatch):
    monkeypatch.setattr(
        online,
        "log_density",
        lambda reference, points: reference.conditional.law.log_density(points).numpy(),
    )


def without_its_divergence(monkeypatch):
    def wrong(reference, points):
        x0 = FlowLaw(reference).pull_back(points)[0]
        return (-0.5 * x0**2).sum(-1).numpy()

    monkeypatch.setattr(online, "log_density", wrong)


def axes_of_the_base(monkeypatch):
    monkeypatch.setattr(
        axes_module,
        "log_density",
        lambda reference, points, look: CLASS.base.log_density(points).numpy(),
    )


MUTANTS = [
    (the_base_for_the_reference, checks.test_limit_with_a_guided_field),
    (the_conditional_for_the_guided, checks.test_limit_with_a_guided_field),
    (without_its_divergence, checks.test_limit_with_a_guided_field),
    (axes_of_the_base, checks.test_axes_reach_the_law_that_the_field_samples),
]


@pytest.mark.parametrize(("mutant", "check"), MUTANTS, ids=[m.__name__ for m, _ in MUTANTS])
def test_mutants_are_seen(monkeypatch, mutant, check):
    mutant(monkeypatch)
    with pytest.raises((AssertionError, GridError)):
        check()
