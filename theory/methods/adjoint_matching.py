"""Adjoint Matching with the lean adjoint, on the discrete chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from theory.chains import Chain
from theory.checks import check_positive
from theory.methods.contract import (
    Batch,
    Budget,
    Draws,
    Info,
    Method,
    Optimum,
    Policy,
    RewardDomain,
    Task,
)
from theory.methods.contract.rollouts import (
    chain_on,
    chain_optimum,
    kernel_means,
    trajectories,
)
from theory.problem import Problem
from theory.tilt import Tilt
from theory.wrappers import Exponential


@dataclass(frozen=True)
class AdjointMatching(Method):
    """min E sum_k |(m(X_k) - m_base(X_k)) / s_k - scale s_k g_{k+1}|^2 over the policy's own
    trajectories, held fixed, with the lean adjoint through the base kernels,

        g_T = grad r(X_T),    g_k = (d m_base / d x)(X_k)' g_{k+1}.

    Fixed point: m* = m_base + scale s_k^2 E[g_{k+1} | X_k]. By the envelope theorem E[g_k | X_k]
    is then the gradient of the value function V_k, so m* is exactly the KL-regularised optimum
    over Gaussian kernels (`theory.chains`): DDPO's at kl_weight = 1/scale. The chain is memoryless;
    as steps grow the kernels tend to the SDE with g^2 = 2 eta and the law to base exp(scale r)/Z
    (Domingo-Enrich et al. 2024).

    steps, sigma_end: the chain's.
    """

    scale: float = 2.0
    steps: int = 16
    sigma_end: float = 0.04

    name: ClassVar[str] = "adjoint_matching"
    summary: ClassVar[str] = "regression of the kernels on the lean adjoint of their own rollouts"
    source: ClassVar[str] = "Domingo-Enrich et al. 2024 (arXiv 2409.08861), lean adjoint"
    budget: ClassVar[Budget] = Budget(steps=1000, batch=256, learning_rate=2e-3)

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        Chain(self.steps, self.sigma_end)

    @property
    def rewards(self) -> RewardDomain:
        return RewardDomain(differentiable=True)

    def chain(self, task: Task | Problem) -> Chain:
        """The chain on the task's path."""
        return chain_on(task, self.steps, self.sigma_end)

    @property
    def states_per_row(self) -> int:
        return self.steps

    # --- training

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        chain = self.chain(task)
        batch = trajectories(chain, policy.student, task, n, draws)
        x, cond = batch["x"], batch["cond"]
        pieces = [
            self._adjoints(policy, task, x[rows], None if cond is None else cond[rows])
            for rows in task.slices(len(x))
        ]
        adjoints, means = zip(*pieces, strict=True)
        batch["adjoint"], batch["reference_mean"] = torch.cat(adjoints), torch.cat(means)
        return batch

    def _adjoints(self, policy: Policy, task: Task, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        """(g_1 .. g_T, the base kernels' means) along trajectories x, both (rows, T, *event)."""
        assert policy.reference is not None
        chain = self.chain(task)
        with torch.enable_grad():
            last = x[:, -1].detach().requires_grad_(True)
            reward = task.reward(last, cond)
            if not reward.requires_grad:
                raise ValueError(
                    f"the reward has no gradient: allowed for {self.label} are {self.rewards}"
                )
            (g,) = torch.autograd.grad(reward.sum(), last)
        self.rewards.check_values(reward.detach(), self.label)
        adjoints, means = [g], []
        for k in range(chain.steps - 1, -1, -1):
            with torch.enable_grad():
                state = x[:, k].detach().requires_grad_(True)
                mean = chain.mean(policy.reference, k, state, cond)
                means.append(mean.detach())
                if k:
                    (g,) = torch.autograd.grad(mean, state, g)
                    adjoints.append(g)
        return torch.stack(adjoints[::-1], 1), torch.stack(means[::-1], 1)

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        chain, x = self.chain(task), batch["x"]
        s = chain.coefficients(x)[2].reshape(-1, *[1] * (x.ndim - 2))
        means = kernel_means(chain, policy.student, x, batch["cond"])
        error = (means - batch["reference_mean"]) / s - self.scale * s * batch["adjoint"]
        return error.square().flatten(1).sum(1), {"reward": batch["r"]}

    # --- truth

    def optimum(self, problem: Problem) -> Optimum:
        if problem.dim > 2:
            return Optimum(
                problem.tilted_field(Exponential(self.scale)),
                self.chain(problem),
                exact=False,
                note="the limit of many steps; the chain's own optimum is known in d = 1 and 2",
            )
        return chain_optimum(problem, self.chain(problem), self.scale)

    def target(self, problem: Problem) -> Tilt:
        return problem.tilt(Exponential(self.scale))
