"""Named control problems as Euler chains to simulate, and trajectories of their exact optimum.

    X_{k+1} = X_k + dt (b + g u_k) + g sqrt(dt) xi_k,   J = E[sum_k dt (|u_k|^2/2 + f) + c(X_T)]

Training a control needs b, f and c as differentiable functions of torch tensors; judging it needs
the states that matter: those of the optimum of the same chain. Time runs from 0 to 1 in equal
steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.common.checks import check_order
from theory.control.adjoints import Field, Process, path_steps
from theory.control.cases import Case, DiscreteWell, DoubleWell, well_cost, well_drift
from theory.control.linear import DiscreteOptimum
from theory.laws.distances import Array


def case_process(case: Case, control: Field) -> Process:
    """The case under a control, for tensors of any dtype."""
    if isinstance(case, DoubleWell):
        return Process(
            drift=lambda x, t: well_drift(_as(case.kappa, x), x),
            control=control,
            noise=lambda t: case.g,
            final=lambda x: well_cost(_as(case.nu, x), x).sum(-1),
        )

    def quadratic(x: Tensor, matrix: Array, vector: Array, constant: float = 0.0) -> Tensor:
        return 0.5 * ((x @ _as(matrix, x)) * x).sum(-1) + x @ _as(vector, x) + constant

    return Process(
        drift=lambda x, t: x @ _as(case.matrix(t), x).T + _as(case.shift(t), x),
        control=control,
        noise=case.noise,
        final=lambda x: quadratic(x, case.final_matrix, case.final_vector, case.final_constant),
        running=lambda x, t: quadratic(x, case.running_matrix, case.running_vector),
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
    """states (n, T + 1, d): trajectories of the chain's optimum; best, continuous (n, T, d): u*_k
    of the chain and u* of the diffusion at X_0 .. X_{T-1}."""

    states: Tensor
    best: Tensor
    continuous: Tensor


@dataclass(frozen=True, eq=False)
class OptimalChain:
    """The exact optimum of a case on `steps` equal Euler steps.

    Raises:
        ValueError: steps < 1, a case that begins after t = 0, or a chain whose optimum is not
            unique or out of reach (more steps are needed).
    """

    case: Case
    steps: int

    def __post_init__(self) -> None:
        check_order("steps", self.steps, 1)
        if not isinstance(self.case, DoubleWell) and self.case.start != 0:
            raise ValueError(
                f"case {self.case.name!r} must begin at t = 0, got t = {self.case.start:g}"
            )
        try:
            _ = self.optimum
        except ValueError as error:
            raise ValueError(
                f"steps must be more than {self.steps} for {self.case.name}: this chain has no "
                f"unique optimum ({error})"
            ) from error

    @cached_property
    def times(self) -> Tensor:
        """(T + 1,)."""
        return torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)

    @cached_property
    def optimum(self) -> DiscreteOptimum | DiscreteWell:
        """u*_k and V_0."""
        return self.case.discrete(self.times.tolist())

    @cached_property
    def least_cost(self) -> float:
        """E V_0(X_0)."""
        case = self.case
        if isinstance(case, DoubleWell):
            return float(self.optimum.value(case.begin[None])[0])
        # V_0 is quadratic: its mean is that over mean +- the columns of (d cov)^(1/2).
        root = math.sqrt(case.dim) * np.linalg.cholesky(case.cov).T
        points = np.concatenate([case.mean + root, case.mean - root])
        return float(self.optimum.value(points).mean())

    def paths(self, noise: Tensor) -> OptimalPaths:
        """From noise (n, steps + 1, d) ~ N(0, 1) in float64, the first of X_0.

        Raises:
            ValueError: noise of another shape.
        """
        case, dt = self.case, 1 / self.steps
        if noise.ndim != 3 or noise.shape[1:] != (self.steps + 1, case.dim):
            raise ValueError(
                f"noise must have shape (n, {self.steps + 1}, {case.dim}), got {tuple(noise.shape)}"
            )
        process = case_process(case, lambda x, t: torch.zeros_like(x))
        x = case_starts(case, noise[:, 0].double())
        states, best, continuous = [], [], []
        for k, t in enumerate(self.times[:-1].tolist()):
            u = torch.as_tensor(self.optimum.control(x.numpy(), k))
            states.append(x)
            best.append(u)
            continuous.append(torch.as_tensor(case.control(x.numpy(), t)))
            g = process.noise(t)
            x = x + dt * (process.drift(x, t) + g * u) + g * math.sqrt(dt) * noise[:, k + 1]
        states.append(x)
        return OptimalPaths(*(torch.stack(s, 1) for s in (states, best, continuous)))
