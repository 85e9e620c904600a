"""A trained chain method against the exact optimum of its chain: control, law, diversity, reward.

    control error   sum_k E|u_k - u*_k|^2 / sum_k E|u*_k|^2,    u_k = (m - m_base)(X_k)/s_k,

along trajectories X of the exact optimal chain. Half of the denominator is the KL of the optimal
chain to the base's. Of a student three controls can be told apart:

    learned   m_base its own frozen base network: the control that was trained
    total     m_base exact: what the base network lacks included
    base      m the base network, m_base exact: that lack alone, as a share of E|u*|^2

Errors of laws are shares of the distance from base to target (W1 in d = 1, TV in d = 2), as in
`toys.evaluation.evaluate`; laws are exact, of the networks' own chains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.control.chain_optimum import regularised_optimum
from theory.evaluation.sampler_laws import Bench, Law
from theory.fields.mixture import VelocityModel
from theory.laws.distances import Array
from theory.methods import Method
from theory.methods.chain.rollouts import chain_axes
from theory.problems.problem import Problem
from theory.samplers.chain import Chain, grid_points
from theory.tilts.wrappers import Exponential

DRAWS = 8192
SEED = 2**43


@dataclass(frozen=True, eq=False)
class ControlTruth:
    """The optimum of a chain on a problem, and trajectories of it.

    x (n, T, d): states 0 .. T-1 of the optimal chain. base, best (n, T, d): exact velocities there.
    to_control (T, 1): from a difference of velocities to u, Q_k/s_k. optimum, target, start: laws.
    """

    problem: Problem
    chain: Chain
    bench: Bench
    x: Tensor
    base: Tensor
    best: Tensor
    optimum: Law
    target: Law
    start: Law

    @classmethod
    def of(cls, method: Method, problem: Problem, draws: int = DRAWS) -> ControlTruth:
        """Shared by all methods with this chain and target.

        Raises:
            ValueError: d > 2, the reward has no gradient, or the method states no optimum of a
                chain or no target.
        """
        check_problem(problem)
        chain, goal = chain_of(method, problem), method.target(problem)
        if goal is None or not isinstance(goal.wrapper, Exponential):
            raise ValueError(
                "the method must be one of the adjoint family, or ddpo with kl_weight > 0, got "
                f"{method.label}, which aims at no tilt exp(a r) on {problem.name!r}"
            )
        best = regularised_optimum(
            chain, problem.base_field, problem.reward, float(goal.wrapper.scale),
            chain_axes(problem, chain, float(goal.wrapper.scale)),
        )  # fmt: skip
        bench = Bench.of(problem, chain, [goal])
        noise = torch.randn(
            draws, chain.steps + 1, problem.dim, dtype=torch.float64,
            generator=torch.Generator().manual_seed(SEED),
        )  # fmt: skip
        x = chain.rollout(best, noise)[:, :-1]
        return cls(
            problem, chain, bench, x,
            base=velocities(problem.base_field, chain, x),
            best=velocities(best, chain, x),
            optimum=bench.of_velocity(best),
            target=bench.of_target(goal),
            start=bench.of_base(),
        )  # fmt: skip

    @property
    def to_control(self) -> Tensor:
        _, Q, s = self.chain.coefficients(self.x)
        return (Q / s)[:, None]

    @property
    def control(self) -> Tensor:
        """u* (n, T, d)."""
        return self.to_control * (self.best - self.base)

    def error(self, student: VelocityModel, base: VelocityModel | None = None) -> ControlError:
        """The control of a student against a base (the exact one where none is given)."""
        own = self.base if base is None else velocities(base, self.chain, self.x)
        control = self.to_control * (velocities(student, self.chain, self.x) - own)
        return ControlError.of(control, self.control)


@dataclass(frozen=True)
class ControlError:
    """sum_k E|u_k - u*_k|^2 / sum_k E|u*_k|^2, its standard error, and the terms of its sum."""

    value: float
    standard_error: float
    of_steps: tuple[float, ...]

    @classmethod
    def of(cls, control: Tensor, best: Tensor) -> ControlError:
        """Of controls (n, T, d) at n independent trajectories."""
        gaps, sizes = (control - best).square().sum(-1), best.square().sum(-1)
        value, standard_error = ratio_of_means(gaps.sum(1), sizes.sum(1))
        return cls(value, standard_error, tuple((gaps.mean(0) / sizes.sum(1).mean()).tolist()))


def ratio_of_means(top: Tensor, bottom: Tensor) -> tuple[float, float]:
    """E top / E bottom of n independent pairs, (n,) each, and its standard error to first order."""
    value = float(top.mean() / bottom.mean())
    return value, float((top - value * bottom).std() / bottom.mean()) / len(top) ** 0.5


def chain_of(method: Method, problem: Problem) -> Chain:
    """The chain whose kernels a method trains.

    Raises:
        ValueError: it trains none.
    """
    find = getattr(method, "chain", None)
    if find is None:
        raise ValueError(
            "the method must be one of the adjoint family or ddpo, got "
            f"{method.label}, which trains no kernels of a chain"
        )
    chain = find(problem)
    assert isinstance(chain, Chain)
    return chain


def velocities(model: VelocityModel, chain: Chain, x: Tensor) -> Tensor:
    """A model at states x (n, T, d) of the chain, (n, T, d), without a graph."""
    times = chain.times.to(x)
    with torch.no_grad():
        return torch.stack([model(x[:, k], times[k].expand(len(x))) for k in range(chain.steps)], 1)


def check_problem(problem: Problem) -> None:
    """Optima of chains are known in d = 1 and 2; adjoints need a gradient.

    Raises:
        ValueError: d > 2, or a reward without one.
    """
    if problem.dim > 2:
        raise ValueError(
            f"problem must be in d = 1 or 2 for control, got {problem.name!r} in d = {problem.dim}"
        )
    with torch.enable_grad():
        x = torch.zeros(1, problem.dim, dtype=problem.base.dtype, requires_grad=True)
        if not problem.reward(x).requires_grad:
            raise ValueError(
                f"the reward of problem {problem.name!r} must be differentiable for control, and "
                "has no gradient"
            )


def measure(truth: ControlTruth, student: VelocityModel, base: VelocityModel) -> dict[str, Any]:
    """A student and the base network that it started from, against the truth; plain numbers."""
    learned, total = truth.error(student, base), truth.error(student)
    law = truth.bench.of_velocity(student)
    to_go = truth.start.distance(truth.target)
    laws = {"base": truth.start, "target": truth.target, "optimum": truth.optimum, "trained": law}
    rewards = {name: mean_reward(truth.problem, one) for name, one in laws.items()}
    spreads = {name: variance(one) for name, one in laws.items()}
    return {
        "problem": truth.problem.name,
        "dim": truth.problem.dim,
        "kernels": kernels_label(truth.chain),
        "chain_steps": truth.chain.steps,
        "control_error": learned.value,
        "control_error_se": learned.standard_error,
        "control_error_of_steps": list(learned.of_steps),
        "total_control_error": total.value,
        "base_control_error": truth.error(base).value,
        "distance": "W1" if truth.problem.dim == 1 else "TV",
        "to_go": to_go,
        "law_share": law.distance(truth.optimum) / to_go,
        "optimum_to_target_share": truth.optimum.distance(truth.target) / to_go,
        "trained_to_target_share": law.distance(truth.target) / to_go,
        "reward": rewards,
        "reward_share": (rewards["trained"] - rewards["base"])
        / (rewards["optimum"] - rewards["base"]),
        "diversity": {name: value / spreads["target"] for name, value in spreads.items()},
        "modes": {name: mode_masses(truth.problem, one) for name, one in laws.items()},
    }


def kernels_label(chain: Chain) -> str:
    """Which kernels, in words."""
    kind = "ancestral" if chain.schedule is None else f"Euler, {chain.schedule.label}"
    return f"{kind}, {chain.steps} steps"


# --- what a law is like


def mean_reward(problem: Problem, law: Law) -> float:
    """E r(X)."""
    points = grid_points(law.grid.axes)
    reward = problem.reward(points).numpy().reshape(law.grid.log_density.shape)
    return law.grid.integrate(reward) / law.grid.mass()


def variance(law: Law) -> float:
    """E|X - EX|^2, the trace of the covariance: half of the mean squared distance of a pair."""
    return float(np.trace(law.grid.moments()[1]))


def mode_masses(problem: Problem, law: Law) -> list[float]:
    """The mass that lies nearest to each of the base's components."""
    density: Array = law.grid.density.ravel()
    near = torch.cdist(grid_points(law.grid.axes), problem.base.mean.double()).argmin(-1).numpy()
    return [float(density[near == i].sum() / density.sum()) for i in range(len(problem.base.mean))]
