"""Bad input to the adaptive oracle."""

from __future__ import annotations

import numpy as np
import pytest

from tests.theory.ledger.oracle.test_oracle import box, identity, normal
from theory.ledger import oracle
from theory.ledger.oracle import Density, Region


@pytest.mark.parametrize(
    ("lower", "upper", "points"),
    [
        ([0.0], [0.0], [[0.0]]),
        ([0.0], [np.inf], [[1.0]]),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [[0.5, 0.5, 0.5]]),
        ([0.0], [1.0], [0.5]),
        ([0.0], [1.0], [[2.0]]),
        ([0.0, 0.0], [1.0], [[0.5, 0.5]]),
    ],
)
def test_bad_region(lower, upper, points):
    with pytest.raises(ValueError, match=r"region|shape|inside"):
        Region(np.array(lower), np.array(upper), np.array(points))


@pytest.mark.parametrize(
    ("x", "alpha", "sigma"),
    [
        ([0.0, 1.0], 0.5, 0.5),
        ([[0.0]], 0.5, 0.5),
        ([np.nan], 0.5, 0.5),
        ([0.0], 0.5, 0.0),
        ([0.0], 0.5, -1.0),
        ([0.0], np.inf, 0.5),
    ],
)
def test_bad_point_or_path(x, alpha, sigma):
    density, x = normal(0, 1), np.array(x)
    with pytest.raises(ValueError, match=r"shape|sigma"):
        oracle.posterior_expectation(density, identity, x, alpha, sigma)


def test_bad_callables():
    with pytest.raises(ValueError, match=r"\(n, 1\) to \(n, m\)"):
        oracle.integrate(lambda y: y[:, 0], box(1, 1))
    with pytest.raises(ValueError, match="NaN"):
        oracle.normaliser(Density(lambda y: np.full(len(y), np.nan), box(1, 1)))
    with pytest.raises(ValueError, match=r"to \(n,\)"):
        oracle.normaliser(Density(lambda y: -(y**2), box(1, 1)))
    with pytest.raises(ValueError, match="vanishes"):
        oracle.normaliser(Density(lambda y: np.full(len(y), -np.inf), box(1, 1)))
