"""(21), (20) as printed, and anchored losses: by hand, and by brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from tests.theory.ledger.oracle.gflownet.cases import Hand, line_mixture
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.oracle.gflownet import anchored, divergence, printed
from theory.ledger.oracle.gflownet.line import Line
from theory.ledger.oracle.gflownet.numbers import levels

# --- (21)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_fisher_divergence_of_gaussians(k):
    """Policy N(m, s^2) against N(mu, v): (1/v - 1/s^2)^2 s^2 / 2 + ((m - mu) / v)^2 / 2; the loss
    with held data has the slope (m - mu) / (v s^2), the divergence (m - mu) / v^2."""
    hand = Hand(1, 1)
    x, m, s = float(hand.states()[k][0]), 0.9, 0.35
    gain, offset, cov = hand.forward(k)
    mu, v = float(gain[0, 0] * x + offset[0]), float(cov[0, 0])
    late, spread = hand.joint(k + 1, hand.n.steps)
    f_mean, f_var = late[0], spread[0, 0]
    found = divergence.fisher(hand.n, k, x, m, s)
    value = 0.5 * (1 / v - 1 / s**2) ** 2 * s**2 + 0.5 * ((m - mu) / v) ** 2
    assert QUADRATURE_TIGHT.holds(found.value, value, 1.0)
    assert QUADRATURE_TIGHT.holds(found.slope, (m - mu) / v**2, 1.0)
    assert QUADRATURE_TIGHT.holds(found.held_slope, (m - mu) / (v * s**2), 1.0)
    gap = 0.5 * (s**2 + (m - f_mean) ** 2) / f_var**2
    assert QUADRATURE_TIGHT.holds(found.printed, gap, 1.0)
    assert QUADRATURE_TIGHT.holds(found.printed_slope, (m - f_mean) / f_var**2, 1.0)
    assert not QUADRATURE.holds(found.slope, found.held_slope, 1.0)
    assert not QUADRATURE.holds(found.printed, found.value, 1.0)


def test_fisher_divergence_of_a_mixture():
    """Slopes by differences of values: with the law that follows, and of the loss at held data."""
    n, k, x, s, h = line_mixture(), 1, 0.2, 0.4, 1e-4
    at = divergence.fisher(n, k, x, 0.3, s)
    up, down = (divergence.fisher(n, k, x, 0.3 + j * h, s).value for j in (1, -1))
    assert QUADRATURE.holds(at.slope, (up - down) / (2 * h), 1.0)
    assert not QUADRATURE.holds(at.held_slope, (up - down) / (2 * h), 1.0)
    with pytest.raises(ValueError, match="n must be on the line"):
        divergence.fisher(Hand(2, 2).n, 1, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="k must be 0 to 2, got 3"):
        divergence.fisher(n, 3, 0.0, 0.0, 1.0)


# --- (20) as printed


def test_least_error_under_base_data():
    """Twelve atoms, by a general minimiser."""
    rng = np.random.default_rng(3)
    p, wanted = rng.dirichlet(np.ones(12)), rng.normal(size=12) + 1.0
    found = printed.least_under_base(p, wanted)
    best = minimize(
        lambda z: p @ (z - wanted) ** 2,
        wanted - 1.0,
        jac=lambda z: 2 * p * (z - wanted),
        constraints={
            "type": "eq",
            "fun": lambda z: p @ np.exp(z) - 1,
            "jac": lambda z: p * np.exp(z),
        },
        options={"ftol": 1e-15, "maxiter": 500},
    )
    assert best.success
    assert QUADRATURE.holds(found, best.fun, 1.0)
    shifted = float(np.log(p @ np.exp(wanted))) ** 2  # P# R^beta, normalised: not the least
    assert found < shifted
    assert not QUADRATURE.holds(found, shifted, 1.0)
    assert printed.least_under_base(p, wanted - 3.0) == 0.0
    huge = printed.least_under_base(p, wanted + 1e4)
    assert QUADRATURE.holds(huge, p @ (1e4 + wanted) ** 2, 1e8)  # P# itself, nearly


def test_no_policy_reaches_zero_everywhere():
    n = line_mixture(steps=2)
    line, x = Line(n), np.array([-0.8, 0.1, 0.9])
    found = printed.least_errors(line, line.back, x)
    mass = line.log_flow(n, 1, x) - line.log_flow(n.without_reward(), 1, x)
    assert QUADRATURE_TIGHT.holds(found.log_mass, mass, 1.0)
    assert np.ptp(found.log_mass) > 0.01  # no rescaled R does either
    assert np.all(found.everywhere > 0)
    flat = printed.least_errors(Line(replace(n, power=0.0)), line.back, x)
    assert ALGEBRA.holds(np.array(flat), np.zeros((4, 3)), 1.0)
    # R > 1: on its own data a policy that looks away reaches zero, under the base's it cannot.
    assert np.all(found.log_mass > 0)
    assert np.all(found.own_data == 0)
    assert np.all(found.base_data > 1e-3)
    smaller = printed.least_errors(
        Line(replace(n, power=-n.power)), lambda k, a, b: line.back(k, a, b), x
    )
    assert np.all(smaller.log_mass < 0)
    assert np.all(smaller.own_data > 1e-3)
    assert np.all(smaller.base_data == 0)


def test_the_policies_that_reach_zero():
    """What the module says is not attained by P# R^beta, shown on a fine table of one x."""
    p = np.full(200_000, 1 / 200_000)
    wanted = np.linspace(0.0, 1.0, len(p))  # M = e - 1 > 1
    share = np.cumsum(p * np.exp(wanted))
    kept = share <= 1.0
    policy = p * np.exp(wanted) * kept
    assert abs(policy.sum() - 1) < 1e-5  # zero error wherever it goes
    cost = []
    for few in (2000, 20, 1):  # M < 1: the missing mass on a set that the base hardly sees
        low = wanted - 2.0
        missing = 1 - p @ np.exp(low)
        raised = low.copy()
        raised[:few] = np.log(missing / p[:few].sum() + np.exp(low[:few]).mean())
        assert abs(p @ np.exp(raised) - 1) < 1e-6
        cost.append(p @ (raised - low) ** 2)
    assert cost[0] > cost[1] > cost[2]
    assert cost[2] < 1e-3


