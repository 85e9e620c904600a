"""Named control problems as Euler chains to simulate, and trajectories of their exact optimum.

    X_{k+1} = X_k + dt (b + g u_k) + g sqrt(dt) xi_k,   J = E[sum_k dt (|u_k|^2/2 + f) + c(X_T)]

Training a control needs b, f and c as differentiable functions of torch tensors; judging it needs
the states that matter: those of the optimum of the same chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.checks import check_order
from theory.control.adjoints import Field, Process, path_steps
from theory.control.cases import Case, DoubleWell
from theory.divergences import Array


def case_process(case: Case, control: Field) -> Process:
    """The case under a control, for tensors of any dtype.

    A linear-quadratic case must be of constant cost matrices, which `LinearQuadratic` is; its drift
    may depend on time.
    """
    if isinstance(case, DoubleWell):
        return _well_process(case, control)

    def quadratic(x: Tensor, matrix: Array, vector: Array, constant: float = 0.0) -> Tensor:
        return 0.5 * ((x @ _as(matrix, x)) * x).sum(-1) + x @ _as(vector, x) + constant

    return Process(
        drift=lambda x, t: x @ _as(case.matrix(t), x).T + _as(case.shift(t), x),
        control=control,
        noise=case.noise,
        final=lambda x: quadratic(x, case.final_matrix, case.final_vector, case.final_constant),
        running=lambda x, t: quadratic(x, case.running_matrix, case.running_vector),
    )


def _well_process(case: DoubleWell, control: Field) -> Process:
    return Process(
        drift=lambda x, t: -4 * _as(case.kappa, x) * x * (x**2 - 1),
        control=control,
        noise=lambda t: case.g,
        final=lambda x: (_as(case.nu, x) * (x - 1) ** 2).sum(-1),
    )


def _as(value: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def case_starts(case: Case, noise: Tensor) -> Tensor:
    """X_0 (n, d): a well's one point, or mean + cov^(1/2) noise, noise (n, d) ~ N(0, 1)."""
    if isinstance(case, DoubleWell):
        return _as(case.begin, noise).expand(len(noise), -1).clone()
    return _as(case.mean, noise) + noise @ _as(np.linalg.cholesky(case.cov), noise).T


def path_costs(process: Process, times: Tensor, states: Tensor) -> Tensor:
    """The cost of every trajectory of states (n, T + 1, d), (n,), without a graph.

    Raises:
        ValueError: shapes that do not fit.
    """
    total = torch.zeros(len(states), dtype=states.dtype, device=states.device)
    with torch.no_grad():
        for k, (t, dt) in enumerate(path_steps(times, states)):
            x = states[:, k]
            total = total + 0.5 * dt * (process.control(x, t) ** 2).sum(-1)
            if process.running is not None:
                total = total + dt * process.running(x, t)
        return total + process.final(states[:, -1])


@dataclass(frozen=True, eq=False)
class OptimalPaths:
    """states (n, T, d): X_0 .. X_{T-1} of the chain's optimum; best, continuous (n, T, d): u*_k of
    the chain and u* of the diffusion there; value: E V_0(X_0), the least cost of the chain."""

    times: Tensor
    states: Tensor
    best: Tensor
    continuous: Tensor
    value: float

    @classmethod
    def of(cls, case: Case, steps: int, noise: Tensor) -> OptimalPaths:
        """From noise (n, steps + 1, d) ~ N(0, 1) in float64, the first of X_0.

        Raises:
            ValueError: steps < 1, noise of another shape, or a chain whose optimum is not unique
                (use more steps).
        """
        check_order("steps", steps, 1)
        if noise.ndim != 3 or noise.shape[1:] != (steps + 1, case.dim):
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}: allowed is (n, {steps + 1}, {case.dim})"
            )
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        optimum = case.discrete(times.tolist())
        x, dt = case_starts(case, noise[:, 0].double()), 1 / steps
        states, best, continuous = [], [], []
        process = case_process(case, lambda x, t: torch.zeros_like(x))
        for k, t in enumerate(times[:-1].tolist()):
            u = torch.as_tensor(optimum.control(x.numpy(), k))
            states.append(x)
            best.append(u)
            continuous.append(torch.as_tensor(case.control(x.numpy(), t)))
            g = process.noise(t)
            x = x + dt * (process.drift(x, t) + g * u) + g * math.sqrt(dt) * noise[:, k + 1]
        return cls(
            times, torch.stack(states, 1), torch.stack(best, 1), torch.stack(continuous, 1),
            _least_cost(case, optimum.value),
        )  # fmt: skip

    @property
    def floor(self) -> float:
        """E|u* - u*_k|^2 / E|u*_k|^2: how far the chain's optimum is off the diffusion's u*."""
        gap = (self.continuous - self.best).square().sum()
        return float(gap / self.best.square().sum())


def _least_cost(case: Case, value: Callable[[Array], Array]) -> float:
    """E V_0(X_0)."""
    if isinstance(case, DoubleWell):
        return float(value(case.begin[None])[0])
    # V_0 is quadratic: its mean is that over mean +- the roots of d covariance.
    root = math.sqrt(case.dim) * np.linalg.cholesky(case.cov).T
    return float(value(np.concatenate([case.mean + root, case.mean - root])).mean())
