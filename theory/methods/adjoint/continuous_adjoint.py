"""The continuous adjoint method: the adjoint ODE, solved along stored trajectories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from theory.methods import Batch, Info, Optimum, Policy, Task, square
from theory.methods.adjoint.family import StoredAdjoint, reward_gradient
from theory.methods.chain.rollouts import state_velocities
from theory.methods.chain.transforms import drawn, drawn_coefficient, over_states, squares
from theory.problems.problem import Problem
from theory.samplers.chain import Chain


@dataclass(frozen=True)
class ContinuousAdjoint(StoredAdjoint):
    """The cost int |u|^2/2 dt - scale r(X_1) of dX = (b + g u) dt + g dB, with the gradient

        int (u + g a)' d_theta u dt,    da/dt = -[ (d(b + g u)/dx)' a + grad_x |u|^2/2 ],

    a(1) = -scale grad r(X_1), along the policy's stored states (Domingo-Enrich et al. 2024, arXiv
    2409.08861, continuous adjoint method). b + g u = p(t) x + q(t) v and g are the chain's
    schedule's; for ancestral kernels those of their limit, g^2 = 2 eta, p = -alpha'/alpha, q = 2.

    What is approximated, by name:
    - the value and the integral: the left-point rule, sum_k (u + g a)(t_k)' d_theta u dt.
    - the ODE: Heun's method (the explicit trapezoid) over each interval between stored states.
    - "left point": the last interval, whose end t = 1 is singular (and no model's to know), by
      Euler's explicit rule with everything but a taken at its left end.
    - "transposed kernel": where g is infinite at a state (t = 0, for ancestral kernels), that
      interval and its term are the chain's own, a_k = (dm/dx)' a_{k+1} + grad |u_k|^2/2 and
      (u_k + s_k a_{k+1})' d_theta u_k with the kernel's mean and variance.

    By the left-point rule everywhere, and a_{k+1} for a_k in the sum, Euler kernels would give the
    discrete adjoint's gradient exactly; as it stands the two differ by O(dt) and share their limit.
    There is a limit where v - v_base vanishes at t = 1 as an x_1-prediction's error makes it (like
    1 - t); with a difference left there the cost itself grows with steps, in all four methods. With
    a fixed sigma_end the last ancestral kernel has none: it must shrink with 1/steps.

    Options: `adjoint.family`. clip cuts a state's |u|^2 dt/2.

    Raises:
        ValueError: options out of range; the reward has no gradient or is not finite.
        NonFiniteAdjointError: an adjoint is not finite.
    """

    name: ClassVar[str] = "continuous_adjoint"
    summary: ClassVar[str] = "the cost, with the gradient of the adjoint ODE along its rollouts"
    source: ClassVar[str] = "Domingo-Enrich et al. 2024 (arXiv 2409.08861), continuous adjoint"

    def solve(self, policy: Policy, task: Task, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        """(a at states 0 .. T, the base's velocities at 0 .. T-1) along trajectories x; where g is
        infinite, a is that of the next state."""
        limit = Limit.of(self.chain(task), x)
        a = -self.scale * reward_gradient(self, task, x[:, -1], cond)
        adjoints, bases = [a], []
        end: Slope | None = None  # at the interval's right end, where the ODE has one
        for k in range(limit.steps - 1, -1, -1):
            slope, base = self._slope(limit, policy, k, x[:, k], cond)
            bases.append(base)
            if not limit.regular[k]:  # transposed kernel
                adjoints.append(a)
                a, end = a + slope(a), None
                continue
            if end is None:  # left point
                a = a + slope(a)
            else:
                first = end(a)
                a = a + 0.5 * (first + slope(a + first))
            adjoints.append(a)
            end = slope
        return torch.stack(adjoints[::-1], 1), torch.stack(bases[::-1], 1)

    def _slope(
        self, limit: Limit, policy: Policy, k: int, x: Tensor, cond: Any
    ) -> tuple[Slope, Tensor]:
        """(a -> -da/dt dt at state k, the base's velocity there)."""
        assert policy.reference is not None
        P, Q, s, t = (c[k] for c in (limit.P, limit.Q, limit.s, limit.times))
        with torch.enable_grad():
            state, time = x.detach().requires_grad_(True), t.expand(len(x))
            velocity = policy.student(state, time, cond)
            base = policy.reference(state, time, cond)
            mean = P * state + Q * velocity  # x + (b + g u) dt
            cost = 0.5 * square(Q * (velocity - base) / s).sum()

        def slope(a: Tensor) -> Tensor:
            with torch.enable_grad():
                total = (mean * a).sum() + cost
                return torch.autograd.grad(total, state, retain_graph=True)[0] - a

        return slope, base.detach()

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        chain, x, index = self.chain(task), batch["x"], batch.get("index")
        limit = Limit.of(chain, x)
        Q, s = (drawn_coefficient(c, index, x.ndim - 2) for c in (limit.Q, limit.s))
        _, velocity = state_velocities(chain, policy.student, x, batch["cond"], index)
        base, a = drawn(batch["reference"], index), drawn(batch["adjoint"][:, :-1], index)
        control = Q * (velocity - base) / s  # u sqrt(dt)
        cost = 0.5 * squares(control.detach())
        slope = ((control.detach() + s * a) * control).flatten(2).sum(2)
        # The value is the cost's, the gradient that of `slope`.
        terms = cost + slope - slope.detach()
        total = over_states(terms, chain.steps, self.clip) - self.full_scale * batch["r"]
        return total, {"reward": batch["r"], "control": over_states(2 * cost, chain.steps)}

    def optimum(self, problem: Problem) -> Optimum | None:
        best = super().optimum(problem)
        note = "the limit of many steps: at finite steps the gradient is off by O(1/steps)"
        return None if best is None else replace(best, exact=False, note=note)


Slope = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Limit:
    """The SDE on the chain's times as Euler kernels: x + (b + g u) dt = P x + Q v and s = g
    sqrt(dt), each (T,); regular: where g is finite. Elsewhere they are the chain's own."""

    P: Tensor
    Q: Tensor
    s: Tensor
    times: Tensor
    regular: tuple[bool, ...]

    @property
    def steps(self) -> int:
        return len(self.regular)

    @classmethod
    def of(cls, chain: Chain, like: Tensor) -> Limit:
        """In the dtype and on the device of `like`."""
        t = chain.times
        P, Q, s = chain.coefficients(t)
        finite = torch.ones_like(t, dtype=torch.bool)
        if chain.schedule is None:
            dt = (1 - chain.first_time) / chain.steps
            rate, eta = chain.path.dalpha(t) / chain.path.alpha(t), chain.path.eta(t)
            finite = torch.isfinite(rate) & torch.isfinite(eta)
            P = torch.where(finite, 1 - dt * rate, P)
            Q = torch.where(finite, 2 * dt * torch.ones_like(t), Q)
            s = torch.where(finite, (2 * dt * eta).sqrt(), s)
        return cls(P.to(like), Q.to(like), s.to(like), t.to(like), tuple(finite.tolist()))
