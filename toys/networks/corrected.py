"""A network that corrects an exact base velocity, with its divergence, and the law it samples.

v(x, t) = v_base(x, t) + f(x, t): f = 0 samples the base itself, so nothing of a base's own training
error is left in what is fine-tuned, in any d. With two hidden layers div f has a closed form that
costs less than f does, and so log-densities along the flow are cheap in 64 dimensions too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from theory.problems.problem import Problem
from toys.networks.mlp import StackedMLP

LAW_STEPS = 16


class Corrected(nn.Module):
    """The exact base velocity plus a network; with its divergence where there are two layers."""

    def __init__(self, problem: Problem, network: StackedMLP) -> None:
        super().__init__()
        self.problem, self.network = problem, network
        # The base where it was asked for last: student and reference see the same points.
        self.latest: dict[str, Tensor] = {}

    def frozen_copy(self, role: str = "reference") -> Corrected:
        """A copy of the network on the same base."""
        twin = Corrected(self.problem, copy.deepcopy(self.network))
        twin.latest = self.latest
        return twin.requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        if self.latest.get("x") is not x or self.latest.get("t") is not t:
            with torch.no_grad():
                base = self.problem.base_field.evaluate(x, t)
            self.latest.update(x=x, t=t, base=base)
        return self.latest["base"] + self.network(x, t, cond)

    def with_divergence(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """(v, div v) at points (rows, d), one network after the other."""
        velocity, divergence = self.problem.base_field.with_divergence(x, t)
        move, spread = network_with_divergence(self.network, x, t)
        return velocity + move, divergence + spread


def network_with_divergence(network: StackedMLP, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """(f, div_x f) of a perceptron f with two hidden layers: with slopes s_1, s_2 of its units,
    div f = sum_jk s_1j s_2k W2_jk (W3 W1)_kj.

    Raises:
        ValueError: another depth.
    """
    if len(network.weight) != 3:
        raise ValueError(f"depth must be 2, got {len(network.weight) - 1}")
    d = network.dim
    points = torch.cat([x, x.new_full((len(x), 1), t)], -1).reshape(network.blocks, -1, d + 1)
    first, second, last = network.weight
    one = torch.bmm(points, first) + network.bias[0]
    two = torch.bmm(nn.functional.silu(one), second) + network.bias[1]
    out = torch.bmm(nn.functional.silu(two), last) + network.bias[2]
    loop = second * torch.bmm(last, first[:, :d]).mT
    spread = (torch.bmm(slope_of_silu(one), loop) * slope_of_silu(two)).sum(-1)
    return out.reshape(len(x), -1), spread.reshape(-1)


def slope_of_silu(z: Tensor) -> Tensor:
    """d silu/dz."""
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def starts(n: int, dim: int) -> Tensor:
    """n points of N(0, I), (n, d): scrambled Sobol points, the same ones every time."""
    u = SobolEngine(dim, scramble=True, seed=7).draw(n, dtype=torch.float64)
    return torch.special.ndtri(u.clamp(1e-9, 1 - 1e-9))


def push(
    rates: Callable[[Tensor, float], tuple[Tensor, Tensor]], x0: Tensor
) -> tuple[Tensor, Tensor]:
    """(x_1, log p(x_1)) of starts N(0, I), by the classical Runge-Kutta method in LAW_STEPS steps,
    shorter towards t = 1."""
    # Not torchdiffeq's "rk4": that is the 3/8 rule, and moves the fourth digit of what is recorded.
    times = 1 - (1 - torch.linspace(0, 1, LAW_STEPS + 1, dtype=torch.float64)) ** 1.5
    x, log_p = x0, (-0.5 * x0.square() - 0.5 * np.log(2 * np.pi)).sum(-1)
    with torch.no_grad():
        for a, b in pairwise(times.tolist()):
            h = b - a
            v1, d1 = rates(x, a)
            v2, d2 = rates(x + 0.5 * h * v1, a + 0.5 * h)
            v3, d3 = rates(x + 0.5 * h * v2, a + 0.5 * h)
            v4, d4 = rates(x + h * v3, b)
            x = x + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
            log_p = log_p - h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return x, log_p
