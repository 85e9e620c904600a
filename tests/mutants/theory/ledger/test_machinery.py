"""Mistakes in what rows are measured with: the family that D11 searches, and settings nearby."""

from __future__ import annotations

import zlib

import pytest

from tests.mutants.harness import mutant_module
from tests.theory.ledger.test_domingo_rows import family_of, has_the_costs_gradient
from tests.theory.ledger.test_settings import kept_tilts
from theory.ledger.domingo import search

MUTANTS = {
    "energy's slope left out": ("+ (slopes[k] - base) * u[k] / s[k]", ""),
    "slope of the base": ("a = slopes[k] * H +", "a = base * H +"),
    "adjoint without s": ("share * s[k] * H", "share * H"),
    "law of the next step": ("law.append(law[-1] @ kernel[k])", "law.append(law[0] @ kernel[k])"),
    "policy's own slopes left out": ("slopes = self._slopes + s *", "slopes = self._slopes + 0 *"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_of_the_family_is_rejected(name):
    module = mutant_module("theory.ledger.domingo.search", MUTANTS[name])
    assert not has_the_costs_gradient(family_of(module, "full"))


def test_stalled_starts_called_zeros_are_seen(monkeypatch):
    """A search that takes every end for a zero finds others where there are none."""
    monkeypatch.setattr(search, "SETTLED", 1e9)
    assert family_of(search, "full").search(6, zlib.crc32(b"D11/3") % 2**20).others > 0


def test_nudged_quadratics_that_lose_their_tilt_are_seen():
    edit = ("bent = a * np.atleast_2d", "bent = abs(a) * np.atleast_2d")
    assert not kept_tilts(mutant_module("theory.ledger.settings.problems", edit).Problems)
