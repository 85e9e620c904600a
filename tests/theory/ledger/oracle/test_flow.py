"""Flows on the line against Gaussians by hand, mixtures' distribution functions and quadrature."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.theory.ledger.oracle.cases import OneGaussian, mixture
from theory.common.tolerances import FALSE_FAILURE_RATE, QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.oracle import conditional, flow
from theory.ledger.oracle.instants import instant

Y = np.array([-1.5, 0.1, 1.2])
HAND = OneGaussian(1, 1)
BUMPS = mixture(1, "bumps")
TILT = 0.7


def test_the_law_of_a_gaussian_and_of_its_tilt():
    """A linear reward's covariance field is its tilt's, which moves the mean by tilt cov w; the
    flow is the affine map from N(0, 1)."""
    std = math.sqrt(HAND.cov[0, 0])
    for tilt in (0.0, TILT):
        mean = float((HAND.mean + tilt * HAND.cov @ HAND.w)[0])
        field = flow.LineField(HAND.case, tilt)
        truth = (Y - mean) / std
        assert QUADRATURE_TIGHT.holds(flow.pull_back(field, Y), truth, 1.0)
        assert QUADRATURE_TIGHT.holds(flow.cdf(field, Y), stats.norm.cdf(truth), 1.0)
        assert not QUADRATURE_TIGHT.holds(flow.cdf(field, Y), stats.norm.cdf(truth + 1e-6), 1.0)


def test_the_law_of_a_mixture():
    sign = BUMPS.frame[0, 0]
    std = np.sqrt(BUMPS.covs[:, 0, 0])
    field = flow.LineField(BUMPS)
    law = stats.norm(sign * BUMPS.means[:, 0], std)
    cdf = law.cdf(Y[:, None]) @ BUMPS.weights
    assert QUADRATURE_TIGHT.holds(flow.cdf(field, Y), cdf, 1.0)
    assert QUADRATURE.holds(flow.density(field, Y), law.pdf(Y[:, None]) @ BUMPS.weights, 1.0)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["bumps", "quadratic"])
def test_fields_are_the_conditional_ones(kind, t):
    case, x, at = mixture(1, kind), 0.4, instant("rectified_flow", t)
    place, points = np.array([x]), np.array([x, -2.0])
    v = conditional.velocity(case, place, at)
    nft = v + 1.5 * conditional.covariance(case, place, at)
    assert QUADRATURE_TIGHT.holds(flow.LineField(case, scale=1.5)(points, t)[0], nft, 1.0)
    plain = flow.LineField(case)
    assert QUADRATURE_TIGHT.holds(plain(points, t)[0], v, 1.0)
    score = conditional.score(case, place, at)
    assert QUADRATURE_TIGHT.holds(plain.score(points, t)[0], score, 1 / (1 - t))


def test_the_two_sums_agree_where_they_meet_and_the_end_is_regular():
    field = flow.LineField(BUMPS, scale=2.0)
    t = 1 / (1 + field.width)
    early, late = field(Y, t * (1 - 1e-12)), field(Y, t * (1 + 1e-12))
    assert QUADRATURE_TIGHT.holds(early, late, 1.0)
    assert np.all(np.isfinite(field(Y, 1.0)))
    assert QUADRATURE.holds(field(Y, 1 - 1e-8), field(Y, 1.0), 1.0)


def test_path_integral():
    """A rate of t, and the divergence: the log-density by the change of variables along a path."""
    field = flow.LineField(HAND.case)
    x0, total = flow.path_integral(field, Y, lambda x, t: np.full_like(x, t))
    assert QUADRATURE_TIGHT.holds(total, np.full(3, 0.5))
    assert QUADRATURE_TIGHT.holds(x0, flow.pull_back(field, Y), 1.0)
    _, integral = flow.path_integral(field, Y, field)
    assert QUADRATURE_TIGHT.holds(integral, Y - x0, 1.0)

    def divergence(x, t):
        return (field(x + 1e-4, t) - field(x - 1e-4, t)) / 2e-4

    _, change = flow.path_integral(field, Y, divergence)
    std = math.sqrt(HAND.cov[0, 0])
    assert QUADRATURE.holds(change, np.full(3, math.log(std)), 1.0)
    assert QUADRATURE.holds(flow.density(field, Y), stats.norm.pdf(Y, HAND.mean[0], std), 1.0)


@pytest.mark.parametrize("g", [lambda t: 0.0, lambda t: 1 - t])
def test_simulated_draws_follow_the_law(g):
    n, field = 4000, flow.LineField(HAND.case)
    rng = np.random.default_rng(5)
    drawn = flow.simulate(field, field.score, g, n, 60, rng)
    bound = math.sqrt(math.log(2 / FALSE_FAILURE_RATE) / (2 * n)) + 1 / 60  # Massart; the steps
    mean, std = HAND.mean[0], math.sqrt(HAND.cov[0, 0])
    assert stats.kstest(drawn, stats.norm(mean, std).cdf).statistic < bound
    assert stats.kstest(drawn, stats.norm(mean, 1.5 * std).cdf).statistic > bound


def test_bad_input():
    with pytest.raises(ValueError, match="needs d = 1, got d = 2"):
        flow.LineField(mixture(2, "bumps"))
    with pytest.raises(ValueError, match="needs a radius"):
        flow.density(lambda x, t: x, Y)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        flow.simulate(lambda x, t: x, lambda x, t: x, lambda t: 0.0, 5, 0, np.random.default_rng())
