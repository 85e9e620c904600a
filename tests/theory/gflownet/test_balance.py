"""The conditions at the exact policy, at others, and among one another."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import derivative, points, size
from theory.common.tolerances import ALGEBRA
from theory.gflownet.balance import (
    Balance,
    ForwardLooking,
    ResidualBalance,
    Violation,
    log_path,
    terminal,
)
from theory.gflownet.flows import look_ahead_strengths, residual_flows
from theory.gflownet.kernels import GaussianKernels, NoisingKernels, log_start
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain
from theory.tilts.wrappers import Exponential

CHAIN = Chain(4, 0.1)
LATE = Chain(4, 0.1, first_time=0.3)
NAMES = ["note_1d", "bump_2d", "full_5d"]
STEPS = range(CHAIN.steps)


def setting(name, chain=LATE):
    problem = load_problem(name)
    wrapper = Exponential(problem.scale)
    return problem, wrapper, residual_flows(chain, problem.base, problem.reward, wrapper)


def pair(problem, k):
    return points(6, problem.dim, k), points(6, problem.dim, 50 + k)


def holds(residual, like):
    """Zero, beside the size of what was subtracted."""
    return ALGEBRA.holds(residual, torch.zeros_like(residual), size(like))


@pytest.mark.parametrize("name", NAMES)
def test_exact_policy_and_flow_are_in_balance(name):
    """Wherever the chain begins; the pretrained policy is not."""
    problem, _, flows = setting(name)
    exact = Balance(LATE, flows.tilted, flows.tilted)
    wrong = Balance(LATE, flows.base, flows.tilted)
    for k in STEPS:
        x, x_next = pair(problem, k)
        for what in ("detailed", "forward", "reverse"):
            left, other = (getattr(b, what)(k, x, x_next) for b in (exact, wrong))
            scale = torch.cat([flows.tilted.log_flow(k, x), other.flatten()])
            assert holds(left, scale)
            assert not holds(other, scale)


@pytest.mark.parametrize("name", NAMES)
def test_residual_conditions_at_the_exact_policy(name):
    problem, _, flows = setting(name)
    exact = ResidualBalance(flows.tilted, flows.base, flows)
    wrong = ResidualBalance(flows.base, flows.base, flows)
    stronger = ResidualBalance(flows.tilted, flows.base, flows, prior=1.5)
    for k in STEPS:
        x, x_next = pair(problem, k)
        for what in ("detailed", "forward", "reverse"):
            left, base, other = (getattr(b, what)(k, x, x_next) for b in (exact, wrong, stronger))
            scale = torch.cat([flows.base.log_density(k, x, x_next), other.flatten()])
            assert holds(left, scale)
            assert not holds(base, scale)
            assert not holds(other, scale)


@pytest.mark.parametrize("name", NAMES)
def test_bidirectional_condition_needs_no_flow(name):
    problem, _, flows = setting(name)
    exact = ResidualBalance(flows.tilted, flows.base, flows)
    mixed = ResidualBalance(GaussianKernels(LATE, problem.base_field), flows.base, flows)
    for k in range(LATE.steps - 1):
        x, x_next = pair(problem, k)
        after = points(6, problem.dim, 90 + k)
        scale = flows.base.score(k, x_next) / LATE.noising[1][k]
        assert holds(exact.bidirectional(k, x, x_next, after), scale)
        assert not holds(mixed.bidirectional(k, x, x_next, after), scale)


@pytest.mark.parametrize("name", NAMES)
def test_nabla_conditions_are_gradients_of_detailed_ones(name):
    """At a policy that meets neither."""
    problem, _, flows = setting(name)
    gaussian = GaussianKernels(LATE, problem.base_field)
    for balance in (
        Balance(LATE, gaussian, flows.tilted),
        ResidualBalance(gaussian, flows.base, flows, prior=1.3),
    ):
        for k in STEPS:
            x, x_next = pair(problem, k)
            ahead = derivative(lambda y, b=balance, k=k, x=x: b.detailed(k, x, y), x_next)
            behind = derivative(lambda y, b=balance, k=k, x=x_next: b.detailed(k, y, x), x)
            assert ALGEBRA.holds(balance.forward(k, x, x_next), ahead, size(ahead))
            assert ALGEBRA.holds(balance.reverse(k, x, x_next), behind, size(behind))
            assert not ALGEBRA.holds(balance.reverse(k, x, x_next), ahead, size(ahead))


@pytest.mark.parametrize("name", NAMES)
def test_terminal_condition(name):
    """(14) of the residual flow; the plain flow of R^beta p_T has the prior's score beside it."""
    problem, wrapper, flows = setting(name)
    x = points(6, problem.dim)
    scale = flows.base.score(LATE.steps, x)
    assert holds(terminal(LATE, flows, problem.reward, wrapper, x), scale)
    assert not holds(terminal(LATE, flows.tilted, problem.reward, wrapper, x), scale)
    other = Exponential(1.01 * problem.scale)
    assert not holds(terminal(LATE, flows, problem.reward, other, x), scale)


