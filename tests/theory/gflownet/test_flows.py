"""Exact flows, residual flows and kernels by plain sums over X_T; what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.helpers import integral, ks_bound, ks_distance, points, size, tensor
from tests.theory.gflownet.routes import STATES, LineRoute, mixture, noise
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.fields.diffusion import Diffusion
from theory.fields.paths import PATHS
from theory.gflownet.flows import (
    LOOK_AHEADS,
    ChainFlows,
    look_ahead_strengths,
    pretrained_flows,
    residual_flows,
    reward_flows,
)
from theory.gflownet.kernels import (
    GaussianKernels,
    NoisingKernels,
    PrintedNoising,
    composed,
    kernel_scores,
)
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain
from theory.tilts.bump_rewards import bump_reward, bumps_reward
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.wrappers import Exponential, Power, TruncatedExponential

CHAINS = [Chain(5, 0.12), Chain(4, 0.1, first_time=0.3)]
LINE = ["note_1d", "bumps_1d", "quadratic_1d", "linear_1d"]
POINTS = torch.as_tensor(STATES)[:, None]


def line(name, chain):
    """(flows, route of W, route of p_T) of a named problem on the line."""
    problem = load_problem(name)
    flows = residual_flows(chain, problem.base, problem.reward, Exponential(problem.scale))
    base = problem.base
    stds = (base.cov[:, 0, 0] + chain.sigma_end**2).sqrt().numpy()
    prior = mixture(base.log_abs.exp().numpy(), base.mean[:, 0].numpy(), stds)

    def weight(x):
        r = problem.reward(torch.as_tensor(x).reshape(-1, 1)).numpy().reshape(x.shape)
        return np.exp(problem.scale * r) * prior(x)

    return flows, LineRoute(chain, weight), LineRoute(chain, prior)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", LINE)
def test_flows_are_integrals(name, chain):
    """F, Ft and their gradients; the flow of another state is another function."""
    flows, tilted, base = line(name, chain)
    for k in range(chain.steps + 1):
        expected = np.log(tilted.flow(k, STATES))
        assert QUADRATURE_TIGHT.holds(flows.tilted.log_flow(k, POINTS), expected, 1.0)
        other = flows.tilted.log_flow((k + 1) % (chain.steps + 1), POINTS)
        assert not QUADRATURE_TIGHT.holds(other, expected, 1.0)
        residual = expected - np.log(base.flow(k, STATES))
        assert QUADRATURE_TIGHT.holds(flows.log_flow(k, POINTS), residual, 1.0)
        if k < chain.steps:
            ours = flows.tilted.score(k, POINTS)[:, 0]
            score, prior = tilted.score(k, STATES), base.score(k, STATES)
            assert QUADRATURE_TIGHT.holds(ours, score, 1.0)
            assert QUADRATURE_TIGHT.holds(flows.score(k, POINTS)[:, 0], score - prior, 1.0)
            assert np.abs(score - prior).max() > 0.01 or flows.base.noise(k)[0] == 0
            ours = flows.predicted(k, POINTS)[:, 0]
            assert QUADRATURE_TIGHT.holds(ours, base.mean(k, STATES), 1.0)


@pytest.mark.parametrize("chain", CHAINS)
def test_kernels_are_those_of_bayes(chain):
    """The mixture by components against the flows' ratio; another flow's kernels are not it."""
    flows, tilted, base = line("note_1d", chain)
    for k in range(chain.steps):
        x_next = STATES[::-1] + 0.3
        ours = flows.tilted.log_density(k, POINTS, torch.as_tensor(x_next.copy())[:, None])
        assert QUADRATURE_TIGHT.holds(ours, tilted.log_kernel(k, STATES, x_next), 1.0)
        assert not QUADRATURE_TIGHT.holds(ours, base.log_kernel(k, STATES, x_next), 1.0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["note_1d", "bump_2d", "full_5d", "plane_5d"])
def test_kernels_balance_in_any_dimension(name, path):
    """The mixture's own density against P_B F'/F, and its score by differentiation."""
    problem, road = load_problem(name), PATHS[path]()
    before = tensor(0.2 + 0.8 * 3 / 4)
    end = 0.3 * float(road.sigma(before) / road.alpha(before))
    chain = Chain(4, end, road, first_time=0.2)
    flows = residual_flows(chain, problem.base, problem.reward, Exponential(problem.scale)).tilted
    noising = NoisingKernels(chain)
    for k in range(chain.steps):
        x, x_next = points(6, problem.dim, k), points(6, problem.dim, 90 + k)
        ours = flows.log_density(k, x, x_next)
        bayes = noising.log_density(k, x, x_next) + flows.log_flow(k + 1, x_next)
        bayes = bayes - flows.log_flow(k, x)
        assert ALGEBRA.holds(ours, bayes, size(bayes))
        before, after = kernel_scores(flows, k, x, x_next)
        own = flows.kernel(k, x).score(x_next[:, None])[:, 0]
        assert ALGEBRA.holds(after, own, size(own))
        slopes = noising.scores(k, x, x_next)
        assert ALGEBRA.holds(before, slopes[0] - flows.score(k, x), size(before))
        assert not ALGEBRA.holds(before, slopes[0], size(before))


@pytest.mark.parametrize("name", ["full_5d", "linear_2d"])
def test_residual_flow_of_a_linear_reward(name):
    """log sum_j w_j(x) exp(a (b'm_j + c) + a^2 b'S_j b / 2), by dense matrices."""
    problem, chain = load_problem(name), CHAINS[0]
    flows = residual_flows(chain, problem.base, problem.reward, Exponential(problem.scale))
    base, b = problem.base, problem.scale * problem.reward.vector
    eye = torch.eye(problem.dim, dtype=torch.float64)
    for k in range(chain.steps):
        ratio, std = noise(chain, k, chain.steps)
        x, parts, weights = points(5, problem.dim, k), [], []
        for log_weight, mean, cov in zip(base.log_abs, base.mean, base.cov, strict=True):
            last = cov + chain.sigma_end**2 * eye
            own = ratio**2 * last + std**2 * eye
            gain = ratio * last @ own.inverse()
            offset = x - ratio * mean
            weights.append(
                log_weight - 0.5 * (offset @ own.inverse() * offset).sum(-1) - 0.5 * own.logdet()
            )
            centre = mean + offset @ gain.mT
            spread = b @ (last - ratio * gain @ last) @ b
            parts.append(centre @ b + 0.5 * spread + problem.scale * problem.reward.constant)
        share = torch.stack(weights).log_softmax(0)
        expected = (share + torch.stack(parts)).logsumexp(0)
        assert ALGEBRA.holds(flows.log_flow(k, x), expected, size(expected))
        assert not ALGEBRA.holds(flows.log_flow(k + 1, x), expected, size(expected))


def test_plane_by_sums_over_a_grid():
    problem, chain, k = load_problem("bump_2d"), Chain(3, 0.2), 1
    flows = residual_flows(chain, problem.base, problem.reward, Exponential(problem.scale))
    ratio, std = noise(chain, k, chain.steps)
    last = problem.base.convolved(1.0, chain.sigma_end)
    x = tensor([[0.4, -0.7], [-1.1, 0.2]])

    def moments(y, weight):
        q = torch.exp(-0.5 * ((x[:, None] - ratio * y) ** 2).sum(-1) / std**2)
        return last.density(y) * weight * q / (2 * math.pi * std**2)

    expected = [
        integral(lambda y, i=i: moments(y, torch.exp(problem.scale * problem.reward(y)))[i], 2)
        for i in range(2)
    ]
    ours = flows.tilted.log_flow(k, x)
    assert QUADRATURE_TIGHT.holds(ours.exp(), expected)
    assert not QUADRATURE_TIGHT.holds(flows.base.log_flow(k, x).exp(), expected)


def test_mass_of_every_flow_is_z():
    flows, _, _ = line("bumps_1d", CHAINS[1])
    for k in range(CHAINS[1].steps + 1):
        mass = integral(lambda y, k=k: flows.tilted.log_flow(k, y).exp(), 1)
        assert QUADRATURE_TIGHT.holds(mass, flows.log_z.exp())
    assert abs(float(flows.log_z)) > 0.1


# --- rewards without a prior


def test_power_of_bumps_is_a_flow():
    reward = bumps_reward(
        [0.9, 0.6], [[1.0, -0.5], [-0.8, 0.3]], precisions=[[[1.4, 0.5], [0.5, 0.9]]] * 2
    )
    flows, x = reward_flows(CHAINS[0], reward, Power(3)), points(7, 2)
    expected = 3 * reward(x).log()
    assert ALGEBRA.holds(flows.log_flow(5, x), expected, size(expected))
    assert not ALGEBRA.holds(flows.log_flow(5, x), 2 * reward(x).log(), size(expected))
    mass = integral(lambda y: reward(y) ** 3, 2)
    assert QUADRATURE_TIGHT.holds(flows.log_z.exp(), mass)


def test_exponential_of_a_concave_quadratic_is_a_flow():
    reward = quadratic_reward([[-1.2, 0.3], [0.3, -0.5]], [0.4, -0.2], 0.3)
    flows, x = reward_flows(CHAINS[0], reward, Exponential(1.7)), points(7, 2)
    expected = 1.7 * reward(x)
    assert ALGEBRA.holds(flows.log_flow(5, x), expected, size(expected))
    assert QUADRATURE_TIGHT.holds(
        flows.log_z.exp(), integral(lambda y: torch.exp(1.7 * reward(y)), 2)
    )
    assert not QUADRATURE_TIGHT.holds(flows.log_z, 0.0, 1.0)


@pytest.mark.parametrize(
    ("reward", "wrapper"),
    [
        (linear_reward([0.4]), Exponential(1.0)),
        (quadratic_reward([[-1.0]], [0.4]), Exponential(-1.0)),
        (bump_reward(1.0, [0.3], width=1.0), Exponential(2.0)),
        (bump_reward(1.0, [0.3], width=1.0), TruncatedExponential(1.0, 1)),
        (bumps_reward([0.5, 0.5], [[0.0], [1.0]], precisions=[[[1.0]], [[0.0]]]), Power(2)),
    ],
)
def test_rewards_that_are_not_integrable(reward, wrapper):
    with pytest.raises(ValueError, match=r"R\^beta must be an integrable Gaussian sum"):
        reward_flows(CHAINS[0], reward, wrapper)


def test_rewards_without_a_sum():
    base = load_problem("note_1d").base
    with pytest.raises(ValueError, match=r"R\^beta must make a Gaussian sum"):
        residual_flows(CHAINS[0], base, quadratic_reward([[1.0]], [0.0], 0.2), Power(2))
    with pytest.raises(ValueError, match="no density"):
        residual_flows(CHAINS[0], base, linear_reward([1.0]), Power(1))


def test_kernels_of_a_schedule_have_no_noising():
    chain = Chain(4, schedule=Diffusion.of_constant(1.0))
    with pytest.raises(ValueError, match="schedule must be None"):
        ChainFlows(chain, load_problem("note_1d").base)


@pytest.mark.parametrize("k", [-1, 6, 1.0])
def test_states_outside_the_chain(k):
    flows = pretrained_flows(CHAINS[0], load_problem("note_1d").base)
    with pytest.raises(ValueError, match="k must be a whole number"):
        flows.log_flow(k, POINTS)


# --- what the kernels sample


def test_exact_policy_samples_the_weight():
    """From its own first law; the pretrained chain's last law is another."""
    flows, _, _ = line("note_1d", Chain(5, 0.12))
    generator = torch.Generator().manual_seed(3)
    start = flows.tilted.start_law().sample(20_000, generator)
    last = flows.tilted.rollout(start, generator)[:, -1, 0]
    laws = [w.weight.normalised() for w in (flows.tilted, flows.base)]
    ours, base = (ks_distance(last, lambda y, w=w: w.cdf(torch.as_tensor(y)).numpy()) for w in laws)
    assert ours <= ks_bound(len(last)) < base


def test_kernels_mass_and_mean():
    """A kernel is a density, and the pretrained one has the chain's mean, not its variance."""
    problem, chain = load_problem("note_1d"), Chain(5, 0.12)
    flows = pretrained_flows(chain, problem.base)
    x = tensor([[0.3]])
    for k in range(chain.steps):
        kernel = flows.kernel(k, x)
        assert QUADRATURE_TIGHT.holds(integral(lambda y, m=kernel: m.density(y[None])[0], 1), 1.0)
        gaussian = chain.mean(problem.base_field, k, x)
        assert ALGEBRA.holds(kernel.expectation(), gaussian, 1.0)
        variance = chain.coefficients(x)[2][k] ** 2
        assert float(kernel.covariance()) > float(variance) * 1.001
        own = GaussianKernels(chain, problem.base_field).log_density(k, x, gaussian)
        expected = -0.5 * torch.log(2 * math.pi * variance)
        assert ALGEBRA.holds(own, expected, 1.0)


# --- forward-looking


def test_forward_looking_leaves_nothing_of_a_linear_gaussian():
    """One Gaussian and log R linear: gamma = 1 is the whole flow; the signal is not."""
    base = GaussianSum.mixture([1.0], [[0.7, -0.2]], covs=[[[0.5, 0.2], [0.2, 0.4]]])
    flows = residual_flows(CHAINS[0], base, linear_reward([0.6, -0.3]), Exponential(1.5))
    for k in range(CHAINS[0].steps + 1):
        x = points(5, 2, k)
        scale = size(flows.score(k, x)) + 1e-3
        assert ALGEBRA.holds(flows.remainder(k, x, 1.0), torch.zeros_like(x), scale)
        off = flows.remainder(k, x, 0.0)
        assert ALGEBRA.holds(off, flows.score(k, x), scale)
        assert k == 0 or not ALGEBRA.holds(off, torch.zeros_like(x), scale)


def test_forward_looking_part_is_a_gradient():
    flows, _, base = line("note_1d", CHAINS[0])
    h = 1e-4
    for k in range(1, CHAINS[0].steps):
        one, other = (
            flows.log_reward(torch.as_tensor(base.mean(k, STATES + s * h))[:, None])
            for s in (1, -1)
        )
        slope = (one - other) / (2 * h)
        ours = flows.look_ahead(k, POINTS, 0.7)[:, 0]
        assert QUADRATURE.holds(ours, 0.7 * slope, size(slope))
        assert not QUADRATURE.holds(ours, slope, size(slope))


def test_look_ahead_strengths():
    chain = CHAINS[1]
    alpha = [0.3, 0.475, 0.65, 0.825, 1.0]
    known = {"off": [0.0] * 5, "one": [1.0] * 5, "signal": alpha}
    known["signal_squared"] = [a**2 for a in alpha]
    assert tuple(known) == LOOK_AHEADS
    for kind, expected in known.items():
        assert ALGEBRA.holds(look_ahead_strengths(chain, kind), expected, 1.0)
    with pytest.raises(ValueError, match="look_ahead must be one of"):
        look_ahead_strengths(chain, "two")


# --- section 2.1 as printed


def test_printed_noising_is_not_the_chain():
    """What is meant composes to the state's own law given the data; what is printed does not."""
    signal = torch.linspace(0.02, 1.0, 9, dtype=torch.float64)
    printed = PrintedNoising(signal)
    mean, variance = composed(*printed.meant())
    assert ALGEBRA.holds(mean, signal.sqrt(), 1.0)
    assert ALGEBRA.holds(variance, 1 - signal, 1.0)
    mean, variance = composed(*printed.step())
    assert not ALGEBRA.holds(variance, 1 - signal, 1.0)
    coefficient, spread = printed.from_data()
    assert not ALGEBRA.holds(coefficient, mean, 1.0)
    assert bool(spread.isnan().all())  # 1 - alpha_T - alpha_t < 0
