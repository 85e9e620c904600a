"""The sweeps that every method passes, on problems where the optimum is exact.

The student is an exact field plus a linear combination of random bounded features with
coefficients theta = 0; at the method's optimum the loss's expected gradient in theta vanishes for
every feature, at the reference it does not. Many blocks of rows give as many independent gradient
samples: Student's t with a family-wise false-failure rate of FALSE_FAILURE_RATE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from scipy import stats
from torch import Tensor, nn

from theory.methods.contract.draws import Draws
from theory.methods.contract.method import Batch, Method, Optimum, Policy, Role
from theory.methods.contract.task import ProblemTask
from theory.problem import Problem
from theory.tolerances import FALSE_FAILURE_RATE

FEATURES = 6
Place = Literal["optimum", "reference"]


class Perturbed(nn.Module):
    """function(x, t, cond) + features(x, t) theta, theta (blocks, FEATURES, outputs) = 0.

    features = sin(w'x + u t + b), fixed by the seed; rows come in `blocks` equal blocks.
    """

    slopes: Tensor
    phases: Tensor
    function: Callable[..., Tensor]

    def __init__(
        self, function: Callable[..., Tensor], blocks: int, dim: int, outputs: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.function, self.blocks = function, blocks
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(dim + 1, FEATURES, dtype=torch.float64, generator=generator)
        phase = torch.rand(FEATURES, dtype=torch.float64, generator=generator)
        self.register_buffer("slopes", random)
        self.register_buffer("phases", 2 * math.pi * phase)
        self.theta = nn.Parameter(torch.zeros(blocks, FEATURES, outputs, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        place = torch.cat([x, t[:, None]], -1)
        features = torch.sin(place @ self.slopes + self.phases)
        shift = features.reshape(self.blocks, -1, FEATURES) @ self.theta
        return self.function(x, t, cond) + shift.reshape(len(x), -1)

    def frozen_copy(self, role: Role = "reference") -> Perturbed:
        """The same function at its present theta, for good."""
        del role
        twin = Perturbed(self.function, self.blocks, self.slopes.shape[0] - 1, self.theta.shape[-1])
        twin.load_state_dict(self.state_dict())
        return twin.requires_grad_(False)


def _zero(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
    return torch.zeros(len(x), 1, dtype=x.dtype)


@dataclass(frozen=True)
class Setting:
    """A method ready to be asked: its task, its policy and a batch that it collected."""

    task: ProblemTask
    policy: Policy
    batch: Batch


def prepare(
    method: Method,
    problem: Problem,
    place: Place,
    *,
    blocks: int = 48,
    n: int = 256,
    seed: int = 0,
    best: Optimum | None = None,
) -> Setting:
    """The method on a problem, its policy at the optimum (`best`, if found before) or reference.

    Raises:
        ValueError: the method has no exact optimum on this problem (place "optimum").
    """
    task = ProblemTask(
        [problem] * blocks,
        dtype=torch.float64,
        auxiliary_maker=lambda outputs, draws: Perturbed(_zero, blocks, problem.dim, outputs, 1),
    )
    draws = Draws.seeded([seed * blocks + i for i in range(blocks)], torch.float64)
    student = Perturbed(problem.base_field, blocks, problem.dim, problem.dim)
    policy = method.setup(student, task, draws)
    if place == "optimum":
        best = method.optimum(problem) if best is None else best
        if best is None or not best.exact:
            why = best.note if best is not None else "it states none"
            raise ValueError(f"{method.label} has no exact optimum on {problem.name!r}: {why}")
        student.function = best.velocity
        for name, network in policy.networks.items():
            assert isinstance(network, Perturbed)
            network.function = best.networks[name]
    return Setting(task, policy, method.collect(policy, task, n, draws))


def gradient_samples(method: Method, setting: Setting) -> Tensor:
    """(blocks, parameters): one gradient of the mean loss a block, independent of the others."""
    losses, _ = method.loss(setting.policy, setting.task, setting.batch)
    total = setting.task.per_network(losses).mean(1).sum()
    parameters = setting.policy.parameters()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten(1) for g in gradients], 1)


@dataclass(frozen=True)
class GradientTest:
    """Largest |t| over the parameters, and the bound that chance exceeds at rate 1e-6."""

    statistic: float
    bound: float

    @property
    def vanishes(self) -> bool:
        """Whether the expected gradient is not told from zero."""
        return self.statistic <= self.bound


def gradient_test(samples: Tensor) -> GradientTest:
    """Student's t of every parameter's mean, Bonferroni over the parameters."""
    blocks, parameters = samples.shape
    error = samples.std(0) / math.sqrt(blocks)
    mean = samples.mean(0).abs()
    # A parameter that no draw moves has gradient zero exactly.
    t = torch.where(mean == 0, torch.zeros_like(mean), mean / error)
    bound = stats.t.isf(FALSE_FAILURE_RATE / (2 * parameters), blocks - 1)
    return GradientTest(float(t.max()), float(bound))


def expected_gradient(
    method: Method,
    problem: Problem,
    place: Place,
    *,
    blocks: int = 48,
    n: int = 256,
    seed: int = 0,
    best: Optimum | None = None,
) -> GradientTest:
    """Whether the loss's expected gradient vanishes at the optimum, or at the reference."""
    setting = prepare(method, problem, place, blocks=blocks, n=n, seed=seed, best=best)
    return gradient_test(gradient_samples(method, setting))


# --- the sweep


@dataclass(frozen=True)
class Check:
    """One line of the sweep: what was asked, whether it holds, and what was seen."""

    name: str
    passed: bool
    seen: str


def sweep(method: Method, problem: Problem, *, n: int = 256, seed: int = 0) -> list[Check]:
    """Every check that the contract promises, on one problem; up to the first that leaves the
    others nothing to ask.

    Raises:
        ValueError: the problem's reward is outside what the method allows.
    """
    method.check_problem(problem)
    setting = prepare(method, problem, "reference", blocks=2, n=64, seed=seed)
    first = [_no_graph_in_batch(setting), _shapes(method, setting)]
    if not all(check.passed for check in first):
        return first
    return [
        *first,
        _same_again(method, setting),
        _reference_is_frozen(method, setting),
        _blocks_are_independent(method, setting),
        *_gradients(method, problem, n, seed),
    ]


def _no_graph_in_batch(setting: Setting) -> Check:
    """A batch is data: gradients flow through the loss alone."""
    items = setting.batch.items()
    held = [k for k, v in items if isinstance(v, Tensor) and v.requires_grad]
    return Check("the batch carries no gradient", not held, ", ".join(held) or "none does")


def _shapes(method: Method, setting: Setting) -> Check:
    losses, info = method.loss(setting.policy, setting.task, setting.batch)
    rows = 2 * 64
    fits = losses.shape == (rows,) and all(v.shape == (rows,) for v in info.values())
    fits = fits and bool(torch.isfinite(losses).all()) and losses.dtype == torch.float64
    return Check("one finite value a row", fits, f"{tuple(losses.shape)}, {losses.dtype}")


def _same_again(method: Method, setting: Setting) -> Check:
    first, _ = method.loss(setting.policy, setting.task, setting.batch)
    second, _ = method.loss(setting.policy, setting.task, setting.batch)
    gap = float((first - second).detach().abs().max())
    return Check("same batch, same loss", gap == 0.0, f"largest difference {gap:g}")


def _reference_is_frozen(method: Method, setting: Setting) -> Check:
    policy = setting.policy
    own = {id(p) for p in policy.parameters()}
    frozen = [
        p
        for model in (policy.reference, policy.old)
        if isinstance(model, nn.Module)
        for p in model.parameters()
    ]
    gradient_samples(method, setting)
    losses, _ = method.loss(policy, setting.task, setting.batch)
    losses.sum().backward()
    for p in policy.parameters():
        p.grad = None
    leaks = [p for p in frozen if id(p) in own or p.requires_grad or p.grad is not None]
    return Check("no gradient into reference or old copy", not leaks, f"{len(leaks)} leaks")


def _blocks_are_independent(method: Method, setting: Setting) -> Check:
    """Block 0's losses have no gradient in block 1's parameters."""
    losses, _ = method.loss(setting.policy, setting.task, setting.batch)
    total = setting.task.per_network(losses)[0].sum()
    gradients = torch.autograd.grad(
        total, setting.policy.parameters(), allow_unused=True, materialize_grads=True
    )
    leak = max(float(g[1].abs().max()) for g in gradients)
    return Check("networks do not see each other", leak == 0.0, f"largest gradient {leak:g}")


def _gradients(method: Method, problem: Problem, n: int, seed: int) -> list[Check]:
    best = method.optimum(problem)
    if best is None or not best.exact:
        why = best.note if best is not None else "no optimum is stated"
        return [Check("expected gradient at the optimum", True, f"not asked: {why}")]
    found = []
    for place, wanted in (("optimum", True), ("reference", False)):
        if place == "reference" and method.starts_from == "scratch":
            continue  # the base is what such a method learns
        test = expected_gradient(method, problem, place, n=n, seed=seed, best=best)  # type: ignore[arg-type]
        name = f"expected gradient {'vanishes' if wanted else 'does not vanish'} at the {place}"
        seen = f"largest |t| {test.statistic:.1f}, bound {test.bound:.1f}"
        found.append(Check(name, test.vanishes == wanted, seen))
    return found
