"""DDPO: policy gradient on the discrete chain, with an optional KL to the base chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from theory.common.checks import check_nonnegative
from theory.fields.mixture import VelocityModel
from theory.methods import Batch, Budget, Draws, Info, Method, Optimum, Policy, Task, frozen_copy
from theory.methods.chain.rollouts import (
    chain_on,
    chain_optimum,
    every_state,
    kernel_means,
    trajectories,
)
from theory.methods.chain.transforms import squares
from theory.problems.problem import Problem
from theory.samplers.chain import Chain
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential


@dataclass(frozen=True)
class DDPO(Method):
    """max E[r(X_T)] - kl_weight KL(chain || base chain), by the score-function gradient.

    With KL_k = |m - m_base|^2 / (2 s_k^2) at X_k, returns G_k = r - kl_weight sum_{j >= k} KL_j and
    a value network V(x, t) as baseline (trained beside, by least squares on G_k), a row's loss is

        sum_k [ -(G_k - V)(X_k) log N(X_{k+1}; m(X_k), s_k^2) + kl_weight KL_k ] + (V - G_k)^2

    with G and V held fixed in the first term: its expected gradient is exactly that of the
    objective (Black et al. 2023, eq. 5; handbook (48)). On-policy: one step a batch, so the
    importance ratio is 1 and there is nothing to clip.

    kl_weight = 0 (the published method) only maximises the reward: no optimum is given, its
    gradient is what can be checked. kl_weight > 0: the optimum over Gaussian kernels is dynamic
    programming (`theory.control.chain_optimum`), d <= 2; as steps grow its law tends to base
    exp(r/kl_weight)/Z.

    steps, sigma_end: the chain's.
    """

    kl_weight: float = 0.0
    steps: int = 16
    sigma_end: float = 0.04

    name: ClassVar[str] = "ddpo"
    summary: ClassVar[str] = "policy gradient over the kernels of the discrete chain"
    source: ClassVar[str] = "Black et al. 2023 (arXiv 2305.13301); handbook (48)"
    budget: ClassVar[Budget] = Budget(steps=600, batch=512, learning_rate=2e-3)

    def __post_init__(self) -> None:
        check_nonnegative("kl_weight", self.kl_weight)
        Chain(self.steps, self.sigma_end)

    def chain(self, task: Task | Problem) -> Chain:
        """The chain on the task's path."""
        return chain_on(task, self.steps, self.sigma_end, within=True)

    @property
    def states_per_row(self) -> int:
        return self.steps

    # --- training

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        return Policy(student, frozen_copy(student), networks={"value": task.auxiliary(1, draws)})

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        assert policy.reference is not None
        chain = self.chain(task)
        batch = trajectories(chain, policy.student, task, n, draws)
        batch["r"] = self.mapped(task, batch["r"], batch["cond"])
        if not self.kl_weight:
            # Nothing depends on the reference: two evaluations of every state are saved.
            batch["reference_mean"] = batch["x"][:, 1:]
            batch["kl"] = torch.zeros_like(batch["r"])[:, None].expand(-1, chain.steps)
            return batch
        with torch.no_grad():
            means = kernel_means(chain, policy.student, batch["x"], batch["cond"])
            batch["reference_mean"] = kernel_means(
                chain, policy.reference, batch["x"], batch["cond"]
            )
            batch["kl"] = _kl(chain, means, batch["reference_mean"])
        return batch

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        chain, x = self.chain(task), batch["x"]
        means = kernel_means(chain, policy.student, x, batch["cond"])
        kl_to_come = batch["kl"].flip(1).cumsum(1).flip(1)
        returns = batch["r"][:, None] - self.kl_weight * kl_to_come
        value = kernel_values(chain, policy, x, batch["cond"])
        advantage = returns - value.detach()
        kl = _kl(chain, means, batch["reference_mean"])
        # log N up to a constant is minus the squared distance to the mean, in kernel widths.
        log_prob = -_kl(chain, x[:, 1:], means)
        policy_loss = (-advantage * log_prob + self.kl_weight * kl).sum(1)
        value_loss = (value - returns).square().sum(1)
        info = {"reward": batch["r"]}
        if self.kl_weight:
            info["kl"] = batch["kl"].sum(1)
        info["value_loss"] = value_loss.detach()
        return policy_loss + value_loss, info

    # --- truth

    def optimum(self, problem: Problem) -> Optimum | None:
        if not self.kl_weight or problem.dim > 2:
            return None
        return chain_optimum(problem, self.chain(problem), 1 / self.kl_weight)

    def target(self, problem: Problem) -> Tilt | None:
        return problem.tilt(Exponential(1 / self.kl_weight)) if self.kl_weight else None


def _kl(chain: Chain, one: Tensor, other: Tensor) -> Tensor:
    """|one - other|^2 / (2 s_k^2) of means (rows, T, *event): KL of kernels; (rows, T)."""
    return squares(one - other) / (2 * chain.coefficients(one)[2].square())


def kernel_values(chain: Chain, policy: Policy, x: Tensor, cond: object) -> Tensor:
    """V at every state but the last, (rows, T)."""
    t = chain.times.to(x).expand(len(x), -1).flatten()
    cond = every_state(cond, chain.steps)
    return policy.networks["value"](x[:, :-1].flatten(0, 1), t, cond).reshape(len(x), chain.steps)
