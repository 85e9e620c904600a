"""N7: advantage modes, by row, identity and mutant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erfc

from tests.theory.ledger.examined import CHECKS, identities_of
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.ledger.core.claim import PROFILES
from theory.ledger.released.reward import modes as row
from theory.ledger.released.reward import offset
from theory.ledger.run import measure
from theory.released.modes import MODES, Mode


@pytest.mark.slow
def test_the_row():
    result = measure(row.N7, replace(PROFILES["fast"], extras=True, cells=5))
    assert result.verdict == row.N7.recorded == "conditional"
    for finding in result.findings:
        assert finding.role == "claim" or finding.holds, finding
        assert all(finding.mutants.values()), finding
    holds = {f.name: f.holds for f in result.findings if f.role == "claim"}
    assert list(holds.values()) == [True, False, False]
    assert result.region is not None
    assert np.isfinite(result.region.errors).all()


def test_fast_measures_claims_and_conditions_alone():
    found = measure(row.N7, PROFILES["fast"])
    assert {f.role for f in found.findings} == {"claim", "condition"}
    assert found.agrees


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("part", identities_of(row.N7))
def test_identity(part, check):
    check(part)


def test_tilts_of_gaussian_rewards_are_the_stated_ones():
    """24 rows: 23/24 where f is linear, sqrt(23/24) where it jumps; and the sums of pairs."""
    found = row.stated_at_released_values(None).numbers["shares"]["Gaussian"]  # type: ignore[arg-type]
    for name, ideal in row.IDEAL.items():
        jumps = MODES[name].jumps
        kept = 1.0 if jumps else 1 - erfc(5.0 / np.sqrt(2 * 23 / 24))  # what the clip leaves
        share = np.sqrt(23 / 24) if jumps else 23 / 24 * kept / (1 + 1e-4)  # and the floor
        assert QUADRATURE.holds(found[name], share * ideal)
    assert ALGEBRA.holds(found["positive_only"] + found["negative_only"], found["all"])


def test_one_in_ten_good_is_where_the_sides_part():
    found = row.stated_at_released_values(None).numbers["shares"]  # type: ignore[arg-type]
    good, bad = found["one in ten good"], found["one in ten bad"]
    assert good["positive_only"] > 3 * good["negative_only"]
    for name, mirrored in (
        ("positive_only", "negative_only"),
        ("one_only", "one_only"),
        ("binary", "binary"),
    ):
        assert ALGEBRA.holds(good[name], bad[mirrored])


def test_wrong_slopes_in_the_source_are_seen(monkeypatch):
    """A density that forgets the height of the jump; a clip forgotten at one end."""
    right = Mode.slope
    part = row.CORRECTED
    settings = [part.domain.draw(1, s) for s in range(10)]
    assert all(part.compare(s, False).error <= part.tier.rtol for s in settings)
    monkeypatch.setattr(Mode, "slope", lambda self, m, s, c: right(self, m, s, c) * (1 + 1e-6))
    assert any(part.compare(s, False).error > part.tier.rtol for s in settings)


def test_an_offset_is_seen_by_both_routes_or_by_none():
    same, without = offset.route_gaps(0.1, 0.0)
    assert same <= QUADRATURE.rtol < without
