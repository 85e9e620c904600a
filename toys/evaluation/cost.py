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
from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from theory.methods import Draws, ProblemTask
from toys.networks.mlp import StackedMLP
from toys.training.config import RunConfig

ROWS = 2  # of the step that is counted: what a row costs depends on no other row


class Evaluations(NamedTuple):
    """Networks evaluated at states: forward, and vector-Jacobian products."""

    forward: float
    vjp: float

    @property
    def total(self) -> float:
        return self.forward + self.vjp


class Counts(NamedTuple):
    """How often each network, by its role, was evaluated at a state."""

    forward: Counter[str]
    vjp: Counter[str]


class Counted(nn.Module):
    """A network that counts; copies of it (the reference) count under names of their own."""

    def __init__(self, model: nn.Module, role: str, counts: Counts) -> None:
        super().__init__()
        self.model, self.role, self.counts = model, role, counts

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        rows = {self.role: len(x)}
        self.counts.forward.update(rows)
        found: Tensor = self.model(x, t, cond)
        if found.requires_grad:
            found.register_hook(lambda gradient: self.counts.vjp.update(rows))
        return found

    def frozen_copy(self, role: str) -> Counted:
        """A frozen copy that counts under its own role."""
        return Counted(copy.deepcopy(self.model).requires_grad_(False).eval(), role, self.counts)


def counted_step(config: RunConfig) -> Counts:
    """The networks' evaluations in one step of training with ROWS rows, by role."""
    method, problem, counts = config.parsed, config.parsed_problem, Counts(Counter(), Counter())
    draws = Draws.seeded([0])

    def network(outputs: int, role: str) -> Counted:
        return Counted(StackedMLP(problem.dim, outputs, 4, 1, draws), role, counts)

    task = ProblemTask([problem], auxiliary_maker=lambda outputs, _: network(outputs, "auxiliary"))
    policy = method.setup(network(problem.dim, "student"), task, draws)
    with torch.enable_grad():
        losses, _ = method.loss(policy, task, method.collect(policy, task, ROWS, draws))
        losses.sum().backward()
    return counts


@lru_cache(maxsize=64)
def per_row(config: RunConfig) -> Evaluations:
    """Of one row of a batch in one step, all networks together."""
    found = counted_step(config)
    return Evaluations(found.forward.total() / ROWS, found.vjp.total() / ROWS)


def of_run(config: RunConfig) -> Evaluations:
    """Of the whole training."""
    return Evaluations(*(config.steps * config.batch * count for count in per_row(config)))
