"""Maximisers on atoms against the geometric mean and other points, densities against Gaussians."""

import math

import numpy as np
import pytest
from scipy import stats

from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.ledger.oracle import Region, simplex

LINE = Region(np.array([-12.0]), np.array([12.0]), np.zeros((1, 1)))
PLANE = Region(np.full(2, -12.0), np.full(2, 12.0), np.zeros((1, 2)))


def standard(y):
    return -0.5 * (y**2).sum(axis=1)


def value(p, m, p_k, p_0, eta_1, eta_0):
    logs = np.log(p)
    return p @ (m - (logs - np.log(p_k)) / eta_1 - (logs - np.log(p_0)) / eta_0)


@pytest.mark.parametrize("seed", range(12))
def test_the_maximum_on_atoms(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 61))
    m = rng.choice([0.3, 3.0, 30.0]) * rng.normal(size=n)
    p_k, p_0 = rng.dirichlet(np.full(n, 2.0)), rng.dirichlet(np.full(n, 2.0))
    eta_1, eta_0 = rng.uniform(0.2, 5.0, size=2)
    found = simplex.maximise_two_kl(m, p_k, p_0, eta_1, eta_0)
    # All derivatives dF/dp_i are equal at the maximum: the geometric mean, tilted.
    logs = (m + np.log(p_k) / eta_1 + np.log(p_0) / eta_0) / (1 / eta_1 + 1 / eta_0)
    truth = np.exp(logs - logs.max())
    assert ALGEBRA.holds(found, truth / truth.sum(), 1.0)
    best = value(found, m, p_k, p_0, eta_1, eta_0)
    for other in rng.dirichlet(np.full(n, 2.0), size=5):
        near = 0.9 * found + 0.1 * other
        assert value(near, m, p_k, p_0, eta_1, eta_0) < best


def test_one_anchor_and_bad_input():
    m, p_k, p_0 = np.array([0.0, 1.0]), np.array([0.5, 0.5]), np.array([0.2, 0.8])
    found = simplex.maximise_two_kl(m, p_k, p_0, eta_1=2.0)
    assert ALGEBRA.holds(found[1], 1 / (1 + math.exp(-2.0)))
    for kwargs, message in (
        ({"eta_1": -1.0}, "must be positive, one finite"),
        ({}, "must be positive, one finite"),
    ):
        with pytest.raises(ValueError, match=message):
            simplex.maximise_two_kl(m, p_k, p_0, **kwargs)
    with pytest.raises(ValueError, match="p_k must be positive and sum to 1"):
        simplex.maximise_two_kl(m, np.array([1.0, 0.0]), p_0, 1.0, 1.0)
    with pytest.raises(ValueError, match="p_0 must have the shape"):
        simplex.maximise_two_kl(m, p_k, np.ones(1), 1.0, 1.0)


@pytest.mark.parametrize(("d", "region"), [(1, LINE), (2, PLANE)])
def test_regularised_objective_of_gaussians(d, region):
    """p = N(1, s^2 I) and reference N(0, I), both without their constants; r the first entry."""
    s, strength = 0.5, 2.0
    found = simplex.regularised_objective(
        lambda y: 3.0 + standard((y - 1) / s), standard, lambda y: y[:, 0], strength, region
    )
    kl = d * ((s**2 + 1 - 1) / 2 - math.log(s))
    assert QUADRATURE_TIGHT.holds(found, 1 - kl / strength, 1.0)
    assert not QUADRATURE_TIGHT.holds(found, 1 - kl * strength, 1.0)
    # Two references: the same twice, of N(0, I) with its constant.
    pairs = [(lambda y: standard(y) - 0.5 * d * math.log(2 * math.pi), eta) for eta in (2.0, 0.7)]
    both = simplex.penalised(lambda y: standard((y - 1) / s), lambda y: y[:, 0], pairs, region)
    assert QUADRATURE_TIGHT.holds(both, 1 - kl / 2.0 - kl / 0.7, 1.0)
    assert not QUADRATURE_TIGHT.holds(both, 1 - kl / 2.7, 1.0)


@pytest.mark.parametrize("strength", [0.0, 3.0, 1e4])
def test_tilted_masses_of_a_gaussian(strength):
    """N(0, 1) tilted by -(y - 1)^2 / 2 is N(a / (1 + a), 1 / (1 + a))."""
    mean, std = strength / (1 + strength), 1 / math.sqrt(1 + strength)
    edges = mean + std * np.array([-np.inf, -2.0, 0.3, 1.0, np.inf])
    intervals = np.stack([edges[:-1], edges[1:]], axis=1)
    found = simplex.tilted_masses(
        standard, lambda y: -0.5 * (y[:, 0] - 1) ** 2, strength, intervals, LINE
    )
    assert QUADRATURE_TIGHT.holds(found, np.diff(stats.norm(mean, std).cdf(edges)))
    assert not QUADRATURE_TIGHT.holds(found[1:], found[:-1])


def test_tilted_masses_of_two_peaks():
    """Equal heights of r at 1 and -1, curvatures 8 and 2: half-widths, and p is even."""
    masses = simplex.tilted_masses(
        standard,
        lambda y: -np.where(y[:, 0] > 0, 4.0, 1.0) * (np.abs(y[:, 0]) - 1) ** 2,
        1e4,
        np.array([[-np.inf, 0.0], [0.0, np.inf]]),
        Region(np.array([-12.0]), np.array([12.0]), np.array([[-1.0], [0.0], [1.0]])),
    )

    def weight(curvature):  # of N(0, 1) exp(-curvature (y - 1)^2 / 2), mass on y > 0 is all
        return math.exp(-0.5 * curvature / (1 + curvature)) / math.sqrt(1 + curvature)

    left, right = weight(2e4), weight(8e4)
    assert QUADRATURE_TIGHT.holds(masses, np.array([left, right]) / (left + right))


def test_tilted_masses_refuse():
    with pytest.raises(ValueError, match="left < right"):
        simplex.tilted_masses(standard, standard, 1.0, np.array([[1.0, 0.0]]), LINE)
    with pytest.raises(ValueError, match="needs d = 1"):
        simplex.tilted_masses(standard, standard, 1.0, np.array([[0.0, 1.0]]), PLANE)
