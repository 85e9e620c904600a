"""The named problems of this room: nine modes of 25, and a chain that begins too late."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from tests.helpers import tensor
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.control.chain_optimum import regularised_optimum
from theory.gflownet.flows import residual_flows
from theory.gflownet.policy_law import exact_policy_law
from theory.laws.distances import grid_distances
from theory.methods.chain.rollouts import chain_axes, chain_on
from theory.methods.contract.task import ProblemTask
from theory.problems.problem import load_problem, parse_problem
from theory.samplers.chain import grid_law, grid_points
from theory.tilts.wrappers import Exponential

AXES = (np.linspace(-9, 9, 901),)
TEXT = """first_time = {}
[base]
weights = [1.0]
means = [[0.0]]
stds = [1.0]
[reward]
kind = "linear"
vector = [1.0]
"""


def test_grid25_keeps_nine_modes():
    """Weights and log Z by sums over a grid around each mode."""
    problem = load_problem("grid25")
    law = problem.tilt(Exponential(problem.scale)).law
    step = np.linspace(-3, 3, 301)
    cell = (step[1] - step[0]) ** 2
    around = np.stack(np.meshgrid(step, step, indexing="ij"), -1).reshape(-1, 2)
    sizes = []
    for weight, mean in zip(problem.base.log_abs.exp(), problem.base.mean, strict=True):
        y = mean.numpy() + around
        own = multivariate_normal(mean.numpy(), 0.09).pdf(y)
        r = problem.reward(torch.as_tensor(y)).numpy()
        sizes.append(float(weight) * (own * np.exp(problem.scale * r)).sum() * cell)
    shares = np.array(sizes) / sum(sizes)
    assert QUADRATURE_TIGHT.holds(np.log(sum(sizes)), 1.3)
    assert QUADRATURE_TIGHT.holds(law.log_abs.exp(), shares, 1.0)
    assert not QUADRATURE_TIGHT.holds(problem.base.log_abs.exp(), shares, 1.0)
    kept = np.sort(shares)[-9:]
    assert 0.98 < kept.sum() < 1
    assert np.sort(shares)[-10] < 0.25 * kept[0]
    assert 0.03 < kept[0] <= 0.25 * kept[-1]
    places = problem.base.mean.numpy()[np.argsort(shares)[-9:]]
    assert {(x, y) for x, y in places.tolist()} == {
        (x, y) for x in (0.0, 1.5, 3.0) for y in (-1.5, 0.0, 1.5)
    }


@pytest.mark.parametrize(("name", "apart"), [("late_1d", True), ("note_1d", False)])
def test_a_late_chain_misses_its_target(name, apart):
    """TV between the claimed law and what the exact policy samples, and its twin's."""
    problem = load_problem(name)
    flows = residual_flows(
        chain_on(problem, 12, 0.04), problem.base, problem.reward, Exponential(problem.scale)
    )
    law = exact_policy_law(flows.tilted, AXES)
    claimed = grid_law(AXES, flows.tilted.weight.normalised().density(grid_points(AXES)).numpy())
    distance = grid_distances(law, claimed)["TV"].value
    assert distance >= 0.05 if apart else QUADRATURE.holds(distance, 0.0, 1.0)


def test_the_twin_is_the_same_problem():
    late, twin = load_problem("late_1d"), load_problem("note_1d")
    assert (late.first_time, twin.first_time) == (0.35, 0.0)
    assert torch.equal(late.base.mean, twin.base.mean)
    assert torch.equal(late.base.cov, twin.base.cov)
    assert torch.equal(late.base.log_abs, twin.base.log_abs)
    assert torch.equal(late.reward.centres, twin.reward.centres)
    assert torch.equal(late.reward.precisions, twin.reward.precisions)
    assert late.scale == twin.scale
    assert chain_on(replace(late, first_time=0.0), 12, 0.04) == chain_on(twin, 12, 0.04)
    assert ProblemTask([late]).first_time == 0.35
    with pytest.raises(ValueError, match=r"problems must have one first_time, got \[0.0, 0.35\]"):
        ProblemTask([late, twin])


def test_optimum_of_a_late_chain():
    """Asked at its own times, and at no other; from the start that is written out."""
    problem = load_problem("late_1d")
    chain = chain_on(problem, 4, 0.1)
    axes = chain_axes(problem, chain, problem.scale)
    best = regularised_optimum(chain, problem.base_field, problem.reward, problem.scale, axes)
    x = tensor([[0.3]])
    times = [0.35 + 0.65 * k / 4 for k in range(4)]
    assert ALGEBRA.holds(chain.times, times)
    moves = [float(best(x, t) - problem.base_field(x, t)) for t in times]
    assert min(moves) > 0.01
    for t in (0.0, 0.4, 1.0):
        with pytest.raises(ValueError, match="t must be one of the chain's 4 times"):
            best(x, t)


def test_first_time_in_a_file():
    assert parse_problem(TEXT.format(0.2), "mine").first_time == 0.2
    for wrong in ("1.0", "-0.1", "nan", '"early"'):
        with pytest.raises(ValueError, match="mine: first_time must be a number in"):
            parse_problem(TEXT.format(wrong), "mine")
