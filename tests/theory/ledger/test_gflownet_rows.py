"""Rows G1 to G11: verdicts in the fast profile, and every identity on random chains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.theory.ledger.examined import CHECKS, identities_of
from theory.ledger.core.claim import PROFILES
from theory.ledger.gflownet.looking import _ranks
from theory.ledger.run import measure, select

ROWS = select([], "nabla")
FULL = replace(PROFILES["fast"], extras=True)


@pytest.mark.slow
@pytest.mark.parametrize("claim", ROWS, ids=lambda claim: claim.id)
def test_row_has_its_verdict(claim):
    result = measure(claim, FULL)
    assert result.agrees, [(f.name, f.figure) for f in result.findings]
    assert all(all(f.mutants.values()) for f in result.findings)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("part", [p for claim in ROWS for p in identities_of(claim)])
def test_identity(part, check):
    check(part)


def test_without_two_steps_the_bidirectional_condition_says_nothing():
    """T >= 2 is needed: with one step there is no triple."""
    free, directional, _ = _ranks(4, 2)
    assert free == directional
    assert free < 2 * 16
