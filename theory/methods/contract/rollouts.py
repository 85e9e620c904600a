"""Rollouts of the discrete chain, shared by the methods that train its kernels.

Trajectories are x (rows, T + 1, *event); kernels k = 0 .. T-1 lead from state k to state k + 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from theory.chains import Chain, regularised_optimum, state_axes
from theory.fields import VelocityModel
from theory.methods.contract.draws import Draws
from theory.methods.contract.method import Optimum
from theory.methods.contract.task import Task
from theory.problem import Problem
from theory.wrappers import Exponential

# Steps of the optimum's grid in units of the chain's narrowest kernel.
GRID_SPACING = {1: 0.5, 2: 4.0}


def trajectories(
    chain: Chain, model: VelocityModel, task: Task, n: int, draws: Draws
) -> dict[str, Any]:
    """n trajectories a network: x (rows, T + 1, *event), rewards r of the last states, cond."""
    cond = task.conditions(n, draws)
    noise = draws.normal(n, chain.steps + 1, *task.event_shape)
    with torch.no_grad():
        x = chain.rollout(model, noise, cond)
        return {"x": x, "r": task.reward(x[:, -1], cond), "cond": cond}


def kernel_means(chain: Chain, model: VelocityModel, x: Tensor, cond: Any) -> Tensor:
    """The kernels' means at every state but the last, all times in one call: (rows, T, *event)."""
    P, Q, _ = chain.coefficients(x)
    states = x[:, :-1]
    t = chain.times.to(x).expand(len(x), -1)
    velocity = model(states.flatten(0, 1), t.flatten(), every_state(cond, chain.steps))
    velocity = velocity.reshape(states.shape)
    shape = (-1, *[1] * (x.ndim - 2))
    return P.reshape(shape) * states + Q.reshape(shape) * velocity


def every_state(cond: Any, steps: int) -> Any:
    """A row's condition for each of its states, in the order of x[:, :-1].flatten(0, 1)."""
    return None if cond is None else cond.repeat_interleave(steps, 0)


def chain_on(task: Task | Problem, steps: int, sigma_end: float) -> Chain:
    """The chain on the task's path, over the times at which its model is defined.

    Raises:
        ValueError: the last kernel starts at a time that the model does not cover.
    """
    if not isinstance(task, Task):
        return Chain(steps, sigma_end, task.path)
    chain = Chain(steps, sigma_end, task.path, task.first_time, task.start_std)
    if task.times is not None and float(chain.times[-1]) > float(task.times[-1]):
        most = int((1 - task.first_time) / (1 - float(task.times[-1])))
        raise ValueError(
            f"steps = {steps}: the last kernel starts at t = {float(chain.times[-1]):.4g}, past "
            f"{float(task.times[-1]):.4g} where the model ends; allowed are at most {most} steps"
        )
    return chain


def chain_optimum(problem: Problem, chain: Chain, scale: float) -> Optimum:
    """The KL-regularised optimum of the chain's kernels on a problem in d = 1 or 2."""
    laws = [problem.base]
    target = problem.tilt(Exponential(scale)).law
    if target is not None:
        laws.append(target)
    axes = state_axes(chain, laws, GRID_SPACING[problem.dim])
    best = regularised_optimum(chain, problem.base_field, problem.reward, scale, axes)
    return Optimum(best, chain, networks={"value": lambda x, t, cond=None: best.value(x, t)},
                   log_z=best.log_z)  # fmt: skip
