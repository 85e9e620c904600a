"""Phi-weighted flow matching: base samples, each counted Phi(r) times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from theory.common.checks import check_choice, check_finite, check_order, check_positive
from theory.methods import (
    Batch,
    Draws,
    Info,
    Online,
    Optimum,
    Policy,
    RewardDomain,
    Task,
    square,
)
from theory.problems.problem import Problem
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import (
    MAX_ORDER,
    ClippedExponential,
    Exponential,
    Power,
    TruncatedExponential,
    Wrapper,
)

Kind = Literal["exp", "truncated", "power", "clipped"]


@dataclass(frozen=True)
class WeightedFlowMatching(Online):
    """min E[Phi(r(X_1)) |v(X_t, t) - Y|^2], X_1 from the base, Y = alpha' X_1 + sigma' X_0.

    Optimum: the velocity of base Phi(r) / Z, at every Phi >= 0 (liu, section 2; claim L11). With
    refresh_every > 0 (`Online`) X_1 comes from the old copy, and k epochs, each at its optimum,
    lead to base Phi(r)^k / Z.

    wrapper: Phi = exp(scale r); its Taylor polynomial of degree `order` ("truncated"); r^exponent
        ("power"); min(exp(scale r), max_weight) ("clipped").
    """

    wrapper: Kind = "exp"
    scale: float = 2.0
    order: int = 1
    exponent: int = 1
    max_weight: float = 10.0

    name: ClassVar[str] = "weighted_flow_matching"
    summary: ClassVar[str] = "flow matching on base samples weighted by Phi(r)"
    source: ClassVar[str] = "liu, section 2; RWR-type losses"
    named: ClassVar[tuple[str, ...]] = ("wrapper",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("wrapper", self.wrapper, get_args(Kind))
        check_finite("scale", self.scale)
        check_order("order", self.order, 1, MAX_ORDER)
        check_order("exponent", self.exponent, 1, MAX_ORDER)
        check_positive("max_weight", self.max_weight)

    @property
    def phi(self) -> Wrapper:
        """Phi."""
        kinds: dict[str, Wrapper] = {
            "exp": Exponential(self.scale),
            "truncated": TruncatedExponential(self.scale, self.order),
            "power": Power(self.exponent),
            "clipped": ClippedExponential(self.scale, self.max_weight),
        }
        return kinds[self.wrapper]

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        batch = self.batch(policy, task, n, draws)
        batch["weight"] = self.phi(batch["r"])
        RewardDomain(low=0.0).check_values(batch["weight"], f"Phi(r) of {self.label}")
        return batch

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        error = policy.student(batch["x"], batch["t"], batch["cond"]) - batch["y"]
        return batch["weight"] * square(error), {"reward": batch["r"], "weight": batch["weight"]}

    def optimum(self, problem: Problem) -> Optimum | None:
        target = self.target(problem)
        if target is None:
            return None
        return Optimum(problem.tilted_field(self.phi), log_z=float(target.log_z))

    def target(self, problem: Problem) -> Tilt | None:
        once = problem.tilt(self.phi)  # one epoch's; what is no density is refused
        return None if self.refresh_every else once
