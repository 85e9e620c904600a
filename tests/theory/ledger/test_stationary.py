"""NFT with normalised branches: the median, its limits, the method's own gradient, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import SOME, seeds
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.ledger.liu.stationary import SignedLaw, _companions_kernel, line_posterior
from theory.ledger.oracle import adaptive as oracle
from theory.ledger.oracle.instants import instant
from theory.ledger.settings.unit import UnitRewards
from theory.methods.matching.nft import NFT
from theory.problems.problem import load_problem


def drawn(seed, dim=1):
    s = UnitRewards().draw(dim, seed)
    return s, line_posterior(s.problem, s.point, s.t)


@SOME
@given(seeds)
def test_median_of_signed_draws(seed):
    """Half of xi = +-D lies below u: by draws of X_1 | x (binomial bound); and not below NFT's u
    where the two are apart."""
    _, p = drawn(seed)
    u = p.step(0.0)
    assert abs(p.cdf(u) - 0.5) < QUADRATURE.rtol
    law, rng, n = p.law, np.random.default_rng(seed), 20_000
    which = rng.choice(len(law.shares), size=n, p=law.shares / law.shares.sum())
    y = law.means[which] + law.stds[which] * rng.standard_normal(n)

    def density(part: SignedLaw) -> np.ndarray:
        z = (y[:, None] - part.means) / part.stds
        return np.asarray((part.shares / part.stds * np.exp(-0.5 * z**2)).sum(1))

    r = density(p.rewarded) / density(law)
    xi = np.where(rng.uniform(size=n) < r, 1, -1) * (y - p.mean)
    bound = 5.0 * math.sqrt(0.25 / n)
    assert abs((xi <= u).mean() - 0.5) <= bound
    if abs(p.cdf(p.nft_step()) - 0.5) > 2 * bound:
        assert abs((xi <= p.nft_step()).mean() - 0.5) > bound


@SOME
@given(seeds, st.floats(0.1, 10.0))
def test_beta_divides_the_step(seed, nft_beta):
    _, p = drawn(seed, 2)
    step = p.velocity_step()
    assert ALGEBRA.holds(nft_beta * (p.optimum(nft_beta) - p.old), step, abs(step) + 1)


@SOME
@given(seeds)
def test_mirrored_reward_turns_the_step(seed):
    """r -> 1 - r exchanges the branches."""
    _, p = drawn(seed)
    mirrored = p.with_reward(1.0, 0.0)
    scale = abs(p.step()) + float(p.law.stds.max())
    assert QUADRATURE.holds(mirrored.step(), -p.step(), scale)


def test_constant_rewards():
    """r = 1/2 leaves v_0; r = 1 goes to the median of X_1 | x, r = 0 as far away."""
    _, p = drawn(3)
    assert abs(p.with_reward(0.5, 0.5).step()) < QUADRATURE.rtol
    up, down = p.with_reward(1.0, 1.0).step(0.0), p.with_reward(0.0, 0.0).step(0.0)
    assert QUADRATURE.holds(up, -down, 1.0)
    median = p.mean + up
    z = (median - p.law.means) / p.law.stds
    below = float(p.law.shares @ (0.5 * (1 + np.vectorize(math.erf)(z / math.sqrt(2)))))
    assert QUADRATURE.holds(below, 0.5)
    assert abs(up) > 1e-3


def test_gaussian_posterior_without_information_stays():
    """A symmetric law has its median at its mean, whatever a constant reward."""
    _, p = drawn(0)
    one = SignedLaw(np.ones(1), np.zeros(1), np.ones(1))
    flat = type(p)(one, SignedLaw(0.2 * np.ones(1), np.zeros(1), np.ones(1)), np.empty(0), 1.0, 0.0)
    assert abs(flat.step()) < QUADRATURE.rtol


@pytest.mark.parametrize("dim", [2, 3, 40])
def test_erfcx_integral(dim):
    """E[1/(a + T)] of half-normals: by draws."""
    stds = np.linspace(0.3, 0.8, dim - 1)
    kernel = _companions_kernel((0.5, 1.0), stds)
    scale = 1.0 + float(stds.sum())  # the kernel's own unit
    narrow = np.array([1e-9])
    rng = np.random.default_rng(0)
    total = np.abs(stds * rng.standard_normal((200_000, dim - 1))).sum(1)
    for a in (0.2, 1.5):
        value = 1 / (a + total)
        ours = float(kernel(np.array([a]), narrow)[0]) / scale / a
        error = value.std() / math.sqrt(len(value))
        assert abs(ours - value.mean()) <= 6 * error
        assert abs(ours - 1 / (a + total.mean())) > 6 * error  # mutant: T by its mean


def test_many_axes_give_nft_back():
    _, p = drawn(4)
    own, far = p.step(), p.with_companions(np.full(65_535, 0.3)).step()
    assert abs(far / p.nft_step() - 1) < 1e-3 < abs(own / p.nft_step() - 1)


def test_wide_floor_gives_nft_back():
    """Where every error is below the floor, w is constant."""
    _, p = drawn(4)
    assert QUADRATURE.holds(p.step(1e4), p.nft_step(), 1.0)


@pytest.mark.parametrize("floor", [1e-5, 1e-3, 0.1, 1.0])
def test_floors_by_the_second_route(floor):
    s, p = drawn(9)
    how = oracle.Normaliser(floor=floor)
    theirs = oracle.stationary(s.case, s.x, s.at, s.nft_beta, how)
    assert QUADRATURE.holds(p.optimum(s.nft_beta, floor), theirs, 1.0)


def test_gradient_of_the_method_vanishes():
    """theory.methods.matching.nft by autograd on a fine grid of X_1: zero mean at the closed
    optimum, not at v*."""
    problem, nft_beta, t = load_problem("note_1d"), 0.7, 0.4
    point = torch.tensor([[0.3]], dtype=torch.float64)
    p = line_posterior(problem, point, t)
    y = torch.linspace(-8, 8, 160_001, dtype=torch.float64)[:, None]
    weight = problem.base.density(y) * torch.exp(-0.5 * ((point[0] - t * y[:, 0]) / (1 - t)) ** 2)
    weight = weight / weight.sum()
    target, r = (y - point) / (1 - t), problem.reward(y)
    method = NFT(nft_beta=nft_beta, adaptive_normaliser="x1")
    batch = {"t": torch.full((len(y),), t, dtype=torch.float64)}

    def gradient(mu: float) -> float:
        student = torch.full((len(y), 1), mu, dtype=torch.float64, requires_grad=True)
        step = nft_beta * (student - p.old)
        plus = method._branch(problem, batch, p.old + step - target)
        minus = method._branch(problem, batch, p.old - step - target)
        (found,) = torch.autograd.grad((r * plus + (1 - r) * minus).sum(), student)
        return float(weight @ found[:, 0])

    at_optimum = abs(gradient(p.optimum(nft_beta)))
    at_nft = abs(gradient(p.old + p.gain * p.nft_step() / nft_beta))
    assert at_optimum < 1e-4 < 1e-2 < at_nft


# --- bad input


def test_bad_input():
    _, p = drawn(0)
    with pytest.raises(ValueError, match=r"floor must be a number >= 0, got -1"):
        p.step(-1)
    with pytest.raises(ValueError, match=r"rewards must be in \[0, 1\], got E\[r\|x\] = "):
        p.with_reward(3.0, 3.0)
    zero = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"must vary along the first axis"):
        line_posterior(load_problem("bump_2d"), zero, 0.5)
    with pytest.raises(ValueError, match=r"reward must .*got 'QuadraticReward'"):
        line_posterior(load_problem("linear_1d"), zero[:, :1], 0.5)
    with pytest.raises(ValueError, match=r"x must have shape \(1, 1\), got \(1, 2\)"):
        line_posterior(load_problem("note_1d"), zero, 0.5)


def test_bad_input_of_the_second_route():
    s = UnitRewards().draw(1, 0)
    five = UnitRewards().draw(5, 0)
    four = UnitRewards().draw(4, 0)
    for call, needle in (
        (lambda: oracle.stationary(s.case, s.x, s.at, -1.0), r"nft_beta > 0, got .* -1\.0"),
        (
            lambda: oracle.stationary(s.case, s.x, s.at, 1.0, oracle.Normaliser("none")),
            "normaliser must be known",
        ),
        (lambda: oracle.stationary(s.case, s.x[[0, 0]], s.at, 1.0), r"shape \(1,\)"),
        (
            lambda: oracle.stationary(four.case, four.x, four.at, 1.0),
            "other axes must be 0, 1, 2 or 4, got 3",
        ),
        (
            lambda: oracle.stationary(five.case, five.x, five.at, 1.0, oracle.Normaliser("batch")),
            "needs d = 1",
        ),
        (
            lambda: oracle.sampled(
                s.case,
                s.x + 90,
                instant("rectified_flow", 0.9),
                np.zeros(1),
                50,
                np.random.default_rng(0),
            ),
            "draw in 300",
        ),
    ):
        with pytest.raises(ValueError, match=needle):
            call()
