"""Z6: limiting weights by hand, masses that do not see theory, and what each refutes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.theory.ledger.test_second_routes import strangers
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.ledger.core.claim import PROFILES, Context
from theory.ledger.zhu import limits as zhu_limits
from theory.ledger.zhu.limits import CASES, peak_limit, peak_masses, restricted, shares

PEAKS = ("d = 1", "d = 2")


@pytest.mark.parametrize("name", CASES)
def test_weights_by_hand(name):
    """p(x_i) times the product of the peak's widths."""
    case = CASES[name]
    centres, precisions = case.parameters["centres"], case.parameters["precisions"]
    p = np.exp(case.log_density(centres))
    assert ALGEBRA.holds(restricted(case), p / p.sum())
    widths = np.prod([np.diag(a) ** -0.5 for a in precisions], axis=1)
    weights = p * widths / (p * widths).sum()
    assert ALGEBRA.holds(peak_limit(case), weights)
    assert ALGEBRA.holds(restricted(case), weights) == name.endswith("alike")


@pytest.mark.parametrize("name", CASES)
def test_masses_tend_to_the_limit(name):
    found, ahead = shares(name)
    limit = peak_limit(CASES[name])[0]
    assert QUADRATURE.holds(ahead, limit)
    # A finite K lambda is not the limit.
    assert abs(found[-1] - limit) > 100 * abs(ahead - limit)
    assert abs(found[-1] - limit) < abs(found[0] - limit) / 50  # 1/(K lambda) over two decades


def test_the_masses_are_a_second_route():
    assert strangers(lambda: peak_masses(CASES["d = 1"], 100.0)) == set()
    assert strangers(lambda: peak_limit(CASES["d = 1"]))


@pytest.mark.parametrize("profile", ["fast", "default"])
@pytest.mark.parametrize("part", zhu_limits.Z6_PARTS, ids=lambda p: getattr(p, "__name__", "extra"))
def test_parts(part, profile):
    found = part(Context(PROFILES[profile]))
    assert found.holds == (found.role != "claim")
    assert all(found.mutants.values())
    assert found.mutants
