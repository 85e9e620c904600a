"""Second routes for stochastic optimal control against Gaussians, OU and scalar LQ by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from tests.theory.ledger.oracle.cases import OneGaussian, mixture
from tests.theory.ledger.oracle.references import log_clock, simulate_control
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.oracle.control import line as control_line
from theory.ledger.oracle.control import values as control
from theory.ledger.oracle.control.line import extrapolated, uniform_clock
from theory.ledger.oracle.instants import instant
from theory.ledger.oracle.integrals.stencils import slope, steps

SCALE = 1.3
PATHS = ["rectified_flow", "trigonometric", "variance_preserving", "variance_exploding"]


# Quadratures


class Hand:
    """One Gaussian, linear reward: exp(scale r) of a Gaussian posterior N(m, C)."""

    def __init__(self, e, dim, path, t):
        self.one, self.path, self.t = OneGaussian(e, dim), path, t
        self.case, self.x, self.at = self.one.case, self.one.x, instant(path, t)
        mean, cov = self.one._posterior(self.at, 0.0)
        w = self.one.w
        self.value = -SCALE * (self.one.constant + w @ mean) - SCALE**2 / 2 * w @ cov @ w
        self.gradient = -SCALE * self.one.mean_reward_gradient(self.at)
        self.total = self.at.alpha**2 * self.one.cov + self.at.sigma**2 * np.eye(dim)

    def log_density(self, t=None):
        at = instant(self.path, self.t if t is None else t)
        law = stats.multivariate_normal(
            at.alpha * self.one.mean, at.alpha**2 * self.one.cov + at.sigma**2 * np.eye(len(self.x))
        )
        return law.logpdf(self.x)


PLACES = [(e, d, path, 0.4) for path in PATHS for e, d in ((1, 1), (1, 3))]
PLACES += [(1, 1, "rectified_flow", 0.02), (1, 2, "rectified_flow", 0.99)]
PLACES += [(2, 2, "rectified_flow", 0.5), (2, 3, "variance_preserving", 0.9)]


@pytest.mark.parametrize(("e", "dim", "path", "t"), PLACES)
def test_value_of_one_gaussian(e, dim, path, t):
    hand = Hand(e, dim, path, t)
    case, x, at = hand.case, hand.x, hand.at
    size = np.abs(hand.gradient).max()
    value, gradient = (f(case, x, at, SCALE) for f in (control.value, control.value_gradient))
    assert QUADRATURE_TIGHT.holds(value, hand.value, 1.0)
    assert QUADRATURE_TIGHT.holds(gradient, hand.gradient, size)
    # Jensen's bound is no value; the tilt's sign matters.
    assert not QUADRATURE_TIGHT.holds(-SCALE * hand.one.mean_reward(at), hand.value, 1.0)
    assert not QUADRATURE_TIGHT.holds(-gradient, hand.gradient, size)
    found = control.value_rates(case, x, path, t, SCALE)
    assert QUADRATURE_TIGHT.holds(found.value, hand.value, 1.0)
    assert QUADRATURE_TIGHT.holds(found.gradient, hand.gradient, size)
    assert QUADRATURE.holds(found.laplacian, 0.0, 1.0)
    # The time derivative of a value that is linear in x: what the equation leaves.
    g2 = control.memoryless_noise(at) ** 2
    drift = hand.one.velocity(at) + g2 / 2 * hand.one.score(at)
    truth = g2 / 2 * hand.gradient @ hand.gradient - drift @ hand.gradient
    assert QUADRATURE_TIGHT.holds(found.rate, truth, 1.0)
    assert not QUADRATURE_TIGHT.holds(found.rate, truth - g2 * hand.gradient @ hand.gradient, 1.0)


@pytest.mark.parametrize(("e", "dim", "path", "t"), PLACES)
def test_density_of_one_gaussian(e, dim, path, t):
    hand = Hand(e, dim, path, t)
    found = control.log_density_rates(hand.case, hand.x, path, t)
    laplacian, v = -np.trace(np.linalg.inv(hand.total)), hand.one.velocity(hand.at)
    radius = (1 - t) / 20
    rate = slope(np.array([hand.log_density(t + s) for s in steps(radius)]), radius)
    jacobian = np.stack(
        [
            Moved(hand, 0.5 * unit).velocity(hand.at) - Moved(hand, -0.5 * unit).velocity(hand.at)
            for unit in np.eye(dim)
        ]
    )
    for actual, truth, size in [
        (found.log_density, hand.log_density(), 1.0),
        (found.score, hand.one.score(hand.at), 1 / hand.at.sigma),
        (found.laplacian, laplacian, 1.0),
        (found.velocity, v, np.abs(v).max()),
        (found.divergence, np.trace(jacobian), 1.0),
        (found.rate, -np.trace(jacobian) - v @ found.score, abs(v @ found.score) + 1),
    ]:
        assert QUADRATURE_TIGHT.holds(actual, truth, size)
        assert not QUADRATURE_TIGHT.holds(actual, np.asarray(truth) + 1e-6 * size, size)
    assert QUADRATURE_TIGHT.holds(found.rate, rate, abs(v @ found.score) + 1)


class Moved(OneGaussian):
    """The same problem at another place."""

    def __init__(self, hand, step):
        self.__dict__.update(hand.one.__dict__)
        self.x = hand.x + step


@pytest.mark.parametrize(
    ("e", "kind", "dim"), [(1, "bumps", 1), (1, "quadratic", 3), (2, "bumps", 2)]
)
@pytest.mark.parametrize("path", ["rectified_flow", "variance_preserving"])
def test_both_equations_of_a_mixture(e, kind, dim, path):
    case, x, t = mixture(e, kind, dim), np.full(dim, 0.3), 0.6
    law = control.log_density_rates(case, x, path, t)
    found = control.value_rates(case, x, path, t, SCALE)
    g2 = control.memoryless_noise(instant(path, t)) ** 2
    for noise2 in (0.0, 0.3, g2):
        divergence = law.divergence + noise2 / 2 * law.laplacian
        drift = law.velocity + noise2 / 2 * law.score
        fokker = -divergence - drift @ law.score
        fokker += noise2 / 2 * (law.laplacian + law.score @ law.score)
        assert QUADRATURE_TIGHT.holds(law.rate, fokker, 1.0)
        square = found.gradient @ found.gradient
        bellman = found.rate + drift @ found.gradient + noise2 / 2 * (found.laplacian - square)
        # V belongs to one schedule only.
        assert QUADRATURE.holds(bellman, 0.0, 1.0) == (noise2 == g2)


def test_bad_points():
    hand = Hand(1, 2, "rectified_flow", 0.4)
    with pytest.raises(ValueError, match="x must have shape"):
        control.value(hand.case, np.zeros(3), hand.at, SCALE)
    with pytest.raises(ValueError, match="needs alpha > 0"):
        control.memoryless_noise(instant("rectified_flow", 0.0))
    with pytest.raises(ValueError, match="sigma positive"):
        control.value_rates(hand.case, hand.x, "rectified_flow", 1.0, SCALE)


# Composed kernels on the line

AXIS = np.arange(-7.0, 7.01, 0.04)
STARTS = np.array([-1.0, 0.2, 1.4])
TILT = 0.6


def gaussian_moments(rate, pull, g):
    """Of dX = (rate X + pull) dt + g dB after time 1: X_1 = M x + m + N(0, s^2)."""
    M = math.exp(rate)
    return M, pull * (M - 1) / rate, g**2 * (M**2 - 1) / (2 * rate)


@pytest.mark.parametrize("g", [0.5, 1.5])
def test_an_ou_process(g):
    """E exp(TILT X_1), and the law from N(0.3, 0.25)."""
    M, m, s2 = gaussian_moments(-0.8, 0.5, g)

    def b(x, t):
        return -0.8 * x + 0.5

    def tilt(x):
        return np.exp(TILT * x)

    found = control_line.line_expectation(
        b, lambda t: g, tilt, STARTS, AXIS, uniform_clock(0.0), steps=4
    )
    truth = np.exp(TILT * (M * STARTS + m) + TILT**2 * s2 / 2)
    assert QUADRATURE.holds(found.value, truth)
    assert not QUADRATURE.holds(found.value, np.exp(TILT * (M * STARTS + m)))
    law = control_line.line_law(
        b, lambda t: g, stats.norm.pdf(AXIS, 0.3, 0.5), AXIS, uniform_clock(0.0), steps=4
    )
    end = stats.norm.pdf(AXIS, 0.3 * M + m, math.sqrt(M**2 * 0.25 + s2))
    assert QUADRATURE.holds(law.value, end, end.max())
    assert not QUADRATURE.holds(np.roll(law.value, 1), end, end.max())


def test_a_potential():
    """Brownian motion and f = k^2 x^2 / 2: the harmonic oscillator, backwards and forwards."""
    k, g, one = 1.2, 0.9, np.ones_like
    found = control_line.line_expectation(
        lambda x, t: 0 * x,
        lambda t: g,
        one,
        STARTS,
        AXIS,
        uniform_clock(0.0),
        potential=lambda x, t: k**2 * x**2 / 2,
        steps=8,
    )
    truth = np.exp(-k / g * math.tanh(k * g) * STARTS**2 / 2) / math.sqrt(math.cosh(k * g))
    assert QUADRATURE.holds(found.value, truth)
    assert np.all(found.error < QUADRATURE.rtol)
    start = stats.norm.pdf(AXIS, 0.2, 0.6)
    law = control_line.line_law(
        lambda x, t: 0 * x,
        lambda t: g,
        start,
        AXIS,
        uniform_clock(0.0),
        potential=lambda x, t: k**2 * x**2 / 2,
        steps=8,
    )
    all_of_it = control_line.line_expectation(
        lambda x, t: 0 * x,
        lambda t: g,
        one,
        AXIS[50:-50:5],
        AXIS,
        uniform_clock(0.0),
        potential=lambda x, t: k**2 * x**2 / 2,
        steps=8,
    )
    mass = (all_of_it.value * start[50:-50:5]).sum() * 5 * 0.04
    assert QUADRATURE.holds(law.value.sum() * 0.04, mass)


def test_the_memoryless_schedule():
    """X_1 given X_t is the posterior; under less noise it is not."""
    hand, t = Hand(1, 1, "rectified_flow", 0.1), 0.1
    mean, var, sign = hand.one.mean[0], hand.one.cov[0, 0], hand.one.w[0]

    def b(x, s, share=1.0):
        total = s**2 * var + (1 - s) ** 2
        gap = x - s * mean
        eta = (1 - s) / s
        return mean + (s * var - (1 - s)) / total * gap - share * eta * gap / total

    def expectation(share):
        return control_line.line_expectation(
            lambda x, s: b(x, s, share),
            lambda s: math.sqrt(share * 2 * max(1 - s, 0) / s),
            lambda y: np.exp(SCALE * (hand.one.constant + sign * y)),
            hand.x,
            np.arange(-9.0, 9.01, 0.02),
            log_clock(t),
            steps=14,
        ).value[0]

    assert QUADRATURE.holds(expectation(1.0), math.exp(-hand.value))
    assert not QUADRATURE.holds(expectation(0.9), math.exp(-hand.value))


def test_bad_grids():
    def call(b=lambda x, t: 0 * x, g=1.0, x=STARTS, axis=AXIS, steps=2, **more):
        return control_line.line_expectation(
            b,
            lambda t: g,
            np.cos,
            x,
            axis,
            more.pop("clock", uniform_clock(0.0)),
            steps=steps,
            **more,
        )

    with pytest.raises(ValueError, match="too narrow for the axis"):
        call(g=0.05)
    with pytest.raises(ValueError, match="too long for b"):
        call(b=lambda x, t: 5 * x)
    with pytest.raises(ValueError, match=r"x must be \(m,\) inside"):
        call(x=np.array([8.0]))
    with pytest.raises(ValueError, match="uniform grid"):
        call(axis=AXIS**3)
    with pytest.raises(ValueError, match="increasing times"):
        call(clock=lambda w: 1 - w)
    with pytest.raises(ValueError, match="levels at least 2"):
        call(levels=1)
    with pytest.raises(ValueError, match="starts inside"):
        log_clock(0.0)
    with pytest.raises(ValueError, match="need 3 powers"):
        extrapolated(lambda n: np.zeros(1), 1, 4, [1, 2])
    with pytest.raises(ValueError, match="density must have shape"):
        control_line.line_law(np.add, lambda t: 1.0, STARTS, AXIS, uniform_clock(0.0))


# Simulation and adjoints


def test_simulated_control():
    """A constant control of an OU process on an uneven grid: the chain's moments by recursion."""
    times, n, push, g = np.linspace(0, 1, 31) ** 1.5, 20_000, 0.7, 0.8
    rng = np.random.default_rng(4)
    found = simulate_control(
        lambda x, t: -x,
        lambda x, t: np.full_like(x, push),
        lambda t: g,
        times,
        rng.standard_normal(n),
        rng,
        keep=[0.0, float(times[7])],
    )
    mean, var = 0.0, 1.0
    for h in np.diff(times):
        mean, var = (1 - h) * mean + h * g * push, (1 - h) ** 2 * var + g**2 * h
    assert ALGEBRA.holds(found.energy, np.full(n, push**2 / 2))
    bound = math.sqrt(math.log(2 / FALSE_FAILURE_RATE) / (2 * n))
    assert stats.kstest(found.ends, stats.norm(mean, math.sqrt(var)).cdf).statistic < bound
    assert stats.kstest(found.ends, stats.norm(0.0, math.sqrt(var)).cdf).statistic > bound
    assert found.kept.shape == (2, n)
    assert stats.kstest(found.kept[0], stats.norm.cdf).statistic < bound
    with pytest.raises(ValueError, match="must be on the grid"):
        simulate_control(np.add, np.add, lambda t: g, times, STARTS, rng, keep=[0.123])
    with pytest.raises(ValueError, match="increasing grid"):
        simulate_control(np.add, np.add, lambda t: g, times[::-1], STARTS, rng)


# Linear-quadratic
