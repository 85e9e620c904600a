"""A wrong optimum beside a right loss, rejected by the sweep's expected gradient."""

from __future__ import annotations

import pytest

from tests.mutants.theory.methods.chains import DDPO
from tests.mutants.theory.methods.matching import ANCHORED, EXP, EXPLICIT, NFT
from tests.mutants.theory.methods.mutants import LINE, Mutant, options, part
from theory.methods.contract.method import Optimum
from theory.methods.contract.probe import expected_gradient
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem
from theory.tilts.wrappers import Exponential


def scale(of):
    return part(scale=lambda whole, self, problem: of(self, problem))


def field(of):
    """An optimum with another velocity: of(method, problem)."""
    return part(optimum=lambda whole, self, problem: Optimum(of(self, problem)))


OPTIMA = {
    "nft: second order": Mutant(
        NFT, LINE, field(lambda m, problem: problem.cumulant_field(m.scale(problem), 2))
    ),
    "nft: 1/nft_beta": Mutant(NFT, LINE, part(scale=lambda whole, m, problem: whole(problem) / 2)),
    "nft: penalty left out of the optimum": Mutant(
        ANCHORED, LINE, scale(lambda m, problem: 2 * m.slope(problem) / m.nft_beta)
    ),
    "nft: without nft_beta": Mutant(NFT, LINE, scale(lambda m, problem: 2 * m.slope(problem))),
    "nft: the tilt": Mutant(
        NFT, LINE, field(lambda m, problem: problem.tilted_field(Exponential(m.scale(problem))))
    ),
    "tm: explicit is said to be exact": Mutant(
        EXPLICIT, LINE, options("optimum", kind=lambda m: "implicit")
    ),
    "wfm: the base": Mutant(EXP, LINE, field(lambda m, problem: problem.base_field)),
    "ddpo: kl_weight for its inverse": Mutant(
        DDPO, LINE, options("optimum", kl_weight=lambda m: 1 / m.kl_weight)
    ),
}


def is_rejected(method, problem, loss=None):
    """Whether the optimum that a method states is no zero of its gradient (or of another's)."""
    best = method.optimum(problem)
    best = Optimum(best.velocity, best.sampler, networks=best.networks)
    return not expected_gradient(loss or method, problem, "optimum", best=best).vanishes


@pytest.mark.parametrize("name", OPTIMA)
def test_wrong_optimum_is_rejected(name):
    mutant = OPTIMA[name]
    assert is_rejected(mutant.wrong(), load_problem(mutant.problem))


ADJOINT = {
    "the limit of many steps": field(
        lambda m, problem: problem.tilted_field(Exponential(m.full_scale))
    ),
    "reward_scale left out": options("optimum", reward_scale=lambda m: 1.0),
    "reward_scale divides": part(full_scale=lambda whole, self: self.scale / self.reward_scale),
}


@pytest.mark.parametrize("name", ADJOINT)
def test_wrong_optimum_of_the_adjoint_methods_is_rejected(name):
    whole = parse_method("discrete_adjoint:reward_scale=1.6,steps=4,sigma_end=0.1")
    wrong = ADJOINT[name](type(whole))(**whole.options)
    assert is_rejected(wrong, load_problem(LINE), whole)
