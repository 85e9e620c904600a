"""The sweeps that every method passes, on problems where the optimum is exact.

The student is an exact field plus a linear combination of random bounded features with
coefficients theta = 0; at the method's optimum the loss's expected gradient in theta vanishes for
every feature, at the reference it does not. From a smooth displacement of the optimum it leads
back: a maximum or a saddle there is none. Many blocks of rows give as many independent gradient
samples: Student's t with a family-wise false-failure rate of FALSE_FAILURE_RATE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from scipy import stats
from torch import Tensor, nn

from theory.common.tolerances import FALSE_FAILURE_RATE
from theory.methods.contract import returned
from theory.methods.contract.method import Method, Optimum
from theory.methods.contract.perturbed import Perturbed as Perturbed  # a student, for tests
from theory.methods.contract.places import Place, Setting, gradient_samples, prepare
from theory.methods.contract.restoring import return_test
from theory.problems.problem import Problem


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
        ValueError: the problem's reward is outside what the method allows, or a part of the method
            raised, or returned another thing than the contract says (`contract.returned`).
    """
    with returned.part(method, "check_problem"):
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
    held = [k for k, v in setting.batch.items() if isinstance(v, Tensor) and v.requires_grad]
    return Check("the batch carries no gradient", not held, ", ".join(held) or "none does")


def _shapes(method: Method, setting: Setting) -> Check:
    losses, _ = returned.loss(method, setting.policy, setting.task, setting.batch)
    fits = bool(torch.isfinite(losses).all()) and losses.dtype == torch.float64
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
    returned.check_gradients(method, policy)
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
    best = returned.optimum(method, problem)
    if best is None:
        return [Check("expected gradient at the optimum", True, "not asked: no optimum is stated")]
    test = return_test(method, problem, best, n=max(2, n // 4), seed=seed)
    back = Check("expected gradient leads back to the optimum", test.leads_back, str(test))
    if not best.exact:
        return [Check("expected gradient at the optimum", True, f"not asked: {best.note}"), back]
    found, places = [], get_args(Place)
    # From scratch the base is what the method learns.
    for place in places[:1] if method.starts_from == "scratch" else places:
        wanted = place == "optimum"
        at = expected_gradient(method, problem, place, n=n, seed=seed, best=best)
        name = f"expected gradient {'vanishes' if wanted else 'does not vanish'} at the {place}"
        seen = f"largest |t| {at.statistic:.1f}, bound {at.bound:.1f}"
        found.append(Check(name, at.vanishes == wanted, seen))
    return [*found, back]
