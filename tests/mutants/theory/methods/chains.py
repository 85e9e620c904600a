"""Mistakes in DDPO, Adjoint Matching, basic Adjoint Matching and the discrete adjoint."""

from __future__ import annotations

from dataclasses import replace

import torch

from tests.mutants.theory.methods.mutants import (
    LINE,
    MANY,
    PLANE,
    Mutant,
    batch,
    edited,
    name,
    options,
    part,
    reference,
)
from theory.methods import square
from theory.problems.problem import load_problem

DDPO = "ddpo:kl_weight=0.4,steps=6,sigma_end=0.1"
DDPO_2D = "ddpo:kl_weight=0.4,steps=4,sigma_end=0.1"
ADJOINT = "adjoint_matching:scale=2.5,steps=6,sigma_end=0.1"
BASIC = "basic_adjoint_matching:scale=2.5,steps=6,sigma_end=0.1"
DISCRETE = "discrete_adjoint:scale=2.5,steps=6,sigma_end=0.1"

KL = "theory.methods.policy_gradient.ddpo._kl"
VALUES = "theory.methods.policy_gradient.ddpo.kernel_values"
GRADIENT = "theory.methods.adjoint.adjoint_matching.reward_gradient"
LOG_PROB = "log_prob = -_kl(chain, x[:, 1:], means)"
DISCRETE_STEP = "return mean + s[k] * noise[:, k + 1], 0.5 * square(control)"


def later(x):
    """Every state's successor in its place."""
    return torch.cat([x[:, 1:], x[:, -1:]], 1)


# --- DDPO


def to_come(kl):
    return kl.flip(1).cumsum(1).flip(1)


def kl_to_come(wanted):
    """A batch whose KL to come is wanted(kl): the differences of its neighbours."""

    def kl(method, given):
        sums = wanted(given["kl"])
        return sums - torch.cat([sums[:, 1:], torch.zeros_like(sums[:, :1])], 1)

    return batch(kl=kl)


def at_reversed_times(whole):
    def values(chain, policy, x, cond):
        ends = float(chain.times[0] + chain.times[-1])
        network = policy.networks["value"]
        turned = {"value": lambda x, t, cond: network(x, ends - t, cond)}
        return whole(chain, replace(policy, networks=turned), x, cond)

    return values


def of_next_states(whole):
    return lambda chain, policy, x, cond: whole(chain, policy, later(x), cond)


def kl(factor):
    """KL times factor(chain, means)."""
    return name(
        KL,
        lambda whole: lambda chain, one, other: factor(chain, one) * whole(chain, one, other),
        "collect",
        "loss",
    )


# --- the adjoint family


def over_std(sequence, method):
    """Entries of every step over its s."""
    s = method.chain(load_problem(LINE)).coefficients(sequence)[2]
    return sequence / s[:, None]


def adjoint(of):
    return batch(adjoint=lambda m, b: of(m, b["adjoint"]))


def solution(of):
    """Other adjoints and means along a trajectory: of(whole, method, policy, task, x, cond)."""
    return part(solve=of)


def reversed_adjoints(whole, self, policy, task, x, cond):
    found, means = whole(policy, task, x, cond)
    return found.flip(1), means


def at_later_states(whole, self, policy, task, x, cond):
    return whole(policy, task, later(x), cond)[0], whole(policy, task, x, cond)[1]


def reward_of_the_state_before(whole, self, policy, task, x, cond):
    return whole(policy, task, torch.cat([x[:, :-1], x[:, -2:-1]], 1), cond)


def one_step_early(whole, self, policy, task, x, cond):
    """Adjoints of states 0 .. T - 1 for those of 1 .. T."""
    found, means = whole(policy, task, x, cond)
    chain = self.chain(task)
    with torch.enable_grad():
        state = x[:, 0].detach().requires_grad_(True)
        base = chain.mean(policy.reference, 0, state, cond)
        first = self.back(chain, policy, 0, state, cond, base, found[:, 0])
    return torch.cat([first[:, None], found[:, :-1]], 1), means


def no_jacobian(whole, self, chain, policy, k, state, cond, base, adjoint):
    return adjoint


