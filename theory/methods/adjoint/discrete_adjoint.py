"""The discrete adjoint method: the cost itself, differentiated through its own rollout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from theory.fields.mixture import VelocityModel
from theory.methods import Batch, Draws, Info, Policy, Task, square
from theory.methods.adjoint.family import AdjointMethod, check_differentiable
from theory.methods.chain.finite import Watch
from theory.methods.chain.transforms import over_states


@dataclass(frozen=True)
class DiscreteAdjoint(AdjointMethod):
    """min E[ sum_k |m - m_base|^2(X_k)/(2 s_k^2) - scale r(X_T) ], the KL-regularised cost, by its
    reparameterised gradient: the rollout X_{k+1} = m(X_k) + s_k xi_k is made in the loss, from the
    batch's noise, and differentiated through, the reward included.

    It is the objective, and no regression: its gradient is half that of basic Adjoint Matching,
    draw by draw, and `optimum` is the KL-regularised one over Gaussian kernels
    (`theory.control.chain_optimum`).
    Domingo-Enrich et al. 2024 (arXiv 2409.08861), discrete adjoint method. Every step is needed:
    there is no subset. Where the task says `recompute`, a step's activations are not held but made
    again in the backward pass. Options: `adjoint.family`. clip cuts a state's |u_k|^2/2.

    A batch is noise (rows, T + 1, *event), cond, and the rows' numbers; the reward is first seen
    by the loss.

    Raises:
        ValueError: options out of range; in the loss, a reward without a gradient.
        NonFiniteAdjointError: in the backward pass, a state's gradient is not finite (unless the
            task says that gradients are scaled: then its scaler looks).
    """

    name: ClassVar[str] = "discrete_adjoint"
    summary: ClassVar[str] = "the KL-regularised cost, differentiated through the rollout"
    source: ClassVar[str] = "Domingo-Enrich et al. 2024 (arXiv 2409.08861), discrete adjoint"

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        """The reward's gradient is asked for once, here: in a rollout it would be missed."""
        cond = task.conditions(1, draws)
        with torch.enable_grad():
            x = draws.normal(1, *task.event_shape).requires_grad_(True)
            check_differentiable(self, task.reward(x, cond), x)
        return super().setup(student, task, draws)

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        cond = task.conditions(n, draws)
        noise = draws.normal(n, self.steps + 1, *task.event_shape)
        return {"noise": noise, "cond": cond, "row": torch.arange(len(noise), device=noise.device)}

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        assert policy.reference is not None
        chain, noise, cond = self.chain(task), batch["noise"], batch["cond"]
        student, reference, s = policy.student, policy.reference, chain.coefficients(noise)[2]
        watch = Watch(self.label, chain, batch["row"])

        def step(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
            """(X_{k+1}, |u_k|^2/2) from X_k."""
            mean = chain.mean(student, k, x, cond)
            control = (mean - chain.mean(reference, k, x, cond)) / s[k]
            return mean + s[k] * noise[:, k + 1], 0.5 * square(control)

        x, costs = chain.start(noise[:, 0]), []
        for k in range(chain.steps):
            if task.execution.recompute and torch.is_grad_enabled():
                x, cost = checkpoint(step, x, k, use_reentrant=False)
            else:
                x, cost = step(x, k)
            if not task.execution.scaled_gradients:
                watch.on(x, k + 1)
            costs.append(cost)
        reward = task.reward(x, cond)
        if x.requires_grad and not reward.requires_grad:
            raise ValueError(f"the reward has no gradient: {self.label} needs {self.rewards}")
        control = over_states(torch.stack(costs, 1), chain.steps, self.clip)
        info = {"reward": reward.detach(), "control": 2 * control.detach()}
        return control - self.full_scale * reward, info
