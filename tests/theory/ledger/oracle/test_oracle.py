"""The oracle against scipy.stats, mpmath, dense grids and algebra that is done here by hand."""

import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from theory.ledger import oracle
from theory.ledger.oracle import Density, QuadratureError, Region
from theory.ledger.oracle.integrals.integrate import rule

QUADRATURE_TIGHT = 1e-11  # smooth integrands
RTOL = 1e-9  # a reference that is itself not better
ROUNDING = 1e-13  # slack where an error estimate must bound the actual error

NO_POINTS = {1: np.zeros((0, 1)), 2: np.zeros((0, 2))}


def box(d, half, points=None):
    points = NO_POINTS[d] if points is None else np.array(points, dtype=np.float64)
    return Region(np.full(d, -float(half)), np.full(d, float(half)), points)


def check(estimate, truth, rtol=QUADRATURE_TIGHT):
    """Close to the truth, with an error estimate that is small and that bounds the actual error."""
    truth = np.asarray(truth)
    scale = max(np.abs(truth).max(), 1e-3)
    assert np.shape(estimate.value) == truth.shape
    np.testing.assert_allclose(estimate.value, truth, rtol=rtol, atol=rtol * scale)
    slack = max(ROUNDING, rtol if rtol > QUADRATURE_TIGHT else 0) * scale
    assert np.all(np.abs(estimate.value - truth) <= estimate.error + slack)


def identity(y):
    return y


def normal(mean, std, half=30.0):
    return Density(lambda y: -((y[:, 0] - mean) ** 2) / (2 * std**2), box(1, half, [[mean]]))


def positive(log_density, half=80.0):
    """A density on y > 0, its jump at the region's point 0."""

    def log(y):
        out = np.full(len(y), -np.inf)
        out[y[:, 0] > 0] = log_density(y[y[:, 0] > 0, 0])
        return out

    return Density(log, Region(np.array([-1.0]), np.array([half]), np.zeros((1, 1))))


EXPONENTIAL = positive(lambda y: -y)


# integrate


def test_the_rule_is_kronrods():
    nodes, (kronrod, gauss) = rule(1)
    for degree in range(32):
        exact = (1 + (-1) ** degree) / (degree + 1)
        assert kronrod @ nodes[:, 0] ** degree == pytest.approx(exact, abs=1e-15)
        if degree < 20:
            assert gauss @ nodes[:, 0] ** degree == pytest.approx(exact, abs=1e-15)


def test_integrate_line():
    found = oracle.integrate(
        lambda y: np.hstack([np.exp(y), np.cos(40 * y), np.sqrt(np.abs(y - 0.5))]),
        Region(np.array([0.0]), np.array([2.0]), np.array([[0.5]])),
    )
    root = (0.5**1.5 + 1.5**1.5) * 2 / 3
    check(found, [math.expm1(2), math.sin(80) / 40, root])


def test_integrate_plane_between_the_corners():
    region = Region(np.array([0.0, -1.0]), np.array([2.0, 3.0]), np.array([[1.0, 0.0]]))
    found = oracle.integrate(lambda y: np.exp(y[:, :1] * y[:, 1:]), region)
    mpmath.mp.dps = 20
    truth = mpmath.quad(lambda b: mpmath.expm1(2 * b) / b, [-1, 0, 3])
    check(found, [float(truth)])


@pytest.mark.parametrize("d", [1, 2])
def test_a_narrow_peak_at_a_point_is_seen(d):
    centre, width = 0.3141592, 1e-3

    def peak(y):
        return np.exp(-((y - centre) ** 2).sum(axis=1, keepdims=True) / (2 * width**2))

    found = oracle.integrate(peak, box(d, 10, [[centre] * d]))
    check(found, [(2 * math.pi * width**2) ** (d / 2)])


def test_a_divergent_integral_is_refused_with_what_was_reached():
    with pytest.raises(QuadratureError, match=r"not finite|reached error"):
        oracle.integrate(lambda y: 1 / np.abs(y - 0.3), box(1, 1))
    with pytest.raises(QuadratureError, match="not finite"):
        oracle.integrate(lambda y: np.where(y > 0, np.inf, 0.0), box(1, 1))
    with pytest.raises(QuadratureError, match=r"reached error .*, asked for"):
        oracle.integrate(lambda y: np.sin(1e8 * y + 1), box(1, 1))


# one Gaussian: conditional mean by regression, the law of X_t by adding variances