# --- anchored at the pretrained model, or at the last step


def anchored_case(**options):
    alpha, sigma = levels("rectified_flow", 3, 0.2)
    rng = np.random.default_rng(2)
    root = rng.normal(size=(2, 2))
    settings = {
        "mean": np.array([0.4, -0.7]),
        "cov": root @ root.T + 0.3 * np.eye(2),
        "w": np.array([0.8, -0.5]),
        "power": 1.5,
        "alpha": alpha,
        "sigma": sigma,
        "gains": np.array([0.3, 0.4, 0.5]),
        "strength": 0.0,
    }
    return anchored.AnchoredNumbers(**(settings | options))


def test_without_an_anchor_the_own_law_is_tilted():
    n = anchored_case()
    found = anchored.settled(n)
    mean, cov = anchored.law_of(n, np.zeros((3, 2)))
    assert ALGEBRA.holds(found.mean, mean + cov @ (n.power * n.w), 1.0)
    score = n.power * n.w
    for k in (2, 1, 0):
        assert ALGEBRA.holds(found.shifts[k], score, 1.0)
        score = n.kernel(k)[0].T @ score
    assert not ALGEBRA.holds(anchored.settled(anchored_case(strength=1.0)).mean, found.mean, 1.0)


def test_anchored_at_the_base_by_brute_force():
    """The losses at random data, scores of Gaussians written out, minimised by a general one."""
    n = anchored_case(strength=0.7, w_backward=0.6, w_terminal=1.4)
    rng = np.random.default_rng(4)
    kernels = [n.kernel(k) for k in range(3)]
    data = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))

    def loss(z):
        u, h = z[:6].reshape(3, 2), z[6:].reshape(4, 2)
        total = n.w_terminal * ((h[3] - n.power * n.w) ** 2).sum()
        for k, (gain, constant, v) in enumerate(kernels):
            x, x_next = data[0][k], data[1][k]
            base = gain @ x + constant
            policy = base + v * u[k]
            forth = -(x_next - policy) / v + (x_next - base) / v - h[k + 1]
            back = gain.T @ ((x_next - policy) - (x_next - base)) / v + h[k]
            output = (policy - base) / n.gains[k]
            total += (forth**2).sum() + 0.6 * (back**2).sum() + 0.7 * (output**2).sum()
        return total

    best = minimize(loss, np.zeros(14), method="BFGS", options={"gtol": 1e-10})
    found = anchored.settled(n)
    assert QUADRATURE.holds(found.shifts.ravel(), best.x[:6], 1.0)
    assert QUADRATURE.holds(found.scores.ravel(), best.x[6:], 1.0)


def test_forward_losses_alone_shrink_the_last_step():
    n = anchored_case(strength=0.7, w_backward=0.0)
    found = anchored.settled(n)
    unit = 0.7 * (n.kernel(2)[2] / n.gains[2]) ** 2
    assert ALGEBRA.holds(found.shifts[2], 0.5 / (0.5 + unit) * n.power * n.w, 1.0)
    assert ALGEBRA.holds(found.shifts[:2], np.zeros((2, 2)), 1.0)
    assert not ALGEBRA.holds(found.shifts[2], n.power * n.w, 1.0)


def test_an_anchor_at_the_last_step_only_slows():
    n = anchored_case(strength=5.0)
    free = anchored.settled(anchored_case()).mean
    gaps = [np.abs(anchored.after_rounds(n, r).mean - free).max() for r in (1, 10, 100, 2000)]
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert ALGEBRA.holds(anchored.after_rounds(n, 4000).mean, free, 1.0)
    assert not QUADRATURE.holds(anchored.settled(n).mean, free, 1.0)
