"""Tilt Matching (Potaptchik, Lee, Albergo, arXiv 2512.21829): explicit, implicit, weighted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from theory.common.checks import check_choice, check_finite
from theory.methods import (
    Batch,
    Draws,
    Info,
    Online,
    Optimum,
    Policy,
    Task,
    column,
    square,
)
from theory.problems.problem import Problem
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential

Kind = Literal["explicit", "implicit", "weighted"]


@dataclass(frozen=True)
class TiltMatching(Online):
    """One step of the inverse temperature, from 0 to a = scale, over samples of the base.

    explicit  min E |v - v0 - a r (Y - v0)|^2: v = v0 + a Cov(Y, r | X_t), the first order in a
              of d v^a / da = Cov_a(Y, r | X_t). NFT's optimum at nft_beta = 2/a, reached by
              another loss.
    implicit  min E |v - sg[v0 + (exp(a r) - 1)(Y - v)]|^2, sg[.] held fixed. Fixed point:
              v = v0 + E[(exp(a r) - 1)(Y - v) | X_t], that is E[exp(a r) Y | X_t] / E[exp(a r) |
              X_t], the velocity of base exp(a r) / Z at any a.
    weighted  min E[exp(a r) |v - Y|^2], with the same optimum: flow matching on weighted samples.

    Y = alpha' X_1 + sigma' X_0, v0 the frozen base velocity. The implicit form's target is
    v0 + (exp(a r) - 1)(Y - v): where exp(a r) is near 1 it holds less of Y's noise than the
    weighted form's.

    refresh_every > 0 (`Online`) anneals: data and v0 are the old copy's, and k epochs, each at its
    optimum, lead to the inverse temperature k a.
    """

    kind: Kind = "implicit"
    scale: float = 2.0

    name: ClassVar[str] = "tilt_matching"
    summary: ClassVar[str] = "Tilt Matching: explicit (first order), implicit and weighted (exact)"
    source: ClassVar[str] = "Potaptchik, Lee, Albergo 2025 (arXiv 2512.21829)"
    named: ClassVar[tuple[str, ...]] = ("kind",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("kind", self.kind, get_args(Kind))
        check_finite("scale", self.scale)

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        batch = self.batch(policy, task, n, draws)
        if self.kind != "weighted":
            with torch.no_grad():
                batch["v0"] = policy.lagging(batch["x"], batch["t"], batch["cond"])
        return batch

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        v = policy.student(batch["x"], batch["t"], batch["cond"])
        y, r, info = batch["y"], self.scale * batch["r"], {"reward": batch["r"]}
        if self.kind == "weighted":
            return r.exp() * square(v - y), info
        if self.kind == "explicit":
            goal = batch["v0"] + column(r, y) * (y - batch["v0"])
        else:
            goal = batch["v0"] + column(r.expm1(), y) * (y - v.detach())
        return square(v - goal), info

    def optimum(self, problem: Problem) -> Optimum | None:
        target = self.target(problem)
        if target is None:
            return None
        if self.kind == "explicit":
            return Optimum(problem.cumulant_field(self.scale, 1))
        return Optimum(problem.tilted_field(Exponential(self.scale)), log_z=float(target.log_z))

    def target(self, problem: Problem) -> Tilt | None:
        once = problem.tilt(Exponential(self.scale))  # one epoch's; what is no density is refused
        return None if self.refresh_every else once
