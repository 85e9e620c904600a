"""Mistakes in methods that leave the fixed point alone, or have none: rejected by hand-written
gradients and adjoints."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.mutants.harness import mutant_module
from tests.mutants.theory.methods.chains import full_back, kl, kl_cost, later
from tests.mutants.theory.methods.mutants import batch, name, part, student, value
from tests.theory.methods.test_adjoint_and_ddpo_by_hand import adjoint_errors, ddpo_gap
from tests.theory.methods.test_adjoints import PLANE, continuous_errors, errors
from tests.theory.methods.test_nft_by_hand import (
    collected,
    normalised_slopes,
    slopes,
)
from theory.common.tolerances import ALGEBRA
from theory.methods.adjoint.adjoint_matching import AdjointMatching, BasicAdjointMatching
from theory.methods.adjoint.continuous_adjoint import ContinuousAdjoint, Limit
from theory.methods.adjoint.discrete_adjoint import DiscreteAdjoint
from theory.methods.matching.nft import NFT
from theory.methods.policy_gradient.ddpo import DDPO


def edit(kind, old, new):
    return getattr(mutant_module(kind.__module__, (old, new)), kind.__name__)


# --- NFT's normaliser


@pytest.mark.parametrize("kind", ["velocity", "x1"])
def test_a_weight_that_is_not_held_fixed_is_seen(kind):
    def _branch(whole, self, task, given, error):
        size = error.abs().flatten(1).mean(1)
        return whole(task, given, error) * size.detach() / size

    wrong = part(_branch=_branch)(NFT)(0.8, kind)
    at = PLANE.cumulant_field(1.0, 1)
    given, _, _ = collected(NFT(0.8, kind), PLANE)
    expected = normalised_slopes(given, at, kind)
    assert not ALGEBRA.holds(slopes(wrong, given, at, PLANE), expected, scale=1.0)


# --- DDPO without a KL term

WITHOUT_KL = {
    "half the squares": kl(lambda chain, means: 2),
    "advantage's sign": student(lambda v, b, x, t: 2 * v(x, t).detach() - v(x, t)),
    "mean over steps": value(lambda losses, m, policy, b: losses() / m.steps),
    "returns clipped": batch(r=lambda m, b: b["r"].clamp_max(0.5)),
}


@pytest.mark.parametrize("name", WITHOUT_KL)
def test_mutants_of_ddpo_without_kl(name):
    assert not ddpo_gap(WITHOUT_KL[name](DDPO)(0.0, steps=5, sigma_end=0.12))[0].vanishes


# --- adjoints


def jvp(of, state, adjoint):
    return torch.autograd.functional.jvp(of, state.detach(), adjoint)[1]


def lean_not_transposed(whole, self, chain, policy, k, state, cond, base, adjoint):
    """Exact fields have symmetric Jacobians and would not tell."""
    return jvp(lambda z: chain.mean(policy.reference, k, z, cond), state, adjoint)


def lean_through_the_policy(whole, self, chain, policy, k, state, cond, base, adjoint):
    """The full adjoint without its running cost."""
    return torch.autograd.grad(chain.mean(policy.student, k, state, cond), state, adjoint)[0]


@pytest.mark.parametrize("back", [lean_not_transposed, lean_through_the_policy])
def test_mutants_of_the_lean_adjoint(back):
    assert adjoint_errors(part(back=back)(AdjointMatching)) > ALGEBRA.rtol


def through_the_base(whole, self, chain, policy, *arguments):
    return whole(chain, replace(policy, student=policy.reference), *arguments)


def full_not_transposed(whole, self, chain, policy, k, state, cond, base, adjoint):
    def mean(z):
        return chain.mean(policy.student, k, z, cond)

    cost = kl_cost(mean(state), base, chain.coefficients(state)[2][k])
    return jvp(mean, state, adjoint) + torch.autograd.grad(cost.sum(), state)[0]


def of_this_step(whole, self, *arguments):
    found, means = whole(*arguments)
    return found.roll(1, 1), means


def base_held_fixed(whole, self, policy, task, given):
    other = replace(policy, reference=lambda x, t, c=None: policy.reference(x.detach(), t, c))
    return whole(other, task, given)


PATHWISE = {
    "lean": part(back=through_the_base),
    "transposed": part(back=full_not_transposed),
    "no running cost": full_back(cost=lambda mean, base, s: 0 * mean),
    "adjoint of this step": part(solve=of_this_step),
    "std for variance": full_back(cost=lambda mean, base, s: s * kl_cost(mean, base, s)),
    "noise of another step": batch(
        noise=lambda m, b: torch.cat([b["noise"][:, :1], b["noise"][:, :-1]], 1)
    ),
    "student at a state held fixed": student(lambda v, b, x, t: v(x.detach(), t)),
    "reference at a state held fixed": part(loss=base_held_fixed),
    "another step's kernel": lambda kind: edit(
        kind, "x, cost = step(x, k)", "x, cost = step(x, 0)"
    ),
}
OF_DISCRETE = list(PATHWISE)[5:]


@pytest.mark.parametrize("name", PATHWISE)
def test_pathwise_mutants(name):
    which, kind = ("basic", BasicAdjointMatching)
    if name in OF_DISCRETE:
        which, kind = ("discrete", DiscreteAdjoint)
    mutant = {which: PATHWISE[name](kind)(steps=5, sigma_end=0.1)}
    assert max(errors(PLANE, "ancestral", **mutant)) > 1e-3


CONTINUOUS = "theory.methods.adjoint.continuous_adjoint"
HEUN = "0.5 * (first + slope(a + first))"
CONTROL = "(control.detach() + s * a) * control"


def slope(of):
    """Another slope of the adjoint at a state: of(slope, a)."""

    def _slope(whole, self, *arguments):
        right, base = whole(*arguments)
        return lambda a: of(right, a), base

    return part(_slope=_slope)


def nothing(a):
    return torch.zeros_like(a)


def of_the_base(whole, self, limit, policy, *arguments):
    return whole(limit, replace(policy, student=policy.reference), *arguments)


def limit(**entries):
    """Another limit where g is finite: each entry of the right one."""

    def wrong(found):
        regular = torch.tensor(found.regular)
        changed = {
            k: torch.where(regular, of(found), getattr(found, k)) for k, of in entries.items()
        }
        return replace(found, **changed)

    return name(
        f"{CONTINUOUS}.Limit",
        lambda whole: SimpleNamespace(of=lambda chain, like: wrong(whole.of(chain, like))),
        "solve",
        "loss",
    )


def without_s(method, given):
    s = Limit.of(method.chain(PLANE), given["x"]).s[:, None]
    return torch.cat([given["adjoint"][:, :-1] / s, given["adjoint"][:, -1:]], 1)


MUTANTS = {
    "Euler at the end": lambda kind: edit(kind, HEUN, "first"),
    "Euler at the beginning": lambda kind: edit(kind, HEUN, "slope(a)"),
    "Heun without the move": lambda kind: edit(kind, HEUN, "0.5 * (first + slope(a))"),
    "no cost": slope(lambda right, a: right(a) - right(nothing(a))),
    "the adjoint itself kept": slope(lambda right, a: right(a) + a),
    "cost without the 1/2": slope(lambda right, a: right(a) + right(nothing(a))),
    "reward's sign": name(
        f"{CONTINUOUS}.reward_gradient", lambda whole: lambda *given: -whole(*given), "solve"
    ),
    "adjoints of the next state": batch(adjoint=lambda m, b: later(b["adjoint"])),
    "adjoint's sign": batch(adjoint=lambda m, b: -b["adjoint"]),
    "s dropped": batch(adjoint=without_s),
    "control not held fixed": lambda kind: edit(kind, CONTROL, "(control + s * a) * control"),
    "slope for the value": lambda kind: edit(
        kind, "terms = cost + slope - slope.detach()", "terms = slope"
    ),
    "Q of half": limit(Q=lambda found: found.Q / 2),
    "P's sign": limit(P=lambda found: 2 - found.P),
    "s of half": limit(s=lambda found: found.s / 2**0.5),
    "velocity of the base": part(_slope=of_the_base),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_continuous_adjoint(name):
    assert continuous_errors("ancestral", MUTANTS[name](ContinuousAdjoint)) > 1e-3
