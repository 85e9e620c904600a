"""Mistakes in the exact flows and kernels of a chain."""

from __future__ import annotations

import pytest
import torch

from tests.mutants.harness import mutant_module
from tests.theory.gflownet.routes import STATES
from tests.theory.gflownet.test_flows import CHAINS, POINTS, line
from theory.common.tolerances import QUADRATURE_TIGHT
from theory.problems.problem import load_problem
from theory.tilts.wrappers import Exponential

LATE = CHAINS[1]
MUTANTS = {
    "the state's own noise, not that since X_T": (
        "sigma[k] ** 2 - (a * sigma[-1]) ** 2",
        "sigma[k] ** 2",
    ),
    "the noising kernel's variance": (
        "variance * share, spectrum",
        "variance + 0 * share, spectrum",
    ),
    "means moved without the ratio": ("rotate(ratio * share", "rotate(share"),
    "components' place in the state before": ("(a * self.weight.mean", "(self.weight.mean"),
    "weights of the next state": (
        "post, spectrum = self.given(k, x)",
        "post, spectrum = self.given(k + 1, x)",
    ),
    "gap of posterior means for that of scores": ("return a * self.tilted", "return self.tilted"),
    "p_T without sigma_end": ("base.convolved(1.0, chain.sigma_end)", "base"),
    "normalised weight": ("target.law.scaled(target.log_z)", "target.law"),
}


def meets_the_route(module):
    """Flows, residual scores and kernels on a chain that begins late."""
    problem = load_problem("note_1d")
    flows = module.residual_flows(LATE, problem.base, problem.reward, Exponential(problem.scale))
    _, tilted, base = line("note_1d", LATE)
    after = torch.as_tensor(STATES[::-1] + 0.3)[:, None]
    for k in range(LATE.steps):
        gap = tilted.score(k, STATES) - base.score(k, STATES)
        kernel = tilted.log_kernel(k, STATES, after[:, 0].numpy())
        pairs = [
            (flows.tilted.log_flow(k, POINTS).exp(), tilted.flow(k, STATES)),
            (flows.score(k, POINTS)[:, 0], gap),
            (flows.tilted.log_density(k, POINTS, after), kernel),
        ]
        if not all(QUADRATURE_TIGHT.holds(ours, theirs, 1.0) for ours, theirs in pairs):
            return False
    return True


def test_the_code_as_it_stands_is_accepted():
    assert meets_the_route(mutant_module("theory.gflownet.flows"))


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_of_the_flows_is_rejected(name):
    assert not meets_the_route(mutant_module("theory.gflownet.flows", MUTANTS[name]))
