"""Quadratic and linear rewards, whose exponential tilt of a Gaussian sum is one in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from theory.common.checks import (
    as_parameter,
    broadcasts_to,
    check_points,
    check_symmetric,
)
from theory.laws.gaussians import GaussianSum
from theory.tilts.rewards import Reward, check_reward


@dataclass(frozen=True, eq=False)
class QuadraticReward(Reward):
    """r(x) = x'Hx/2 + b'x + c; matrix H (*b, d, d) symmetric, vector b (*b, d), constant c (*b)."""

    matrix: Tensor
    vector: Tensor
    constant: Tensor

    def __post_init__(self) -> None:
        check_symmetric("matrix", self.matrix)
        if self.matrix.shape[-1] != self.vector.shape[-1]:
            raise ValueError(
                "matrix and vector must have shapes (..., d, d) and (..., d), got "
                f"{tuple(self.matrix.shape)} and {tuple(self.vector.shape)}"
            )

    @property
    def dim(self) -> int:  # type: ignore[override]
        return self.vector.shape[-1]

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.vector.dtype

    @property
    def is_linear(self) -> bool:
        return not bool(self.matrix.any())

    def __call__(self, x: Tensor) -> Tensor:
        check_points(x, self.dim, self.dtype, self.vector.shape[:-1], "the reward")
        quadratic = 0.5 * ((x @ self.matrix) * x).sum(-1)
        return quadratic + (x @ self.vector[..., None])[..., 0] + self.constant[..., None]

    def bounds(self) -> tuple[float, float]:
        if self.vector.ndim > 1:
            return -math.inf, math.inf
        values, axes = torch.linalg.eigh(self.matrix.double())
        slope = axes.mT @ self.vector.double()
        flat = values.abs() <= 1e-14 * values.abs().max()
        if bool((slope[flat].abs() > 0).any()):
            return -math.inf, math.inf
        curved = ~flat
        extreme = float(self.constant) - 0.5 * float((slope[curved] ** 2 / values[curved]).sum())
        low = -math.inf if bool((values[curved] < 0).any()) else extreme
        high = math.inf if bool((values[curved] > 0).any()) else extreme
        return low, high

    def exponential_tilt(self, base: GaussianSum, scale: float | Tensor) -> GaussianSum:
        """base(x) exp(scale r(x)): as many components as base.

        Raises:
            ValueError: the integral does not exist (scale H outgrows a component's precision).
        """
        law, level, _ = self.tilt_about_mean(base, scale)
        return law.scaled(level)

    def tilt_about_mean(
        self, base: GaussianSum, scale: float | Tensor
    ) -> tuple[GaussianSum, Tensor, Tensor]:
        """(base(x) exp(scale (r(x) - r(p))), scale r(p), the size of that one's terms), p the
        base's mean: far from the origin r(p) is a sum that cancels, which the law does not need."""
        check_reward(self, base)
        a = torch.as_tensor(scale, dtype=base.dtype, device=base.mean.device)
        p = base.expectation()
        bend = (self.matrix @ p[..., None])[..., 0]
        law = base.times_exp_quadratic(
            a[..., None, None, None] * self.matrix[..., None, :, :],
            a[..., None, None] * (bend + self.vector)[..., None, :],
            torch.zeros_like(a[..., None]),
            name=f"exp(scale r) with scale = {_short(scale)} and this quadratic reward",
            about=p[..., None, :],
        )
        level = 0.5 * (bend * p).sum(-1) + (self.vector * p).sum(-1) + self.constant
        size = (
            0.5 * ((self.matrix.abs() @ p.abs()[..., None])[..., 0] * p.abs()).sum(-1)
            + (self.vector * p).abs().sum(-1)
            + self.constant.abs()
        )
        return law, a * level, a.abs() * size


def linear_reward(
    vector: Tensor | Sequence[float], constant: float | Tensor = 0.0
) -> QuadraticReward:
    """r(x) = b'x + c."""
    b = as_parameter("vector", vector, 1, "(..., d)")
    H = torch.zeros(*b.shape, b.shape[-1], dtype=b.dtype, device=b.device)
    return QuadraticReward(H, b, _constant(constant, b))


def quadratic_reward(
    matrix: Tensor | Sequence[Any], vector: Tensor | Sequence[float], constant: float | Tensor = 0.0
) -> QuadraticReward:
    """r(x) = x'Hx/2 + b'x + c."""
    b = as_parameter("vector", vector, 1, "(..., d)")
    H = as_parameter("matrix", matrix, 2, "(..., d, d)").to(b.dtype)
    return QuadraticReward(H, b, _constant(constant, b))


def _constant(value: float | Tensor, vector: Tensor) -> Tensor:
    shape = vector.shape[:-1]
    constant = as_parameter("constant", value, 0, f"() or {tuple(shape)}")
    if not broadcasts_to(constant.shape, shape):
        raise ValueError(
            f"constant must have shape () or {tuple(shape)}, for a vector of shape "
            f"{tuple(vector.shape)}, got {tuple(constant.shape)}"
        )
    return constant.to(vector).expand(shape)


def _short(value: float | Tensor) -> str:
    return f"{float(value):g}" if not isinstance(value, Tensor) or value.ndim == 0 else "a batch"
