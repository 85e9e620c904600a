"""Mistakes in theory.recursion, each rejected by the second route."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.theory.ledger.test_recursion_routes import apart, theirs  # noqa: F401
from theory.common.tolerances import QUADRATURE
from theory.recursion import Recursion, online
from theory.recursion.checks import GridError
from theory.recursion.flow import Velocity
from theory.recursion.grid import Clock

# ruff: noqa: F811


def _patch_half_step(monkeypatch):
    monkeypatch.setattr(Recursion, "lam", property(lambda self: 1 / self.nft_beta))


def _patch_without_last_term(monkeypatch):
    def wrong(old, fields, lam):
        return Velocity(old.v + lam * fields.cov, old.div + lam * fields.div_cov)

    monkeypatch.setattr(online, "optimum", wrong)


def _patch_divergence(monkeypatch):
    """The divergence of the optimum without the covariance's."""
    whole = online.optimum

    def wrong(old, fields, lam):
        found = whole(old, fields, lam)
        return Velocity(found.v, found.div - lam * fields.div_cov)

    monkeypatch.setattr(online, "optimum", wrong)


def _patch_average(monkeypatch):
    """Old and new exchanged in every mixture of fields."""
    whole = Velocity.mixed
    monkeypatch.setattr(Velocity, "mixed", lambda self, w, other: whole(self, 1 - w, other))


def _patch_times(monkeypatch):
    """Stage times of the trajectories off by 1e-4 of the way."""
    whole = Clock.even

    def wrong(steps):
        clock = whole(steps)
        return replace(clock, times=clock.times - 4e-4 * clock.times * (1 - clock.times))

    monkeypatch.setattr(Clock, "even", staticmethod(wrong))


@pytest.mark.parametrize(
    ("patch", "name"),
    [
        (_patch_half_step, "refit"),
        (_patch_without_last_term, "student"),
        (_patch_divergence, "refit"),
        (_patch_average, "student"),
        (_patch_times, "refit"),
    ],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_mutants_of_the_recursion(patch, name, theirs, monkeypatch):
    patch(monkeypatch)
    try:
        error = apart(theirs, name)
    except GridError:
        error = np.inf  # its own watch over the mass has seen it
    assert error > QUADRATURE.rtol
