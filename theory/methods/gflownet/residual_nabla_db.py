"""Residual nabla-DB: the scores of detailed balance, the pretrained chain divided out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from theory.fields.mixture import VelocityModel
from theory.methods import Batch, Draws, Optimum, Policy, Task
from theory.methods.gflownet.family import Residual
from theory.methods.gflownet.nabla_db import Nabla
from theory.methods.gflownet.transitions import Scores, Transitions
from theory.problems.problem import Problem

PAIRED, ADDED = "correction_paired", "correction_added"


@dataclass(frozen=True)
class ResidualNablaDB(Residual, Nabla):
    """sum_k w_F |u - h'|^2 + w_B |J'(x' - m)/s^2 - eta J#'(x' - m#)/s^2 + h|^2 + w_T |...|^2 over
    the policy's trajectories, held fixed, h and h' the flow's scores at x = X_k and x' = X_{k+1},
    u = ((x' - m#) eta - (x' - m))/s^2 the residual score in x', m and m# the means of the policy's
    and the pretrained kernels, J and J# their Jacobians: (12), (13) and (14), or (16)-(19) with the
    forward-looking part. eta = prior.

    On-policy u = (m - m#)/s^2 for eta = 1, but h' fluctuates about its mean given x, and the loss
    pays for that at every step: as it is printed, its fixed point leaves a part of the way to the
    target, however many steps there are (`theory.gflownet.class_best`). held = True and
    bidirectional = True have the KL-regularised optimum over Gaussian kernels for theirs.

    correction: a learnt c(x, x') is added to log P_F/P#, (51) and (52), for a pretrained model that
        violates detailed balance; here <A(x), x'> + b(x'), A and grad b networks beside the flow's.
        (52) prints log F(x') under a gradient in x; trained is the reverse loss with log F(x).
        Every policy meets what results, with A = -u and grad b = h' (rows G4 and G9 of the ledger):
        which one training comes to is the optimiser's choice, and no optimum is stated.
    """

    correction: bool = False

    name: ClassVar[str] = "residual_nabla_db"
    summary: ClassVar[str] = "the scores of residual detailed balance, with a flow's score learnt"
    source: ClassVar[str] = "nabla-GFlowNet (11)-(19), Algorithm 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.correction and self.bidirectional:
            raise ValueError(
                "correction must be False with bidirectional = True, which has no flow, got True"
            )

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        policy = super().setup(student, task, draws)
        if self.correction:
            for name in (PAIRED, ADDED):
                policy.networks[name] = task.auxiliary("event", draws, near_zero=True)
        return policy

    def scores(self, policy: Policy, walk: Transitions, batch: Batch) -> Scores:
        """The kernels' scores less the prior's, and those of c."""
        own = super().scores(policy, walk, batch)
        if not self.correction:
            return own
        here = walk.here.detach()
        with torch.set_grad_enabled(self.reverse or torch.is_grad_enabled()):
            here.requires_grad_(self.reverse)
            paired = walk.at(policy.networks[PAIRED], here, walk.k)
            after = own.after + paired + walk.at(policy.networks[ADDED], walk.after, walk.k + 1)
            if not self.reverse:
                return own._replace(after=after)
            (back,) = torch.autograd.grad(paired, here, walk.after, create_graph=True)
        return own._replace(after=after, before=own.before + back)

    def optimum(self, problem: Problem) -> Optimum | None:
        """As nabla-DB's; None with a correction, where every policy is one."""
        return None if self.correction else super().optimum(problem)
