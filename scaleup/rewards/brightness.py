"""Brightness: mean luma."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaleup.rewards.contract import Reward, check_images
from theory.common.checks import check_finite

# ITU-R BT.601, as JPEG and Pillow's "L" use it, on the stored (gamma-encoded) values.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Brightness(Reward):
    """Mean over pixels of 0.299 R + 0.587 G + 0.114 B, less `zero`: 0 for black, 1 for white.

    zero: what counts as reward 0. It changes no tilt, but losses that hold exp(a r) (weighted flow
    matching, implicit Tilt Matching) are well scaled only where a r is small for most pictures.

    Raises:
        ValueError: zero is not finite.
    """

    zero: float = 0.0

    name = "brightness"
    summary = "mean luma, 0.299 R + 0.587 G + 0.114 B, less zero"
    differentiable = True

    def __post_init__(self) -> None:
        check_finite("zero", self.zero)

    @property
    def bounds(self) -> tuple[float, float]:
        return -self.zero, 1 - self.zero

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        check_images(images, prompts)
        channels = images.to(torch.float64).mean((2, 3))
        return channels @ torch.tensor(LUMA, dtype=torch.float64, device=images.device) - self.zero
