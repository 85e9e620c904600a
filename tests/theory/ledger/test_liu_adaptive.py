"""liu, L13: the row's verdict, its identities with their mutants, and its drifts."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.strategies import SOME
from tests.theory.ledger.examined import FAST, SLOW_CHECKS, identities_of
from theory.ledger.core.claim import Context
from theory.ledger.liu.adaptive import (
    L13,
    constant_reward,
    drift,
    drift_region,
    drift_table,
    quiet_axes,
    returns,
    small_spread,
)
from theory.ledger.liu.adaptive_draws import axes_matter, many_dimensions
from theory.ledger.run import measure


def test_verdict():
    assert measure(L13, FAST).verdict == L13.recorded == "conditional"


@pytest.mark.parametrize("check", SLOW_CHECKS)
@pytest.mark.parametrize("part", identities_of(L13))
def test_identities(part, check):
    check(part)


# --- what the row measures


@pytest.mark.parametrize(
    "part",
    [returns, quiet_axes, constant_reward, small_spread, many_dimensions, axes_matter],
    ids=lambda p: p.part.__name__,
)
def test_extras_hold(part):
    finding = part(Context(FAST, seed=3))
    assert finding.holds
    assert all(finding.mutants.values())


def test_drift_falls_with_the_dimension():
    row = drift_table((1, 8, 64))["0 to 1"]
    assert row[0] > row[1] > row[2]
    assert row[0] > 0.05


@SOME
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_drift_does_not_see_the_sign_of_the_reward(low, high):
    """r -> 1 - r turns every step around."""
    assume(abs(low - high) > 0.05)
    assert drift(1, low, high) == pytest.approx(drift(1, 1 - low, 1 - high), rel=1e-6)


def test_drift_sees_the_reward():
    assert drift(1, 0.0, 0.1) > 2 * drift(1, 0.4, 0.6)


@pytest.mark.parametrize(
    ("call", "needle"),
    [
        (lambda: drift(0), "dim must be .*, got 0 and"),
        (lambda: drift(2, rest_std=0.0), "rest_std > 0, got 2 and 0.0"),
        (lambda: drift(1, 0.3, 0.3), r"numbers in \[0, 1\], got 0.3 and 0.3"),
        (lambda: drift(1, 0.3, 1.3), r"numbers in \[0, 1\], got 0.3 and 1.3"),
    ],
)
def test_bad_input(call, needle):
    with pytest.raises(ValueError, match=needle):
        call()


def test_region():
    region = drift_region(4)
    assert region.errors.shape == (len(region.x), len(region.y))
    assert (np.diff(region.errors, axis=0) < 0).all()  # falls with d at every range
