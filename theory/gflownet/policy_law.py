"""What a policy on a chain samples: its law on a grid (d = 1, 2), weighted draws beyond.

A policy is known by its kernels' log-density (`theory.gflownet.kernels`); the chain starts at its
own X_0 ~ N(0, sigma_0^2 I) = P_0. The exact policy of a weight W samples W / Z only where P_0 is
proportional to F_0; from any P_0 it samples

    W(x_T) int q(x_0 | x_T) P_0(x_0) / F_0(x_0) dx_0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from theory.common.checks import check_shape
from theory.gflownet.balance import log_path
from theory.gflownet.flows import ChainFlows
from theory.gflownet.kernels import Kernels, log_start
from theory.laws.distances import Array, GridLaw
from theory.samplers.chain import Chain, check_axes, grid_law, grid_points

# Pairs of points whose kernels are asked at once: bounds the memory of a step.
PAIRS = 200_000


def policy_law(chain: Chain, policy: Kernels, axes: tuple[Array, ...]) -> GridLaw:
    """The law of X_T on a uniform grid that holds every state's mass, by the trapezoidal rule: the
    grid's step must be a fraction of the kernels' standard deviations.

    Raises:
        ValueError: d is above 2, or the grid loses more than 1e-3 of the mass or is too coarse.
    """
    check_axes(axes)
    points, cell = grid_points(axes), cell_size(axes)
    density = log_start(chain, points).exp()
    for k in range(chain.steps):
        density = forward_sums(policy, k, points, density * cell)
    return grid_law(axes, density.numpy())


def log_kernel_rows(kernels: Kernels, k: int, points: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """log P(x_j | x_i) for all pairs of points (n, d), a few rows i at a time: (rows, n). Kernels
    that know all pairs at once (`log_pairs`) are asked for them."""
    n = len(points)
    step = max(1, PAIRS // n)
    log_pairs = getattr(kernels, "log_pairs", None)
    for row in range(0, n, step):
        rows = slice(row, min(row + step, n))
        with torch.no_grad():
            if log_pairs is not None:
                yield rows, log_pairs(k, points[rows], points)
                continue
            count = rows.stop - rows.start
            before, after = points[rows].repeat_interleave(n, 0), points.repeat(count, 1)
            yield rows, kernels.log_density(k, before, after).reshape(count, n)


def forward_sums(
    kernels: Kernels, k: int, points: Tensor, weights: Tensor, power: float = 1.0
) -> Tensor:
    """sum_i weights_i P(x_j | x_i)^power, (n,)."""
    total = torch.zeros_like(weights)
    for rows, log_kernel in log_kernel_rows(kernels, k, points):
        total += weights[rows] @ (power * log_kernel).exp()
    return total


def backward_sums(
    kernels: Kernels, k: int, points: Tensor, values: Tensor, power: float = 1.0
) -> Tensor:
    """sum_j P(x_j | x_i)^power values_j, (n,)."""
    parts = [
        (power * log_kernel).exp() @ values for _, log_kernel in log_kernel_rows(kernels, k, points)
    ]
    return torch.cat(parts)


def exact_policy_law(flows: ChainFlows, axes: tuple[Array, ...]) -> GridLaw:
    """The law of X_T under the exact policy of W, from the chain's own P_0, on a uniform grid.

    Raises:
        ValueError: d is above 2, or the grid loses more than 1e-3 of the mass or is too coarse.
    """
    check_axes(axes)
    chain, (ratio, std) = flows.chain, flows.noise(0)
    first = float(chain.start(torch.ones(1, dtype=torch.float64)))
    starts = tuple(_start_axis(axis, ratio, std, first) for axis in axes)
    sources, points = grid_points(starts), grid_points(axes)
    gain = (log_start(chain, sources) - flows.log_flow(0, sources)).exp().numpy()
    table = gain.reshape([len(a) for a in starts])
    for i, (axis, start) in enumerate(zip(axes, starts, strict=True)):
        noised = np.exp(-0.5 * ((start - ratio * axis[:, None]) / std) ** 2)
        noised *= (start[1] - start[0]) / (std * math.sqrt(2 * math.pi))
        table = np.moveaxis(np.tensordot(noised, table, (1, i)), 0, i)
    return grid_law(axes, flows.log_flow(chain.steps, points).exp().numpy() * table.ravel())


def _start_axis(axis: Array, ratio: float, std: float, first: float) -> Array:
    """Points of x_0 that hold q(x_0 | x_T) for every x_T of an axis, and P_0 = N(0, first^2): where
    that is the wider one, their product over F_0 is as wide."""
    low = min(ratio * axis[0] - 9 * std, -9 * first)
    high = max(ratio * axis[-1] + 9 * std, 9 * first)
    return np.linspace(low, high, math.ceil((high - low) / (0.15 * min(std, first))) + 1)


def cell_size(axes: tuple[Array, ...]) -> float:
    """The length or area that a point of a uniform grid stands for."""
    return float(np.prod([a[1] - a[0] for a in axes]))


# --- draws, any d


@dataclass(frozen=True, eq=False)
class WeightedDraws:
    """States (n, T + 1, d) of one chain, weighted so that they stand for another's."""

    states: Tensor
    log_weights: Tensor

    @property
    def last(self) -> Tensor:
        """X_T, (n, d)."""
        return self.states[:, -1]

    @cached_property
    def weights(self) -> Tensor:
        """(n,), their sum 1."""
        return self.log_weights.softmax(0)

    @property
    def log_mean_weight(self) -> float:
        """log of the mean weight: 0 up to its error where both chains are normalised."""
        return float(self.log_weights.logsumexp(0)) - math.log(len(self.log_weights))

    @property
    def effective(self) -> float:
        """The effective number of draws, 1 / sum w^2."""
        return float(1 / (self.weights**2).sum())

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of values (n, ...) and its standard error, by the self-normalised estimate."""
        check_shape("values", values, (len(self.weights), *values.shape[1:]))
        weights = self.weights.reshape(-1, *[1] * (values.ndim - 1))
        centre = (weights * values).sum(0)
        return centre, (weights * (values - centre)).square().sum(0).sqrt()


def weighted_draws(policy: Kernels, proposal: Kernels, states: Tensor) -> WeightedDraws:
    """States (n, T + 1, d) that the proposal's kernels drew, weighted to the policy's; both chains
    start from one law."""
    if states.ndim != 3:
        raise ValueError(f"states must have shape (n, T + 1, d), got {tuple(states.shape)}")
    with torch.no_grad():
        return WeightedDraws(states, log_path(policy, states) - log_path(proposal, states))
