"""Looking ahead, violations and smoothed rewards at points: against Gaussians and sums by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from tests.theory.ledger.oracle.cases import mixture
from tests.theory.ledger.oracle.gflownet.cases import POWER, Hand, line_mixture, numbers
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.ledger.oracle.gflownet import flows, looking, smoothed, violation
from theory.ledger.oracle.gflownet.line import Line
from theory.ledger.oracle.integrals.stencils import slope, steps

PLACES = [(1, 1, "rectified_flow"), (1, 3, "variance_preserving"), (2, 2, "trigonometric")]

# --- looking ahead


@pytest.mark.parametrize(("e", "dim", "path"), PLACES)
def test_one_gaussian_looks_ahead(e, dim, path):
    """xhat is affine: slope' w is its part of the score. gamma = 1 leaves nothing of the score when
    xhat is of the last state, and something when it is of the data, which has less noise."""
    hand = Hand(e, dim, path)
    n, states = hand.n, hand.states()
    for k in range(1, n.steps):
        x, a, s = states[k], n.alpha[k], n.sigma[k]
        total = a**2 * hand.one.cov + s**2 * np.eye(dim)
        data = a * np.linalg.solve(total, hand.one.cov) @ hand.w
        assert QUADRATURE_TIGHT.holds(looking.looking_score(n, k, x), data, 1.0)
        right = hand.residual_score(k, x)
        assert QUADRATURE_TIGHT.holds(looking.looking_score(n, k, x, "last"), right, 1.0)
        assert QUADRATURE_TIGHT.holds(looking.left_over(n, k, x, a), right - a * data, 1.0)
        nothing = looking.left_over(n, k, x, 1.0, "last")
        assert QUADRATURE_TIGHT.holds(nothing, np.zeros(dim), 1.0)
        assert not QUADRATURE.holds(looking.left_over(n, k, x, 1.0), np.zeros(dim), 1.0)
    end = looking.left_over(n, n.steps, states[-1], 1.0)
    assert QUADRATURE_TIGHT.holds(end, np.zeros(dim), 1.0)


@pytest.mark.parametrize("form", ["log", "plain"])
def test_a_mixture_looks_ahead(form):
    """Sums over a fine grid with a complex step in x."""
    n = line_mixture(form=form)
    y, k, x = np.linspace(-7, 7, 20001), 1, 0.4
    logs = n.case.log_density(y[:, None])

    def xhat(z):
        weight = np.exp(logs - (z - n.alpha[k] * y) ** 2 / (2 * n.sigma[k] ** 2))
        return (weight * y).sum() / weight.sum()

    def log_reward(z):
        p = n.case.parameters
        r = sum(
            h * np.exp(-0.5 * a * (z - c) ** 2)
            for h, c, a in zip(
                p["heights"], p["centres"][:, 0], p["precisions"][:, 0, 0], strict=True
            )
        )
        return r if form == "log" else np.log(r)

    at = np.array([x])
    assert QUADRATURE_TIGHT.holds(looking.prediction(n, k, at), xhat(x), 1.0)
    truth = n.power * log_reward(xhat(x + 1e-30j)).imag / 1e-30
    assert QUADRATURE_TIGHT.holds(looking.looking_score(n, k, at), truth, 1.0)
    fixed = n.power * log_reward(xhat(x) + 1e-30j).imag / 1e-30  # without xhat's Jacobian
    assert not QUADRATURE.holds(fixed, truth, 1.0)


@pytest.mark.parametrize("of", [pytest.param("data", marks=pytest.mark.slow), "last"])
def test_share_that_is_left(of):
    """Tables against the adaptive route, over the law F_k; for one Gaussian by hand."""
    n, k = line_mixture(), 1
    line = Line(n)
    x = np.linspace(-4, 4, 41)
    law = np.exp([flows.log_flow(n, k, np.array([v])) for v in x])
    scores = np.array([flows.residual_score(n, k, np.array([v]))[0] for v in x])
    for gamma in (0.0, 0.7):
        left = np.array([looking.left_over(n, k, np.array([v]), gamma, of)[0] for v in x])
        truth = np.sqrt((law @ left**2) / (law @ scores**2))
        found = looking.left_share(line, k, gamma, of)
        assert QUADRATURE.holds(found, truth, 1.0)
        assert QUADRATURE.holds(found, 1.0) == (gamma == 0)


def test_share_of_one_gaussian():
    hand = Hand(1, 1)
    n, k = hand.n, 2
    c, a, s = hand.one.cov[0, 0], hand.n.alpha[2], hand.n.sigma[2]
    right = a * hand.end[0, 0] / (a**2 * c + s**2)
    found = looking.left_share(Line(n), k, 1.0)
    assert QUADRATURE.holds(found, 1 - a * c / (a**2 * c + s**2) / right, 1.0)
    assert abs(looking.left_share(Line(n), k, 1.0, "last")) < 1e-7 < found
    with pytest.raises(ValueError, match="k must be 1 to 3, got 4"):
        looking.left_share(Line(n), 4, 1.0)


def test_looking_refuses():
    with pytest.raises(ValueError, match="of must be one of"):
        looking.looking_score(line_mixture(), 1, np.zeros(1), "noise")
    aside = replace(line_mixture(), reward_std=1.0)
    with pytest.raises(ValueError, match="R must not vary outside the plane"):
        looking.looking_score(aside, 1, np.zeros(1))


# --- detailed balance of Gaussian kernels


def plugged_by_hand(hand, k):
    """Slope, constant, variance of the Gaussian kernel."""
    n, eye = hand.n, np.eye(hand.dim)
    a, s, b, r = n.alpha[k], n.sigma[k], n.alpha[k + 1], n.sigma[k + 1]
    here = a / b * r**2 / s**2
    guess = a * np.linalg.solve(a**2 * hand.one.cov + s**2 * eye, hand.one.cov).T
    slope_ = here * eye + (b - here * a) * guess
    return (
        slope_,
        (b - here * a) * (hand.one.mean - a * guess @ hand.one.mean),
        r**2 - (a / b * r**2 / s) ** 2,
    )


@pytest.mark.parametrize(("e", "dim", "path"), PLACES)
def test_violation_of_one_gaussian(e, dim, path):
    hand = Hand(e, dim, path)
    n, states = hand.n, hand.states()
    for k in range(n.steps):
        x, x_next = states[k], states[k + 1]
        gain, constant, variance = plugged_by_hand(hand, k)
        mean = gain @ x + constant
        assert QUADRATURE_TIGHT.holds(violation.plugged_mean(n, k, x), mean, 1.0)
        ours = stats.multivariate_normal(mean, variance * np.eye(dim)).logpdf(x_next)
        right = hand.log_forward(k, x, x_next, tilted=False)
        found = violation.log_violation(n, k, x, x_next)
        assert QUADRATURE_TIGHT.holds(found, ours - right, 1.0)
        assert not QUADRATURE.holds(found, 0.0, 1.0)
        right_gain, offset, cov = hand.forward(k, tilted=False)
        pull = np.linalg.solve(cov, x_next - right_gain @ x - offset)
        late, early = violation.violation_scores(n, k, x, x_next)
        assert QUADRATURE_TIGHT.holds(late, -(x_next - mean) / variance + pull, 1.0)
        truth = gain.T @ (x_next - mean) / variance - right_gain.T @ pull
        assert QUADRATURE_TIGHT.holds(early, truth, 1.0)


def test_violation_of_a_mixture():
    n = line_mixture()
    x, x_next, k = np.array([0.3]), np.array([-0.2]), 1
    line = Line(n)
    table = line.gaussian(k, x, x_next) - line.back(k, x, x_next)
    value = violation.log_violation(n, k, x, x_next)
    assert QUADRATURE_TIGHT.holds(value, table[0, 0], 1.0)
    late, early = violation.violation_scores(n, k, x, x_next)
    radius = 0.05
    moved = line.gaussian(k, x, x_next + steps(radius)) - line.back(k, x, x_next + steps(radius))
    assert QUADRATURE_TIGHT.holds(late, slope(moved[0] - value, radius), 1.0)
    moved = line.gaussian(k, x + steps(radius), x_next) - line.back(k, x + steps(radius), x_next)
    assert QUADRATURE_TIGHT.holds(early, slope(moved[:, 0] - value, radius), 1.0)
    assert not QUADRATURE.holds(early, late, 1.0)


# --- a smoothed reward


def wider(n, c):
    """Bumps of widths^2 + c^2 with the same volume, by hand."""
    p = n.case.parameters
    eye = np.eye(n.case.plane_dim)
    covs = np.linalg.inv(p["precisions"]) + c**2 * eye
    shrink = np.sqrt(np.linalg.det(np.linalg.inv(p["precisions"])) / np.linalg.det(covs))
    moved = {"heights": p["heights"] * shrink, "centres": p["centres"]}
    parameters = moved | {"precisions": np.linalg.inv(covs)}
    return replace(n, case=replace(n.case, parameters=parameters))


@pytest.mark.parametrize("e", [1, 2])
def test_smoothed_bumps(e):
    n, c = numbers(mixture(e, "bumps", dim=e + 1), power=POWER), 0.4
    other = wider(n, c)
    y = np.random.default_rng(5).normal(size=(4, e))
    found = smoothed.smoothed_log_reward(n, y, c)
    assert QUADRATURE_TIGHT.holds(found, other.log_reward(y), 1.0)
    assert not QUADRATURE.holds(found, n.log_reward(y), 1.0)
    x = np.random.default_rng(6).normal(size=e + 1)
    truth = looking.looking_score(other, n.steps, x)
    assert QUADRATURE_TIGHT.holds(smoothed.smoothed_score(n, x, c), truth, 1.0)


def narrower(n, share):
    """Bumps of a share of their widths."""
    p = n.case.parameters
    return replace(
        n, case=replace(n.case, parameters=p | {"precisions": p["precisions"] / share**2})
    )


@pytest.mark.parametrize(("e", "share"), [(1, 0.03), (2, 0.15)])
def test_bumps_much_narrower_than_the_noise(e, share):
    n, c = narrower(numbers(mixture(e, "bumps"), power=POWER), share), 0.5
    y = n.case.parameters["centres"] + np.linspace(-0.2, 0.1, e)
    found = smoothed.smoothed_log_reward(n, y, c)
    assert QUADRATURE_TIGHT.holds(found, wider(n, c).log_reward(y), 1.0)
    assert not QUADRATURE.holds(found, n.log_reward(y), 1.0)


def test_the_target_of_a_smoothed_reward():
    n, c = line_mixture(), 0.4
    other = wider(n, c)
    z = quad(lambda y: np.exp(other.log_weight(np.array([[y]]))[0]), -8, 8, epsabs=1e-13)[0]
    for x in (-0.7, 0.9):
        found = smoothed.smoothed_log_density(n, np.array([x]), c)
        truth = other.log_weight(np.array([[x]]))[0] - np.log(z)
        assert QUADRATURE_TIGHT.holds(found, truth, 1.0)
        sharp = n.log_weight(np.array([[x]]))[0] - np.log(z)
        assert not QUADRATURE.holds(found, sharp, 1.0)


@pytest.mark.parametrize("kind", ["linear", "quadratic"])
def test_parabolas_keep_their_target(kind):
    """A linear log R stays, a quadratic one gains a constant."""
    n = line_mixture("quadratic")
    if kind == "linear":
        n = Hand(1, 1).n
    y = np.array([[-0.6], [0.8], [2.0]])
    gained = smoothed.smoothed_log_reward(n, y, 0.5) - n.log_reward(y)
    bend = 0.0 if kind == "linear" else float(n.case.parameters["matrix"][0, 0])
    assert ALGEBRA.holds(gained, np.full(3, 0.5 * bend * 0.25), 1.0)
    assert ALGEBRA.holds(gained, np.zeros(3), 1.0) == (kind == "linear")
    with pytest.raises(ValueError, match="c must be positive"):
        smoothed.smoothed_log_reward(n, y, 0.0)
