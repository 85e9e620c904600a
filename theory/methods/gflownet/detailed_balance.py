"""Detailed balance by log-densities: residual, and against the noising kernels (DAG-DB)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from theory.fields.mixture import VelocityModel
from theory.gflownet.blocks import NotSettledError
from theory.gflownet.class_best import scalar_best
from theory.methods import Batch, Draws, Info, Optimum, Policy, Task
from theory.methods.chain.rollouts import Smooth
from theory.methods.gflownet.family import FlowMethod, Residual, WithoutPrior, predicted
from theory.methods.gflownet.transitions import Transitions
from theory.methods.gflownet.truth import Case
from theory.problems.problem import Problem

FLOW = "flow"


@dataclass(frozen=True)
class DetailedBalance(FlowMethod):
    """Options of detailed balance; no method by itself.

    A flow network is a number f (rows, 1): log Ft_k, less the forward-looking part. log Ft_T is
    beta log R itself.
    """

    # --- training

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        policy = super().setup(student, task, draws)
        policy.networks[FLOW] = task.auxiliary(1, draws, near_zero=True)
        return policy

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        """Trajectories, the prior's log-densities along them, and the rewards ahead.

        Raises:
            ValueError: form is "plain" and a reward is not positive.
        """
        batch = self.walked(policy, task, n, draws) | self.drawn_subset(n, draws)

        def fixed(part: dict[str, Any]) -> dict[str, Any]:
            walk = self.walk(task, part)
            found = {"prior": self.against.log_density(policy, walk)}
            if self.look_ahead != "off":

                def ahead(k: Tensor) -> Tensor:
                    gamma = self.gamma(walk, k).flatten(2)[..., 0]
                    return gamma * walk.at(self.rewards_ahead(policy, task), walk.states(k), k)

                with torch.no_grad():
                    here, after = walk.at_both_ends(ahead, self.scale * part["log_reward"])
                found["ahead_here"], found["ahead_after"] = here, after
            return found | self.anchored(policy, walk)

        batch |= self.in_pieces(task, batch, fixed)
        return self.followed(policy, batch)

    def rewards_ahead(self, policy: Policy, task: Task) -> Any:
        """log R(xhat(x)) as a function (x, t, cond) -> (rows,)."""
        return lambda x, t, cond: self.log_of(
            task.reward(predicted(task.path, policy.student, x, t, cond), cond)
        )

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        walk = self.walk(task, batch)
        mean, velocity = walk.means(policy.student, walk.here)
        log_ratio = walk.log_density(walk.after - mean, walk.variance) - batch["prior"]
        here, after = self.flows(policy, walk, batch)
        if self.held:
            after = after.detach()
        terms = (log_ratio + here - after).square() + self.penalty(batch, velocity)
        return self.total(terms), {"reward": batch["r"]}

    def flow(self, policy: Policy, walk: Transitions, k: Tensor) -> Tensor:
        return walk.at(policy.networks[FLOW], walk.states(k), k)[..., 0]

    def flows(self, policy: Policy, walk: Transitions, batch: Batch) -> tuple[Tensor, Tensor]:
        """log of the flow at X_k and X_{k+1} of each transition, (rows, m) each."""
        last = self.scale * batch["log_reward"]
        here, after = walk.at_both_ends(
            lambda k: self.flow(policy, walk, k), torch.zeros_like(last)
        )
        if self.look_ahead != "off":
            return here + batch["ahead_here"], after + batch["ahead_after"]
        return here, torch.cat([after[:, :-1], last[:, None]], 1)

    # --- truth

    def optimum(self, problem: Problem) -> Optimum | None:
        """d = 1 and 2. None where no fixed point is found, or the grid for it is too large."""
        case, known = Case(self, problem), self.held and self.anchor != "base"
        if problem.dim > 2:
            return None
        if known:
            best = case.regularised

            def residual(k: int, x: Tensor) -> Tensor:
                return case.value(k, x) - float(case.costs[k])
        elif case.grid is None:
            return None
        else:
            try:
                found = scalar_best(
                    case.grid,
                    case.terminal,
                    case.anchors,
                    prior=case.strength,
                    held=self.held,
                    start=case.start(case.grid),
                )
            except NotSettledError:
                return None
            best = case.kernels(found)

            def residual(k: int, x: Tensor) -> Tensor:
                return torch.as_tensor(found.flows[k](x.numpy()))

        model = Smooth(best)

        def left(k: int, x: Tensor) -> Tensor:
            flow = residual(k, x) + self.against.log_state(case.chain, k, x)[:, None]
            return flow - case.ahead(self, model, k, x)[:, None]

        networks = {FLOW: case.by_state(left, 1)}
        return case.optimum(model, networks, known)


@dataclass(frozen=True)
class ResidualDB(Residual, DetailedBalance):
    """sum_k (log P_F(x'|x) - eta log P#(x'|x) + log Ft(x) - log Ft(x'))^2 over the policy's
    trajectories, held fixed: residual detailed balance, Remark 5 and (50), with log Ft_T = beta log
    R. (20) is printed without log Ft(x), and is met by no policy unless R is constant.
    """

    name: ClassVar[str] = "residual_db"
    summary: ClassVar[str] = "residual detailed balance, with a flow learnt"
    source: ClassVar[str] = "nabla-GFlowNet Remark 5, (20), (50)"


@dataclass(frozen=True)
class DagDB(WithoutPrior, DetailedBalance):
    """sum_k (log P_F(x'|x) + log F(x) - log P_B(x|x') - log F(x'))^2 over the policy's
    trajectories, held fixed, log F_T = beta log R: detailed balance (4)-(5). It is said to sample
    R^beta, which has to be integrable.
    """

    name: ClassVar[str] = "dag_db"
    summary: ClassVar[str] = "detailed balance with the noising, no prior"
    source: ClassVar[str] = "Zhang et al. 2024 (DAG); nabla-GFlowNet (4)-(5)"