def kl_cost(mean, base, s):
    return square(mean - base) / (2 * s**2)


def full_back(cost=kl_cost, pull=lambda mean, adjoint: (mean * adjoint).sum()):
    """Basic Adjoint Matching's step back, as it is but for what is given."""

    def back(whole, self, chain, policy, k, state, cond, base, adjoint):
        mean = chain.mean(policy.student, k, state, cond)
        total = pull(mean, adjoint) + cost(mean, base, chain.coefficients(state)[2][k]).sum()
        return torch.autograd.grad(total, state)[0]

    return part(back=back)


def held_fixed(policy):
    """The reference at states without a graph."""
    return lambda x, t, cond=None: policy.reference(x.detach(), t, cond)


def the_student(policy):
    return policy.student


MUTANTS = {
    # DDPO
    "ddpo: reward's sign": Mutant(DDPO, LINE, batch(r=lambda m, b: -b["r"])),
    "ddpo: KL's sign in the return": Mutant(DDPO, LINE, batch(kl=lambda m, b: -b["kl"])),
    "ddpo: KL left out of the return": Mutant(DDPO, LINE, batch(kl=lambda m, b: 0 * b["kl"])),
    "ddpo: advantage's sign": edited(DDPO, LINE, "-advantage * log_prob", "advantage * log_prob"),
    "ddpo: KL's own gradient left out": edited(
        DDPO, LINE, "(-advantage * log_prob + self.kl_weight * kl)", "(-advantage * log_prob)"
    ),
    "ddpo: weight left off the KL's gradient": edited(
        DDPO, LINE, "+ self.kl_weight * kl)", "+ kl)"
    ),
    "ddpo: KL without the 1/2": Mutant(DDPO, LINE, kl(lambda chain, means: 2)),
    "ddpo: std for variance": Mutant(
        DDPO, LINE, kl(lambda chain, means: chain.coefficients(means)[2])
    ),
    "ddpo: KL of the past": Mutant(DDPO, LINE, kl_to_come(lambda kl: kl.cumsum(1))),
    "ddpo: gradient through the baseline": edited(DDPO, LINE, "value.detach()", "value"),
    # These two leave the policy's gradient alone: the value network's rejects them.
    "ddpo: KL of all steps": Mutant(
        DDPO, LINE, kl_to_come(lambda kl: kl.sum(1, keepdim=True).expand_as(kl))
    ),
    "ddpo: KL of later steps only": Mutant(DDPO, LINE, kl_to_come(lambda kl: to_come(kl) - kl)),
    "ddpo: log-probability of the step before": edited(
        DDPO, LINE, LOG_PROB, LOG_PROB.replace("1:", ":-1")
    ),
    "ddpo: log-probability averaged over dimensions": edited(
        DDPO_2D, PLANE, LOG_PROB, f"{LOG_PROB} / x.shape[-1]"
    ),
    "ddpo: all squares averaged over dimensions": Mutant(
        DDPO_2D, PLANE, kl(lambda chain, means: 1 / means.shape[-1]), MANY
    ),
    "ddpo: value at the wrong times": Mutant(DDPO, LINE, name(VALUES, at_reversed_times, "loss")),
    "ddpo: value of the next state": Mutant(DDPO, LINE, name(VALUES, of_next_states, "loss")),
    "ddpo: reference is the student": Mutant(DDPO, LINE, reference("collect", the_student)),
    # Adjoint Matching
    "am: sign": Mutant(ADJOINT, LINE, adjoint(lambda m, a: -a)),
    "am: scale dropped": Mutant(ADJOINT, LINE, adjoint(lambda m, a: a / m.scale)),
    "am: s dropped on the right": Mutant(ADJOINT, LINE, adjoint(lambda m, a: over_std(a, m))),
    "am: s dropped on the left": edited(ADJOINT, LINE, "(means - base) / s", "(means - base)"),
    "am: adjoint of the wrong step": Mutant(ADJOINT, LINE, solution(one_step_early)),
    "am: adjoints in reverse": Mutant(ADJOINT, LINE, solution(reversed_adjoints), MANY),
    "am: without the base's Jacobian": Mutant(ADJOINT, LINE, part(back=no_jacobian)),
    "am: Jacobian at the wrong state": Mutant(ADJOINT, LINE, solution(at_later_states)),
    "am: reward's gradient is zero": Mutant(ADJOINT, LINE, adjoint(lambda m, a: 0 * a)),
    "am: reward at the state before": Mutant(ADJOINT, LINE, solution(reward_of_the_state_before)),
    "am: reference is the student": Mutant(ADJOINT, LINE, reference("solve", the_student)),
    # basic Adjoint Matching; the lean adjoint in its place has the same fixed point
    # (`test_by_hand` tells them apart)
    "basic: sign of the adjoint": Mutant(BASIC, LINE, adjoint(lambda m, a: -a)),
    "basic: s dropped on the right": Mutant(BASIC, LINE, adjoint(lambda m, a: over_std(a, m))),
    "basic: s dropped on the left": edited(BASIC, LINE, "(means - base) / s", "(means - base)"),
    "basic: scale dropped": Mutant(BASIC, LINE, options("solve", scale=lambda m: 1.0)),
    "basic: reward's sign": Mutant(
        BASIC, LINE, name(GRADIENT, lambda whole: lambda *given: -whole(*given), "solve")
    ),
    "basic: adjoint of the wrong step": Mutant(BASIC, LINE, solution(one_step_early)),
    "basic: adjoints in reverse": Mutant(BASIC, LINE, solution(reversed_adjoints), MANY),
    "basic: without the KL's own gradient": Mutant(
        BASIC, LINE, full_back(cost=lambda mean, base, s: 0 * mean), MANY
    ),
    "basic: KL without the 1/2": Mutant(
        BASIC, LINE, full_back(cost=lambda mean, base, s: 2 * kl_cost(mean, base, s)), MANY
    ),
    "basic: std for variance in the KL": Mutant(
        BASIC, LINE, full_back(cost=lambda mean, base, s: s * kl_cost(mean, base, s)), MANY
    ),
    "basic: without the policy's Jacobian": Mutant(BASIC, LINE, part(back=no_jacobian)),
    "basic: KL's gradient alone": Mutant(BASIC, LINE, full_back(pull=lambda mean, adjoint: 0.0)),
    "basic: Jacobian at the wrong state": Mutant(BASIC, LINE, solution(at_later_states)),
    "basic: reference held fixed in the KL": Mutant(
        BASIC, LINE, full_back(cost=lambda mean, base, s: kl_cost(mean, base.detach(), s)), MANY
    ),
    "basic: reward at the state before": Mutant(BASIC, LINE, solution(reward_of_the_state_before)),
    # discrete adjoint; with the student's state held fixed it is a lean one, of one step
    "discrete: reward's sign": Mutant(DISCRETE, LINE, part(full_scale=lambda whole, m: -whole())),
    "discrete: scale dropped": Mutant(DISCRETE, LINE, part(full_scale=lambda whole, self: 1.0)),
    "discrete: the noise's s dropped": Mutant(
        DISCRETE,
        LINE,
        batch(noise=lambda m, b: torch.cat([b["noise"][:, :1], over_std(b["noise"][:, 1:], m)], 1)),
    ),
    "discrete: the control's s dropped": edited(DISCRETE, LINE, ") / s[k]", ")"),
    "discrete: cost without the 1/2": Mutant(
        DISCRETE, LINE, options("loss", reward_scale=lambda m: 0.5)
    ),
    "discrete: no cost": edited(DISCRETE, LINE, "costs.append(cost)", "costs.append(0 * cost)"),
    "discrete: reference at a state held fixed": Mutant(
        DISCRETE, LINE, reference("loss", held_fixed), MANY
    ),
    "discrete: policy held fixed in the rollout": edited(
        DISCRETE, LINE, DISCRETE_STEP, DISCRETE_STEP.replace("mean", "mean.detach()")
    ),
    "discrete: reference is the student": Mutant(DISCRETE, LINE, reference("loss", the_student)),
    "discrete: reward of the state before": edited(
        DISCRETE,
        LINE,
        "x, cost = step(x, k)",
        "(old, (x, cost)) = (x, step(x, k))\n"
        "                x = x if k + 1 < chain.steps else old + 0 * x",
    ),
}
