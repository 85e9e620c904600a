"""Mistakes in the chain's kernels and in the flow's density."""

from __future__ import annotations

import math
from functools import cached_property

import pytest

from tests.mutants.harness import mutant_module, overriding
from tests.theory.samplers.chain_routes import NOTE, SHORT, matrix_law, note_axes
from tests.theory.samplers.test_flow import central_points
from theory.common.tolerances import QUADRATURE
from theory.fields.mixture import MixtureField
from theory.problems.problem import load_problem
from theory.samplers import chain
from theory.samplers.flow import FlowLaw

# --- the flow


def test_mutant_without_divergence_is_seen():
    """Transporting the density of the starting point alone is off by far more than the tier."""
    law = load_problem("note_1d").base
    y = central_points(law, 200)
    x0 = FlowLaw(MixtureField(law)).pull_back(y)[0]
    naive = -0.5 * x0[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)
    assert not QUADRATURE.holds(naive, law.log_density(y), scale=1.0)


# --- the chain


class LateTimes(chain.Chain):
    @cached_property
    def times(self):
        return super().times * self.steps / (self.steps + 1)


def variances(whole, self, like):
    P, Q, s = whole(like)
    return P, Q, s**2


def edited(old, new):
    return mutant_module("theory.samplers.chain", (old, new))


def in_place(kind):
    """The module with another class of chains."""
    return mutant_module("theory.samplers.chain", Chain=lambda whole: kind)


MUTANTS = {
    "alpha and sigma swapped in Q": lambda: edited(
        "Q = (kept * alpha - alpha_next * sigma)", "Q = (kept * sigma - alpha_next * alpha)"
    ),
    "full noise kept": lambda: edited(
        "(sigma_next**2 - variance).clamp_min(0.0).sqrt()", "sigma_next"
    ),
    "variance of the noising kernel": lambda: edited(
        "variance = sigma_next**2 * forward / sigma**2", "variance = forward"
    ),
    "variance for std": lambda: in_place(overriding(chain.Chain, coefficients=variances)),
    "times one step late": lambda: in_place(LateTimes),
    "one kernel is missing": lambda: edited(
        "in range(chain.steps):\n        with torch.no_grad():",
        "in range(chain.steps - 1):\n        with torch.no_grad():",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_of_the_chain_is_rejected(name):
    module, axes = MUTANTS[name](), note_axes(SHORT)
    law = module.chain_law(module.Chain(5, 0.12), NOTE.base_field, axes).density
    assert not QUADRATURE.holds(law, matrix_law(SHORT, axes[0]), scale=1.0)
