"""The contract of a method: a loss and its exact optimum in one file.

A trainer calls, in this order,

    policy = method.setup(student, task, draws)
    repeat:
        batch = method.collect(policy, task, n, draws)     all randomness is drawn here
        losses, info = method.loss(policy, task, batch)    deterministic; one value a row
        (mean over rows).backward(), an optimiser's step on policy.parameters()
        method.after_step(policy, step)

and knows no method's name. A loss knows no network, no scheduler and no latent: it calls the
models of the policy as v(x, t, cond), x (rows, *event), t (rows,).

Several small networks may train as one: rows then come in `task.blocks` equal blocks, and the
models apply network i to block i. A loss written row by row needs to know nothing of it; means
over rows that a method needs (baselines, normalisers) go through `task.per_network`. Losses are
free of .item() and of branches on data.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from theory.common.checks import check_shape
from theory.fields.mixture import VelocityModel
from theory.methods.contract.draws import Draws
from theory.problems.problem import Problem
from theory.samplers.chain import Chain
from theory.tilts.tilt import Tilt

if TYPE_CHECKING:
    from theory.methods.contract.task import Task

Batch = Mapping[str, Tensor]
Info = dict[str, Tensor]
Role = Literal["reference", "old"]
# Bounds of rewards are found numerically; values at them are allowed.
BOUND_TOLERANCE = 1e-6


@dataclass
class Policy:
    """The models of one fine-tuning, and its state.

    student: trained.  reference: frozen, the pretrained model.  old: a lagging copy of the student
    where the method has one.  networks: auxiliary networks, trained with the student.  state:
    tensors that change from step to step, (task.blocks, ...).
    """

    student: VelocityModel
    reference: VelocityModel | None = None
    old: VelocityModel | None = None
    networks: dict[str, nn.Module] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves: of the student, then of the auxiliary networks."""
        models = [m for m in (self.student, *self.networks.values()) if isinstance(m, nn.Module)]
        return [p for model in models for p in model.parameters() if p.requires_grad]

    @property
    def lagging(self) -> VelocityModel:
        """What the student is compared with: the old copy where there is one, or the reference."""
        model = self.reference if self.old is None else self.old
        assert model is not None
        return model

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold, by name; all but the frozen reference."""
        models = {"student": self.student, "old": self.old, **_prefixed("networks", self.networks)}
        found = {
            f"{name}.{key}": value
            for name, model in models.items()
            if isinstance(model, nn.Module)
            for key, value in model.state_dict().items()
        }
        return found | _prefixed("state", self.state)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave.

        Raises:
            ValueError: names or shapes differ from this policy's.
            TypeError: dtypes differ.
        """
        own = self.tensors()
        if own.keys() != tensors.keys():
            raise ValueError(
                f"tensors must be named as this policy's, {sorted(own)}, got {sorted(tensors)}"
            )
        with torch.no_grad():
            for name, value in own.items():
                check_shape(name, tensors[name], value.shape)
                if value.dtype != tensors[name].dtype:
                    raise TypeError(
                        f"{name} must have dtype {value.dtype}, got {tensors[name].dtype}"
                    )
                value.copy_(tensors[name])


