"""Mistakes in where output regularisation settles, each told by the loss's own gradient or law."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.mutants.harness import mutant_module
from theory.common.tolerances import ALGEBRA
from theory.gflownet.anchored import AnchoredChain
from theory.laws.gaussians import GaussianSum
from theory.samplers.chain import Chain

BASE = GaussianSum.mixture([1.0], [[0.7, -0.4]], covs=[[[0.5, 0.2], [0.2, 0.9]]])
SLOPE = torch.tensor([0.8, -0.5], dtype=torch.float64)
MUTANTS = {
    "springs side by side": ("forward * backward / (forward + backward)", "forward + backward"),
    "the last flow's spring forgotten": (
        "forward * terminal / (forward + terminal)",
        "forward * backward / (forward + backward)",
    ),
    "a state's own factor for the next one's": (
        "self.penalties[k] + self.factors[k] ** 2 * shares",
        "self.penalties[k] + self.factors[k - 1] ** 2 * shares",
    ),
    "factor not squared": ("self.factors[k] ** 2 * shares", "self.factors[k] * shares"),
    "the kernels' standard deviation": (
        "variance = self.chain.coefficients(self.gains)[2] ** 2",
        "variance = self.chain.coefficients(self.gains)[2]",
    ),
    "gains multiplied": ("(variance / self.gains) ** 2", "(variance * self.gains) ** 2"),
    "a round too many": ("** rounds *", "** (rounds + 1) *"),
    "modes of the penalty alone": ("inverse / (1 + inverse)", "inverse / (2 + inverse)"),
    "the first factor kept": ("flip(0)[:-1]", "flip(0)[1:]"),
    "a spring's sign": ("= -between * factors[:, 1:]", "= between * factors[:, 1:]"),
    "flows at the middle": ("/ (forward + backward)\n        last", "/ 2\n        last"),
    "means moved by u": ("variance[k] * shifts[k]", "shifts[k]"),
}


def is_right(kind: type[AnchoredChain]) -> bool:
    """No gradient where it settles, with both anchors; the tilt's law without a penalty."""
    # What a penalty on the output is, from outside: the kernels' means move by s^2 u.
    gains = torch.tensor([0.4, 0.7, 0.5], dtype=torch.float64)
    chain = Chain(3, 0.2)
    case = kind(chain, BASE, SLOPE, 2.0, gains, 0.7, 1.6, 1.2)
    variance = chain.coefficients(gains)[2] ** 2
    penalties = 2.0 * (variance / gains) ** 2
    right = AnchoredChain(chain, BASE, SLOPE, 2.0, gains, 0.7, 1.6, 1.2)
    object.__setattr__(right, "penalties", penalties)
    nothing = torch.zeros(3, 2, dtype=torch.float64)
    pairs = [(case.anchored_to_base(), nothing)]
    pairs += [(case.after_rounds(n + 1), case.after_rounds(n)) for n in range(2)]
    for shifts, anchor in pairs:
        unknowns = shifts.clone().requires_grad_(), case.scores(shifts).requires_grad_()
        slopes = torch.autograd.grad(right.loss(*unknowns, anchor), unknowns)
        if not all(float(slope.abs().max()) < ALGEBRA.rtol for slope in slopes):
            return False
    if not ALGEBRA.holds(case.after_rounds(0), nothing, 1.0):
        return False
    free = replace(case, strength=0.0)
    return ALGEBRA.holds(free.law(free.tilted()).mean, right.target().mean, 1.0)


def test_the_code_as_it_stands_is_accepted():
    assert is_right(mutant_module("theory.gflownet.anchored").AnchoredChain)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name):
    assert not is_right(mutant_module("theory.gflownet.anchored", MUTANTS[name]).AnchoredChain)
