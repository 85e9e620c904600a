"""nabla-DB: detailed balance by the gradients of its logarithm."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from theory.common.checks import check_choice, check_nonnegative, check_order, check_positive
from theory.fields.mixture import VelocityModel
from theory.gflownet.blocks import NotSettledError
from theory.gflownet.class_best import Weights, nabla_best
from theory.methods import Batch, Draws, Info, Optimum, Policy, Task, square
from theory.methods.adjoint.family import check_differentiable
from theory.methods.chain.rollouts import Smooth, every_state
from theory.methods.chain.transforms import squares
from theory.methods.contract.auxiliary import StartsAtZero
from theory.methods.gflownet.family import FlowMethod, WithoutPrior, predicted
from theory.methods.gflownet.transitions import Scores, Transitions
from theory.methods.gflownet.truth import Case, noise_nodes, slope_of
from theory.problems.problem import Problem

FLOW = "flow"


@dataclass(frozen=True)
class Nabla(FlowMethod):
    """Options of nabla-DB methods; none by itself.

    w_forward, w_backward, w_terminal: weights of the forward, reverse and terminal losses. Without
        the reverse one nothing takes the reward's gradient to the flows of earlier states: any
        constants will do.
    bidirectional: no flow, but the forward residual at X_{k+1} of kernel k plus the reverse one of
        kernel k + 1 (Remark 6).
    second_order: the policy's score in X_k, which holds the Jacobian of its mean, and xhat in the
        forward-looking part are trained through; off: they are held fixed.
    smoothing, smoothing_draws: log R's gradient at x is the mean of those at so many x + c eps, c
        the smoothing and eps ~ N(0, I): that of log R convolved with N(0, c^2 I).

    flow_start: where the flow network begins: "new", one that the task makes, or "base", the
        pretrained network with its last layer at 0 (Remark 3).

    A flow network is a field h (rows, *event): grad log Ft_k, less the forward-looking part.

    Squares of scores weigh kernel k by 1/s_k^4, and what states at the start share is learnt
    slowly. Weighted evenly, by s_k^2, parameters that all times share lead away from the optimum.
    """

    w_forward: float = 1.0
    w_backward: float = 1.0
    w_terminal: float = 1.0
    bidirectional: bool = False
    second_order: bool = False
    smoothing: float = 0.0
    smoothing_draws: int = 1
    flow_start: Literal["new", "base"] = "new"

    differentiable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("w_forward", self.w_forward)
        check_positive("w_terminal", self.w_terminal)
        check_nonnegative("w_backward", self.w_backward)
        check_nonnegative("smoothing", self.smoothing)
        check_order("smoothing_draws", self.smoothing_draws, 1)
        check_choice("flow_start", self.flow_start, ("new", "base"))
        if self.smoothing_draws > 1 and not self.smoothing:
            raise ValueError(
                "smoothing_draws must come with smoothing > 0, else it changes nothing, got "
                f"{self.smoothing_draws}"
            )
        if self.held and (self.second_order or not self.w_backward):
            raise ValueError(
                "held must come with second_order = False and w_backward > 0 (the flow learns from "
                f"the policy's score as it is), got second_order = {self.second_order} and "
                f"w_backward = {self.w_backward:g}"
            )
        if self.bidirectional and (self.subset or self.held or self.flow_start == "base"):
            raise ValueError(
                "bidirectional must come with subset = 0, held = False and flow_start = 'new' (it "
                f"takes neighbouring transitions, and has no flow), got {self.subset}, {self.held} "
                f"and {self.flow_start!r}"
            )

    # --- training

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        """The policy, its flow network beside it.

        Raises:
            ValueError: flow_start is "base", and the student's last layer cannot be set to 0.
        """
        policy = super().setup(student, task, draws)
        if self.flow_start == "base":
            if not isinstance(student, StartsAtZero):
                raise ValueError(
                    f"flow_start must be 'new' for a {type(student).__name__}, whose last layer "
                    "cannot be set to 0, got 'base'"
                )
            flow: Any = copy.deepcopy(student)
            flow.zero_last()
            policy.networks[FLOW] = flow
        elif not self.bidirectional:
            policy.networks[FLOW] = task.auxiliary("event", draws, near_zero=True)
        return policy

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        """Trajectories, the prior's scores along them, and the reward's gradients.

        Raises:
            ValueError: the reward has no gradient, or form is "plain" and one is not positive.
        """
        batch = self.walked(policy, task, n, draws) | self.drawn_subset(n, draws)
        if self.smoothing:
            # A column of noise for each state at which the reward's gradient is asked for.
            states = 1
            if self.look_ahead != "off" and not self.bidirectional:
                states += 2 * self.subset - 1 if self.subset else self.steps
            batch["smooth"] = draws.normal(n, states, self.smoothing_draws, *task.event_shape)

        def fixed(part: dict[str, Any]) -> dict[str, Any]:
            walk = self.walk(task, part)
            after, before = self.against.scores(policy, walk, before=self.reverse)
            found = {"prior_after": after, "prior_before": before}
            found["terminal"] = self.terminal_score(task, part)
            if self.looks and not self.second_order:
                ahead = self.look(policy, task, walk, part | found)
                found["ahead_here"], found["ahead_after"] = (score.detach() for score in ahead)
            return found | self.anchored(policy, walk)

        batch |= self.in_pieces(task, batch, fixed)
        if not (self.looks and self.second_order):
            batch.pop("smooth", None)
        return self.followed(policy, batch)

    @property
    def reverse(self) -> bool:
        """Whether scores in X_k are asked for."""
        return self.bidirectional or self.w_backward > 0

    @property
    def looks(self) -> bool:
        """Whether there is a forward-looking part."""
        return self.look_ahead != "off" and not self.bidirectional

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        walk = self.walk(task, batch)
        forward, reverse, velocity = self.scores(policy, walk, batch)
        if self.bidirectional:
            to_come = torch.cat([-reverse[:, 1:], batch["terminal"][:, None]], 1)
            terms = self.w_forward * squares(forward - to_come)
            terminal = torch.zeros_like(batch["r"])
        else:
            here, after, left = self.flows(policy, task, walk, batch)
            if self.held:
                after = after.detach()
            terms = self.w_forward * squares(forward - after)
            if self.w_backward:
                terms = terms + self.w_backward * squares(reverse + here)
            terminal = self.w_terminal * square(left)
        losses = self.total(terms + self.penalty(batch, velocity)) + terminal
        return losses, {"reward": batch["r"]}

    def scores(self, policy: Policy, walk: Transitions, batch: Batch) -> Scores:
        """The kernels' scores less the prior's."""
        own = walk.scores(policy.student, before=self.reverse, graph=self.second_order)
        after, before = own.after - batch["prior_after"], own.before - batch["prior_before"]
        return Scores(after, before, own.velocity)

    # --- flows

    def flow(self, policy: Policy, walk: Transitions, k: Tensor) -> Tensor:
        return walk.at(policy.networks[FLOW], walk.states(k), k)

    def flows(
        self, policy: Policy, task: Task, walk: Transitions, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The flow's scores at X_k and X_{k+1} of each transition, and what is left of the terminal
        condition at X_T."""
        last = torch.full((1, 1), walk.chain.steps, device=walk.x.device)
        end = self.flow(policy, walk, last)[:, 0]
        here, after = walk.at_both_ends(
            lambda k: self.flow(policy, walk, k), end, self.w_backward > 0
        )
        if not self.looks:
            return here, after, end - batch["terminal"]
        if self.second_order:
            ahead = self.look(policy, task, walk, batch)
        else:
            ahead = batch["ahead_here"], batch["ahead_after"]
        return here + ahead[0], after + ahead[1], end

    def terminal_score(self, task: Task, batch: Batch) -> Tensor:
        """beta grad log R(X_T), (rows, *event), by the last column of the smoothing's noise."""
        noise = batch["smooth"][:, -1] if self.smoothing else None
        with torch.enable_grad():
            last = batch["x"][:, -1].detach().requires_grad_(True)
            values = self.smoothed(task, last, batch["cond"], noise)
            return self.scale * check_differentiable(self, values, last)

    def look(
        self, policy: Policy, task: Task, walk: Transitions, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """gamma_k beta grad log R(xhat) at both ends of each transition, differentiable in the
        student where gradients of second order are."""
        noise = None
        if self.smoothing:
            # Of the columns those of the states that are asked for: the later ends are the last.
            asked = slice(None) if self.w_backward else slice(1 - walk.k.shape[1], None)
            noise = batch["smooth"][:, :-1][:, asked].flatten(0, 1)

        def ahead(k: Tensor) -> Tensor:
            def score(x: Tensor, t: Tensor, cond: Any) -> Tensor:
                return self.ahead_score(task, policy.student, x, t, cond, noise)

            return self.gamma(walk, k) * walk.at(score, walk.states(k), k)

        return walk.at_both_ends(ahead, batch["terminal"], self.w_backward > 0)

    def ahead_score(
        self,
        task: Task,
        model: VelocityModel,
        x: Tensor,
        t: Tensor,
        cond: Any,
        noise: Tensor | None,
    ) -> Tensor:
        """grad_x log R(xhat(x)), (rows, *event)."""
        graph = self.second_order and torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            data = predicted(task.path, model, x, t, cond)
            values = self.smoothed(task, data, cond, noise)
            (slope,) = torch.autograd.grad(values.sum(), x, create_graph=graph)
        return slope

    def smoothed(self, task: Task, x: Tensor, cond: Any, noise: Tensor | None) -> Tensor:
        """The mean of log R at x + c noise, noise (rows, draws, *event); (rows,)."""
        if noise is None:
            return self.log_of(task.reward(x, cond))
        count = noise.shape[1]
        places = (x[:, None] + self.smoothing * noise).flatten(0, 1)
        values = self.log_of(task.reward(places, every_state(cond, count)))
        return values.reshape(len(x), count).mean(1)

    # --- truth

    def optimum(self, problem: Problem) -> Optimum | None:
        """d = 1 and 2. None where the flow is known up to constants (w_backward = 0), the
        forward-looking part is trained through, or no fixed point is found; in d = 2 also with
        second_order, or where the grid for it is too large."""
        case = Case(self, problem, noise_nodes(self.smoothing, problem.dim))
        first = self.bidirectional and not self.second_order
        known = (self.held or first) and self.anchor != "base"
        unknown = not self.w_backward or self.bidirectional
        if self.second_order:
            unknown = unknown or self.looks or problem.dim == 2
        if problem.dim > 2 or (unknown and not known):
            return None
        if known:
            best = case.regularised
            score = case.value_slope
        elif case.grid is None:
            return None
        else:
            each = np.ones(case.chain.steps)
            weights = Weights(
                self.w_forward * each, self.w_backward * each, self.w_terminal, case.anchors
            )
            try:
                found = nabla_best(
                    case.grid,
                    case.terminal,
                    weights,
                    prior=case.strength,
                    second_order=self.second_order,
                    held=self.held,
                    start=case.start(case.grid),
                )
            except NotSettledError:
                return None
            best = case.kernels(found)

            def score(k: int, x: Tensor) -> Tensor:
                return torch.as_tensor(found.flows[k](x.numpy()))

        model = Smooth(best)
        if self.bidirectional:
            return case.optimum(model, {}, known)

        def left(k: int, x: Tensor) -> Tensor:
            def looked(y: Tensor) -> Tensor:
                ahead = case.ahead(self, model, k, y)
                return self.against.log_state(case.chain, k, y) - ahead

            return score(k, x) + slope_of(looked, x)

        networks = {FLOW: case.by_state(left, problem.dim)}
        return case.optimum(model, networks, known)


@dataclass(frozen=True)
class NablaDB(WithoutPrior, Nabla):
    """Without a prior, (7)-(9): the scores of the policy against those of the noising kernels
    log P_B(x | x') and of a flow, grad log F_T = beta grad log R at the end, elsewhere as residual
    nabla-DB. It is said to sample R^beta, which has to be integrable.
    """

    name: ClassVar[str] = "nabla_db"
    summary: ClassVar[str] = "the scores of detailed balance with the noising, no prior"
    source: ClassVar[str] = "nabla-GFlowNet (7)-(9)"
