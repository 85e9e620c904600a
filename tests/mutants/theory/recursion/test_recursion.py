"""Wrong programs in the place of the recursion's, each seen by one of its checks."""

from __future__ import annotations

from dataclasses import replace

import pytest

import theory.recursion.flow as flow
import theory.recursion.grid as grid_numbers
import theory.recursion.moments as moments
import theory.recursion.online as online
from tests.theory.recursion import test_averages_and_anchors as averages
from tests.theory.recursion import test_recursion as checks
from theory.problems.problem import load_problem
from theory.recursion import DivergedError, GridError, Recursion, TwoKL


def half_step(monkeypatch):
    monkeypatch.setattr(online, "optimum", lambda v, f, lam: flow.optimum(v, f, lam / 2))


def no_divergence(monkeypatch):
    def wrong(tables, velocity, reference, points):
        flat = replace(velocity, div=reference.div_u)
        return flow.transport(tables, flat, reference, points)

    monkeypatch.setattr(online, "transport", wrong)


def no_score(monkeypatch):
    def wrong(tables, velocity, reference, points):
        return flow.transport(
            tables, velocity, replace(reference, score=0 * reference.score), points
        )

    monkeypatch.setattr(online, "transport", wrong)


def pushed_away(monkeypatch):
    """(1 - 2 m) instead of (2 m - 1)."""

    def wrong(v, f, lam):
        return flow.optimum(v, replace(f, mean=1 - f.mean, grad_mean=-f.grad_mean), lam)

    monkeypatch.setattr(online, "optimum", wrong)


def no_student_term(monkeypatch):
    def wrong(v, f, lam):
        return flow.optimum(v, replace(f, mean=0 * f.mean + 0.5, grad_mean=0 * f.grad_mean), lam)

    monkeypatch.setattr(online, "optimum", wrong)


def student_term_without_gradient(monkeypatch):
    def wrong(v, f, lam):
        return flow.optimum(v, replace(f, grad_mean=0 * f.grad_mean), lam)

    monkeypatch.setattr(online, "optimum", wrong)


def stale_moments(monkeypatch):
    """Every epoch sees the first law's posterior."""
    kept = moments.Tables.fields

    def wrong(self, log_q, whole=True):
        if not hasattr(self, "stale"):
            self.stale = kept(self, log_q, whole)
        return self.stale

    monkeypatch.setattr(moments.Tables, "fields", wrong)


def no_average(monkeypatch):
    monkeypatch.setattr(
        online.Velocity, "mixed", lambda self, weight, other: other if weight != 1 else self
    )


def wrong_anchor(monkeypatch):
    wrong = property(lambda self: self.nft_beta / (self.nft_beta + self.kl_weight))
    monkeypatch.setattr(Recursion, "anchor", wrong)


def swapped_etas(monkeypatch):
    wrong = property(lambda self: self.eta_1 / (self.eta_0 + self.eta_1))
    monkeypatch.setattr(TwoKL, "rate", wrong)


def late_sums(monkeypatch):
    """Sums over data nodes to the end, where weights are narrower than a step."""
    monkeypatch.setattr(grid_numbers, "LATE", 0.4)


MUTANTS = [
    (half_step, lambda: checks.test_gaussian_epochs(checks.QUADRATIC)),
    (no_divergence, lambda: checks.test_gaussian_epochs(checks.QUADRATIC)),
    (no_score, lambda: checks.test_gaussian_epochs(checks.LINEAR)),
    (pushed_away, averages.test_the_students_second_epoch_by_hand),
    (no_student_term, averages.test_the_students_second_epoch_by_hand),
    (student_term_without_gradient, averages.test_the_students_second_epoch_by_hand),
    (stale_moments, lambda: checks.test_gaussian_epochs(checks.QUADRATIC)),
    (no_average, lambda: averages.test_an_average_is_a_larger_nft_beta("refit")),
    (late_sums, lambda: checks.test_fields_against_closed_forms(load_problem("note_1d"))),
    (wrong_anchor, averages.test_closed_forms_of_the_tilt),
    (swapped_etas, averages.test_two_kl_densities),
]


@pytest.mark.parametrize(
    ("mutant", "check"),
    MUTANTS,
    ids=[mutant.__name__ for mutant, _ in MUTANTS],
)
def test_mutants_are_seen(monkeypatch, mutant, check):
    mutant(monkeypatch)
    with pytest.raises((AssertionError, GridError, DivergedError)):
        check()
