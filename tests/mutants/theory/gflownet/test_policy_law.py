"""Mistakes in the laws of policies, each told by one integral against the steps multiplied out."""

from __future__ import annotations

import numpy as np
import pytest

from tests.mutants.harness import mutant_module
from theory import Chain
from theory.common.tolerances import QUADRATURE_TIGHT
from theory.gflownet.flows import residual_flows
from theory.problems.problem import load_problem
from theory.tilts.wrappers import Exponential

AXIS = (np.linspace(-14.0, 14.0, 1401),)
MUTANTS = {
    "a wide start cut where the noise ends": (
        "low = min(ratio * axis[0] - 9 * std, -9 * first)",
        "low = ratio * axis[0] - 9 * std",
    ),
    "F_0 forgotten": (" - flows.log_flow(0, sources)", ""),
    "P_0 forgotten": ("log_start(chain, sources) - ", "-"),
    "noise without its ratio": ("(start - ratio * axis[:, None])", "(start - axis[:, None])"),
    "kernels the other way round": ("weights[rows] @ (power", "weights[rows] @ (-power"),
    "a step's cell forgotten": ("points, density * cell)", "points, density)"),
}


def agree(module) -> bool:
    """From a late start and from a wide one."""
    problem = load_problem("note_1d")
    for options in ({"first_time": 0.4}, {"start_std": 1.6}):
        chain = Chain(3, 0.2, **options)
        flows = residual_flows(chain, problem.base, problem.reward, Exponential(2.0)).tilted
        try:
            laws = module.exact_policy_law(flows, AXIS), module.policy_law(chain, flows, AXIS)
        except ValueError:  # mass that the grid does not hold
            return False
        if not QUADRATURE_TIGHT.holds(laws[0].density, laws[1].density, 1.0):
            return False
    return True


def test_the_code_as_it_stands_is_accepted():
    assert agree(mutant_module("theory.gflownet.policy_law"))


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name):
    assert not agree(mutant_module("theory.gflownet.policy_law", MUTANTS[name]))
