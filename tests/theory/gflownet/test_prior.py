"""Prior strengths: (10) in closed form and on grids, and what (11)-(14) really sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import points, size
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.gflownet.balance import ResidualBalance
from theory.gflownet.flows import last_law, pretrained_flows, residual_flows
from theory.gflownet.kernels import GaussianKernels
from theory.gflownet.prior import (
    fixed_variance_remainder,
    prior_power,
    prior_solution,
    prior_target,
    prior_target_on_grid,
)
from theory.laws.distances import grid_distances
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem, load_problem
from theory.samplers.chain import Chain, grid_points
from theory.tilts.quadratic import linear_reward
from theory.tilts.wrappers import Exponential

NOTE = load_problem("note_1d")
CHAIN = Chain(3, 0.2)
AXES = (np.linspace(-7, 7, 401),)
ONE = Problem("one", GaussianSum.mixture([1.0], [[0.7]], stds=[0.6]), linear_reward([0.5]), 1.4)


@pytest.mark.parametrize("prior", [1, 2, 3])
def test_whole_strengths_in_closed_form(prior):
    last, wrapper = last_law(CHAIN, NOTE.base), Exponential(NOTE.scale)
    law = prior_target(last, NOTE.reward, wrapper, prior).law
    grid = prior_target_on_grid(last, NOTE.reward, wrapper, prior, AXES)
    expected = law.log_density(grid_points(AXES)).exp()
    assert QUADRATURE_TIGHT.holds(grid.density, expected, 1.0)
    other = prior_target_on_grid(last, NOTE.reward, wrapper, prior + 0.1, AXES)
    assert not QUADRATURE_TIGHT.holds(other.density, expected, 1.0)


def test_one_gaussian_takes_any_strength():
    base = GaussianSum.mixture([1.0], [[0.7, -0.1]], covs=[[[0.5, 0.2], [0.2, 0.4]]])
    x = points(7, 2)
    expected = 0.6 * base.log_density(x)
    expected = expected - expected[0]
    ours = prior_power(base, 0.6).log_density(x)
    assert ALGEBRA.holds(ours - ours[0], expected, size(expected))
    assert not ALGEBRA.holds(ours, expected, size(expected))


@pytest.mark.parametrize("prior", [0.5, 1.5, 65, 0, -1.0, float("nan")])
def test_strengths_without_a_closed_form(prior):
    with pytest.raises(ValueError, match="prior must be a"):
        prior_power(NOTE.base, prior)


# --- what (11)-(14) sample


def dense_route(chain, prior):
    """Mean and variance of X_T for one Gaussian and log R = b x: the path's joint Gaussian given
    x_0 by its precision matrix, then x_0 ~ P_0."""
    T, s = chain.steps, chain.coefficients(torch.ones(1, dtype=torch.float64))[2].numpy()
    zero, one = (torch.full((1, 1), v, dtype=torch.float64) for v in (0.0, 1.0))
    shift = np.array([float(chain.mean(ONE.base_field, k, zero)) for k in range(T)])
    slope = np.array([float(chain.mean(ONE.base_field, k, one)) for k in range(T)]) - shift
    rows = np.eye(T)  # x_{k+1} - slope_k x_k, over x_1 .. x_T
    rows[np.arange(1, T), np.arange(T - 1)] = -slope[1:]
    precision = prior * rows.T @ np.diag(1 / s**2) @ rows

    def mean(first):
        offset = shift.copy()
        offset[0] += slope[0] * first
        pull = prior * rows.T @ (offset / s**2)
        pull[-1] += ONE.scale * 0.5
        return np.linalg.solve(precision, pull)[-1]

    start = float(chain.start(torch.ones(1, dtype=torch.float64)))
    spread = (mean(1.0) - mean(0.0)) ** 2 * start**2 + np.linalg.inv(precision)[-1, -1]
    return mean(0.0), spread


@pytest.mark.parametrize("prior", [0.5, 1.0, 2.0])
def test_solution_is_that_of_the_dense_path(prior):
    chain = Chain(3, 0.2, first_time=0.2)
    kernels, wrapper = GaussianKernels(chain, ONE.base_field), Exponential(ONE.scale)
    solution = prior_solution(chain, kernels, ONE.reward, wrapper, prior, AXES)
    mean, covariance = solution.law.moments()
    expected = dense_route(chain, prior)
    assert QUADRATURE_TIGHT.holds([mean[0], covariance[0, 0]], expected, 1.0)
    other = dense_route(chain, 1.1 * prior)
    assert not QUADRATURE_TIGHT.holds([mean[0], covariance[0, 0]], other, 1.0)


def test_strength_one_is_the_exact_policy():
    flows = residual_flows(CHAIN, NOTE.base, NOTE.reward, Exponential(NOTE.scale))
    solution = prior_solution(CHAIN, flows.base, NOTE.reward, flows.wrapper, 1.0, AXES)
    inside = grid_points(AXES)[140:-140]  # what kernels lose beyond the grid is not felt there
    for k in range(CHAIN.steps + 1):
        ours = solution.log_flows[k, 140:-140]
        assert QUADRATURE.holds(ours, flows.log_flow(k, inside), 1.0)
    target = flows.tilted.weight.normalised().density(grid_points(AXES)).numpy()
    assert QUADRATURE.holds(solution.law.density, target, 1.0)


def apart(chain, kernels, prior):
    """TV of what the conditions sample to (10)."""
    wrapper = Exponential(NOTE.scale)
    target = prior_target_on_grid(last_law(chain, NOTE.base), NOTE.reward, wrapper, prior, AXES)
    solution = prior_solution(chain, kernels, NOTE.reward, wrapper, prior, AXES)
    for k in range(chain.steps):
        mass = float(solution.log_kernel(k, 220).exp().sum()) * (AXES[0][1] - AXES[0][0])
        assert QUADRATURE.holds(mass, 1.0)
    return grid_distances(solution.law, target)["TV"].value


@pytest.mark.parametrize("prior", [0.5, 2.0])
def test_other_strengths_need_balance_and_a_memoryless_start(prior):
    """(10) at any eta where P# is in detailed balance with the noising and X_0 is noise alone; not
    of Gaussian kernels, nor from a later start."""
    exact, late = pretrained_flows(CHAIN, NOTE.base), Chain(3, 0.2, first_time=0.35)
    assert QUADRATURE.holds(apart(CHAIN, exact, prior), 0.0, 1.0)
    assert apart(CHAIN, GaussianKernels(CHAIN, NOTE.base_field), prior) > 0.01
    assert apart(late, pretrained_flows(late, NOTE.base), prior) > 0.01


def test_fixed_variance_leaves_a_slope():
    """d/dx' of the forward residual between kernels of one variance, whatever their means."""
    kernels = GaussianKernels(CHAIN, NOTE.base_field)
    other = GaussianKernels(CHAIN, NOTE.tilted_field(Exponential(NOTE.scale)))
    flat = pretrained_flows(CHAIN, NOTE.base)
    balance = ResidualBalance(other, kernels, flat, prior=1.7)
    x = points(5, 1)
    for k, expected in enumerate(fixed_variance_remainder(CHAIN, 1.7)):
        low, high = (balance.policy_scores(k, x, points(5, 1, 9) + s)[1] for s in (0.0, 1.0))
        assert ALGEBRA.holds(high - low, expected.expand(5, 1))
        assert not ALGEBRA.holds(high - low, 1.01 * expected.expand(5, 1))


def test_grid_target_holds_its_mass():
    law = prior_target_on_grid(NOTE.base, NOTE.reward, Exponential(1.0), 1.5, AXES)
    assert QUADRATURE_TIGHT.holds(law.mass(), 1.0)
    base = NOTE.base.density(grid_points(AXES))
    assert not QUADRATURE_TIGHT.holds(law.density, base, 1.0)
