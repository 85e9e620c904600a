"""A KL anchor: a penalty kl_weight |v - v_ref|^2 that holds a velocity to a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from theory.common.checks import check_choice, check_nonnegative
from theory.methods.contract.method import Method, Policy
from theory.methods.contract.task import Task
from theory.problems.problem import Problem

Anchor = Literal["base", "guided"]


@dataclass(frozen=True, kw_only=True)
class Anchored(Method):
    """Options of methods whose loss may add kl_weight |v - v_ref|^2, v_ref of `anchored`.

    kl_weight: of the penalty, >= 0; 0: none.
    anchor: v_ref, the base, or the base under classifier-free guidance.

    Raises:
        ValueError: an option is out of range, or changes nothing.
    """

    kl_weight: float = 0.0
    anchor: Anchor = "base"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonnegative("kl_weight", self.kl_weight)
        check_choice("anchor", self.anchor, get_args(Anchor))
        if self.anchor != "base" and not self.kl_weight:
            raise ValueError(
                f"anchor must come with kl_weight > 0, else it changes nothing, got {self.anchor!r}"
            )

    def check_problem(self, problem: Problem) -> None:
        super().check_problem(problem)
        if self.anchor == "guided":
            problem.guided_field  # noqa: B018  (refuses problems without guidance)

    def anchored(self, policy: Policy, task: Task, batch: dict[str, Any]) -> dict[str, Tensor]:
        """{"v_ref": the anchor's velocity at a batch's rows}, or nothing where kl_weight is 0."""
        if not self.kl_weight:
            return {}
        assert policy.reference is not None
        model = task.guided_velocity if self.anchor == "guided" else policy.reference
        with torch.no_grad():
            return {"v_ref": model(batch["x"], batch["t"], batch["cond"])}
