"""Flows, kernels and residual flows: against Gaussians by hand, mpmath, and sums over grids."""

from __future__ import annotations

from dataclasses import replace

import mpmath as mp
import numpy as np
import pytest
from scipy import stats

from tests.theory.ledger.oracle.cases import mixture
from tests.theory.ledger.oracle.gflownet.cases import Hand, integrable, line_mixture, numbers
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.oracle.gflownet import flows
from theory.ledger.oracle.gflownet.numbers import FlowNumbers
from theory.ledger.oracle.integrals.law import Law

PLACES = [(1, 1, "rectified_flow", 0.0), (1, 3, "variance_preserving", 0.0)]
PLACES += [(2, 2, "trigonometric", 0.3), (1, 2, "rectified_flow", 0.4)]


@pytest.mark.parametrize(("e", "dim", "path", "first_time"), PLACES)
def test_one_gaussian(e, dim, path, first_time):
    hand = Hand(e, dim, path, first_time=first_time)
    n, states = hand.n, hand.states()
    assert QUADRATURE_TIGHT.holds(flows.log_normaliser(n), hand.log_z, 1.0)
    for k in range(n.steps + 1):
        x = states[k]
        found = flows.log_flow(n, k, x)
        assert QUADRATURE_TIGHT.holds(found, hand.log_flow(k, x), 1.0)
        assert QUADRATURE_TIGHT.holds(flows.flow_score(n, k, x), hand.flow_score(k, x), 1.0)
        truth = hand.residual_score(k, x)
        assert QUADRATURE_TIGHT.holds(flows.residual_score(n, k, x), truth, 1.0)
        assert not QUADRATURE_TIGHT.holds(found, hand.log_flow(k, x + 0.01), 1.0)
    for k in range(n.steps):
        x, x_next = states[k], states[k + 1]
        truth = hand.log_forward(k, x, x_next)
        assert QUADRATURE_TIGHT.holds(flows.log_forward(n, k, x, x_next), truth, 1.0)
        wrong = hand.log_forward(k, x, x_next, tilted=False)
        assert not QUADRATURE.holds(truth, wrong, 1.0)
    gap = np.array([hand.log_forward(k, states[k], states[k + 1]) for k in range(n.steps)])
    base = [hand.log_forward(k, states[k], states[k + 1], False) for k in range(n.steps)]
    assert QUADRATURE_TIGHT.holds(flows.log_ratio_of_path(n, states), gap - base, 1.0)


class ByMpmath:
    """d = 1, twenty digits: W written out again, F by quad, P_F as P_B F'/F."""

    def __init__(self, n: FlowNumbers):
        self.n = n

    def weight(self, y):
        case, total = self.n.case, mp.mpf(0)
        for p, m, c in zip(case.weights, case.means[:, 0], case.covs[:, 0, 0], strict=True):
            var = mp.mpf(c) + mp.mpf(self.n.sigma[-1]) ** 2
            total += mp.mpf(p) * mp.exp(-((y - m) ** 2) / (2 * var)) / mp.sqrt(2 * mp.pi * var)
        return (total if self.n.prior else 1) * self.reward(y) ** mp.mpf(self.n.power)

    def reward(self, y):
        p = self.n.case.parameters
        if self.n.case.kind == "quadratic":
            r = p["matrix"][0, 0] * y * y / 2 + p["vector"][0] * y + float(p["constant"])
        else:
            r = sum(
                h * mp.exp(-a * (y - c) ** 2 / 2)
                for h, c, a in zip(
                    p["heights"], p["centres"][:, 0], p["precisions"][:, 0, 0], strict=True
                )
            )
        return r if self.n.form == "plain" else mp.exp(r)

    def flow(self, k, x):
        n = self.n
        if k == n.steps:
            return self.weight(x)
        rho = mp.mpf(n.alpha[k]) / mp.mpf(n.alpha[-1])
        var = mp.mpf(n.sigma[k]) ** 2 - rho**2 * mp.mpf(n.sigma[-1]) ** 2

        def integrand(y):
            kernel = mp.exp(-((x - rho * y) ** 2) / (2 * var)) / mp.sqrt(2 * mp.pi * var)
            return self.weight(y) * kernel

        return mp.quad(integrand, [-9, -4, -2, -1, 0, 1, 2, 4, 9])

    def log_forward(self, k, x, x_next):
        n = self.n
        c = mp.mpf(n.alpha[k]) / mp.mpf(n.alpha[k + 1])
        var = mp.mpf(n.sigma[k]) ** 2 - c**2 * mp.mpf(n.sigma[k + 1]) ** 2
        back = -((x - c * x_next) ** 2) / (2 * var) - mp.log(2 * mp.pi * var) / 2
        return back + mp.log(self.flow(k + 1, x_next)) - mp.log(self.flow(k, x))


LINES = {
    "log": line_mixture(),
    "quadratic": line_mixture("quadratic"),
    "plain": line_mixture(form="plain"),
    "without prior": integrable(),
}
STATES = {"log": 3}  # how many states are tried: mpmath takes its time


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in STATES else n for n in LINES]
)
def test_on_the_line(name):
    n = LINES[name]
    with mp.workdps(20):
        hand = ByMpmath(n)
        for k, x, x_next in ((1, -0.5, 0.1), (0, 0.3, -0.4), (2, 0.7, 0.9))[: STATES.get(name, 1)]:
            at, to = np.array([x]), np.array([x_next])
            truth = float(mp.log(hand.flow(k, x)))
            assert QUADRATURE_TIGHT.holds(flows.log_flow(n, k, at), truth, 1.0)
            rate = float(mp.diff(lambda z, k=k: mp.log(hand.flow(k, z)), x))
            assert QUADRATURE_TIGHT.holds(flows.flow_score(n, k, at), rate, 1.0)
            assert not QUADRATURE_TIGHT.holds(flows.flow_score(n, k, at), -rate, 1.0)
            value = float(hand.log_forward(k, x, x_next))
            assert QUADRATURE_TIGHT.holds(flows.log_forward(n, k, at, to), value, 1.0)


