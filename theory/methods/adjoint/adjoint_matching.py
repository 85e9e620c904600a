"""Adjoint Matching with the lean adjoint, on the discrete chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from theory.methods import Batch, Info, Policy, Task
from theory.methods.adjoint.family import StoredAdjoint, reward_gradient
from theory.methods.chain.rollouts import kernel_means
from theory.methods.chain.transforms import drawn, drawn_coefficient, over_states, squares


@dataclass(frozen=True)
class AdjointMatching(StoredAdjoint):
    """min E sum_k |(m(X_k) - m_base(X_k)) / s_k - scale s_k g_{k+1}|^2 over the policy's own
    trajectories, held fixed, with the lean adjoint through the base kernels,

        g_T = grad r(X_T),    g_k = (d m_base / d x)(X_k)' g_{k+1}.

    Fixed point: m* = m_base + scale s_k^2 E[g_{k+1} | X_k]. By the envelope theorem E[g_k | X_k]
    is then the gradient of the value function V_k, so m* is exactly the KL-regularised optimum
    over Gaussian kernels (`theory.control.chain_optimum`): DDPO's at kl_weight = 1/scale. With
    ancestral kernels the chain is memoryless; as steps grow they tend to the SDE with g^2 = 2 eta
    and the law to base exp(scale r)/Z (Domingo-Enrich et al. 2024).

    g_k is -a_k/scale of `contract.adjoints`, where the options are explained. clip cuts a state's
    squared error: the fixed point is then that of the states with small errors.

    Raises:
        ValueError: options out of range; the reward has no gradient or is not finite.
        NonFiniteAdjointError: an adjoint is not finite.
    """

    name: ClassVar[str] = "adjoint_matching"
    summary: ClassVar[str] = "regression of the kernels on the lean adjoint of their own rollouts"
    source: ClassVar[str] = "Domingo-Enrich et al. 2024 (arXiv 2409.08861), lean adjoint"

    def solve(self, policy: Policy, task: Task, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        """(g_1 .. g_T, the base kernels' means) along trajectories x, both (rows, T, *event)."""
        assert policy.reference is not None
        chain = self.chain(task)
        g = reward_gradient(self, task, x[:, -1], cond)
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
        chain, x, index = self.chain(task), batch["x"], batch.get("index")
        s = drawn_coefficient(chain.coefficients(x)[2], index, x.ndim - 2)
        means = kernel_means(chain, policy.student, x, batch["cond"], index)
        base, adjoint = (drawn(batch[name], index) for name in ("reference", "adjoint"))
        error = (means - base) / s - self.scale * s * adjoint
        return over_states(squares(error), chain.steps, self.clip), {"reward": batch["r"]}
