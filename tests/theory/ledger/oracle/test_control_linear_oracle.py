"""The second routes to linear control, against matrix equations solved by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.theory.ledger.oracle.references import dense_control, discrete_optimum
from tests.theory.ledger.oracle.test_control_oracle import TILT, gaussian_moments
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.oracle.control import chain as control_chain
from theory.ledger.oracle.control import linear as control_linear
from theory.ledger.oracle.control.chain import Chain
from theory.ledger.oracle.control.line import extrapolated
from theory.ledger.oracle.control.linear import LinearNumbers


def chain(d=2):
    return Chain(
        drift=lambda x, t: np.sin(x) - 0.5 * t * x[:, ::-1],
        control=lambda x, t: 0.4 * np.cos(x),
        noise=lambda t: 0.5 + t,
        cost=lambda x, t: (1 + t) * np.exp(-(x**2).sum(axis=1) / 2),
        final=lambda x: 0.3 * (x**3).sum(axis=1),
        times=np.linspace(0, 1, 9) ** 1.2,
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_cost_gradient(frozen):
    """The adjoint recursion by hand: a_k = h (u u' + f') + (1 + h (b' + g u'))' a_{k+1}."""
    c, rng = chain(), np.random.default_rng(8)
    start, xi = rng.normal(size=2), rng.normal(size=(8, 2))
    path = control_chain.chain_path(c, start, xi)
    adjoint = [0.9 * path[-1] ** 2]
    for k in range(7, -1, -1):
        x, t, h = path[k], c.times[k], c.times[k + 1] - c.times[k]
        jacobian = np.diag(np.cos(x)) - 0.5 * t * np.eye(2)[::-1]
        slope = -(1 + t) * x * np.exp(-(x @ x) / 2)
        if not frozen:
            jacobian = jacobian - c.noise(t) * np.diag(0.4 * np.sin(x))
            slope = slope - 0.16 * np.sin(x) * np.cos(x)
        adjoint.append(adjoint[-1] + h * (jacobian.T @ adjoint[-1] + slope))
    truth = np.array(adjoint[::-1])
    exact = control_chain.cost_gradient(c, start, xi, frozen=frozen)
    central = control_chain.cost_gradient(c, start, xi, frozen=frozen, complex_steps=False)
    other = control_chain.cost_gradient(c, start, xi, frozen=not frozen)
    assert ALGEBRA.holds(exact, truth, 1.0)
    assert QUADRATURE_TIGHT.holds(central, truth, 1.0)
    assert not QUADRATURE.holds(other, truth, 1.0)
    with pytest.raises(ValueError, match="xi must have shape"):
        control_chain.cost_gradient(c, start, xi[:-1])


K, G, X0 = 1.3, 0.8, np.array([0.7])


def scalar(rate=0.0, pull=0.0, running=0.0, final=0.0, tilt=0.0, g=G):
    def constant(value):
        return lambda t: value

    return LinearNumbers(
        constant(np.array([[rate]])),
        constant(np.array([pull])),
        constant(g),
        constant(np.array([[running]])),
        constant(np.zeros(1)),
        np.array([[final]]),
        np.array([tilt]),
        np.array([0.3]),
        np.array([[0.5]]),
    )


OSCILLATOR = scalar(running=K**2)


def test_the_oscillator():
    """A = 0, f = k^2 x^2 / 2, c = 0: P = (k / g) tanh(k g (1 - t)) solves Riccati's equation."""
    tanh, cosh = math.tanh(K * G), math.cosh(K * G)
    value = K / G * tanh * X0[0] ** 2 / 2 + math.log(cosh) / 2
    found = extrapolated(lambda n: np.array(control_linear.dense_value(OSCILLATOR, X0, n)), 16, 3)
    assert QUADRATURE_TIGHT.holds(found.value, value)
    assert not QUADRATURE_TIGHT.holds(control_linear.dense_value(OSCILLATOR, X0, 16), value)
    for scheme in control_linear.SCHEMES:
        u = extrapolated(lambda n, s=scheme: dense_control(OSCILLATOR, X0, n, s), 16, 4, [1, 2, 3])
        assert QUADRATURE.holds(u.value, -K * tanh * X0)
    mean, cov = (
        extrapolated(lambda n, j=j: control_linear.dense_optimum(OSCILLATOR, X0, n)[j], 16, 3).value
        for j in (2, 3)
    )
    end = 0.5 / cosh**2 + G / K * tanh
    assert QUADRATURE_TIGHT.holds(mean, [0.3, 0.3 / cosh])
    assert QUADRATURE_TIGHT.holds(cov, [[0.5, 0.5 / cosh], [0.5 / cosh, end]])


def test_a_linear_tilt_of_an_ou_process():
    """c = q x: V = q (M x + m) - q^2 s^2 / 2, u = -g M q, with exact steps for every n."""
    M, m, s2 = gaussian_moments(-0.8, 0.5, G)
    numbers = scalar(rate=-0.8, pull=0.5, tilt=TILT)
    found = control_linear.dense_optimum(numbers, X0, 6)
    assert ALGEBRA.holds(found.value, TILT * (M * X0[0] + m) - TILT**2 * s2 / 2, 1.0)
    assert ALGEBRA.holds(found.mean, [0.3, 0.3 * M + m - TILT * s2])
    assert ALGEBRA.holds(found.cov, [[0.5, 0.5 * M], [0.5 * M, 0.5 * M**2 + s2]])
    assert not ALGEBRA.holds(found.mean, [0.3, 0.3 * M + m])
    u = extrapolated(lambda n: dense_control(numbers, X0, n), 8, 5, [1, 2, 3, 4])
    assert QUADRATURE.holds(u.value, [-G * M * TILT])


