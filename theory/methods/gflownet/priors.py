"""What a policy is compared with, transition by transition: its kernels' densities and scores.

Pretrained   log P#(x' | x)^eta, the pretrained chain's kernels to the power eta: residual methods,
             which sample R^beta P#
Noising      log P_B(x | x'): methods without a prior, which sample R^beta

For Gaussian kernels the second is a case of the first. The chain's kernels with the velocity of a
base that is one point at 0 are P#(x' | x) = P_B(x | x') N(x'; 0, s'^2 I)/N(x; 0, s^2 I), the s^2
those of the states' noise: P_B is that prior with log N(x; 0, s_k^2 I) taken off the flows.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from theory.fields.mixture import VelocityModel
from theory.fields.paths import Path
from theory.gflownet.flows import reward_sum
from theory.methods.contract.method import Policy
from theory.methods.contract.task import column
from theory.methods.gflownet.transitions import Transitions
from theory.problems.problem import Problem
from theory.samplers.chain import Chain
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential, Wrapper


class Prior(ABC):
    """What a policy is compared with."""

    strength: float

    @abstractmethod
    def log_density(self, policy: Policy, walk: Transitions) -> Tensor:
        """log P#(X_{k+1} | X_k)^eta or log P_B(X_k | X_{k+1}), (rows, m), without a graph."""

    @abstractmethod
    def scores(self, policy: Policy, walk: Transitions, *, before: bool) -> tuple[Tensor, Tensor]:
        """Its gradients in X_{k+1} and in X_k, (rows, m, *event), without a graph; of the latter
        zeros unless `before`."""

    @abstractmethod
    def target(self, problem: Problem, wrapper: Wrapper) -> Tilt:
        """What is to be sampled, the wrapper of the reward being R^beta."""

    # --- the same as a prior chain

    @abstractmethod
    def velocity(self, problem: Problem) -> VelocityModel:
        """Of the chain whose kernels, to the power `strength`, are compared with."""

    @abstractmethod
    def log_state(self, chain: Chain, k: int, x: Tensor) -> Tensor:
        """What the flow at X_k = x (rows, d) has less than over that chain, (rows,)."""

    def curvatures(self, chain: Chain) -> list[float]:
        """That of -log_state, of states 0 .. T."""
        return [0.0] * (chain.steps + 1)


@dataclass(frozen=True)
class Pretrained(Prior):
    """P# to the power strength."""

    strength: float = 1.0

    def log_density(self, policy: Policy, walk: Transitions) -> Tensor:
        assert policy.reference is not None
        with torch.no_grad():
            mean, _ = walk.means(policy.reference, walk.here)
            return self.strength * walk.log_density(walk.after - mean, walk.variance)

    def scores(self, policy: Policy, walk: Transitions, *, before: bool) -> tuple[Tensor, Tensor]:
        assert policy.reference is not None
        with torch.no_grad():
            found = walk.scores(policy.reference, before=before)
        return self.strength * found.after.detach(), self.strength * found.before

    def target(self, problem: Problem, wrapper: Wrapper) -> Tilt:
        """R^beta p; a prior strength other than 1 is in the wrapper."""
        return problem.tilt(wrapper)

    def velocity(self, problem: Problem) -> VelocityModel:
        return problem.base_field

    def log_state(self, chain: Chain, k: int, x: Tensor) -> Tensor:
        return 0.0 * x.sum(1)


@dataclass(frozen=True)
class Noising(Prior):
    """P_B."""

    strength: float = 1.0

    def log_density(self, policy: Policy, walk: Transitions) -> Tensor:
        ratio, variance = (walk.coefficient(row) for row in walk.chain.noising)
        return walk.log_density(walk.here - ratio * walk.after, variance)

    def scores(self, policy: Policy, walk: Transitions, *, before: bool) -> tuple[Tensor, Tensor]:
        ratio, variance = (walk.coefficient(row) for row in walk.chain.noising)
        white = (walk.here - ratio * walk.after) / variance
        return ratio * white, -white

    def target(self, problem: Problem, wrapper: Wrapper) -> Tilt:
        """R^beta.

        Raises:
            ValueError: it is no integrable Gaussian sum.
        """
        law = reward_sum(problem.reward, wrapper).normalised()
        zero = law.log_abs.new_zeros(())
        return Tilt(law, problem.reward, Alone(claim=wrapper.label), zero, law, None)

    def velocity(self, problem: Problem) -> VelocityModel:
        return _PointAtZero(problem.path)

    def log_state(self, chain: Chain, k: int, x: Tensor) -> Tensor:
        curvature = self.curvatures(chain)[k]
        size = x.shape[1] * math.log(2 * math.pi / curvature)
        return -0.5 * (curvature * x.square().sum(1) + size)

    def curvatures(self, chain: Chain) -> list[float]:
        return (1 / chain.levels[1].square()).tolist()


@dataclass(frozen=True)
class Alone(Exponential):
    """The wrapper of a target that is its own base: 1, and the label of what it is said to be."""

    scale: float = 0.0
    claim: str = ""

    @property
    def label(self) -> str:
        return self.claim


@dataclass(frozen=True)
class _PointAtZero:
    """E[alpha' X_1 + sigma' X_0 | X_t = x] where X_1 = 0."""

    path: Path

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None) -> Tensor:
        times = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        return column(self.path.dsigma(times) / self.path.sigma(times), x) * x
