"""The conditions of GFlowNets on a chain, each as what is left of it: zero where it is met.

Numbers in brackets are the equations of nabla-GFlowNet. With k = 0 .. T, x at k and x' at k + 1,
P_F the policy, P_B the noising, P# the pretrained chain, F the flow, Ft the residual flow, and
Pt = P_F / P#^eta the residual policy:

    Balance           detailed       log P_F(x'|x) + log F(x) - log P_B(x|x') - log F(x')   (5)
                      forward        its gradient in x'                                     (6)
                      reverse        its gradient in x                                      (9)
                      trajectory     log Z P_0 + sum log P_F - log F(x_T) - sum log P_B     (48)
    ResidualBalance   detailed       log Pt(x'|x) + log Ft(x) - log Ft(x')                  (50)
                      printed        log Pt(x'|x) - log Ft(x')                              (20)
                      forward        grad' log Pt(x'|x) - grad' log Ft(x')                  (11)
                      reverse        grad log Pt(x'|x) + grad log Ft(x)                     (13)
                      bidirectional  grad' log Pt(x'|x) + grad' log Pt(x''|x')          Remark 6
                      trajectory     log Z + sum log P_F - log Z# - sum log P# - beta log R (49)

A nabla loss is the square of what is left, a DB loss that of the scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from theory.gflownet.flows import ResidualFlows
from theory.gflownet.kernels import Kernels, NoisingKernels, gradient, kernel_scores, log_start
from theory.samplers.chain import Chain
from theory.tilts.rewards import Reward
from theory.tilts.wrappers import Wrapper


class Flow(Protocol):
    """A flow F_k of the states, k = 0 .. T."""

    def log_flow(self, k: int, x: Tensor) -> Tensor:
        """log F_k at x (n, d), as (n,)."""

    def score(self, k: int, x: Tensor) -> Tensor:
        """Its gradient, (n, d)."""


def terminal(chain: Chain, flow: Flow, reward: Reward, wrapper: Wrapper, x: Tensor) -> Tensor:
    """grad log F_T - grad log R^beta at X_T = x, (n, d): (8), and (14) of a residual flow."""
    return flow.score(chain.steps, x) - gradient(lambda y: wrapper.log_abs(reward(y)), x)


def log_path(kernels: Kernels, states: Tensor) -> Tensor:
    """sum_k log P(x_{k+1} | x_k) along states (n, T + 1, d), (n,); of P_B that of x_k | x_{k+1}."""
    total = states.new_zeros(len(states))
    for k in range(states.shape[1] - 1):
        total = total + kernels.log_density(k, states[:, k], states[:, k + 1])
    return total


@dataclass(frozen=True, eq=False)
class Balance:
    """The conditions on a policy and a flow, with the chain's noising kernels."""

    chain: Chain
    policy: Kernels
    flow: Flow

    @property
    def noising(self) -> NoisingKernels:
        return NoisingKernels(self.chain)

    def detailed(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """(5), (n,)."""
        forward = self.policy.log_density(k, x, x_next) - self.noising.log_density(k, x, x_next)
        return forward + self.flow.log_flow(k, x) - self.flow.log_flow(k + 1, x_next)

    def forward(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """(6), (n, d)."""
        ahead = kernel_scores(self.policy, k, x, x_next)[1]
        return ahead - self.noising.scores(k, x, x_next)[1] - self.flow.score(k + 1, x_next)

    def reverse(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """(9), (n, d)."""
        behind = kernel_scores(self.policy, k, x, x_next)[0]
        return behind - self.noising.scores(k, x, x_next)[0] + self.flow.score(k, x)

    def trajectory(self, states: Tensor, log_z: Tensor | float) -> Tensor:
        """(48) along states (n, T + 1, d), (n,): from the one state before x_0, whose flow is
        Z = e^log_z, whose policy is P_0 and to which the noising returns for sure."""
        forward = log_start(self.chain, states[:, 0]) + log_path(self.policy, states)
        last = self.flow.log_flow(self.chain.steps, states[:, -1])
        return log_z + forward - log_path(self.noising, states) - last


@dataclass(frozen=True, eq=False)
class ResidualBalance:
    """The conditions on a policy and a residual flow, over a pretrained chain.

    prior: eta, the strength of the pretrained chain.
    """

    policy: Kernels
    pretrained: Kernels
    flow: Flow
    prior: float = 1.0

    def log_policy(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """log Pt(x' | x) = log P_F - eta log P#, (n,)."""
        base = self.pretrained.log_density(k, x, x_next)
        return self.policy.log_density(k, x, x_next) - self.prior * base

    def policy_scores(self, k: int, x: Tensor, x_next: Tensor) -> tuple[Tensor, Tensor]:
        """Its gradients in x and in x', each (n, d)."""
        own = kernel_scores(self.policy, k, x, x_next)
        base = kernel_scores(self.pretrained, k, x, x_next)
        before, after = (p - self.prior * q for p, q in zip(own, base, strict=True))
        return before, after

    def detailed(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """(50), the residual DB condition, (n,)."""
        return self.printed(k, x, x_next) + self.flow.log_flow(k, x)

    def printed(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """What (20) squares, (n,): the condition (50) without log Ft(x)."""
        return self.log_policy(k, x, x_next) - self.flow.log_flow(k + 1, x_next)

    def forward(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """(11), (n, d)."""
        return self.policy_scores(k, x, x_next)[1] - self.flow.score(k + 1, x_next)

    def reverse(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """(13), (n, d)."""
        return self.policy_scores(k, x, x_next)[0] + self.flow.score(k, x)

    def bidirectional(self, k: int, x: Tensor, x_next: Tensor, x_after: Tensor) -> Tensor:
        """Remark 6 at x' = X_{k+1}, with x'' = X_{k+2}: no flow, (n, d)."""
        before = self.policy_scores(k, x, x_next)[1]
        return before + self.policy_scores(k + 1, x_next, x_after)[0]

    def trajectory(self, states: Tensor, log_ratio: Tensor | float, log_reward: Tensor) -> Tensor:
        """(49) along states (n, T + 1, d), (n,); log_ratio: log Z / Z#; log_reward: log R^beta of
        the last states, (n,)."""
        ours, base = log_path(self.policy, states), log_path(self.pretrained, states)
        return log_ratio + ours - self.prior * base - log_reward

    # --- (51) and (52): a pretrained chain out of balance

    def corrected_forward(
        self, k: int, x: Tensor, x_next: Tensor, correction: Correction
    ) -> Tensor:
        """(51): the forward condition plus grad' h(x, x'), (n, d)."""
        return self.forward(k, x, x_next) + gradient(lambda y: correction(k, x, y), x_next)

    def corrected_reverse(
        self, k: int, x: Tensor, x_next: Tensor, correction: Correction, *, printed: bool = False
    ) -> Tensor:
        """(52): the reverse condition plus grad h(x, x'), (n, d). As printed the flow is that of
        x', whose gradient in x is zero."""
        flow = 0.0 if printed else self.flow.score(k, x)
        slope = gradient(lambda y: correction(k, y, x_next), x)
        return self.policy_scores(k, x, x_next)[0] + flow + slope


# h(k, x, x') of (51) and (52), (n,).
Correction = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Violation:
    """How far a pretrained chain is from detailed balance with a flow F# of the noising kernels:
    log P#(x'|x) + log F#(x) - log P_B(x|x') - log F#(x'), the h for which (51) and (52) hold at the
    exact policy of R^beta F#_T."""

    chain: Chain
    pretrained: Kernels
    flow: Flow

    def __call__(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        return Balance(self.chain, self.pretrained, self.flow).detailed(k, x, x_next)


@dataclass(frozen=True, eq=False)
class ForwardLooking:
    """(15) without g: the flow that gamma_k log R^beta(xhat(x)) would be the logarithm of.

    gamma: gamma_k, k = 0 .. T. (16) and (17) at this flow and the exact policy leave the g that is
    to be learned, `flows.remainder`; (18) leaves it at k = T.
    """

    flows: ResidualFlows
    gamma: Sequence[float]

    def log_flow(self, k: int, x: Tensor) -> Tensor:
        return self.gamma[k] * self.flows.log_reward(self.flows.predicted(k, x))

    def score(self, k: int, x: Tensor) -> Tensor:
        return self.flows.look_ahead(k, x, self.gamma[k])
