"""released, N5: the row's verdict, its identities with their mutants, and its numbers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import SOME, seeds
from tests.theory.ledger.examined import CHECKS, FAST, identities_of
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.ledger.core.claim import Context
from theory.ledger.liu.adaptive import posterior
from theory.ledger.released.normaliser import (
    N5,
    against_others,
    one_weight_for_all,
    steps,
    weighted_step,
)
from theory.ledger.released.normaliser_times import (
    VARIANTS,
    least_weight,
    time_weights,
    weights_over_time,
)
from theory.ledger.run import measure
from theory.ledger.settings.unit import UnitRewards


def test_verdict():
    assert measure(N5, FAST).verdict == N5.recorded == "exact"


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("part", identities_of(N5))
def test_identities(part, check):
    check(part)


# --- what the row measures


@pytest.mark.parametrize(
    "part",
    [against_others, one_weight_for_all, weights_over_time, least_weight],
    ids=lambda p: p.part.__name__,
)
def test_extras_hold(part):
    finding = part(Context(replace(FAST, name="default"), seed=3))
    assert finding.holds
    assert all(finding.mutants.values())


def test_time_weights():
    """On the rectified flow the two normalised losses differ by 1 - t, at every time."""
    times = np.array([0.1, 0.5, 0.9])
    rows = time_weights(times)
    ratio = rows[VARIANTS[0]] / rows[VARIANTS[1]] / (1 - times)
    assert ALGEBRA.holds(ratio, ratio[0])
    assert not ALGEBRA.holds(rows[VARIANTS[2]], rows[VARIANTS[3]])


@SOME
@given(seeds)
def test_kinds_of_the_second_route(seed):
    """None's root is v*; the batch's is its closed form; the sample's own is neither's."""
    s = UnitRewards().draw(1, seed)
    found, p = steps(s), posterior(s)
    assert QUADRATURE.holds(found["off"], p.gain * p.nft_step(), 1.0)
    assert QUADRATURE.holds(found["branch"], p.velocity_step(), 1.0)


@SOME
@given(st.floats(0.1, 3.0), st.floats(0.1, 3.0))
def test_constant_weights(plus, minus):
    """Equal weights give v*, whatever they are; unequal ones do not."""
    p = posterior(UnitRewards().draw(1, 3))
    assert weighted_step(p, plus, plus) == pytest.approx(p.nft_step())
    u = weighted_step(p, plus, minus)
    m, c = p.rewarded.mass, p.nft_step() / 2
    assert (m * u - c) / plus + ((1 - m) * u - c) / minus == pytest.approx(0.0, abs=1e-12)


def test_remark_on_shared_weights():
    """Divided by one size of both branches, the point is further from v*, in the median."""
    finding = against_others(Context(replace(FAST, name="default"), seed=3))
    medians = finding.numbers["medians"]
    assert medians["shared"] > medians["branch"] > medians["batch"]
