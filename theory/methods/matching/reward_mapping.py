"""From raw rewards to those that a loss takes: DiffusionNFT's released mapping into [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from theory.common.checks import check_choice
from theory.methods.contract.method import UNIT_INTERVAL, Method, RewardDomain
from theory.methods.contract.task import Task
from theory.problems.problem import Problem
from theory.tilts.moments import reward_moments

Mapping = Literal["identity", "released"]
CLIP, SPREAD, STD_FLOOR = 5.0, 10.0, 1e-4


@dataclass(frozen=True, kw_only=True)
class Mapped(Method):
    """Option of methods whose loss takes rewards in [0, 1].

    reward_mapping: "identity", or "released" (`released_mapping`), which any reward may go through.

    Raises:
        ValueError: another mapping.
    """

    reward_mapping: Mapping = "identity"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("reward_mapping", self.reward_mapping, get_args(Mapping))

    @property
    def rewards(self) -> RewardDomain:
        return RewardDomain() if self.reward_mapping == "released" else UNIT_INTERVAL

    def mapped(self, task: Task, raw: Tensor, cond: Any = None, *, base: bool = False) -> Tensor:
        raw = super().mapped(task, raw, cond, base=base)
        return raw if self.reward_mapping == "identity" else released_mapping(task, raw, cond, base)

    def slope(self, problem: Problem) -> float:
        """Of the mapped reward in the raw one, batch statistics by their expectation."""
        if self.reward_mapping == "identity":
            return 1.0
        _, std = reward_moments(problem.base, problem.moments)
        return 1 / (SPREAD * (std + STD_FLOOR))


def released_mapping(task: Task, raw: Tensor, cond: Any = None, base: bool = False) -> Tensor:
    """clamp(1/2 + clip(A, -5, 5)/10, 0, 1), A = (R - prompt's mean) / (batch's std + 1e-4), as the
    released code; of base samples, the statistics of all that they are drawn from."""
    mean, std = (task.base_statistics if base else task.reward_statistics)(raw, cond)
    advantage = (raw - mean) / (std + STD_FLOOR)
    return (0.5 + advantage.clamp(-CLIP, CLIP) / SPREAD).clamp(0.0, 1.0)
