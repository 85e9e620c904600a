"""What the GFlowNet methods share.

The chain of `theory.samplers.chain` is a GFlowNet: states X_0 (noise) .. X_T, the student's kernels
P_F(x' | x) = N(m(x), s_k^2 I), the noising kernels P_B(x | x'), and flows F_k. Residual methods
divide by the pretrained chain: Ft_k = F_k/F#_k, E#[R^beta(X_T) | X_k] where all is exact. X_T keeps
the noise sigma_end and is what is rewarded. `theory.gflownet` has the conditions.

All train on trajectories of the policy itself, held fixed: a gradient is of the loss at given
states alone. Gaussian kernels of fixed variance cannot meet the conditions at finitely many steps,
so what is left of them has a variance as well as a mean, and where the optimum lies depends on
what of the loss is held fixed: `theory.gflownet.class_best`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from theory.common.checks import check_choice, check_nonnegative, check_order, check_positive
from theory.fields.mixture import VelocityModel
from theory.fields.paths import Path
from theory.gflownet.flows import LOOK_AHEADS, look_ahead_strengths
from theory.methods.chain.rollouts import chain_on, trajectories
from theory.methods.chain.transforms import drawn_coefficient, squares
from theory.methods.contract.draws import Draws
from theory.methods.contract.method import (
    Batch,
    Budget,
    Method,
    Policy,
    RewardDomain,
    frozen_copy,
)
from theory.methods.contract.online import follow
from theory.methods.contract.task import Task, column
from theory.methods.gflownet.priors import Noising, Pretrained, Prior
from theory.methods.gflownet.transitions import Transitions, draw_strata, strata
from theory.problems.problem import Problem
from theory.samplers.chain import Chain
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential, Power, Wrapper

Form = Literal["log", "plain"]


@dataclass(frozen=True)
class GFlowNet(Method):
    """Options of the family; no method by itself.

    scale: beta.  steps, sigma_end: the chain's.
    form: what the reward r is: "log", r = log R, or "plain", r = R > 0 (scale is then a whole
        number).
    anchor_weight, anchor: lambda in lambda |v - v_anchor|^2 at every state that the loss sees, and
        what the student's velocity v is held to: "base", the pretrained model's (Algorithm 1), or
        "previous", its own before the last update (section 4.3). The first moves the fixed point,
        the second only slows the way to it.
    data: trajectories of the policy as it is, "now", or as it was before the last update,
        "previous" (Algorithm 1).

    Raises:
        ValueError: an option is out of range, or changes nothing.
    """

    scale: float = 2.0
    steps: int = 16
    sigma_end: float = 0.04
    form: Form = "log"
    anchor_weight: float = 0.0
    anchor: Literal["base", "previous"] = "previous"
    data: Literal["now", "previous"] = "now"

    differentiable: ClassVar[bool] = False
    budget: ClassVar[Budget] = Budget(steps=1000, batch=256, learning_rate=2e-3)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("scale", self.scale)
        check_choice("form", self.form, get_args(Form))
        exponent = self.scale / self.against.strength
        if self.form == "plain" and exponent != round(exponent):
            raise ValueError(
                "scale over the prior's strength must be a whole number with form = 'plain', got "
                f"{exponent!r}"
            )
        check_nonnegative("anchor_weight", self.anchor_weight)
        check_choice("anchor", self.anchor, ("base", "previous"))
        check_choice("data", self.data, ("now", "previous"))
        if self.anchor == "base" and not self.anchor_weight:
            raise ValueError(
                "anchor must come with anchor_weight > 0, else it changes nothing, got 'base'"
            )
        Chain(self.steps, self.sigma_end)

    @property
    @abstractmethod
    def against(self) -> Prior:
        """What the policy's kernels are compared with."""

    @property
    def rewards(self) -> RewardDomain:
        low = 0.0 if self.form == "plain" else -torch.inf
        return RewardDomain(low=low, differentiable=self.differentiable)

    def chain(self, task: Task | Problem) -> Chain:
        """The chain on the task's path."""
        return chain_on(task, self.steps, self.sigma_end, within=True)

    @property
    def states_per_row(self) -> int:
        return self.steps

    # --- the reward

    def log_of(self, reward: Tensor) -> Tensor:
        """log R of raw rewards."""
        return reward.log() if self.form == "plain" else reward

    @property
    def wrapper(self) -> Wrapper:
        """R^(beta/eta) of the reward r, the prior's strength eta being that of `against`."""
        strength = self.scale / self.against.strength
        return Power(round(strength)) if self.form == "plain" else Exponential(strength)

    def target(self, problem: Problem) -> Tilt:
        """R^beta, or R^(beta/eta) times the base: at eta = 1 what is claimed; else not (10),
        R^beta base^eta, but what Gaussian kernels of the chain's variance can be taught."""
        return self.against.target(problem, self.wrapper)

    # --- training

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        """The policy; `old` is the student before its last update, where an option asks for it.

        Raises:
            ValueError: without a prior, a chain that begins at another law than noise's own.
        """
        chain = self.chain(task)
        if not isinstance(self.against, Pretrained) and float(chain.levels[0][0]) != 0:
            raise ValueError(
                f"{self.label} must run on a chain that starts at pure noise, where the flow of "
                f"every R^beta is the noise's law, got one from t = {task.first_time:g}"
            )
        policy = Policy(student, frozen_copy(student))
        if "previous" in (self.data, self.anchor if self.anchor_weight else ""):
            policy.old = frozen_copy(student, "old")
        return policy

    def walked(self, policy: Policy, task: Task, n: int, draws: Draws) -> dict[str, Any]:
        """Trajectories x, raw rewards r and log R of their last states, cond.

        Raises:
            ValueError: form is "plain" and a reward is not positive.
        """
        model = policy.student if self.data == "now" else policy.old
        assert model is not None
        return self.rewarded(task, trajectories(self.chain(task), model, task, n, draws))

    def rewarded(self, task: Task, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with log R, and r as it is logged."""
        if self.form == "plain" and not bool((batch["r"] > 0).all()):
            raise ValueError(
                f"the reward must be > 0 with form = 'plain' for {self.label}, got a least value "
                f"of {float(batch['r'].min()):g}"
            )
        batch["log_reward"] = self.log_of(batch["r"])
        batch["r"] = self.mapped(task, batch["r"], batch["cond"])
        return batch

    def anchored(self, policy: Policy, walk: Transitions) -> dict[str, Tensor]:
        """{"v_anchor": the anchor's velocity at the transitions' first states}, or nothing where
        there is none."""
        if not self.anchor_weight:
            return {}
        model = policy.reference if self.anchor == "base" else policy.old
        assert model is not None
        with torch.no_grad():
            return {"v_anchor": walk.at(model, walk.here, walk.k)}

    def followed(self, policy: Policy, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch, after which the old copy is the student as it is before the next update."""
        if policy.old is not None:
            follow(policy.old, policy.student, 0.0)
        return batch

    def penalty(self, batch: Batch, velocity: Tensor) -> Tensor:
        """lambda |v - v_anchor|^2, (rows, m)."""
        if not self.anchor_weight:
            return velocity.new_zeros(velocity.shape[:2])
        return self.anchor_weight * squares(velocity - batch["v_anchor"])

    def in_pieces(
        self, task: Task, batch: Mapping[str, Any], make: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """make(rows of the batch) for as many rows at once as the machine allows, put together."""
        rows = len(batch["x"])
        pieces = [
            make({name: None if v is None else v[part] for name, v in batch.items()})
            for part in task.execution.slices(rows)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


@dataclass(frozen=True)
class Residual(GFlowNet):
    """Options of methods that divide by the pretrained chain; none by itself.

    prior: eta > 0, the power of the pretrained kernels.
    """

    prior: float = 1.0

    def __post_init__(self) -> None:
        check_positive("prior", self.prior)
        super().__post_init__()

    @property
    def against(self) -> Prior:
        return Pretrained(self.prior)


@dataclass(frozen=True)
class WithoutPrior(GFlowNet):
    """Options of methods that set the policy against the noising; none by itself.

    form: "plain" is the default: R^beta has to be integrable.
    """

    form: Form = "plain"

    @property
    def against(self) -> Prior:
        return Noising()


@dataclass(frozen=True)
class FlowMethod(GFlowNet):
    """Options of methods that train a flow beside the policy, on transitions; none by itself.

    look_ahead: the flow network learns what is left of log Ft_k beyond gamma_k beta log R(xhat),
        xhat the student's prediction of the data: gamma_k = 0 ("off"), 1 ("one"), the state's
        signal coefficient ("signal") or its square ("signal_squared"). What a network can learn at
        any rate is the same, so the fixed point is.
    held: the flow at X_{k+1}, and the policy where the flow at X_k is learnt, are held fixed: the
        policy regresses on the flow ahead of it, the flow on the policy. The fixed point is then
        the KL-regularised optimum over Gaussian kernels (`theory.gflownet.class_best`).
    subset: transitions of a trajectory that the loss sees: one of each of as many stretches, the
        last alone, weighted by the stretches' lengths (the expected loss is that of all); 0: all.

    Raises:
        ValueError: an option is out of range, or changes nothing.
    """

    look_ahead: Literal["off", "one", "signal", "signal_squared"] = "signal_squared"
    held: bool = False
    subset: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("look_ahead", self.look_ahead, LOOK_AHEADS)
        if self.subset:
            check_order("subset", self.subset, 2, self.steps)
        else:
            check_order("subset", self.subset, 0)

    @property
    def states_per_row(self) -> int:
        return self.subset or self.steps

    def walk(self, task: Task, batch: Mapping[str, Any]) -> Transitions:
        """The transitions of a batch that the loss sees."""
        return Transitions.of(self.chain(task), batch["x"], batch["cond"], batch.get("index"))

    def drawn_subset(self, n: int, draws: Draws) -> dict[str, Tensor]:
        """{"index": transitions (rows, subset)}, or nothing where all are seen."""
        return {"index": draw_strata(n, self.steps, self.subset, draws)} if self.subset else {}

    def total(self, terms: Tensor) -> Tensor:
        """The sum over transitions of terms (rows, m), each for its stretch; (rows,)."""
        if not self.subset:
            return terms.sum(1)
        return (terms * strata(self.steps, self.subset).to(terms)).sum(1)

    def gamma(self, walk: Transitions, k: Tensor) -> Tensor:
        """beta gamma_k of states k (rows or 1, p), to multiply events with."""
        strengths = look_ahead_strengths(walk.chain, self.look_ahead)
        values = self.scale * torch.tensor(strengths, dtype=torch.float64)
        return drawn_coefficient(values.to(walk.x), k, walk.x.ndim - 2)

    @abstractmethod
    def flow(self, policy: Policy, walk: Transitions, k: Tensor) -> Tensor:
        """The flow network at states k (rows or 1, p)."""


def predicted(path: Path, model: VelocityModel, x: Tensor, t: Tensor, cond: Any) -> Tensor:
    """xhat: the data that a velocity predicts from X_t = x, t < 1; (rows, *event)."""
    alpha, sigma, dalpha, dsigma = (
        column(row, x) for row in (path.alpha(t), path.sigma(t), path.dalpha(t), path.dsigma(t))
    )
    return (dsigma * x - sigma * model(x, t, cond)) / (dsigma * alpha - sigma * dalpha)
