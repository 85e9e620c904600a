"""Flow matching: how the base is trained, and the loss that the others reweight or correct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from theory.fields.mixture import VelocityModel
from theory.methods import (
    Batch,
    Budget,
    Draws,
    Info,
    Method,
    Optimum,
    Policy,
    Task,
    endpoint_batch,
    square,
)
from theory.problems.problem import Problem
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential


@dataclass(frozen=True)
class FlowMatching(Method):
    """min E |v(X_t, t) - Y|^2, Y = alpha' X_1 + sigma' X_0 (X_1 - X_0 on the rectified flow).

    Optimum: v0 = E[Y | X_t], whose flow samples the base law (Lipman et al. 2023; Liu et al.
    2023). target_velocity "exact" puts v0 itself in Y's place: the same optimum without the
    noise of Y, for pretraining where the base is known.
    """

    target_velocity: Literal["sample", "exact"] = "sample"

    name: ClassVar[str] = "flow_matching"
    summary: ClassVar[str] = "the base: regression on the path's derivative"
    source: ClassVar[str] = "Lipman et al. 2023 (arXiv 2210.02747); Liu et al. 2023 (2209.03003)"
    starts_from: ClassVar[Literal["base", "scratch"]] = "scratch"
    budget: ClassVar[Budget] = Budget(steps=4000, batch=512, learning_rate=6e-3)

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        return Policy(student)

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        batch = endpoint_batch(task, task.endpoints(n, draws))
        if self.target_velocity == "exact":
            batch["y"] = task.base_velocity(batch["x"], batch["t"])
        return batch

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        return square(policy.student(batch["x"], batch["t"], batch["cond"]) - batch["y"]), {}

    def optimum(self, problem: Problem) -> Optimum:
        return Optimum(problem.base_field, log_z=0.0)

    def target(self, problem: Problem) -> Tilt:
        return problem.tilt(Exponential(0.0))
