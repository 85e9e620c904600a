"""Cumulants and distances by the adaptive oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.theory.ledger.oracle.test_oracle import box, check, positive
from theory.ledger import oracle
from theory.ledger.oracle import Density

TV_2D = 1e-6


def pdf(mean, std):
    return lambda y: stats.norm.pdf(y[:, 0], mean, std)


@pytest.mark.parametrize("order", range(7))
def test_cumulants_of_a_gamma_law(order):
    """At alpha = 0: the prior, X_0 = x / sigma, so kappa(V, r, ...) = alpha' kappa_{n+1}(X_1)."""
    density = positive(lambda y: 2 * np.log(y) - y)
    x, dalpha, dsigma = np.array([0.9]), 1.3, -0.4
    found = oracle.mixed_cumulant(density, lambda y: y[:, 0], order, x, 0.0, 1.0, dalpha, dsigma)
    check(found, [dalpha * 3 * math.factorial(order) + (dsigma * x[0] if order == 0 else 0)])


@pytest.mark.parametrize("order", [1, 2, 4])
def test_cumulants_in_the_plane(order):
    """r = y_2^2 under N(0, 1) x N(1, 1) at alpha = 0. y_1 is independent of r: 0. For y_2, the
    joint cumulant is the a b^n coefficient, times n!, of log E exp(a y + b y^2), that is of
    (1 + a)^2 / (2 (1 - 2 b)): 2^n n!."""
    density = Density(lambda y: -(y[:, 0] ** 2 + (y[:, 1] - 1) ** 2) / 2, box(2, 15, [[0, 1]]))
    found = oracle.mixed_cumulant(
        density, lambda y: y[:, 1] ** 2, order, np.array([0.2, 0.1]), 0.0, 1.0, 1.0, 0.0
    )
    check(found, [0.0, 2.0**order * math.factorial(order)])


def test_total_variation_and_kl_of_normals():
    tv, kl = oracle.distance(pdf(0, 1), pdf(1, 1), box(1, 15, [[0], [1]]))
    check(tv, 2 * stats.norm.cdf(0.5) - 1)
    check(kl, 0.5)
    std = 0.1
    tv, kl = oracle.distance(pdf(0, 1), pdf(0, std), box(1, 15, [[0]]))
    root = math.sqrt(2 * math.log(1 / std) / (1 / std**2 - 1))
    check(tv, 2 * (stats.norm.cdf(root / std) - stats.norm.cdf(root)))
    assert np.isposinf(kl.value)  # q underflows where p does not
    _, kl = oracle.distance(pdf(0, std), pdf(0, 1), box(1, 15, [[0]]))
    check(kl, -math.log(std) + std**2 / 2 - 0.5)


def test_total_variation_and_kl_in_the_plane():
    shift = np.array([0.6, -0.8])

    def law(mean):
        return lambda y: np.exp(-((y - mean) ** 2).sum(axis=1) / 2) / (2 * math.pi)

    tv, kl = oracle.distance(law(0 * shift), law(shift), box(2, 9, [[0, 0], shift]))
    check(tv, 2 * stats.norm.cdf(0.5) - 1, TV_2D)
    check(kl, 0.5)


def test_distance_special_cases():
    region = box(1, 4, [[-1], [0], [1], [2]])
    uniform, later = (lambda y, a=a: ((y[:, 0] > a) & (y[:, 0] < a + 2)) / 2.0 for a in (-1, 0))
    tv, kl = oracle.distance(uniform, later, region)
    check(tv, 0.5)
    assert np.isposinf(kl.value)
    check(oracle.wasserstein_1d(uniform, later, region), 1.0)
    same = oracle.distance(pdf(0, 1), pdf(0, 1), box(1, 12))
    assert [float(e.value) for e in same] == [0.0, 0.0]
    with pytest.raises(ValueError, match="not to 1"):
        oracle.distance(pdf(0, 1), lambda y: 2 * pdf(0, 1)(y), box(1, 12))


def test_wasserstein():
    region = box(1, 30, [[0], [0.3], [2]])
    check(oracle.wasserstein_1d(pdf(0, 1), pdf(0.3, 1), region), 0.3)
    # F - G changes sign at 0: E|Z| |1 - s|
    scaled = oracle.wasserstein_1d(pdf(0, 1), pdf(0, 2.5), region)
    check(scaled, 1.5 * math.sqrt(2 / math.pi))
    # quantile functions cross at z = 2 / 1.5: E|2 + (s - 1) Z| is a folded normal's mean
    both = oracle.wasserstein_1d(pdf(0, 1), pdf(2, 2.5), region)
    z = 2 / 1.5
    check(both, 1.5 * math.sqrt(2 / math.pi) * math.exp(-(z**2) / 2) + 2 * math.erf(z / 2**0.5))
    with pytest.raises(ValueError, match="d = 1"):
        oracle.wasserstein_1d(pdf(0, 1), pdf(0, 1), box(2, 9))
