"""Laws of policies on the line, against Gaussians by hand and single integrals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.theory.ledger.oracle.cases import mixture
from tests.theory.ledger.oracle.gflownet.cases import POWER, Hand, integrable, line_mixture, numbers
from theory.common.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.oracle.gflownet import flows
from theory.ledger.oracle.gflownet.line import Line, total_variation

POINTS = np.linspace(-2.5, 2.5, 7)
START = 1.4


def closed_law(n, start_std, points):
    """F_T(x) int q_0(z | x) N(z; 0, start^2) / F_0(z) dz: the product of kernels telescopes."""
    z = np.linspace(-14, 14, 141)
    rho, tau = n.noising(0)
    first = np.array([flows.log_flow(n, 0, np.array([v])) for v in z])
    logs = stats.norm(rho * points[:, None], tau).logpdf(z) + stats.norm(0, start_std).logpdf(z)
    return n.log_weight(points[:, None]) + np.log(np.exp(logs - first).sum(1) * (z[1] - z[0]))


@pytest.mark.parametrize("make", [line_mixture, integrable])
@pytest.mark.parametrize("first_time", [0.0, 0.4])
def test_the_law_of_the_exact_kernels(make, first_time):
    n = make(steps=2, first_time=first_time)
    line = Line(n, START)

    def terminal(x):
        return n.log_weight(x[:, None])

    found = line.policy_law(line.noise, line.flows(n), terminal, START, POINTS)
    assert QUADRATURE_TIGHT.holds(found, closed_law(n, START, POINTS), 1.0)
    claimed = terminal(POINTS) - flows.log_normaliser(n)
    # At t_0 = 0 the first kernel forgets where it starts, and only then.
    assert QUADRATURE_TIGHT.holds(found, claimed, 1.0) == (first_time == 0)


def gaussian_policy(hand, start_std):
    """The law of X_T of the exact kernels from N(0, start^2), by their means and covariances."""
    mean, var = np.zeros(1), np.array([[start_std**2]])
    for k in range(hand.n.steps):
        gain, offset, cov = hand.forward(k)
        mean, var = gain @ mean + offset, gain @ var @ gain.T + cov
    return stats.norm(mean[0], math.sqrt(var[0, 0]))


@pytest.mark.parametrize("first_time", [0.0, 0.4])
def test_another_first_law(first_time):
    hand = Hand(1, 1, steps=3, first_time=first_time)
    n = hand.n
    line = Line(n, START)
    points = float(hand.mean[0]) + POINTS

    def terminal(x):
        return n.log_weight(x[:, None])

    found = line.policy_law(line.noise, line.flows(n), terminal, START, points)
    assert QUADRATURE_TIGHT.holds(found, gaussian_policy(hand, START).logpdf(points), 1.0)
    claimed = stats.norm(hand.mean[0], math.sqrt(hand.end[0, 0])).logpdf(points)
    # At t_0 = 0 the first kernel forgets where it starts, and only then.
    assert QUADRATURE_TIGHT.holds(found, claimed, 1.0) == (first_time == 0)


def test_kernels_agree_with_adaptive_integrals():
    n = line_mixture()
    line = Line(n)
    x, x_next = np.array([-0.4, 0.6]), np.array([0.2, 1.1])
    for k in range(n.steps):
        exact = line.back(k, x, x_next)
        for i in range(2):
            for j in range(2):
                truth = flows.log_forward(n.without_reward(), k, x[i : i + 1], x_next[j : j + 1])
                assert QUADRATURE_TIGHT.holds(exact[i, j], truth, 1.0)
        assert not QUADRATURE.holds(line.gaussian(k, x, x_next), exact, 1.0)


def test_the_pretrained_chain_that_goes_back_gives_p_t():
    n = line_mixture()
    line = Line(n)
    found = line.kernels_law(line.back, float(n.sigma[0]), POINTS)
    assert QUADRATURE_TIGHT.holds(found, n.last.log_density(POINTS[:, None]), 1.0)
    other = line.kernels_law(line.gaussian, float(n.sigma[0]), POINTS)
    assert not QUADRATURE.holds(other, found, 1.0)


def affine_chain(hand):
    """The Gaussian kernels by hand: (slope, constant, variance) of every step."""
    n, m, c = hand.n, hand.one.mean[0], hand.one.cov[0, 0]
    found = []
    for k in range(n.steps):
        a, s, b, r = n.alpha[k], n.sigma[k], n.alpha[k + 1], n.sigma[k + 1]
        here = a / b * r**2 / s**2
        guess = a * c / (a * a * c + s * s)
        slope = here + (b - here * a) * guess
        found.append((slope, (b - here * a) * (m - guess * a * m), r**2 - (a / b * r**2 / s) ** 2))
    return found


@pytest.mark.parametrize("first_time", [0.0, 0.4])
@pytest.mark.parametrize("eta", [1.0, 0.5, pytest.param(2.0, marks=pytest.mark.slow)])
def test_powers_of_a_gaussian_chain(eta, first_time):
    """N(x'; J x + b, v)^eta is a Gaussian of variance v / eta times a number that does not depend
    on x; a linear log R moves every mean by its slope times the variance."""
    hand = Hand(1, 1, steps=3, first_time=first_time)
    line = Line(hand.n, sharpest=eta)
    start = float(hand.n.sigma[0])
    points = float(hand.mean[0]) + POINTS
    found = line.residual_law(line.gaussian, eta, start, points)
    steps = affine_chain(hand)
    mean, var, w = 0.0, start**2, float(hand.w[0])
    for k, (slope, constant, v) in enumerate(steps):
        later = math.prod(s for s, _, _ in steps[k + 1 :])
        mean, var = slope * mean + constant + v / eta * later * w, slope**2 * var + v / eta
    truth = stats.norm(mean, math.sqrt(var)).logpdf(points)
    assert QUADRATURE_TIGHT.holds(found, truth, 1.0)
    mean, var = 0.0, start**2
    for slope, constant, v in steps:
        mean, var = slope * mean + constant, slope**2 * var + v
    ten = stats.norm(mean + var / eta * w, math.sqrt(var / eta)).logpdf(points)
    assert QUADRATURE_TIGHT.holds(line.target(line.gaussian, eta, start, points), ten, 1.0)
    # Affine kernels from a start that is forgotten: a power of the whole path's Gaussian is (10).
    assert QUADRATURE_TIGHT.holds(found, ten, 1.0) == (first_time == 0)


@pytest.mark.parametrize("kernel", ["gaussian", "back"])
def test_powers_of_a_mixtures_chain(kernel):
    """What the conditions sample is (10) for eta = 1, and at any eta where the chain is in detailed
    balance with its noise."""
    n = line_mixture(steps=2)
    line = Line(n, sharpest=2.0)
    factor, start = getattr(line, kernel), float(n.sigma[0])
    for eta in (0.5, 1.0, 2.0):
        found = line.residual_law(factor, eta, start, POINTS)
        ten = line.target(factor, eta, start, POINTS)
        assert QUADRATURE_TIGHT.holds(found, ten, 1.0) == (eta == 1 or kernel == "back")
        z = np.linspace(-6, 6, 601)
        mass = np.exp(line.residual_law(factor, eta, start, z)).sum() * (z[1] - z[0])
        assert QUADRATURE.holds(mass, 1.0)


def test_residual_conditions_tilt_the_kernels_own_law():
    n = line_mixture(steps=2)
    line = Line(n)
    start = float(n.sigma[0])
    found = line.residual_law(line.gaussian, 1.0, start, POINTS)
    own = line.target(line.gaussian, 1.0, start, POINTS)
    ideal = n.log_weight(POINTS[:, None]) - flows.log_normaliser(n)
    assert QUADRATURE_TIGHT.holds(found, own, 1.0)
    assert not QUADRATURE.holds(found, ideal, 1.0)


def test_flows_of_one_until_the_last_step_keep_the_base():
    """Forward conditions alone: the law of X_{T-1} is the base's, the last step is tilted."""
    n = line_mixture(steps=2)
    line = Line(n)
    start = float(n.sigma[0])
    ones = [np.zeros(len(line.axes[1]))]
    found = line.policy_law(line.back, ones, line.log_reward, start, POINTS)
    x = np.linspace(-8, 8, 1601)
    marginal = np.exp(n.noised(1).log_density(x[:, None])) * (x[1] - x[0])
    middle = np.array([flows.log_flow(n, 1, np.array([v])) for v in x[::16]])
    exact = line.log_flow(n, 1, x)
    assert QUADRATURE_TIGHT.holds(exact[::16], middle, 1.0)
    base = n.without_reward()
    rho, tau = n.noising(1)
    for i, point in enumerate(POINTS):
        back = stats.norm(rho * point, tau).logpdf(x) + n.log_weight(np.array([[point]]))
        kernel = np.exp(back - exact)  # P#(x' | x) R^beta(x') / E#[R^beta | x]
        assert QUADRATURE_TIGHT.holds(found[i], math.log((marginal * kernel).sum()), 1.0)
    assert not QUADRATURE.holds(found, base.log_weight(POINTS[:, None]), 1.0)
    right = line.policy_law(line.back, line.pulled(line.back)[1:], line.log_reward, start, POINTS)
    assert QUADRATURE_TIGHT.holds(
        right, n.log_weight(POINTS[:, None]) - flows.log_normaliser(n), 1.0
    )


def test_total_variation_and_refusals():
    x = np.linspace(-8, 9, 3401)
    one, two = stats.norm(0, 1).logpdf(x), stats.norm(1, 1).logpdf(x)
    truth = 2 * stats.norm.cdf(0.5) - 1
    assert abs(total_variation(one, two, x[1] - x[0]) - truth) < 1e-5
    assert abs(total_variation(one, one, x[1] - x[0]) - truth) > 0.1
    with pytest.raises(ValueError, match="tables need d = 1"):
        Line(numbers(mixture(2, "bumps"), power=POWER))
    with pytest.raises(ValueError, match="must need at most"):
        Line(numbers(mixture(1, "bumps"), power=POWER, sigma_end=1e-4))
