"""What policies sample: grids against the chain's own law and closed forms, weighted draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from theory.common.tolerances import (
    ALGEBRA,
    FALSE_FAILURE_RATE,
    QUADRATURE,
    QUADRATURE_2D,
    QUADRATURE_TIGHT,
)
from theory.gflownet.flows import pretrained_flows, residual_flows
from theory.gflownet.kernels import GaussianKernels
from theory.gflownet.policy_law import exact_policy_law, log_kernel_rows, policy_law, weighted_draws
from theory.laws.distances import grid_distances
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain, chain_law, grid_law, grid_points
from theory.tilts.wrappers import Exponential

AXIS = (np.linspace(-7, 7, 401),)


def flows_of(name, chain):
    problem = load_problem(name)
    flows = residual_flows(chain, problem.base, problem.reward, Exponential(problem.scale))
    return problem, flows


def test_gaussian_policies_have_the_chain_law():
    problem, chain = load_problem("note_1d"), Chain(4, 0.15)
    ours = policy_law(chain, GaussianKernels(chain, problem.base_field), AXIS)
    expected = chain_law(chain, problem.base_field, AXIS)
    assert QUADRATURE_TIGHT.holds(ours.density, expected.density, 1.0)
    exact = policy_law(chain, pretrained_flows(chain, problem.base), AXIS)
    assert not QUADRATURE_TIGHT.holds(exact.density, expected.density, 1.0)


def test_all_pairs_at_once():
    """As one pair after another, which policies without `log_pairs` are asked for."""

    class Pairwise:
        def __init__(self, kernels):
            self.log_density = kernels.log_density

    problem, flows = flows_of("bump_2d", Chain(3, 0.3))
    axes = tuple(np.linspace(-2, 2, 16) for _ in range(2))
    for kernels in (flows.tilted, GaussianKernels(flows.chain, problem.base_field)):
        for k in range(3):
            one, other = (
                torch.cat([part for _, part in log_kernel_rows(which, k, grid_points(axes))])
                for which in (kernels, Pairwise(kernels))
            )
            assert ALGEBRA.holds(one, other, float(other.abs().max()))
            assert not ALGEBRA.holds(one.T, other, float(other.abs().max()))


@pytest.mark.parametrize(
    ("first_time", "start_std"),
    [(0.0, None), (0.4, None), pytest.param(0.0, 1.6, marks=pytest.mark.slow)],
)
def test_exact_policy_on_the_line(first_time, start_std):
    """Step by step and in one integral, from a wide start too; W / Z from a memoryless one."""
    chain = Chain(3, 0.2, first_time=first_time, start_std=start_std)
    _, flows = flows_of("note_1d", chain)
    axes = AXIS if start_std is None else (np.linspace(-14.0, 14.0, 1401),)
    ours = exact_policy_law(flows.tilted, axes)
    steps = policy_law(chain, flows.tilted, axes)
    assert QUADRATURE_TIGHT.holds(ours.density, steps.density, 1.0)
    target = flows.tilted.weight.normalised().density(grid_points(axes)).numpy()
    apart = grid_distances(ours, grid_law(axes, target))["TV"].value
    assert QUADRATURE.holds(apart, 0.0, 1.0) == (first_time == 0)
    if first_time:
        assert apart > 0.02


def test_exact_policy_in_the_plane():
    chain = Chain(2, 0.25, first_time=0.4)
    _, flows = flows_of("linear_2d", chain)
    axes = (np.linspace(-6.5, 6.5, 66), np.linspace(-6, 6, 61))
    ours, steps = exact_policy_law(flows.tilted, axes), policy_law(chain, flows.tilted, axes)
    assert QUADRATURE_2D.holds(ours.density, steps.density, 1.0)
    target = flows.tilted.weight.normalised().density(grid_points(axes)).numpy()
    assert not QUADRATURE_2D.holds(ours.density.ravel(), target, 1.0)


def test_grids_that_lose_mass():
    chain = Chain(3, 0.2)
    _, flows = flows_of("note_1d", chain)
    short = (np.linspace(-1, 1, 65),)
    with pytest.raises(ValueError, match="must hold a mass of 1"):
        policy_law(chain, flows.tilted, short)
    with pytest.raises(ValueError, match="must hold a mass of 1"):
        exact_policy_law(flows.tilted, short)


# --- draws


def test_weighted_draws_of_the_pretrained_chain_stand_for_the_policy():
    """In d = 5 from a memoryless start: the mean of X_T within its error, that of the base not."""
    chain = Chain(3, 0.2)
    problem, flows = flows_of("full_5d", chain)
    generator = torch.Generator().manual_seed(11)
    start = flows.base.start_law().sample(20_000, generator)
    draws = weighted_draws(flows.tilted, flows.base, flows.base.rollout(start, generator))
    mean, error = draws.mean(draws.last)
    bound = norm.isf(FALSE_FAILURE_RATE / 10)
    truth = flows.tilted.weight.normalised().expectation()
    assert bool(((mean - truth).abs() < bound * error).all())
    assert bool(((mean - problem.base.expectation()).abs() > bound * error).any())
    assert abs(draws.log_mean_weight) < bound / draws.effective**0.5
    assert 1000 < draws.effective < 20_000
    same = weighted_draws(flows.base, flows.base, draws.states)
    assert same.effective == pytest.approx(20_000)


def test_weighted_draws_refuse_other_shapes():
    chain = Chain(3, 0.2)
    _, flows = flows_of("note_1d", chain)
    with pytest.raises(ValueError, match=r"states must have shape \(n, T \+ 1, d\)"):
        weighted_draws(flows.tilted, flows.base, torch.zeros(4, 4, dtype=torch.float64))
    draws = weighted_draws(flows.tilted, flows.base, torch.zeros(6, 4, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="values must have shape"):
        draws.mean(torch.zeros(5))
