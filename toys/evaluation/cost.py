"""What a step of training costs in model evaluations, counted on the method's own code.

One evaluation is a network at one state: forward, or a vector-Jacobian product (vjp) through it,
be it for the state, for the parameters or for both. Networks: the student, the frozen reference,
and auxiliary ones (DDPO's value), which are as large. T kernels, a row of a batch:

    method                    forward   vjp
    adjoint_matching          3 T       2 T - 1      rollout, base along it, loss; adjoint, loss
    basic_adjoint_matching    4 T - 1   3 T - 2      the policy along it too
    discrete_adjoint          2 T       2 T - 1      the rollout is the loss
    continuous_adjoint        4 T       5 T - 2      Heun: two slopes an interval but the last
    ddpo (kl_weight > 0)      5 T       2 T          no adjoint; the value network T and T

(Euler kernels; `tests/toys/experiments/test_control.py` holds the table to the count.)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from theory.methods import Draws, ProblemTask
from toys.networks.mlp import StackedMLP
from toys.training.config import RunConfig

ROWS = 2  # of the step that is counted: what a row costs depends on no other row


@dataclass(frozen=True)
class Evaluations:
    """Networks evaluated at states: forward, and vector-Jacobian products."""

    forward: float
    vjp: float

    @property
    def total(self) -> float:
        return self.forward + self.vjp

    def times(self, count: float) -> Evaluations:
        """Of so many rows."""
        return Evaluations(self.forward * count, self.vjp * count)


@dataclass
class Counter:
    """How often each network, by its role, was evaluated at a state."""

    forward: dict[str, int] = field(default_factory=dict)
    vjp: dict[str, int] = field(default_factory=dict)


class Counted(nn.Module):
    """A network that counts; copies of it (the reference) count under names of their own."""

    def __init__(self, model: nn.Module, role: str, counter: Counter) -> None:
        super().__init__()
        self.model, self.role, self.counter = model, role, counter

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        counter, role, rows = self.counter, self.role, len(x)
        counter.forward[role] = counter.forward.get(role, 0) + rows
        found = self.model(x, t, cond)
        if found.requires_grad:

            def count(gradient: Tensor) -> None:
                counter.vjp[role] = counter.vjp.get(role, 0) + rows

            found.register_hook(count)
        assert isinstance(found, Tensor)
        return found

    def frozen_copy(self, role: str) -> Counted:
        """A frozen copy that counts under its own role."""
        twin = copy.deepcopy(self.model).requires_grad_(False).eval()
        return Counted(twin, role, self.counter)


def counted_step(config: RunConfig) -> Counter:
    """The networks' evaluations in one step of training with ROWS rows, by role."""
    method, problem, counter = config.parsed, config.parsed_problem, Counter()
    draws = Draws.seeded([0])

    def network(outputs: int, role: str) -> Counted:
        return Counted(StackedMLP(problem.dim, outputs, 4, 1, draws), role, counter)

    task = ProblemTask([problem], auxiliary_maker=lambda outputs, _: network(outputs, "auxiliary"))
    policy = method.setup(network(problem.dim, "student"), task, draws)
    with torch.enable_grad():
        batch = method.collect(policy, task, ROWS, draws)
        losses, _ = method.loss(policy, task, batch)
        losses.sum().backward()
    return counter


@lru_cache(maxsize=64)
def _per_row(method: str, problem: str) -> Evaluations:
    found = counted_step(RunConfig(method=method, problem=problem))
    return Evaluations(sum(found.forward.values()) / ROWS, sum(found.vjp.values()) / ROWS)


def per_row(config: RunConfig) -> Evaluations:
    """Of one row of a batch in one step, all networks together."""
    return _per_row(config.method, config.problem)


def of_run(config: RunConfig) -> Evaluations:
    """Of the whole training."""
    return per_row(config).times(config.steps * config.batch)
