"""Dependent Gaussian couplings by regression, and the lemma's minimiser in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from theory.common.tolerances import QUADRATURE_TIGHT
from theory.ledger.oracle import Region, couplings, lemma

RATE = 0.6


def joint(d):
    """(X_0, X_1 = mean(a) + B(a) X_0 + 0.7 noise): log-joint at a, and E[X_1 - X_0 | X_t = x]."""
    B, shift = 0.4 * np.eye(d) + 0.2 * np.ones((d, d)), np.linspace(0.5, -0.3, d)

    def log_at(a):
        def log_joint(x0, x1):
            gap = (x1 - (1 + a) * shift - x0 @ ((1 + RATE * a) * B).T) / 0.7
            return -0.5 * (x0**2).sum(axis=1) - 0.5 * (gap**2).sum(axis=1)

        return log_joint

    def velocity(a, x, t):
        slope = (1 + RATE * a) * B
        across, within = slope, slope @ slope.T + 0.49 * np.eye(d)  # Cov(X_1, X_0), Cov(X_1)
        total = t**2 * within + (1 - t) ** 2 * np.eye(d) + t * (1 - t) * (across + across.T)
        with_x = t * within + (1 - t) * across - t * across.T - (1 - t) * np.eye(d)
        mean = (1 + a) * shift
        return mean + with_x @ np.linalg.solve(total, x - t * mean)

    return log_at, velocity


@pytest.mark.parametrize(("d", "t"), [(1, 0.0), (1, 0.4), (1, 0.99), (2, 0.6)])
def test_gaussian_coupling(d, t):
    log_at, truth = joint(d)
    x, a = np.linspace(0.8, -0.5, d), 0.3
    region = Region(np.full(d, -12.0), np.full(d, 12.0), np.zeros((1, d)))
    found = couplings.velocity(log_at(a), x, t, region)
    assert QUADRATURE_TIGHT.holds(found, truth(a, x, t), 1.0)
    assert not QUADRATURE_TIGHT.holds(found, truth(0.0, x, t), 1.0)
    # Complex a: the truth is a rational function, so that one step gives its derivative.
    derivative = truth(a + 1e-30j, x, t).imag / 1e-30
    slope = couplings.velocity_slope(log_at, a, x, t, region)
    assert QUADRATURE_TIGHT.holds(slope, derivative, 1.0)


def test_couplings_refuse():
    region = Region(np.array([-9.0]), np.array([9.0]), np.zeros((1, 1)))
    log_at, _ = joint(1)
    with pytest.raises(ValueError, match="t must be in"):
        couplings.velocity(log_at(0.0), np.zeros(1), 1.0, region)
    with pytest.raises(ValueError, match="x must have shape"):
        couplings.velocity(log_at(0.0), np.zeros(2), 0.5, region)


def fractions(*pairs):
    return [Fraction(a, b) for a, b in pairs]


def test_the_contrast_by_hand():
    """v = 0, mu = 3, b = 1/2: mu_+- = +-3/2; y = 1, r = 1/4."""
    found = lemma.contrast(
        [Fraction(3)], [Fraction(0)], [Fraction(1)], Fraction(1, 4), Fraction(1, 2)
    )
    assert found == Fraction(1, 4) * Fraction(1, 4) + Fraction(3, 4) * Fraction(25, 4)


def test_the_minimiser_is_exact():
    v, y = fractions((1, 3), (-2, 7), (5, 1)), fractions((4, 9), (1, 1), (-3, 2))
    r, b = Fraction(5, 11), Fraction(3, 10)
    found = lemma.minimiser(v, y, r, b)
    # 0 = r (v + b u - y) - (1 - r) (v - b u - y) = (2r - 1) (v - y) + b u, u = mu - v
    assert found == [p + (2 * r - 1) / b * (q - p) for p, q in zip(v, y, strict=True)]
    best = lemma.contrast(found, v, y, r, b)
    for j in range(3):
        moved = [m + (j == k) * Fraction(1, 10**9) for k, m in enumerate(found)]
        assert lemma.contrast(moved, v, y, r, b) > best


def test_the_lemma_refuses():
    one = [Fraction(1)]
    with pytest.raises(ValueError, match="b must not be 0"):
        lemma.minimiser(one, one, Fraction(1, 2), Fraction(0))
    with pytest.raises(ValueError, match=r"shorter|longer"):
        lemma.minimiser(one, one * 2, Fraction(1, 2), Fraction(1))
