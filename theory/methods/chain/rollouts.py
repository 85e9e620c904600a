"""Rollouts of the discrete chain, shared by the methods that train its kernels.

Trajectories are x (rows, T + 1, *event); kernels k = 0 .. T-1 lead from state k to state k + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.control.chain_optimum import ChainOptimum, Surface, regularised_optimum
from theory.fields.diffusion import Diffusion
from theory.fields.mixture import VelocityModel
from theory.laws.distances import Array
from theory.laws.gaussians import GaussianSum
from theory.methods.chain.transforms import drawn, drawn_coefficient
from theory.methods.contract.draws import Draws
from theory.methods.contract.method import Optimum
from theory.methods.contract.task import Task
from theory.problems.problem import Problem
from theory.samplers.chain import Chain, state_axes
from theory.tilts.wrappers import Exponential

# Steps of the optimum's grid in units of the chain's narrowest kernel.
GRID_SPACING = {1: 0.5, 2: 4.0}
# Rows that find how far a schedule's kernels carry the states.
REACH_ROWS, REACH, FAR = 4096, 5.5, 4.0


def trajectories(
    chain: Chain, model: VelocityModel, task: Task, n: int, draws: Draws
) -> dict[str, Any]:
    """n trajectories a network: x (rows, T + 1, *event), rewards r of the last states, cond."""
    cond = task.conditions(n, draws)
    noise = draws.normal(n, chain.steps + 1, *task.event_shape)
    with torch.no_grad():
        x = chain.rollout(model, noise, cond)
        return {"x": x, "r": task.reward(x[:, -1], cond), "cond": cond}


def state_velocities(
    chain: Chain, model: VelocityModel, x: Tensor, cond: Any, index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(states, the model's velocities there), both (rows, m, *event), all times in one call: at
    every state but the last, or at those that index (rows, m) names."""
    states = drawn(x[:, :-1], index)
    t = drawn(chain.times.to(x).expand(len(x), -1), index)
    velocity = model(states.flatten(0, 1), t.flatten(), every_state(cond, states.shape[1]))
    return states, velocity.reshape(states.shape)


def kernel_means(
    chain: Chain, model: VelocityModel, x: Tensor, cond: Any, index: Tensor | None = None
) -> Tensor:
    """The kernels' means at these states, (rows, m, *event)."""
    P, Q, _ = chain.coefficients(x)
    states, velocity = state_velocities(chain, model, x, cond, index)
    P, Q = (drawn_coefficient(c, index, x.ndim - 2) for c in (P, Q))
    return P * states + Q * velocity


def every_state(cond: Any, steps: int) -> Any:
    """A row's condition for each of its states, in the order of x[:, :-1].flatten(0, 1)."""
    return None if cond is None else cond.repeat_interleave(steps, 0)


def chain_on(
    task: Task | Problem,
    steps: int,
    sigma_end: float,
    schedule: Diffusion | None = None,
    *,
    within: bool = False,
) -> Chain:
    """The chain on the task's path, over the times at which its model is defined; with a schedule
    of Euler-Maruyama kernels (sigma_end then means nothing).

    within: where equal steps to t = 1 start the last kernel later than the model is defined, the
        kernels start in equal steps up to the model's last time instead.

    Raises:
        ValueError: the last kernel starts at a time that the model does not cover.
    """
    if not isinstance(task, Task):
        return Chain(steps, sigma_end, task.path, task.first_time, schedule=schedule)
    first, start = task.first_time, task.start_std
    begins = first + (1 - first) * (steps - 1) / steps  # the last kernel, at equal steps to t = 1
    last = None if task.times is None else float(task.times[-1])
    if last is None or begins <= last:
        return Chain(steps, sigma_end, task.path, first, start, schedule)
    if within:
        return Chain(steps, sigma_end, task.path, first, start, schedule, last)
    raise ValueError(
        f"steps must be at most {int((1 - first) / (1 - last))}, got {steps}: the last kernel "
        f"starts at t = {begins:.4g}, past {last:.4g} where the model ends"
    )


# --- the optimum


def chain_optimum(problem: Problem, chain: Chain, scale: float) -> Optimum:
    """The KL-regularised optimum of the chain's kernels on a problem in d = 1 or 2.

    Raises:
        ValueError: what `chain_axes` and `theory.control.chain_optimum.regularised_optimum` refuse.
    """
    axes = chain_axes(problem, chain, scale)
    best = regularised_optimum(chain, problem.base_field, problem.reward, scale, axes)
    return Optimum(Smooth(best), chain,
                   networks={"value": lambda x, t, cond=None: best.value(x, t)},
                   log_z=best.log_z)  # fmt: skip


def chain_axes(problem: Problem, chain: Chain, scale: float) -> tuple[Array, ...]:
    """The grid of the chain's optimum: base and target, and under a schedule REACH standard
    deviations of every state of the base's chain, whose coarse first kernels may overshoot.

    Raises:
        ValueError: a schedule's kernels are so coarse that states spread over FAR times the
            deviation of noise and base.
    """
    target = problem.tilt(Exponential(scale)).law
    laws = [problem.base] if target is None else [problem.base, target]
    if chain.schedule is not None:
        noise = torch.randn(
            REACH_ROWS, chain.steps + 1, problem.dim, dtype=torch.float64,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        with torch.no_grad():
            std, mean = torch.std_mean(chain.rollout(problem.base_field, noise), 0)
        most = FAR * max(1.0, float(torch.linalg.eigvalsh(problem.base.covariance()).max().sqrt()))
        if not float(std.max()) <= most:
            raise ValueError(
                f"schedule {chain.schedule.label!r} with steps = {chain.steps} must spread the "
                f"states to a standard deviation of at most {most:.3g}, got "
                f"{float(std.max()):.3g}; use more steps or a smaller g (a larger offset)"
            )
        count = len(mean)
        # state_axes goes to seven deviations of a Gaussian.
        laws.append(
            GaussianSum.mixture([1 / count] * count, mean.tolist(), stds=(std * REACH / 7).tolist())
        )
    return state_axes(chain, laws, GRID_SPACING[problem.dim])


@dataclass(frozen=True, eq=False)
class Smooth:
    """A chain's optimum with its derivative in x, which adjoints through the optimal policy need:
    the splines' own, straight on beyond the grid."""

    best: ChainOptimum

    def __call__(self, x: Tensor, t: Tensor | float, cond: object = None) -> Tensor:
        velocity = self.best(x, t, cond)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return velocity
        # The base's own graph is in `velocity`; the shift's value is, and its slope is added here.
        place, Q = x.detach(), self.best.chain.coefficients(x)[1]
        slope = torch.zeros(*x.shape, x.shape[-1], dtype=x.dtype)
        times = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        for k, rows in self.best.rows_by_kernel(times):
            found = jacobian(self.best.shifts[k], place[rows].numpy())
            slope[rows] = torch.as_tensor(found) / Q[k]
        return velocity + (slope @ (x - place)[..., None])[..., 0]


def jacobian(surface: Surface, x: Array) -> Array:
    """(n, c, d): derivatives of a surface's values at x (n, d)."""
    return np.stack([surface.slope(x, axis) for axis in range(len(surface.axes))], -1)
