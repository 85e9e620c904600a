"""Adjoint Matching on the discrete chain, with the lean adjoint and (basic) with the full one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from theory.methods import Batch, Info, Policy, Task, square
from theory.methods.adjoint.family import StoredAdjoint, reward_gradient
from theory.methods.chain.rollouts import kernel_means
from theory.methods.chain.transforms import drawn, drawn_coefficient, over_states, squares
from theory.samplers.chain import Chain


@dataclass(frozen=True)
class KernelRegression(StoredAdjoint):
    """min E sum_k |u_k + s_k a_{k+1}|^2, u_k = (m - m_base)(X_k)/s_k, over the policy's own
    trajectories, held fixed: what the lean and the full adjoint share; no method by itself."""

    @property
    def unit(self) -> float:
        """What adjoints are stored in: a = unit times what `back` is given and returns."""
        return 1.0

    @abstractmethod
    def back(
        self,
        chain: Chain,
        policy: Policy,
        k: int,
        state: Tensor,
        cond: Any,
        base: Tensor,
        adjoint: Tensor,
    ) -> Tensor:
        """The adjoint at state k from that at k + 1; base: the base kernel's mean, with its graph
        from `state`."""

    def solve(self, policy: Policy, task: Task, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        """(adjoints of states 1 .. T, the base kernels' means) along trajectories x, both
        (rows, T, *event)."""
        assert policy.reference is not None
        chain = self.chain(task)
        a = -self.scale / self.unit * reward_gradient(self, task, x[:, -1], cond)
        adjoints, means = [a], []
        for k in range(chain.steps - 1, -1, -1):
            with torch.enable_grad():
                state = x[:, k].detach().requires_grad_(True)
                base = chain.mean(policy.reference, k, state, cond)
                means.append(base.detach())
                if k:
                    a = self.back(chain, policy, k, state, cond, base, a)
                    adjoints.append(a)
        return torch.stack(adjoints[::-1], 1), torch.stack(means[::-1], 1)

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        chain, x, index = self.chain(task), batch["x"], batch.get("index")
        s = drawn_coefficient(chain.coefficients(x)[2], index, x.ndim - 2)
        means = kernel_means(chain, policy.student, x, batch["cond"], index)
        base, adjoint = (drawn(batch[name], index) for name in ("reference", "adjoint"))
        control = (means - base) / s
        return (
            over_states(squares(control + self.unit * s * adjoint), chain.steps, self.clip),
            {"reward": batch["r"], "control": over_states(squares(control.detach()), chain.steps)},
        )


@dataclass(frozen=True)
class AdjointMatching(KernelRegression):
    """min E sum_k |(m(X_k) - m_base(X_k)) / s_k - scale s_k g_{k+1}|^2 over the policy's own
    trajectories, held fixed, with the lean adjoint through the base kernels,

        g_T = grad r(X_T),    g_k = (d m_base / d x)(X_k)' g_{k+1}.

    Fixed point: m* = m_base + scale s_k^2 E[g_{k+1} | X_k]. By the envelope theorem E[g_k | X_k]
    is then the gradient of the value function V_k, so m* is exactly the KL-regularised optimum
    over Gaussian kernels (`theory.control.chain_optimum`): DDPO's at kl_weight = 1/scale. With
    ancestral kernels the chain is memoryless; as steps grow they tend to the SDE with g^2 = 2 eta
    and the law to base exp(scale r)/Z (Domingo-Enrich et al. 2024).

    g_k is -a_k/scale of `adjoint.family`, where the options are explained. clip cuts a state's
    squared error: the fixed point is then that of the states with small errors.

    Raises:
        ValueError: options out of range; the reward has no gradient or is not finite.
        NonFiniteAdjointError: an adjoint is not finite.
    """

    name: ClassVar[str] = "adjoint_matching"
    summary: ClassVar[str] = "regression of the kernels on the lean adjoint of their own rollouts"
    source: ClassVar[str] = "Domingo-Enrich et al. 2024 (arXiv 2409.08861), lean adjoint"

    @property
    def unit(self) -> float:
        return -self.scale

    def back(
        self,
        chain: Chain,
        policy: Policy,
        k: int,
        state: Tensor,
        cond: Any,
        base: Tensor,
        adjoint: Tensor,
    ) -> Tensor:
        return torch.autograd.grad(base, state, adjoint)[0]


@dataclass(frozen=True)
class BasicAdjointMatching(KernelRegression):
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
    Options: `adjoint.family`. clip cuts a state's squared error.

    Raises:
        ValueError: options out of range; the reward has no gradient or is not finite.
        NonFiniteAdjointError: an adjoint is not finite.
    """

    name: ClassVar[str] = "basic_adjoint_matching"
    summary: ClassVar[str] = "regression of the kernels on the full adjoint of their own rollouts"
    source: ClassVar[str] = "Domingo-Enrich et al. 2024 (arXiv 2409.08861), basic Adjoint Matching"

    def back(
        self,
        chain: Chain,
        policy: Policy,
        k: int,
        state: Tensor,
        cond: Any,
        base: Tensor,
        adjoint: Tensor,
    ) -> Tensor:
        mean = chain.mean(policy.student, k, state, cond)
        s = chain.coefficients(state)[2][k]
        cost = square(mean - base) / (2 * s**2)
        return torch.autograd.grad((mean * adjoint).sum() + cost.sum(), state)[0]
