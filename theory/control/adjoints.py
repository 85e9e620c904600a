"""Adjoint states along stored trajectories of a controlled SDE: of its Euler chain, or by ODE.

    dX = (b + g u) dt + g dB,    J = E [ int |u|^2/2 + f dt + c(X_1) ]

The adjoint is the gradient of a trajectory's remaining cost, its noise held (Domingo-Enrich et al.
2024, arXiv 2409.08861; slides, "The adjoint method", "Adjoint Matching"):

    full   da/dt = -[ (grad (b + g u))' a + grad (f + |u|^2/2) ],    a(1) = grad c(X_1)
    lean   da/dt = -[ (grad b)' a + grad f ],                        a(1) = grad c(X_1)

By rule "step" each interval is the transposed Euler step at X_k,

    a_k = a_{k+1} + dt [ (grad (b + g u))' a_{k+1} + grad (f + |u|^2/2) ],

which is the Euler chain's own gradient, exactly. By rule "heun" it is the explicit trapezoid of the
ODE between X_{k+1} and X_k; the last interval, whose end t = 1 may be singular, stays a step.

Trajectories are (n, T + 1, d), times (T + 1,) ascending, any dtype; Jacobians by autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from theory.common.checks import check_choice, check_shape
from theory.fields.mixture import VelocityModel
from theory.samplers.chain import Chain

Field = Callable[[Tensor, float], Tensor]  # x (n, d), t -> (n, d)
Rate = Callable[[Tensor, float], Tensor]  # x (n, d), t -> (n,)
Rule = Literal["step", "heun"]
Place = Literal["next", "own"]


@dataclass(frozen=True)
class Process:
    """drift b, control u (n, d); noise g(t); final c and running f (n,), none by default.

    Callables are differentiable in x by autograd.
    """

    drift: Field
    control: Field
    noise: Callable[[float], float]
    final: Callable[[Tensor], Tensor]
    running: Rate | None = None


def chain_process(
    chain: Chain, base: VelocityModel, policy: VelocityModel, final: Callable[[Tensor], Tensor]
) -> tuple[Process, Tensor]:
    """A chain's kernels as an Euler chain, and its times (T + 1,).

    b = (m_b - x)/dt, u = (m - m_b)/(s sqrt(dt)), g = s/sqrt(dt): exactly N(m, s^2) and the KL of
    the kernels as the cost, for ancestral kernels too.
    """
    times = torch.cat([chain.times, torch.ones(1, dtype=torch.float64)])
    dt = (1 - chain.first_time) / chain.steps
    s = chain.coefficients(times)[2].tolist()

    def index(t: float) -> int:
        return round((t - chain.first_time) / dt)

    def drift(x: Tensor, t: float) -> Tensor:
        return (chain.mean(base, index(t), x) - x) / dt

    def control(x: Tensor, t: float) -> Tensor:
        k = index(t)
        return (chain.mean(policy, k, x) - chain.mean(base, k, x)) / (s[k] * math.sqrt(dt))

    return Process(drift, control, lambda t: s[index(t)] / math.sqrt(dt), final), times


def rollout(process: Process, times: Tensor, start: Tensor, noise: Tensor) -> Tensor:
    """(n, T + 1, d) states by Euler and Maruyama from start (n, d) with noise (n, T, d) ~ N(0, 1).

    Raises:
        ValueError: shapes that do not fit, or times that do not ascend.
    """
    steps = _steps(times)
    if start.ndim != 2 or noise.shape != (len(start), len(steps), start.shape[1]):
        raise ValueError(
            f"start and noise must have shapes (n, d) and (n, {len(steps)}, d), got "
            f"{tuple(start.shape)} and {tuple(noise.shape)}"
        )
    states = [start]
    with torch.no_grad():
        for k, (t, dt) in enumerate(steps):
            x, g = states[-1], process.noise(t)
            move = process.drift(x, t) + g * process.control(x, t)
            states.append(x + dt * move + g * math.sqrt(dt) * noise[:, k])
    return torch.stack(states, 1)


def full_adjoint(process: Process, times: Tensor, states: Tensor, rule: Rule = "step") -> Tensor:
    """a_0, ..., a_T of the full equation, (n, T + 1, d).

    Raises:
        ValueError: shapes that do not fit, an unknown rule, or an adjoint that is not finite (the
            message names the step and the sample).
    """

    def rate(x: Tensor, t: float, a: Tensor) -> Tensor:
        u = process.control(x, t)
        total = ((process.drift(x, t) + process.noise(t) * u) * a).sum() + 0.5 * (u**2).sum()
        return total if process.running is None else total + process.running(x, t).sum()

    return _backwards(process, times, states, rule, rate)


def lean_adjoint(process: Process, times: Tensor, states: Tensor, rule: Rule = "step") -> Tensor:
    """a_0, ..., a_T of the lean equation, which knows u by the trajectory alone, (n, T + 1, d).

    Raises:
        ValueError: as `full_adjoint`.
    """

    def rate(x: Tensor, t: float, a: Tensor) -> Tensor:
        total = (process.drift(x, t) * a).sum()
        return total if process.running is None else total + process.running(x, t).sum()

    return _backwards(process, times, states, rule, rate)


def control_gradient(
    process: Process,
    times: Tensor,
    states: Tensor,
    adjoint: Tensor,
    parameters: Sequence[Tensor],
    place: Place = "next",
) -> Tensor:
    """The mean over trajectories of sum_k dt (u_k + g a)' d_theta u_k, flat, (parameters,).

    place: a = a_{k+1} ("next": with full_adjoint by steps the Euler chain's exact gradient) or a_k
    ("own": the left-point rule of the continuous int (u + g a)' d_theta u dt).

    Raises:
        ValueError: an unknown place, or shapes that do not fit.
    """
    return _gradient(process, times, states, adjoint, parameters, place, matching=False)


def matching_gradient(
    process: Process,
    times: Tensor,
    states: Tensor,
    adjoint: Tensor,
    parameters: Sequence[Tensor],
    place: Place = "next",
) -> Tensor:
    """The gradient of the matching loss 1/2 sum_k dt |u_k + g a|^2, states and adjoint held, flat.

    Basic Adjoint Matching with the full adjoint, Adjoint Matching with the lean one.

    Raises:
        ValueError: as `control_gradient`.
    """
    return _gradient(process, times, states, adjoint, parameters, place, matching=True)


def _gradient(
    process: Process,
    times: Tensor,
    states: Tensor,
    adjoint: Tensor,
    parameters: Sequence[Tensor],
    place: Place,
    matching: bool,
) -> Tensor:
    steps = path_steps(times, states)
    check_choice("place", place, get_args(Place))
    check_shape("adjoint", adjoint, states.shape)
    x, total = states.detach(), torch.zeros((), dtype=states.dtype)
    for k, (t, dt) in enumerate(steps):
        u = process.control(x[:, k], t)
        gap = u + process.noise(t) * adjoint[:, k + 1 if place == "next" else k].detach()
        total = total + dt * (0.5 * (gap**2).sum() if matching else (gap.detach() * u).sum())
    found = torch.autograd.grad(total / len(states), list(parameters))
    return torch.cat([g.flatten() for g in found])


def _backwards(
    process: Process,
    times: Tensor,
    states: Tensor,
    rule: Rule,
    rate: Callable[[Tensor, float, Tensor], Tensor],
) -> Tensor:
    steps = path_steps(times, states)
    check_choice("rule", rule, get_args(Rule))

    def slope(k: int, t: float, a: Tensor) -> Tensor:
        """-da/dt at X_k."""
        with torch.enable_grad():
            x = states[:, k].detach().requires_grad_(True)
            total = rate(x, t, a)
            if not total.requires_grad:  # neither drift nor cost moves with x
                return torch.zeros_like(a)
            (found,) = torch.autograd.grad(total, x, allow_unused=True)
        return torch.zeros_like(a) if found is None else found

    with torch.enable_grad():
        last = states[:, -1].detach().requires_grad_(True)
        (a,) = torch.autograd.grad(process.final(last).sum(), last)
    found = [_finite(a, len(steps))]
    for k in range(len(steps) - 1, -1, -1):
        t, dt = steps[k]
        if rule == "heun" and k < len(steps) - 1:
            first = slope(k + 1, steps[k + 1][0], a)
            a = a + 0.5 * dt * (first + slope(k, t, a + dt * first))
        else:
            a = a + dt * slope(k, t, a)
        found.append(_finite(a, k))
    return torch.stack(found[::-1], 1)


def _finite(a: Tensor, k: int) -> Tensor:
    bad = ~torch.isfinite(a).all(-1)
    if bool(bad.any()):
        raise ValueError(
            f"the adjoint is not finite at step {k}, sample {int(bad.nonzero()[0])}: drifts, "
            "controls and costs must have finite gradients along the trajectories"
        )
    return a


def path_steps(times: Tensor, states: Tensor) -> list[tuple[float, float]]:
    """(t_k, dt_k) of trajectories (n, T + 1, d).

    Raises:
        ValueError: times that do not ascend, or not one state a time.
    """
    steps = _steps(times)
    if states.ndim != 3 or states.shape[1] != len(steps) + 1 or not len(states):
        raise ValueError(
            f"states must have shape (n, {len(steps) + 1}, d), one state a time, got "
            f"{tuple(states.shape)}"
        )
    return steps


def _steps(times: Tensor) -> list[tuple[float, float]]:
    """(t_k, dt_k)."""
    listed = torch.as_tensor(times).tolist()
    gaps = [b - a for a, b in pairwise(listed)]
    if not gaps or min(gaps) <= 0:
        raise ValueError(f"times must be two or more ascending times, got {listed}")
    return list(zip(listed[:-1], gaps, strict=True))
