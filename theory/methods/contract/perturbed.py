"""Models for the probe: an exact field with features about it, or displaced in a smooth direction.

Directions are functions of time t and of the state in the base's own units along the path,
z = (x - alpha m)/sqrt(alpha^2 s^2 + sigma^2) with the base's mean m and deviations s, times s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from theory.fields.mixture import VelocityModel
from theory.methods.contract.method import Role
from theory.problems.problem import Problem

FEATURES = 6

Direction = Callable[[Tensor, Tensor], Tensor]


class Perturbed(nn.Module):
    """function(x, t, cond) + features(x, t) theta, theta (blocks, FEATURES, outputs) = 0.

    features = sin(w'x + u t + b), fixed by the seed; rows come in `blocks` equal blocks.
    """

    slopes: Tensor
    phases: Tensor
    function: Callable[..., Tensor]

    def __init__(
        self, function: Callable[..., Tensor], blocks: int, dim: int, outputs: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.function, self.blocks = function, blocks
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(dim + 1, FEATURES, dtype=torch.float64, generator=generator)
        phase = torch.rand(FEATURES, dtype=torch.float64, generator=generator)
        self.register_buffer("slopes", random)
        self.register_buffer("phases", 2 * math.pi * phase)
        self.theta = nn.Parameter(torch.zeros(blocks, FEATURES, outputs, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        features = torch.sin(torch.cat([x, t[:, None]], -1) @ self.slopes + self.phases)
        shift = features.reshape(self.blocks, -1, FEATURES) @ self.theta
        return self.function(x, t, cond) + shift.reshape(len(x), -1)

    def frozen_copy(self, role: Role = "reference") -> Perturbed:
        """The same function at its present theta, for good."""
        twin = Perturbed(self.function, self.blocks, self.slopes.shape[0] - 1, self.theta.shape[-1])
        twin.load_state_dict(self.state_dict())
        return twin.requires_grad_(False)


# --- displacements

# Of one coordinate z and the time: everywhere, steeper, in waves, and at a place and a time.
SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "constant": lambda z, t: torch.ones_like(z),
    "linear": lambda z, t: z,
    "wave": lambda z, t: torch.sin(2 * z + 3 * t),
    "early bump": lambda z, t: torch.exp(-((z - 0.7).square() + (4 * t - 1).square()) / 2),
    "late bump": lambda z, t: torch.exp(-((z + 0.7).square() + (4 * t - 3).square()) / 2),
}


def directions(problem: Problem, outputs: int) -> dict[str, Direction]:
    """SHAPES as functions (x, t) -> (rows, outputs); in turn along each coordinate."""
    mean, std = problem.base.expectation(), problem.base.covariance().diagonal().sqrt()

    def along(shape: Callable[[Tensor, Tensor], Tensor], i: int) -> Direction:
        axis, output = i % problem.dim, i % outputs

        def direction(x: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = problem.path.alpha(t), problem.path.sigma(t)
            z = (x[:, axis] - alpha * mean[axis]) / torch.hypot(alpha * std[axis], sigma)
            return (std[axis] * shape(z, t))[:, None] * torch.eye(outputs, dtype=x.dtype)[output]

        return direction

    return {name: along(shape, i) for i, (name, shape) in enumerate(SHAPES.items())}


class Displaced(nn.Module):
    """function(x, t, cond) + amount direction(x, t): amount (blocks, 1) = 0, and a direction, or
    none, for every run of blocks / len(directions) blocks."""

    def __init__(self, function: VelocityModel, blocks: int, outputs: int) -> None:
        super().__init__()
        self.function, self.outputs = function, outputs
        self.directions: Sequence[Direction | None] = [None]
        self.amount = nn.Parameter(torch.zeros(blocks, 1, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        amount = self.amount.repeat_interleave(len(x) // len(self.amount), 0)
        pieces = zip(self.directions, *(v.chunk(len(self.directions)) for v in (x, t)), strict=True)
        steps = [x.new_zeros(len(a), self.outputs) if d is None else d(a, b) for d, a, b in pieces]
        return self.function(x, t, cond) + amount * torch.cat(steps)

    def frozen_copy(self, role: Role = "reference") -> Displaced:
        """The same function at its present amounts, for good."""
        twin = Displaced(self.function, len(self.amount), self.outputs)
        twin.directions = self.directions
        twin.load_state_dict(self.state_dict())
        return twin.requires_grad_(False)
