"""Mistakes in the plane's averages, told by linear kernels and independent coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from tests.mutants.harness import overriding
from tests.theory.gflownet.test_plane import LINEAR, TWO, UNEVEN, linear_gaps, scalar, turned_gaps
from theory.common.tolerances import QUADRATURE_2D
from theory.gflownet.blocks import Linear, NotSettledError
from theory.gflownet.plane import Plane


def not_transposed(whole, self):
    return [
        Linear(lambda v, J=J: np.einsum("ijn,jn->in", J, v.reshape(2, -1)).ravel())
        for J in self.kernels[1]
    ]


def at_the_means_alone(whole, self, k, mean):
    reading = self.reading(mean.reshape(2, -1))
    return Linear(lambda values: (values.reshape(-1, len(self.points)) @ reading.T).ravel())


def behind_as_ahead(whole, self, u, prior):
    walk = whole(u, prior)
    walk.back[:] = walk.ahead
    return walk


def slopes_exchanged(whole, self):
    slope = whole()
    return Linear(lambda v: slope.apply(v).reshape(2, -1)[::-1].ravel())


def ratios_of_one_axis(whole, self, u, prior):
    walk = whole(u, prior)
    object.__setattr__(walk, "ratio", lambda k, ratio=walk.ratio: 0.5 * ratio(k))
    return walk


WRONG = {
    "the prior's Jacobian, not transposed": {"pulls": not_transposed},
    "averages behind are those ahead": {"walked": behind_as_ahead},
    "components of the law's score exchanged": {"slope": slopes_exchanged},
}
WRONG_SCALAR = {
    "averages ahead are values at the means": {"ahead": at_the_means_alone},
    "half the ratio behind": {"walked": ratios_of_one_axis},
}


def on(plane, parts):
    """The plane as a wrong one."""
    return overriding(Plane, **parts)(plane.chain, plane.base, plane.axes)


@pytest.mark.parametrize("name", WRONG)
def test_mutant_of_nabla_db_is_rejected(name):
    try:
        gaps = linear_gaps(on(LINEAR, WRONG[name]), UNEVEN, 0.7)
    except NotSettledError:  # its rounds lead nowhere
        return
    assert max(gaps) > 10 * QUADRATURE_2D.rtol


@pytest.mark.parametrize("name", WRONG_SCALAR)
def test_mutant_of_detailed_balance_is_rejected(name):
    try:
        gaps = turned_gaps(on(TWO, WRONG_SCALAR[name]), scalar())
    except NotSettledError:
        return
    assert max(gaps) > 100 * QUADRATURE_2D.rtol
