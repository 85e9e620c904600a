"""Rewards: linear, quadratic, Gaussian bumps (closed forms) and any callable (quadrature).

A reward maps points (*b, n, d) to values (*b, n). Parameters may carry leading batch axes (*b), one
reward a problem. What each kind can do in closed form is what `theory.tilts.tilt` and
`theory.tilts.conditional` ask of it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from theory.common.checks import (
    check_dtype,
    check_instance,
    check_points,
)
from theory.laws.gaussians import GaussianSum


class Reward(ABC):
    """r(x) as a function of points.

    dtype: of the parameters, and of the points it takes; None where any will do.
    """

    dim: int
    dtype: torch.dtype | None = None

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """r at x (*b, n, d), as (*b, n)."""

    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """(inf r, sup r) over all points."""

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Self:
        """The same reward in another dtype or on another device."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        moved = {
            k: v.to(dtype=dtype, device=device) for k, v in parts.items() if torch.is_tensor(v)
        }
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True, eq=False)
class CallableReward(Reward):
    """Any function of points (n, d) -> (n,), handled by quadrature (d = 1 and 2).

    breakpoints: where r has a kink or a jump, in d = 1.
    """

    function: Callable[[Tensor], Tensor]
    dim: int
    breakpoints: tuple[float, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        check_points(x, self.dim, None)
        points = x.reshape(-1, self.dim)
        value = self.function(points)
        check_dtype("what the reward returned", value, x.dtype, "x")
        if value.shape != points.shape[:1]:
            raise ValueError(
                f"the reward must return one value a point, got shape {tuple(value.shape)} for "
                f"points of shape {tuple(points.shape)}"
            )
        return value.reshape(x.shape[:-1])

    def bounds(self) -> tuple[float, float]:
        return -math.inf, math.inf


def check_reward(reward: Reward, base: GaussianSum) -> None:
    """The reward can be asked about draws of the base.

    Raises:
        ValueError: their dimensions differ.
        TypeError: their dtypes differ, or the reward is no Reward.
    """
    check_instance("reward", reward, Reward)
    if reward.dim != base.dim:
        raise ValueError(f"reward must be in the base's d = {base.dim}, got d = {reward.dim}")
    if reward.dtype not in (None, base.dtype):
        raise TypeError(
            f"reward must have the dtype of the base, {base.dtype}, got {reward.dtype} (convert "
            "one with .to(dtype))"
        )
