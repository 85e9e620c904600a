"""Trajectory balance: one condition a trajectory, with a learnt log Z."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from theory.common.checks import check_positive, check_share
from theory.fields.mixture import VelocityModel
from theory.methods import Batch, Draws, Info, Optimum, Policy, Task
from theory.methods.chain.rollouts import Smooth
from theory.methods.gflownet.family import GFlowNet, Residual, WithoutPrior
from theory.methods.gflownet.transitions import Transitions
from theory.methods.gflownet.truth import Case
from theory.problems.problem import Problem
from theory.samplers.chain import Chain

LOG_Z = "log_z"


@dataclass(frozen=True)
class TrajectoryMethod(GFlowNet):
    """Options of trajectory balance; no method by itself.

    On the policy's own trajectories, held fixed, half the loss's expected gradient is that of
    KL(P_F || R^beta P#/Z) over paths, log Z a baseline: the optimum over Gaussian kernels is the
    KL-regularised one (`theory.control.chain_optimum`), log Z its value. Trajectories of another
    law move it where Gaussian kernels cannot meet the condition.

    log Z is an auxiliary network asked at one place, x = 1 and t = 0: so it may depend on what a
    row is conditioned on.

    temper: the kernels' noise that trajectories are made with, in their own; 1: the policy's.
    backward: the share of rows that come from base samples, noised back by P_B; in [0, 1).
    """

    temper: float = 1.0
    backward: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("temper", self.temper)
        check_share("backward", self.backward)

    @property
    def on_policy(self) -> bool:
        """Whether the policy's own trajectories are all that it learns from."""
        return self.temper == 1 and not self.backward

    # --- training

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        policy = super().setup(student, task, draws)
        policy.networks[LOG_Z] = task.auxiliary(1, draws, near_zero=True)
        return policy

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        """Trajectories and the prior's log-densities along them.

        Raises:
            ValueError: form is "plain" and a reward is not positive.
        """
        make = self.walked if self.on_policy else self.explored
        batch = make(policy, task, n, draws)

        def fixed(part: dict[str, Any]) -> dict[str, Any]:
            walk = self.walk(task, part)
            return {"prior": self.against.log_density(policy, walk)} | self.anchored(policy, walk)

        batch |= self.in_pieces(task, batch, fixed)
        return self.followed(policy, batch)

    def walk(self, task: Task, batch: Any) -> Transitions:
        """All of a batch's transitions."""
        return Transitions.of(self.chain(task), batch["x"], batch["cond"])

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        walk = self.walk(task, batch)
        mean, velocity = walk.means(policy.student, walk.here)
        log_ratio = walk.log_density(walk.after - mean, walk.variance) - batch["prior"]
        log_z = policy.networks[LOG_Z](*place(walk.x), batch["cond"])[:, 0]
        left = log_z + log_ratio.sum(1) - self.scale * batch["log_reward"]
        left = left + self.log_start(walk)
        losses = left.square() + self.penalty(batch, velocity).sum(1)
        return losses, {"reward": batch["r"], "log_z": log_z.detach()}

    def log_start(self, walk: Transitions) -> Tensor:
        """What else a trajectory's condition has of X_0, (rows,): nothing, where both sides begin
        with the same law."""
        return walk.x.new_zeros(len(walk.x))

    def explored(self, policy: Policy, task: Task, n: int, draws: Draws) -> dict[str, Any]:
        """Trajectories with the kernels' noise tempered, and from base samples back."""
        chain, many = self.chain(task), round(self.backward * n)
        model = policy.student if self.data == "now" else policy.old
        assert model is not None
        cond = task.conditions(n - many, draws)
        noise = draws.normal(n - many, chain.steps + 1, *task.event_shape)
        noise[:, 1:] *= self.temper
        with torch.no_grad():
            x = chain.rollout(model, noise, cond)
            if many:
                last, other, _ = task.base_samples(many, draws)
                noise = draws.normal(many, chain.steps + 1, *task.event_shape)
                back = noised_back(chain, last, noise)
                x = joined(task, x, back)
                cond = None if cond is None else joined(task, cond, other)
            return self.rewarded(task, {"x": x, "r": task.reward(x[:, -1], cond), "cond": cond})

    # --- truth

    def optimum(self, problem: Problem) -> Optimum | None:
        """d = 1 and 2, without an anchor to the base; log Z is the mean of V_0."""
        if problem.dim > 2 or self.anchor == "base":
            return None
        case = Case(self, problem)
        networks = {LOG_Z: lambda x, t, cond=None: x.new_full((len(x), 1), case.log_z)}
        best = case.optimum(Smooth(case.regularised), networks, known=True)
        if self.on_policy:
            return best
        return replace(
            best, exact=False, note="the optimum on the policy's own trajectories; others' moves it"
        )


def place(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where the network of log Z is asked: x = 1, t = 0, a row for each of x (rows, T + 1, ...)."""
    return torch.ones_like(x[:, 0]), x.new_zeros(len(x))


def noised_back(chain: Chain, data: Tensor, noise: Tensor) -> Tensor:
    """Trajectories (rows, T + 1, *event) from data (rows, *event) back by P_B."""
    ratio, variance = (row.tolist() for row in chain.noising)
    states = [data + chain.sigma_end * noise[:, -1]]
    for k in range(chain.steps - 1, -1, -1):
        states.append(ratio[k] * states[-1] + variance[k] ** 0.5 * noise[:, k])
    return torch.stack(states[::-1], 1)


def joined(task: Task, one: Tensor, other: Tensor) -> Tensor:
    """Rows of each network's: first those of `one`, then those of `other`."""
    return torch.cat([task.per_network(one), task.per_network(other)], 1).flatten(0, 1)


@dataclass(frozen=True)
class RelativeTrajectoryBalance(Residual, TrajectoryMethod):
    """(log Z + sum_k (log P_F - eta log P#)(x_{k+1} | x_k) - beta log R(x_T))^2 over trajectories
    held fixed: (49), the relative trajectory balance of Venkatraman et al. 2024.
    """

    name: ClassVar[str] = "relative_trajectory_balance"
    summary: ClassVar[str] = "one balance a trajectory against the pretrained chain, log Z learnt"
    source: ClassVar[str] = "Venkatraman et al. 2024 (arXiv 2405.20971); nabla-GFlowNet (49)"


@dataclass(frozen=True)
class TrajectoryBalance(WithoutPrior, TrajectoryMethod):
    """(log Z + log P_0(x_0) + sum_k log P_F(x_{k+1} | x_k) - log P_B(x_k | x_{k+1}) - beta log
    R(x_T))^2 over trajectories held fixed: (48). It is said to sample R^beta, which has to be
    integrable.
    """

    name: ClassVar[str] = "trajectory_balance"
    summary: ClassVar[str] = "one balance a trajectory against the noising, log Z learnt"
    source: ClassVar[str] = "Malkin et al. 2022 (arXiv 2201.13259); nabla-GFlowNet (48)"

    def log_start(self, walk: Transitions) -> Tensor:
        """log P_0(x_0)."""
        variance = walk.chain.start(torch.ones_like(walk.x[:1, :1])).square()
        return walk.log_density(walk.x[:, :1], variance)[:, 0]
