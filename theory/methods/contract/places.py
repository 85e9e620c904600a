"""A method's policy on a problem: at the reference, at its stated optimum, or displaced from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from theory.methods.contract import returned
from theory.methods.contract.draws import Draws
from theory.methods.contract.method import Batch, Method, Optimum, Policy, frozen_copy
from theory.methods.contract.perturbed import Displaced, Perturbed
from theory.methods.contract.task import ProblemTask
from theory.problems.problem import Problem

Place = Literal["optimum", "reference"]
STUDENT = "student"


def _zero(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    return torch.zeros(len(x), 1, dtype=x.dtype)


@dataclass(frozen=True)
class Setting:
    """A method ready to be asked: its task, its policy and a batch that it collected."""

    task: ProblemTask
    policy: Policy
    batch: Batch


def prepare(
    method: Method,
    problem: Problem,
    place: Place,
    *,
    blocks: int = 48,
    n: int = 256,
    seed: int = 0,
    best: Optimum | None = None,
) -> Setting:
    """The method on a problem, its policy at the optimum (`best`, if found before) or reference.

    Raises:
        ValueError: the method has no exact optimum on this problem (place "optimum").
    """
    task, policy, draws, players = policy_on(
        method, problem, blocks, seed,
        lambda function, outputs, i: Perturbed(function, blocks, problem.dim, outputs, i),
    )  # fmt: skip
    if place == "optimum":
        best = method.optimum(problem) if best is None else best
        if best is None or not best.exact:
            why = best.note if best is not None else "it states none"
            raise ValueError(f"{method.label} has no exact optimum on {problem.name!r}: {why}")
        move(method, players, best)
        catch_up(policy)
    return Setting(task, policy, returned.collect(method, policy, task, n, draws))


Made = tuple[ProblemTask, Policy, Draws, dict[str, Any]]


def policy_on(
    method: Method,
    problem: Problem,
    blocks: int,
    seed: int,
    make: Callable[[Callable[..., Tensor], int, int], nn.Module],
) -> Made:
    """The method at the reference, and its players: the models that are trained, by name, made by
    make(function, outputs, seed)."""
    task = ProblemTask(
        [problem] * blocks,
        dtype=torch.float64,
        auxiliary_maker=lambda outputs, draws: make(_zero, outputs, 1),
    )
    draws = Draws.seeded([seed * blocks + i for i in range(blocks)], torch.float64)
    student: Any = make(problem.base_field, problem.dim, 0)
    policy = returned.setup(method, student, task, draws)
    return task, policy, draws, {STUDENT: student, **policy.networks}


def move(method: Method, players: dict[str, Any], best: Optimum) -> None:
    """The players to the optimum.

    Raises:
        ValueError: it states no function for one of them, or one is a network of another's making.
    """
    functions = {STUDENT: best.velocity, **best.networks}
    for name, model in players.items():
        if name not in functions:
            raise ValueError(
                f"the optimum of {method.label} must have a function for each network that is "
                f"trained, {name!r} too, got networks {sorted(best.networks)}"
            )
        if not isinstance(model, Perturbed | Displaced):
            raise ValueError(
                f"{method.label} must train what task.auxiliary(outputs, draws) makes where an "
                f"optimum is stated, got a {type(model).__name__} as networks[{name!r}]"
            )
        model.function = functions[name]


def catch_up(policy: Policy) -> None:
    """The old copy, if there is one, to where the student stands."""
    if policy.old is not None:
        policy.old = frozen_copy(policy.student, "old")


def gradient_samples(method: Method, setting: Setting) -> Tensor:
    """(blocks, parameters): one gradient of the mean loss a block, independent of the others."""
    losses, _ = returned.loss(method, setting.policy, setting.task, setting.batch)
    total = setting.task.per_network(losses).mean(1).sum()
    parameters = setting.policy.parameters()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten(1) for g in gradients], 1)