# --- trajectories


@pytest.mark.parametrize("name", NAMES)
def test_trajectory_balance_needs_a_memoryless_start(name):
    """(48) and (49) at the exact policy: one number where a_0 = 0, else a function of x_0."""
    for chain in (CHAIN, LATE):
        problem, _, flows = setting(name, chain)
        states = points(6 * 5, problem.dim).reshape(6, 5, -1)
        log_reward = flows.log_reward(states[:, -1])
        plain = Balance(chain, flows.tilted, flows.tilted).trajectory(states, flows.log_z)
        exact = ResidualBalance(flows.tilted, flows.base, flows)
        relative = exact.trajectory(states, flows.log_z, log_reward)
        scale = log_path(flows.base, states)
        assert holds(plain, scale) == holds(relative, scale) == (chain is CHAIN)
        # What is left is the first state's alone.
        first = log_start(chain, states[:, 0]) + flows.log_z
        assert holds(plain - first + flows.tilted.log_flow(0, states[:, 0]), scale)
        assert holds(relative - flows.log_z + flows.log_flow(0, states[:, 0]), scale)
        assert not holds(exact.trajectory(states, 0.0, log_reward) - 0.1, scale)


def test_residual_balance_telescopes():
    """sum_k (50) = (49) but for the ends, at any policy (G5)."""
    problem, _, flows = setting("bump_2d")
    gaussian = GaussianKernels(LATE, problem.base_field)
    balance = ResidualBalance(gaussian, flows.base, flows)
    states = points(6 * 5, 2).reshape(6, 5, 2)
    total = sum(balance.detailed(k, states[:, k], states[:, k + 1]) for k in STEPS)
    whole = balance.trajectory(states, 0.0, flows.log_reward(states[:, -1]))
    ends = flows.log_flow(0, states[:, 0])
    assert holds(total - whole - ends, whole)
    assert not holds(total - whole, whole)


def test_printed_residual_db_has_no_flow_of_its_first_state():
    """(20) at the exact policy is -log Ft(x), not zero."""
    problem, _, flows = setting("note_1d")
    balance = ResidualBalance(flows.tilted, flows.base, flows)
    for k in STEPS:
        x, x_next = pair(problem, k)
        expected = -flows.log_flow(k, x)
        assert ALGEBRA.holds(balance.printed(k, x, x_next), expected, size(expected))
        assert size(expected) > 0.1


# --- forward-looking, corrections


def test_forward_looking_conditions_leave_g():
    """(16), (17) and (18) at the exact policy."""
    problem, wrapper, flows = setting("bump_2d")
    for kind in ("one", "signal"):
        gamma = look_ahead_strengths(LATE, kind)
        ahead = ForwardLooking(flows, gamma)
        balance = ResidualBalance(flows.tilted, flows.base, ahead)
        for k in STEPS:
            x, x_next = pair(problem, k)
            g, g_next = (
                flows.remainder(k, x, gamma[k]),
                flows.remainder(k + 1, x_next, gamma[k + 1]),
            )
            scale = flows.base.score(k + 1, x_next) / LATE.noising[1][k]
            assert holds(balance.forward(k, x, x_next) - g_next, scale)
            assert holds(balance.reverse(k, x, x_next) + g, scale)
            assert not holds(balance.reverse(k, x, x_next), scale)
            slope = derivative(lambda y, k=k, a=ahead: a.log_flow(k, y), x)
            assert holds(ahead.score(k, x) - slope, slope)
        x = points(6, 2)
        left = terminal(LATE, ahead, problem.reward, wrapper, x)
        assert holds(left, flows.score(LATE.steps, x))


@pytest.mark.parametrize("name", NAMES)
def test_corrections_of_a_pretrained_chain_out_of_balance(name):
    """With the violation's log for h (51) and (52) hold at the exact policy of the ideal chain;
    without h, or with (52) as printed, they do not."""
    problem, _, flows = setting(name)
    pretrained = GaussianKernels(LATE, problem.base_field)
    violation = Violation(LATE, pretrained, flows.base)
    none = Violation(LATE, flows.base, flows.base)
    balance = ResidualBalance(flows.tilted, pretrained, flows)
    for k in range(1, LATE.steps):
        x, x_next = pair(problem, k)
        scale = torch.cat([*NoisingKernels(LATE).scores(k, x, x_next)])
        assert holds(balance.corrected_forward(k, x, x_next, violation), scale)
        assert holds(balance.corrected_reverse(k, x, x_next, violation), scale)
        printed = balance.corrected_reverse(k, x, x_next, violation, printed=True)
        assert holds(printed + flows.score(k, x), scale)
        assert not holds(printed, scale)
        assert not holds(balance.corrected_forward(k, x, x_next, none), scale)
        assert not holds(balance.corrected_reverse(k, x, x_next, none), scale)
        assert holds(none(k, x, x_next), flows.base.log_flow(k, x))
