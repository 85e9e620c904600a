"""Conditional quantities against one Gaussian by regression, and against each other."""

import numpy as np
import pytest

from tests.theory.ledger.oracle.cases import INSTANTS, OneGaussian, mixture
from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.ledger.oracle import conditional
from theory.ledger.oracle.instants import instant
from theory.ledger.oracle.integrals.stencils import slope, steps

PLACES = [(1, dim, name) for dim in (1, 3) for name in INSTANTS]
PLACES += [(2, 2, "middle"), (2, 4, "late"), (2, 3, "exploding")]
MIDDLE = INSTANTS["middle"]


def exponential(r):
    return np.exp(0.7 * r)


@pytest.mark.parametrize(("e", "dim", "name"), PLACES)
def test_one_gaussian(e, dim, name):
    hand, at = OneGaussian(e, dim), INSTANTS[name]
    case, x = hand.case, hand.x
    v, m, cov = hand.velocity(at), hand.mean_reward(at), hand.covariance(at)
    size = np.abs(v).max()
    unit = 1 / at.sigma
    b, old = 0.3, v + 0.1 * size
    nft_old = old + ((2 * m - 1) * (v - old) + 2 * cov) / b
    expected = [
        (conditional.velocity(case, x, at), v, size),
        (conditional.velocity(case, x, at, exponential), hand.velocity(at, 0.7), size),
        (conditional.weighted_minimiser(case, x, at, exponential), hand.velocity(at, 0.7), size),
        (conditional.mean_reward(case, x, at), m, 0.0),
        (conditional.mean_reward_gradient(case, x, at), hand.mean_reward_gradient(at), 1e-3),
        (conditional.score(case, x, at), hand.score(at), unit),
        (conditional.score(case, x, at, exponential), hand.score(at, 0.7), unit),
        (conditional.covariance(case, x, at), cov, np.abs(cov).max()),
        (conditional.tilted_velocity_slope(case, x, at, 0.0), cov, np.abs(cov).max()),
        (conditional.tilted_velocity_slope(case, x, at, -1.3), cov, np.abs(cov).max()),
        (conditional.nft_minimiser(case, x, at, 0.7), v + 2 / 0.7 * cov, size),
        (conditional.nft_minimiser(case, x, at, b, old), nft_old, np.abs(nft_old).max()),
    ]
    for actual, truth, scale in expected:
        assert QUADRATURE_TIGHT.holds(actual, truth, scale)
        assert not QUADRATURE_TIGHT.holds(actual, np.asarray(truth) + 1e-6 * max(1, scale), scale)


@pytest.mark.parametrize(("e", "kind"), [(1, "bumps"), (1, "quadratic"), (2, "bumps")])
def test_derivatives_of_a_mixture_are_those_of_the_functions(e, kind):
    """On plain stencils of calls, with a radius of their own, without shared nodes."""
    case, radius, a = mixture(e, kind), 0.05, 0.5
    x = np.full(e, 0.3)
    moves = steps(radius)
    m = np.array([conditional.mean_reward(case, x + s * np.eye(e)[0], MIDDLE) for s in moves])
    found = conditional.mean_reward_gradient(case, x, MIDDLE)[0]
    assert QUADRATURE_TIGHT.holds(found, slope(m, radius), 1.0)
    tilted = [
        conditional.velocity(case, x, MIDDLE, lambda r, s=s: np.exp((a + s) * r)) for s in moves
    ]
    found = conditional.tilted_velocity_slope(case, x, MIDDLE, a)
    assert QUADRATURE_TIGHT.holds(found, slope(np.array(tilted), radius), 1.0)


@pytest.mark.parametrize("e", [1, 2])
def test_the_score_of_a_mixture(e):
    """X_t's law by hand: the components' means scaled, their variances added."""
    case, t = mixture(e, "bumps", e + 1), 0.6
    x, at = np.linspace(-0.5, 0.8, e + 1), instant("rectified_flow", t)
    place = case.frame.T @ x
    gaps = t * case.means - place[:e]
    variances = t**2 * case.covs[:, 0, 0] + (1 - t) ** 2
    share = case.weights * np.exp(-(gaps**2).sum(1) / 2 / variances) / variances ** (e / 2)
    plane = (share / share.sum()) @ (gaps / variances[:, None])
    rest = -place[e:] / (t**2 * case.rest_std**2 + (1 - t) ** 2)
    truth = case.frame @ np.concatenate([plane, rest])
    assert QUADRATURE_TIGHT.holds(conditional.score(case, x, at), truth, 1.0)


def test_the_stencil_is_exact_on_polynomials():
    s = steps(0.4)
    assert ALGEBRA.holds(slope(3.0 + 2 * s - s**3 + s**11 + s**8, 0.4), 2.0)
    assert not ALGEBRA.holds(slope(s**13 + s, 0.4), 1.0)


def test_bad_input():
    hand = OneGaussian(1, 2)
    for call in (conditional.velocity, conditional.score, conditional.covariance):
        with pytest.raises(ValueError, match="x must have shape"):
            call(hand.case, np.zeros(3), MIDDLE)
    with pytest.raises(ValueError, match="sigma positive"):
        conditional.velocity(hand.case, hand.x, instant("rectified_flow", 1.0))
    with pytest.raises(ValueError, match="nft_beta must not be 0"):
        conditional.nft_minimiser(hand.case, hand.x, MIDDLE, 0.0)
    with pytest.raises(ValueError, match="v_old must have shape"):
        conditional.nft_minimiser(hand.case, hand.x, MIDDLE, 0.5, np.zeros(1))