def test_the_chains_own_optimum():
    """Discrete Riccati by hand. The tilt has its control and mean, not its value or variance."""
    n = 12
    h, hessian, constant, gains = 1 / n, 0.4, 0.0, []
    for _ in range(n):
        gains.append(hessian / (1 + G**2 * h * hessian))
        constant += G**2 * h * hessian / 2
        hessian = gains[-1] + h * K**2
    rate, var = 1.0, 0.0
    for gain in gains[::-1]:
        step = 1 - h * G**2 * gain
        rate, var = rate * step, step**2 * var + G**2 * h
    numbers = scalar(running=K**2, final=0.4)
    found = discrete_optimum(numbers, X0, n)
    tilted = control_linear.dense_optimum(numbers, X0, n, "euler")
    value = hessian * X0[0] ** 2 / 2 + constant
    cov = np.array([[0.5, 0.5 * rate], [0.5 * rate, 0.5 * rate**2 + var]])
    assert ALGEBRA.holds(found.value, value)
    assert ALGEBRA.holds(found.cov, cov)
    for each in (found, tilted):
        assert ALGEBRA.holds(each.control, -G * gains[-1] * X0)
        assert ALGEBRA.holds(each.mean, [0.3, 0.3 * rate])
    assert not QUADRATURE.holds(tilted.value, value)
    assert not QUADRATURE.holds(tilted.cov, cov)


def test_in_the_plane():
    """Two oscillators of other frequencies, turned: values add, controls turn."""
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(2, 2)))[0]
    k = np.array([0.7, 1.6])
    hessian, zero = turn @ np.diag(k**2) @ turn.T, np.zeros(2)
    numbers = LinearNumbers(
        lambda t: np.zeros((2, 2)),
        lambda t: zero,
        lambda t: G,
        lambda t: hessian,
        lambda t: zero,
        np.zeros((2, 2)),
        zero,
        zero,
        np.eye(2),
    )
    x, n = np.array([0.7, -0.4]), 10
    own = turn.T @ x
    tanh = np.tanh(k * G)
    value = (k / G * tanh * own**2 / 2 + np.log(np.cosh(k * G)) / 2).sum()
    found = extrapolated(lambda n: np.array(control_linear.dense_value(numbers, x, n)), 16, 3)
    assert QUADRATURE.holds(found.value, value)
    u = extrapolated(lambda n: dense_control(numbers, x, n), 16, 4, [1, 2, 3])
    assert QUADRATURE.holds(u.value, -turn @ (k * tanh * own), 1.0)
    best, tilted = (
        f(numbers, x, n, *more)
        for f, more in (
            (discrete_optimum, ()),
            (control_linear.dense_optimum, ("euler",)),
        )
    )
    singles = [
        discrete_optimum(scalar(running=k[j] ** 2), own[j : j + 1], n).value for j in range(2)
    ]
    assert ALGEBRA.holds(best.value, sum(singles))
    assert ALGEBRA.holds(best.control, tilted.control)
    assert best.value > tilted.value


def test_girsanov():
    """Brownian motion against an OU process: E of the drifts' squared gap by its moments."""
    first, second = scalar(), scalar(rate=-0.5, pull=0.2)

    def chain_kl(n):
        var = 0.5 + G**2 * np.arange(n) / n
        return (((0.5 * 0.3 - 0.2) ** 2 + 0.25 * var) / (2 * G**2 * n)).sum()

    truth = ((0.5 * 0.3 - 0.2) ** 2 + 0.25 * (0.5 + G**2 / 2)) / (2 * G**2)
    assert ALGEBRA.holds(control_linear.girsanov_kl(first, second, 9), chain_kl(9))
    assert not QUADRATURE.holds(control_linear.girsanov_kl(second, first, 9), chain_kl(9))
    for scheme in control_linear.SCHEMES:
        found = extrapolated(
            lambda n, s=scheme: np.array(control_linear.girsanov_kl(first, second, n, s)),
            8,
            4,
            [1, 2, 3],
        )
        assert QUADRATURE.holds(found.value, truth)
    assert ALGEBRA.holds(control_linear.girsanov_kl(first, first, 9), 0.0, 1.0)


def test_bad_numbers():
    with pytest.raises(ValueError, match="scheme must be one of exact, euler"):
        control_linear.dense_value(OSCILLATOR, X0, 4, "heun")
    with pytest.raises(ValueError, match="n must be at least 1"):
        control_linear.dense_value(OSCILLATOR, X0, 0)
    with pytest.raises(ValueError, match="x0 must have shape"):
        control_linear.dense_value(OSCILLATOR, np.zeros(2), 4)
    with pytest.raises(ValueError, match="g must be positive"):
        control_linear.dense_value(scalar(g=0.0), X0, 4)
    with pytest.raises(ValueError, match="not integrable"):
        control_linear.dense_value(scalar(final=-5.0), X0, 4)
    with pytest.raises(ValueError, match="same g"):
        control_linear.girsanov_kl(OSCILLATOR, scalar(g=1.0), 4)
