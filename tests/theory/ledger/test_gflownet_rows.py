"""Rows G1 to G13: verdicts in the fast profile, and every identity on random chains."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.theory.ledger.examined import CHECKS, check_mutants, identities_of
from theory.ledger.core.claim import PROFILES, Context
from theory.ledger.gflownet import anchors, smoothing
from theory.ledger.gflownet.looking import _ranks
from theory.ledger.run import measure, select

ROWS = select([], "nabla")
FULL = replace(PROFILES["fast"], extras=True)
QUICK = Context(PROFILES["fast"])


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


# --- G12 and G13, quick


@pytest.mark.parametrize(
    "part",
    [anchors.TO_THE_BASE, anchors.ROUND_BY_ROUND, smoothing.TARGET, smoothing.SCORE],
    ids=lambda part: part.name,
)
def test_identity_rejects_its_wrong_versions(part):
    check_mutants(part)


def test_an_anchor_at_the_base_moves_the_fixed_point_in_proportion():
    claim, instead = anchors.fixed_points(QUICK), anchors.order_one(QUICK)
    assert (claim.role, claim.holds, instead.holds, instead.order) == ("claim", False, True, 1)
    assert all(claim.mutants.values())
    assert all(instead.mutants.values())
    shares = claim.numbers["kept at 50 steps"]
    assert 1 > shares["1"] > shares["100"] > shares["1000"] > 0


def test_a_smoothed_reward_is_the_tilt_to_second_order():
    claim = smoothing.order_two(QUICK)
    assert (claim.role, claim.holds, claim.order) == ("claim", True, 2)
    assert all(claim.mutants.values())
