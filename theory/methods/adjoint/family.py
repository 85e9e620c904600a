"""The adjoint family of stochastic optimal control: what its methods share.

On a Chain the policy's kernels N(m(X_k), s_k^2 I) against the base's N(m_b(X_k), s_k^2 I) are a
control u_k = (m - m_b)/s_k, and

    min E[ sum_k |u_k|^2/2 - scale r(X_T) ]

is the KL-regularised reward problem of `theory.samplers.chain`. The cost's gradient at a state
along a trajectory is its adjoint, a_T = -scale grad r(X_T) and

    a_k = (dm/dx)' a_{k+1} + grad_x |m - m_b|^2/(2 s_k^2)     at X_k            (full)
    a_k = (dm_b/dx)' a_{k+1}                                                    (lean)

(Domingo-Enrich et al. 2024, arXiv 2409.08861; the slides' adjoint ODEs at finite steps). The
optimal control is u_k = -s_k E[a_{k+1} | X_k] with either.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from theory.common.checks import check_nonnegative, check_order, check_positive
from theory.fields.diffusion import Diffusion
from theory.methods.chain.finite import finite_rows, refuse
from theory.methods.chain.rollouts import chain_on, chain_optimum, trajectories
from theory.methods.chain.transforms import draw_subset
from theory.methods.contract.draws import Draws
from theory.methods.contract.method import Batch, Budget, Method, Optimum, Policy, RewardDomain
from theory.methods.contract.task import Task
from theory.problems.problem import Problem
from theory.samplers.chain import Chain
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential

SIGMA_END = 0.04


@dataclass(frozen=True)
class AdjointMethod(Method):
    """Options of the family; no method by itself.

    scale: of the reward, the target is exp(scale * reward_scale * r).
    steps: T.  sigma_end: the noise that stays on the last state of ancestral kernels.
    g = 0 and offset = 0: ancestral kernels, memoryless and finite at both ends.
    g > 0: Euler kernels at constant diffusion g; not memoryless, what is optimal does not sample
        the target (the value at X_0 tilts it too).
    offset > 0: Euler kernels at the memoryless schedule moved off its singular end
        (`theory.fields.diffusion`); a share of order offset of X_0 is remembered. The first kernel
        overshoots where offset is well below 1/steps.
    reward_scale, clip: `transforms`.

    Raises:
        ValueError: an option is out of range, g and offset together, sigma_end with either.
    """

    scale: float = 2.0
    steps: int = 16
    sigma_end: float = SIGMA_END
    g: float = 0.0
    offset: float = 0.0
    reward_scale: float = 1.0
    clip: float = 0.0

    budget: ClassVar[Budget] = Budget(steps=1000, batch=256, learning_rate=2e-3)
    source: ClassVar[str] = "Domingo-Enrich et al. 2024 (arXiv 2409.08861)"

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        check_positive("reward_scale", self.reward_scale)
        for name in ("clip", "g", "offset"):
            check_nonnegative(name, getattr(self, name))
        if self.g and self.offset:
            raise ValueError(
                "at most one of g and offset must be given (a constant diffusion, or the "
                f"memoryless one moved off its singular end), got g = {self.g!r} and offset = "
                f"{self.offset!r}"
            )
        if self.schedule is not None and self.sigma_end != SIGMA_END:
            raise ValueError(
                "sigma_end must come with ancestral kernels (g = 0 and offset = 0), else it "
                f"changes nothing, got {self.sigma_end!r} with {self.schedule.label}"
            )
        Chain(self.steps, self.sigma_end, schedule=self.schedule)

    @property
    def schedule(self) -> Diffusion | None:
        """Of Euler kernels; None for ancestral ones."""
        if self.g:
            return Diffusion.of_constant(self.g)
        return Diffusion.of_offset(self.offset) if self.offset else None

    @property
    def full_scale(self) -> float:
        """scale * reward_scale."""
        return self.scale * self.reward_scale

    @property
    def rewards(self) -> RewardDomain:
        return RewardDomain(differentiable=True)

    def chain(self, task: Task | Problem) -> Chain:
        """The chain on the task's path."""
        return chain_on(task, self.steps, self.sigma_end, self.schedule)

    @property
    def states_per_row(self) -> int:
        return self.steps

    # --- truth

    def optimum(self, problem: Problem) -> Optimum | None:
        """Over Gaussian kernels, d = 1 and 2; beyond, the limit of many steps where it is known."""
        chain = self.chain(problem)
        if problem.dim <= 2:
            return chain_optimum(problem, chain, self.full_scale)
        if self.g:
            return None
        return Optimum(
            problem.tilted_field(Exponential(self.full_scale)),
            chain,
            exact=False,
            note="the limit of many steps (and of offset 0); the chain's own optimum is known in "
            "d = 1 and 2",
        )

    def target(self, problem: Problem) -> Tilt:
        """What fine-tuning is for; memoryless kernels sample it as steps grow, others do not."""
        return problem.tilt(Exponential(self.full_scale))


@dataclass(frozen=True)
class StoredAdjoint(AdjointMethod):
    """Methods that solve for the adjoints while they collect, and store them.

    A batch has x (rows, T + 1, *event), adjoint (rows, T, *event) of states 1 .. T (or T + 1 of
    all), reference (rows, T, *event), r, cond, and index (rows, subset) where subset > 0.
    subset: `transforms`.
    """

    subset: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order("subset", self.subset, 0, self.steps)

    @property
    def states_per_row(self) -> int:
        return self.subset or self.steps

    @abstractmethod
    def solve(self, policy: Policy, task: Task, x: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
        """(adjoint, reference) along the trajectories x, without a graph; the reference's kernel
        means, or what else of it the loss takes."""

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        """Rollouts of the student, and their adjoints.

        Raises:
            ValueError: the reward has no gradient, or is not finite.
            NonFiniteAdjointError: an adjoint is not finite.
        """
        chain = self.chain(task)
        batch = trajectories(chain, policy.student, task, n, draws)
        x, cond = batch["x"], batch["cond"]
        pieces = [
            self.solve(policy, task, x[rows], None if cond is None else cond[rows])
            for rows in task.execution.slices(len(x))
        ]
        batch["r"] = self.mapped(task, batch["r"], cond)
        adjoints, references = zip(*pieces, strict=True)
        batch["adjoint"], batch["reference"] = torch.cat(adjoints), torch.cat(references)
        finite = finite_rows(batch["adjoint"], 2)
        if not bool(finite.all()):
            refuse(self.label, chain, finite.T, chain.steps + 1 - finite.shape[1])
        if self.subset:
            batch["index"] = draw_subset(n, chain.steps, self.subset, draws)
        return batch


def reward_gradient(method: AdjointMethod, task: Task, last: Tensor, cond: Any) -> Tensor:
    """reward_scale grad r(X_T), (rows, *event), of every row's own reward.

    Raises:
        ValueError: the reward has no gradient.
    """
    with torch.enable_grad():
        last = last.detach().requires_grad_(True)
        gradient = check_differentiable(method, task.reward(last, cond), last)
    return method.reward_scale * gradient


def check_differentiable(method: Method, reward: Tensor, x: Tensor) -> Tensor:
    """grad r at x; refuse a reward that has no graph, or one that does not lead to x (a reward
    network's own parameters, say).

    Raises:
        ValueError: it has none.
    """
    found = None
    if reward.requires_grad:
        (found,) = torch.autograd.grad(reward.sum(), x, allow_unused=True)
    if found is None:
        raise ValueError(f"the reward has no gradient: {method.label} needs {method.rewards}")
    return found