def _prefixed(prefix: str, table: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{key}": value for key, value in table.items()}


def frozen_copy(model: Any, role: Role = "reference") -> Any:
    """A copy that no optimiser moves. Models that hold their own way of copying (adapters on one
    base) offer it as `frozen_copy(role)`; others are copied whole.

    role: "reference", the pretrained model, which stays; "old", a lagging copy that a method moves.
    """
    if hasattr(model, "frozen_copy"):
        return model.frozen_copy(role)
    twin = copy.deepcopy(model)
    if isinstance(twin, nn.Module):
        twin.requires_grad_(False).eval()
    return twin


@dataclass(frozen=True)
class Optimum:
    """The population optimum of a method's loss on a problem.

    velocity: the optimal model (float64).  sampler: "ode", or the Chain whose kernels the method
    trains; what the method samples is the law of that sampler with that velocity.
    networks: the optimal auxiliary functions, by the names of Policy.networks.
    exact: False where the loss's optimum is this one only approximately; `note` says how.
    """

    velocity: VelocityModel
    sampler: Literal["ode"] | Chain = "ode"
    networks: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    log_z: float | None = None
    exact: bool = True
    note: str = ""


@dataclass(frozen=True)
class RewardDomain:
    """Rewards that a method allows: values in [low, high], with a gradient or not."""

    low: float = -math.inf
    high: float = math.inf
    differentiable: bool = False

    def __str__(self) -> str:
        ends = f"values in [{self.low:g}, {self.high:g}]"
        kind = "any finite values" if -self.low == self.high == math.inf else ends
        return f"{kind}, differentiable" if self.differentiable else kind

    def holds(self, low: float, high: float) -> bool:
        """Whether rewards with values in [low, high] are allowed."""
        return low >= self.low - BOUND_TOLERANCE and high <= self.high + BOUND_TOLERANCE

    def check_values(self, values: Tensor, who: str) -> None:
        """Refuse values outside the domain or not finite (one synchronisation with the device).

        Raises:
            ValueError: some are.
        """
        low, high = torch.stack(torch.aminmax(values)).tolist()
        if not (self.holds(low, high) and math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                f"the reward must have {self} for {who}, got values in [{low:g}, {high:g}]"
            )


UNIT_INTERVAL = RewardDomain(0.0, 1.0)


@dataclass(frozen=True)
class Budget:
    """What training on a small problem takes by default: steps, rows a step, learning rate."""

    steps: int = 1500
    batch: int = 2048
    learning_rate: float = 2e-3


class Method(ABC):
    """A method is a frozen dataclass of hyper-parameters with the functions below.

    name, summary, source: for tables.  starts_from: "base" (a pretrained network and a frozen copy
    of it) or "scratch".  budget: the toy trainer's defaults.  named: options always in labels.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    starts_from: ClassVar[Literal["base", "scratch"]] = "base"
    budget: ClassVar[Budget] = Budget()
    named: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:  # noqa: B027  (where the chain of super() ends)
        """Refuse options out of range; a subclass calls super().__post_init__() beside its own."""

    # --- training

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        """The policy to train; the reference is a frozen copy of the student as it comes."""
        return Policy(student, reference=frozen_copy(student))

    @abstractmethod
    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        """n rows a network: endpoint samples or rollouts, rewards, and every random number that
        the loss will use; tensors (task.blocks * n, ...)."""

    @abstractmethod
    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        """One value a row, (rows,), and tensors (rows,) worth logging; no randomness."""

    def after_step(self, policy: Policy, step: int) -> None:  # noqa: B027  (most have none)
        """What follows the optimiser's step number `step` (from 1): old copies, averages."""

    def mapped(self, task: Task, raw: Tensor, cond: Any = None, *, base: bool = False) -> Tensor:
        """Rewards (rows,) as the loss takes them, from raw ones; base: of base samples.

        Raises:
            ValueError: a raw one is outside `rewards`, and the task does not look itself.
        """
        if not task.rewards_checked:
            self.rewards.check_values(raw, self.label)
        return raw

    # --- truth

    def optimum(self, problem: Problem) -> Optimum | None:
        """The exact optimum on a problem, or None where the loss has none in closed form."""
        return None

    def target(self, problem: Problem) -> Tilt | None:
        """The law that the method is said to sample, or None where nothing is claimed."""
        return None

    @property
    def rewards(self) -> RewardDomain:
        """The rewards that the method allows."""
        return RewardDomain()

    def check_problem(self, problem: Problem) -> None:
        """Refuse a problem that the method does not allow, before any work is done.

        Raises:
            ValueError: the reward leaves `rewards`, or the target is no density.
        """
        low, high = problem.reward.bounds()
        if not self.rewards.holds(low, high):
            raise ValueError(
                f"the reward of problem {problem.name!r} must have {self.rewards} for "
                f"{self.label}, got values in [{low:g}, {high:g}]"
            )
        self.target(problem)

    @property
    def cycle(self) -> int:
        """Steps after which the objective changes (an old copy moves), where the learning rate
        starts again; 0: never."""
        return 0

    @property
    def states_per_row(self) -> int:
        """States that the student sees for one row of a batch: a chain's steps, else 1."""
        return 1

    # --- names

    @classmethod
    def fields(cls) -> list[dataclasses.Field[Any]]:
        """The hyper-parameters, a method's own before those of services (`Online`)."""
        return sorted(dataclasses.fields(cls), key=lambda f: bool(f.kw_only))  # type: ignore[arg-type]

    @property
    def options(self) -> dict[str, Any]:
        """The hyper-parameters by name."""
        return {f.name: getattr(self, f.name) for f in self.fields()}

    @property
    def label(self) -> str:
        """name, or name:option=value,... with what differs from the default or is `named`."""
        shown = ",".join(
            f"{f.name}={_plain(value)}"
            for f in self.fields()
            if (value := getattr(self, f.name)) != f.default or f.name in self.named
        )
        return f"{self.name}:{shown}" if shown else self.name


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)
