"""Mistakes that somebody could make in a loss, each rejected by the sweep's expected gradient.

A mutant's policy stands at the optimum of the method as it is. Mistakes that leave the fixed point
alone are in `test_by_hand` and `test_relations`.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from importlib import import_module

import pytest
import torch

from tests.mutants.theory.methods import chains, gflownet, matching
from tests.mutants.theory.methods.chains import (
    ADJOINT,
    BASIC,
    DDPO,
    DISCRETE,
    VALUES,
    full_back,
    kl,
    kl_to_come,
    later,
    solution,
    to_come,
)
from tests.mutants.theory.methods.matching import (
    ANCHORED,
    EXP,
    EXPLICIT,
    FM,
    IMPLICIT,
    NFT,
    branches,
    penalty,
    tilted_y,
)
from tests.mutants.theory.methods.mutants import (
    LINE,
    MANY,
    Mutant,
    batch,
    collected,
    name,
    options,
    part,
    reference,
    student,
    true_optimum,
)
from theory.methods.adjoint import family as adjoints
from theory.methods.chain import rollouts
from theory.methods.contract import task as tasks
from theory.methods.contract.probe import (
    GradientTest,
    expected_gradient,
    gradient_samples,
    gradient_test,
    prepare,
)
from theory.methods.contract.task import column, square
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem

MUTANTS = matching.MUTANTS | chains.MUTANTS | gflownet.MUTANTS


def at_true_optimum(mutant: Mutant, method) -> GradientTest:
    return expected_gradient(method, load_problem(mutant.problem), "optimum", n=mutant.rows)


@pytest.mark.parametrize(
    ("text", "problem"), sorted({(m.text, m.problem) for m in MUTANTS.values()})
)
def test_methods_as_they_stand_pass(text, problem):
    whole = Mutant(text, problem)
    assert at_true_optimum(whole, whole.original).vanishes


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name):
    mutant = MUTANTS[name]
    assert not at_true_optimum(mutant, mutant.method()).vanishes


def combined(change):
    """Kernel means made of P, Q, the states and velocities."""

    def means(chain, model, x, cond, index=None):
        P, Q, _ = chain.coefficients(x)
        return change(P[:, None], Q[:, None], *rollouts.state_velocities(chain, model, x, cond))

    return means


def right_penalty(own, method, move, given):
    return method.kl_weight * square(given["v_old"] + move - given["v_ref"])


NOTHING = {
    "batch": Mutant(NFT, LINE, batch(r=lambda m, b: b["r"])),
    "branches": Mutant(NFT, LINE, branches(lambda r, p, n: r * p + (1 - r) * n)),
    "penalty": Mutant(ANCHORED, LINE, penalty(right_penalty)),
    "student": Mutant(NFT, LINE, student(lambda v, b, x, t: v(x, t, None))),
    "collected": Mutant(NFT, LINE, collected(lambda p, task, b: {})),
    "options": Mutant(NFT, LINE, options("loss", nft_beta=lambda m: m.nft_beta)),
    "Y": Mutant(IMPLICIT, LINE, tilted_y(0)),
    "KL to come": Mutant(DDPO, LINE, kl_to_come(to_come)),
    "KL": Mutant(DDPO, LINE, kl(lambda chain, means: 1)),
    "value": Mutant(DDPO, LINE, name(VALUES, lambda whole: whole, "loss")),
    "reference": Mutant(DDPO, LINE, reference("collect", lambda p: p.reference)),
    "kernel means": Mutant(
        DDPO,
        LINE,
        name(
            "theory.methods.policy_gradient.ddpo.kernel_means",
            lambda whole: combined(lambda P, Q, x, v: P * x + Q * v),
            "collect",
            "loss",
        ),
    ),
    "solution": Mutant(ADJOINT, LINE, solution(lambda whole, self, *given: whole(*given))),
    "step back": Mutant(BASIC, LINE, full_back()),
    "property": Mutant(DISCRETE, LINE, part(full_scale=lambda whole, self: whole())),
}


@pytest.mark.parametrize("change", NOTHING)
def test_changes_of_nothing_pass(change):
    mutant = NOTHING[change]
    assert at_true_optimum(mutant, mutant.method()).vanishes


def test_all_steps_kl_is_seen_by_the_value_network_alone():
    """KL already paid is a baseline: variance for the policy, another fixed point for the value."""
    mutant = MUTANTS["ddpo: KL of all steps"]
    method, problem = mutant.method(), load_problem(mutant.problem)
    setting = prepare(method, problem, "optimum")
    samples = gradient_samples(method, setting)
    own = setting.policy.student.theta[0].numel()
    assert gradient_test(samples[:, :own]).vanishes
    assert not gradient_test(samples[:, own:]).vanishes


def rewards(change):
    """A method whose loss sees other rewards: change(task, x)."""

    def loss(whole, self, policy, task, given):
        other = copy(task)
        other.reward = lambda x, cond=None: change(task, x)
        return whole(policy, other, given)

    return part(loss=loss)


DETACHED = {
    "the reward": lambda task, x: task.reward(x).detach(),
    "its state": lambda task, x: task.reward(x.detach()),
}


@pytest.mark.parametrize("name", DETACHED)
def test_detached_reward_is_refused(name):
    mutant = Mutant(DISCRETE, LINE, rewards(DETACHED[name]))
    with pytest.raises(ValueError, match=r"reward has no gradient.*discrete_adjoint"):
        at_true_optimum(mutant, mutant.method())


# --- what many methods share

PATH = {
    "alpha and sigma swapped": lambda path, x0, x1, t: (
        INTERPOLATE(path, x1, x0, t)[0],
        INTERPOLATE(path, x0, x1, t)[1],
    ),
    "sign of the noise": lambda path, x0, x1, t: (
        INTERPOLATE(path, x0, x1, t)[0],
        INTERPOLATE(path, -x0, x1, t)[1],
    ),
    "target is the data": lambda path, x0, x1, t: (
        INTERPOLATE(path, x0, x1, t)[0],
        INTERPOLATE(path, 0 * x0, x1, t)[1],
    ),
    "alpha for its derivative": lambda path, x0, x1, t: (
        INTERPOLATE(path, x0, x1, t)[0],
        INTERPOLATE(path, x0, 0 * x1, t)[1] + column(path.alpha(t), x1) * x1,
    ),
}
INTERPOLATE, SAMPLES = tasks.interpolate, tasks._mixture_samples


@pytest.mark.parametrize("name", PATH)
@pytest.mark.parametrize("text", [FM, NFT, EXP, EXPLICIT, IMPLICIT])
def test_mutant_of_the_path_is_rejected(name, text, monkeypatch):
    monkeypatch.setattr(tasks, "interpolate", PATH[name])
    whole = Mutant(text, LINE)
    assert not at_true_optimum(whole, whole.original).vanishes


LAWS = {
    "no weights": lambda law: replace(law, log_abs=torch.full_like(law.log_abs, 0.5).log()),
    "unit widths": lambda law: replace(law, cov=torch.ones_like(law.cov)),
    "widths of another component": lambda law: replace(law, cov=law.cov.roll(1, 0)),
}


@pytest.mark.parametrize("name", LAWS)
def test_mutant_of_the_base_samples_is_rejected(name, monkeypatch):
    monkeypatch.setattr(
        tasks, "_mixture_samples", lambda law, u, noise: SAMPLES(LAWS[name](law), u, noise)
    )
    whole = Mutant(FM, LINE, rows=MANY)
    assert not at_true_optimum(whole, whole.original).vanishes


def at_reversed_times(chain, model, x, cond, index=None):
    ends = float(chain.times[0] + chain.times[-1])
    return rollouts.kernel_means(chain, lambda x, t, c: model(x, ends - t, c), x, cond, index)


def at_next_states(chain, model, x, cond, index=None):
    return rollouts.kernel_means(chain, model, later(x), cond, index)


def reward_of_the_first_state(chain, model, task, n, draws):
    found = rollouts.trajectories(chain, model, task, n, draws)
    return found | {"r": task.reward(found["x"][:, 0], found["cond"])}


ROLLOUTS = {
    "rollouts: times reversed": ("kernel_means", at_reversed_times),
    "rollouts: the next state": ("kernel_means", at_next_states),
    "rollouts: P and Q swapped": ("kernel_means", combined(lambda P, Q, x, v: Q * x + P * v)),
    "rollouts: Q forgotten": ("kernel_means", combined(lambda P, Q, x, v: P * x + v)),
    "rollouts: reward of the first state": ("trajectories", reward_of_the_first_state),
}


@pytest.mark.parametrize(
    ("text", "name"),
    # Adjoint methods take the reward's gradient themselves.
    [(t, m) for m in ROLLOUTS for t in (DDPO, ADJOINT, BASIC) if t == DDPO or "reward" not in m],
)
def test_mutant_of_the_rollouts_is_rejected(name, text, monkeypatch):
    whole = Mutant(text, LINE)
    best, method = true_optimum(text, LINE), whole.original
    function, broken = ROLLOUTS[name]
    file = import_module(type(parse_method(text)).__module__)
    monkeypatch.setattr(file if hasattr(file, function) else adjoints, function, broken)
    assert best is not None
    assert not at_true_optimum(whole, method).vanishes


def of_the_reference(chain, model, task, n, draws):
    return rollouts.trajectories(chain, load_problem(LINE).base_field, task, n, draws)


GRADIENT = adjoints.reward_gradient
GRADIENTS = {
    "gradient of the mean reward": lambda method, task, x, cond: (
        GRADIENT(method, task, x, cond) / len(x)
    ),
    "reward_scale dropped": lambda method, task, x, cond: (
        GRADIENT(method, task, x, cond) / method.reward_scale
    ),
    "reward_scale squared": lambda method, task, x, cond: (
        GRADIENT(method, task, x, cond) * method.reward_scale
    ),
    "rollouts of the reference": None,
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("text", [ADJOINT, BASIC])
def test_mutant_of_what_adjoint_methods_share_is_rejected(name, text, monkeypatch):
    text = text.replace("scale=2.5", "scale=1.25,reward_scale=2") if "scale" in name else text
    whole = Mutant(text, LINE)
    method = whole.original
    if GRADIENTS[name] is None:
        monkeypatch.setattr(adjoints, "trajectories", of_the_reference)
    else:
        file = type(parse_method(text)).__module__
        monkeypatch.setattr(f"{file}.reward_gradient", GRADIENTS[name])
    assert not at_true_optimum(whole, method).vanishes