@pytest.mark.parametrize("t", [0.0, 0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("deviations", [0.3, -8.0])
@pytest.mark.parametrize("std", [0.02, 1.7])
def test_single_gaussian_line(t, deviations, std):
    mean, alpha, sigma = 0.8, t, 1 - t
    variance = alpha**2 * std**2 + sigma**2
    x = np.array([alpha * mean + deviations * math.sqrt(variance)])
    density = normal(mean, std)
    gain = (x - alpha * mean) / variance
    truth = mean + alpha * std**2 * gain
    check(oracle.posterior_expectation(density, identity, x, alpha, sigma), truth)
    check(oracle.velocity(density, x, alpha, sigma, 1, -1), truth - sigma * gain)


@pytest.mark.parametrize("t", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("step", [0.5, 8.0])
def test_single_gaussian_plane(t, step):
    """A ridge of condition 1e4, turned by 37 degrees."""
    c, s = math.cos(math.radians(37)), math.sin(math.radians(37))
    turn = np.array([[c, -s], [s, c]])
    cov, mean = turn @ np.diag([4.0, 4e-4]) @ turn.T, np.array([0.4, -0.7])
    precision = turn @ np.diag([0.25, 2500.0]) @ turn.T
    density = Density(
        lambda y: -np.einsum("ni,ij,nj->n", y - mean, precision, y - mean) / 2, box(2, 30, [mean])
    )
    alpha, sigma = t, 1 - t
    law = alpha**2 * cov + sigma**2 * np.eye(2)
    x = alpha * mean + step * np.linalg.cholesky(law) @ np.array([0.6, -0.8])
    gain = np.linalg.solve(law, x - alpha * mean)
    truth = mean + alpha * cov @ gain
    check(oracle.posterior_expectation(density, identity, x, alpha, sigma), truth)


def test_ridge_against_a_dense_grid_in_its_frame():
    """A ridge with a quartic along it and a signed weight: no closed form. The trapezoid rule
    converges faster than any power on it."""
    c, s = math.cos(math.radians(37)), math.sin(math.radians(37))
    turn = np.array([[c, -s], [s, c]])

    def log_ridge(y):
        u = y @ turn
        return -(u[:, 0] ** 4) / 20 - (u[:, 1] - 0.01 * u[:, 0] ** 2) ** 2 / (2 * 0.02**2)

    def weight(y):
        return 1 + y[:, 0] + 0.5 * y[:, 1] ** 2

    x, alpha, sigma = np.array([0.5, 1.0]), 0.4, 0.6
    u = np.meshgrid(np.linspace(-7, 7, 1401), np.linspace(-0.3, 0.9, 601), indexing="ij")
    y = np.stack(u, axis=-1).reshape(-1, 2) @ turn.T
    gap = x - alpha * y
    h = weight(y) * np.exp(log_ridge(y) - (gap**2).sum(axis=1) / (2 * sigma**2))
    density = Density(log_ridge, box(2, 12, [[0, 0]]))
    found = oracle.posterior_expectation(density, identity, x, alpha, sigma, weight)
    check(found, h @ y / h.sum())


# separate modes, tails, kinks, signs


@pytest.mark.parametrize("t", [0.2, 0.8])
def test_two_wells_against_mpmath(t):
    mpmath.mp.dps = 25
    x, alpha, sigma = 0.05, t, 1 - t

    def h(y):
        return mpmath.exp(-8 * (y * y - 4) ** 2 + y / 3 - (x - alpha * y) ** 2 / (2 * sigma**2))

    cuts = [-4, -2.2, -2, -1.8, 0, 1.8, 2, 2.2, 4]
    mass, first, second = (mpmath.quad(lambda y, k=k: h(y) * y**k, cuts) for k in range(3))
    density = Density(lambda y: -8 * (y[:, 0] ** 2 - 4) ** 2 + y[:, 0] / 3, box(1, 6, [[-2], [2]]))
    found = oracle.posterior_expectation(
        density, lambda y: np.hstack([y, y**2]), np.array([x]), alpha, sigma
    )
    check(found, [float(first / mass), float(second / mass)])


def test_far_between_two_narrow_modes_at_late_time():
    """Four thousand posterior widths from either mode: the nearer one takes all."""
    std, t = 0.05, 0.999
    far = [stats.norm(m, std).logpdf for m in (-3.0, 4.0)]
    density = Density(lambda y: np.logaddexp(*[f(y[:, 0]) for f in far]), box(1, 12, [[-3], [4]]))
    x = np.array([0.6])
    variance = t**2 * std**2 + (1 - t) ** 2
    log_odds = ((x[0] + 3 * t) ** 2 - (x[0] - 4 * t) ** 2) / (2 * variance)
    assert log_odds > 40  # the mode at 4
    truth = 4 + t * std**2 * (x - 4 * t) / variance
    check(oracle.posterior_expectation(density, identity, x, t, 1 - t), truth)


def test_clipped_exponential_with_its_kink_in_the_points():
    clip = 0.7
    density = Density(lambda y: stats.norm.logpdf(y[:, 0]), box(1, 20, [[0], [clip]]))

    def weight(y):
        return np.exp(np.minimum(y[:, 0], clip))

    cdf, sf = stats.norm.cdf, stats.norm.sf
    mass = math.exp(0.5) * cdf(clip - 1) + math.exp(clip) * sf(clip)
    left = math.exp(0.5) * (cdf(clip - 1) - stats.norm.pdf(clip - 1))
    first = left + math.exp(clip) * stats.norm.pdf(clip)
    check(oracle.normaliser(density, weight), mass)
    check(oracle.expectation(density, identity, weight), [first / mass])


def test_signed_weight_and_its_cancellation():
    density = Density(lambda y: stats.norm.logpdf(y[:, 0]), box(1, 20))
    check(oracle.normaliser(density, lambda y: 1 - 2 * y[:, 0]), 1.0)
    found = oracle.expectation(
        density, lambda y: np.hstack([y, y**2, y**3]), lambda y: 1 - 2 * y[:, 0]
    )
    check(found, [-2.0, 1.0, -6.0])
    with pytest.raises(QuadratureError, match="cancels"):
        oracle.expectation(density, identity, lambda y: y[:, 0])


def test_a_tilt_moves_the_mass_out_of_the_region():
    density = Density(lambda y: stats.norm.logpdf(y[:, 0]), box(1, 8))
    found = oracle.expectation(density, identity, lambda y: np.exp(20 * y[:, 0]))
    check(found, [20.0])
    with pytest.raises(QuadratureError, match="overflows"):
        oracle.expectation(density, identity, lambda y: np.exp(400 * y[:, 0]))
    with pytest.raises(QuadratureError, match="decay"):
        oracle.normaliser(Density(lambda y: -np.log1p(y[:, 0] ** 2) / 10, box(1, 8)))


def test_heavy_tails():
    check(oracle.normaliser(Density(lambda y: -np.log1p(y[:, 0] ** 2), box(1, 8))), math.pi)


def test_a_narrow_bump_in_the_plane_is_seen_through_the_weight():
    """weight 1 + h exp(-|y - c|^2 / (2 s^2)) over N(0, I): a product of two Gaussians in d = 1,
    squared, by mpmath."""
    c, s, h = 2.0, 0.01, 5e4

    def weight(y):
        return 1 + h * np.exp(-((y - c) ** 2).sum(axis=1) / (2 * s**2))

    density = Density(lambda y: -(y**2).sum(axis=1) / 2, box(2, 12, [[0, 0], [c, c]]))
    mpmath.mp.dps = 20
    line, first = (
        mpmath.quad(
            lambda y, k=k: y**k * mpmath.exp(-(y**2) / 2 - (y - c) ** 2 / (2 * s**2)),
            [c - 20 * s, c, c + 20 * s],
        )
        for k in range(2)
    )
    mass = 2 * math.pi + h * float(line) ** 2
    check(oracle.normaliser(density, weight), mass)
    found = oracle.expectation(density, identity, weight)
    check(found, [h * float(line * first) / mass] * 2)


# an exponential law: scipy's truncated normal is its posterior


@pytest.mark.parametrize("x", [-1.5, 0.4, 6.0])
def test_exponential_prior(x):
    alpha, sigma, dalpha, dsigma = 0.6, 0.3, 1.1, -0.7
    mean, std = (alpha * x - sigma**2) / alpha**2, sigma / alpha
    posterior = stats.truncnorm(-mean / std, np.inf, loc=mean, scale=std)
    at = (np.array([x]), alpha, sigma)
    slope = dalpha - dsigma * alpha / sigma
    rate = (dalpha, dsigma)
    m = posterior.mean()
    check(oracle.posterior_expectation(EXPONENTIAL, identity, *at), [m], RTOL)
    check(oracle.velocity(EXPONENTIAL, *at, *rate), [slope * m + dsigma * x / sigma], RTOL)


def test_exponential_tilt_of_an_exponential():
    """exp(y / 2) over a unit exponential: rate one half, so cumulants (n - 1)! 2^n."""
    found = oracle.expectation(
        EXPONENTIAL, lambda y: np.hstack([y, y**2]), lambda y: np.exp(y[:, 0] / 2)
    )
    check(found, [2.0, 8.0])
    check(oracle.normaliser(EXPONENTIAL, lambda y: np.exp(y[:, 0] / 2)), 2.0)
