"""Basic Adjoint Matching: regression on the full adjoint, on the discrete chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from theory.methods import Batch, Info, Policy, Task, square
from theory.methods.adjoint.family import StoredAdjoint, reward_gradient
from theory.methods.chain.rollouts import kernel_means
from theory.methods.chain.transforms import drawn, drawn_coefficient, over_states, squares


@dataclass(frozen=True)
class BasicAdjointMatching(StoredAdjoint):
    """min E sum_k |u_k + s_k a_{k+1}|^2, u_k = (m - m_base)(X_k)/s_k, over the policy's own
    trajectories, held fixed, with the full adjoint through the policy as it is,

        a_T = -scale grad r(X_T),
        a_k = (d m / d x)' a_{k+1} + grad_x |m - m_base|^2/(2 s_k^2)    at X_k.

    a_k is the gradient of the cost still to come, sum_{j >= k} |u_j|^2/2 - scale r(X_T), along the
    trajectory at fixed noise. So (u_k + s_k a_{k+1})' d_theta u_k is kernel k's part of the
    discrete adjoint's gradient: half of this loss's gradient is that gradient, draw by draw. Its
    critical points are the cost's own; `optimum` is the KL-regularised one
    (`theory.control.chain_optimum`).

    Domingo-Enrich et al. 2024 (arXiv 2409.08861), basic Adjoint Matching, there in continuous time.
    Options: `contract.adjoints`. clip cuts a state's squared error.

    Raises:
        ValueError: options out of range; the reward has no gradient or is not finite.
        NonFiniteAdjointError: an adjoint is not finite.
    """

    name: ClassVar[str] = "basic_adjoint_matching"
    summary: ClassVar[str] = "regression of the kernels on the full adjoint of their own rollouts"
    source: ClassVar[str] = "Domingo-Enrich et al. 2024 (arXiv 2409.08861), basic Adjoint Matching"

    def solve(self, policy: Policy, task: Task, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        """(a_1 .. a_T, the base kernels' means) along trajectories x, both (rows, T, *event)."""
        assert policy.reference is not None
        chain = self.chain(task)
        s = chain.coefficients(x)[2]
        a = -self.scale * reward_gradient(self, task, x[:, -1], cond)
        adjoints, means = [a], []
        for k in range(chain.steps - 1, -1, -1):
            with torch.enable_grad():
                state = x[:, k].detach().requires_grad_(True)
                base = chain.mean(policy.reference, k, state, cond)
                means.append(base.detach())
                if k:
                    mean = chain.mean(policy.student, k, state, cond)
                    cost = square(mean - base) / (2 * s[k] ** 2)
                    (a,) = torch.autograd.grad((mean * a).sum() + cost.sum(), state)
                    adjoints.append(a)
        return torch.stack(adjoints[::-1], 1), torch.stack(means[::-1], 1)

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        chain, x, index = self.chain(task), batch["x"], batch.get("index")
        s = drawn_coefficient(chain.coefficients(x)[2], index, x.ndim - 2)
        means = kernel_means(chain, policy.student, x, batch["cond"], index)
        base, adjoint = (drawn(batch[name], index) for name in ("reference", "adjoint"))
        control = (means - base) / s
        return (
            over_states(squares(control + s * adjoint), chain.steps, self.clip),
            {"reward": batch["r"], "control": over_states(squares(control.detach()), chain.steps)},
        )
