"""The noise of one sample's gradient: closed forms against draws, relations, and bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import SOME, cases, seeds
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE
from theory.ledger.liu.noise import MarginalNoise, noise_moments, path_nodes, velocity_gain
from theory.ledger.settings.problems import Problems, full_rank_setting
from theory.methods.matching.nft import NFT
from theory.problems.problem import Problem, load_problem
from theory.tilts.rewards import CallableReward

ROUNDING = 1e3 * ALGEBRA.rtol  # moments of r up to the second cancel against one another


def moments_of_seed(dim, seed):
    s = Problems(kinds=("bumps",)).draw(dim, seed)
    return noise_moments(s.problem, s.point, s.t)


@SOME
@given(cases(dims=(1, 2, 4)))
def test_first_moments_are_those_of_the_fields(drawn):
    """c is Cov(r, V|x), m is E[r|x], and E|D|^2 the trace of V's covariance."""
    case, x, t = drawn
    problem, point = case.problem(), torch.as_tensor(x)[None]
    m = noise_moments(problem, point, t)
    reward = problem.conditional_reward
    spread = float(m.powers[0, 2].sqrt()) + 1e-12
    assert ALGEBRA.holds(m.mean, reward.mean(point, t), spread)
    gain = float(velocity_gain(problem.path, t))
    trace = problem.base_field.posterior_covariance(point, t)[0].trace() * gain**2
    assert ALGEBRA.holds(m.squares[0, 0], trace)
    size = spread * math.sqrt(float(trace))
    assert (m.covariance - reward.covariance(point, t)).abs().max() <= 1e-7 * size


@SOME
@given(seeds, st.floats(0.05, 5.0))
def test_nft_is_the_controlled_target(seed, nft_beta):
    """NFT = v_0 + a (r - 1/2) D with a = 2 / beta; the best baseline is no worse."""
    m = moments_of_seed(2, seed)
    a = 2 / nft_beta
    own = m.nft(nft_beta)
    assert ALGEBRA.holds(m.controlled(a), own, float(own.max()))
    best = m.controlled(a, m.baseline())
    assert bool((best <= own * (1 + ROUNDING)).all())
    other = m.controlled(a, m.baseline() + 0.1)  # mutant: another baseline is worse
    assert bool((other > best).all())


@SOME
@given(seeds, st.floats(0.0, 1.0), st.floats(-1.0, 1.0))
def test_affine_rewards(seed, level, factor):
    """Moments of level + factor r follow; (2r - 1)^2 does not see r -> 1 - r, 1 + 2r does."""
    m = moments_of_seed(1, seed)
    mirrored = m.affine(1.0, -1.0)
    assert ALGEBRA.holds(m.nft(1.0), mirrored.nft(1.0), float(m.squares[0].max()))
    there = m.affine(level, factor).affine(-level, 1.0)
    back = m.affine(0.0, factor)
    assert ALGEBRA.holds(there.squares, back.squares, float(m.squares.abs().max()) + 1)


def test_mirrored_rewards_are_told_apart_by_the_weighted_loss():
    m = MarginalNoise.of(load_problem("note_1d"))
    assert abs(m.ratio(0, 1) / m.ratio(1, 0) - 1) > 0.1


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_by_draws_in_five_dimensions(kind):
    """Draws of X_1 weighted by the kernel: the trace of the step's covariance, with its error."""
    s = full_rank_setting(5, kind)
    m = noise_moments(s.problem, s.point, s.t)
    generator = torch.Generator().manual_seed(1)
    n = 400_000
    x1 = s.problem.base.sample(n, generator)
    weight = torch.softmax(-0.5 * (((s.point - s.t * x1) / (1 - s.t)) ** 2).sum(-1), 0)
    D = (x1 - s.point) / (1 - s.t) - s.problem.base_field(s.point, s.t)
    r = s.problem.reward(x1)[:, None]
    own = (2 * r - 1) * D / s.nft_beta
    value = (own**2).sum(-1) - 4 * (m.covariance**2).sum() / s.nft_beta**2
    mean = float(weight @ value)
    error = float(((weight * (value - mean)) ** 2).sum().sqrt())
    bound = -float(torch.special.ndtri(torch.tensor(FALSE_FAILURE_RATE / 6, dtype=torch.float64)))
    assert abs(mean - float(m.nft(s.nft_beta)[0])) <= bound * error
    wrong = float(m.squares[0, 0]) / s.nft_beta**2  # mutant: (2r - 1)^2 taken as 1
    assert abs(mean - wrong) > bound * error


def test_it_is_the_noise_of_the_loss_of_the_method():
    """The step of theory.methods.matching.nft by autograd, over its curvature, at two values of
    mu."""
    problem, nft_beta, t = load_problem("note_1d"), 0.7, 0.4
    point = torch.tensor([[0.3]], dtype=torch.float64)
    m = noise_moments(problem, point, t)
    old = problem.base_field(point, t)
    y = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    weight = problem.base.density(y) * torch.exp(-0.5 * ((point[0] - t * y[:, 0]) / (1 - t)) ** 2)
    weight = weight / weight.sum()
    v, r = (y - point) / (1 - t), problem.reward(y)
    method = NFT(nft_beta=nft_beta)
    for mu in (old, old + 1.3):
        student = mu.expand(len(y), 1).clone().requires_grad_()
        step = nft_beta * (student - old)
        task, batch = problem, {"t": torch.tensor(t)}
        plus = method._branch(task, batch, old + step - v)  # type: ignore[arg-type]
        minus = method._branch(task, batch, old - step - v)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad((r * plus + (1 - r) * minus).sum(), student)
        newton = gradient[:, 0] / (2 * nft_beta**2)
        variance = float(weight @ newton**2 - (weight @ newton) ** 2)
        assert QUADRATURE.holds(float(m.nft(nft_beta)[0]), variance)


def test_nodes_of_the_path():
    nodes = path_nodes(load_problem("note_1d"))
    assert ALGEBRA.holds(float(nodes.shares.sum()), 1.0)
    assert ALGEBRA.holds(float(nodes.shares @ nodes.t), 0.5)
    mean = float(load_problem("note_1d").base.expectation()[0])
    assert QUADRATURE.holds(float(nodes.shares @ nodes.x[:, 0]), 0.5 * mean, 1.0)


def test_bad_input():
    m = moments_of_seed(1, 0)
    for call, needle in (
        (lambda: m.nft(0.0), "nft_beta must .*got 0.0"),
        (lambda: m.weighted(math.nan), "scale must .*got nan"),
        (lambda: m.weighted(1.0, "there"), "place must .*got 'there'"),
        (lambda: m.affine(math.inf, 1.0), "level must .*got inf"),
        (lambda: m.affine(-3.0, 0.0).weighted(1.0), r"E\[1 \+ scale r\|x\] must be > 0, got -2"),
        (lambda: path_nodes(load_problem("bump_2d")), "must have d = 1, got d = 2"),
    ):
        with pytest.raises(ValueError, match=needle):
            call()
    base = load_problem("note_1d").base
    other = Problem("other", base, CallableReward(lambda x: x[..., 0] ** 4, 1), 1.0)
    with pytest.raises(ValueError, match="got CallableReward, which has no closed form"):
        noise_moments(other, torch.zeros(1, 1, dtype=torch.float64), 0.5)