@pytest.mark.parametrize("prior", [True, False])
def test_in_the_plane_by_sums(prior):
    """d = 3, R varies in a plane: trapezoidal sums over a fine grid, axes apart by hand."""
    n = integrable(2, 3) if not prior else numbers(mixture(2, "bumps", dim=3), power=0.8)
    x, k = np.array([0.3, -0.5, 0.4]), 1
    rho, tau2 = n.alpha[k], n.sigma[k] ** 2 - (n.alpha[k] * n.sigma[-1]) ** 2
    line = np.arange(-7, 7, 0.05)
    y = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    p = n.case.parameters
    r = sum(
        h * np.exp(-0.5 * a[0, 0] * ((y - c) ** 2).sum(1))
        for h, c, a in zip(p["heights"], p["centres"], p["precisions"], strict=True)
    )
    last = sum(
        q * stats.multivariate_normal(m, c + n.sigma[-1] ** 2 * np.eye(2)).pdf(y)
        for q, m, c in zip(n.case.weights, n.case.means, n.case.covs, strict=True)
    )
    weight = last * np.exp(0.8 * r) if prior else r**2
    at = n.case.frame.T @ x
    kernel = stats.multivariate_normal(at[:2], tau2 * np.eye(2)).pdf(rho * y)
    plane = np.log((weight * kernel).sum() * 0.05**2)
    if prior:
        aside = stats.norm(0, np.sqrt(rho**2 * (0.64 + n.sigma[-1] ** 2) + tau2)).logpdf(at[2])
    else:
        var = 1.1**2 / 2  # of R^2 along the third axis
        aside = stats.norm(0, np.sqrt(rho**2 * var + tau2)).logpdf(at[2])
        aside += 0.5 * np.log(2 * np.pi * var)
    assert QUADRATURE_TIGHT.holds(flows.log_flow(n, k, x), plane + aside, 1.0)
    assert not QUADRATURE_TIGHT.holds(flows.log_flow(n, k, x), plane, 1.0)


def marginal(n, k, x):
    """The density of state k at x, by an integral over the base."""
    alpha, sigma = float(n.alpha[k]), float(n.sigma[k])
    law, base = Law(n.case.density(), None, x, alpha, sigma), Law(n.case.density(), None)
    unit = np.exp(law.log_scale() - base.log_scale()) / np.sqrt(2 * np.pi * sigma**2)
    return unit * law.integral()[0][0] / base.integral()[0][0]


def test_the_last_law_has_the_noise_added():
    """The one identity taken for granted."""
    n = line_mixture()
    for y in (-1.0, 0.2, 1.4):
        found = marginal(n, -1, np.array([y]))
        assert QUADRATURE_TIGHT.holds(np.exp(n.last.log_density(np.array([[y]]))), found)
        assert not QUADRATURE.holds(np.exp(n.case.log_density(np.array([[y]]))), found)


def test_noise_composes_to_the_paths_own():
    n = line_mixture(path="variance_preserving", steps=5)
    for k in range(n.steps):
        rho = n.alpha[k] / n.alpha[-1]
        tau = np.sqrt(n.sigma[k] ** 2 - rho**2 * n.sigma[-1] ** 2)
        assert ALGEBRA.holds(n.noising(k), [rho, tau])
        assert not ALGEBRA.holds(n.noising(k)[1], n.sigma[k])


def test_a_constant_reward_leaves_the_pretrained_chain():
    n = replace(line_mixture(), power=0.0)
    x, x_next = np.array([0.3]), np.array([-0.2])
    assert ALGEBRA.holds(flows.log_residual_flow(n, 1, x), 0.0, 1.0)
    assert not ALGEBRA.holds(flows.log_residual_flow(line_mixture(), 1, x), 0.0, 1.0)
    marginals = [np.log(marginal(n, k, z)) for k, z in ((1, x), (2, x_next))]
    detailed = flows.log_backward(n, 1, x, x_next) + marginals[1] - marginals[0]
    assert QUADRATURE_TIGHT.holds(flows.log_forward(n, 1, x, x_next), detailed, 1.0)


def test_refuses():
    n = line_mixture()
    with pytest.raises(ValueError, match=r"x must have shape \(1,\)"):
        flows.log_flow(n, 1, np.zeros(2))
    with pytest.raises(ValueError, match="k must be 0 to 2, got 3"):
        flows.log_forward(n, 3, np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match="form must be one of"):
        replace(n, form="squared")
    with pytest.raises(ValueError, match="every kernel must add noise"):
        numbers(n.case, power=1.0, sigma_end=2.0)
    with pytest.raises(ValueError, match="W must be integrable"):
        flows.log_flow(numbers(mixture(1, "bumps"), power=1.0, prior=False), 0, np.zeros(1))
    aside = numbers(mixture(1, "bumps", dim=2), power=1.0, form="plain", prior=False)
    with pytest.raises(ValueError, match="W must decay along every axis"):
        flows.log_flow(aside, 0, np.zeros(2))
