"""Brightness: mean luma."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaleup.rewards.contract import Reward, check_images

# ITU-R BT.601, as JPEG and Pillow's "L" use it, on the stored (gamma-encoded) values.
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Brightness(Reward):
    """Mean over pixels of 0.299 R + 0.587 G + 0.114 B: 0 for black, 1 for white."""

    name = "brightness"
    summary = "mean luma, 0.299 R + 0.587 G + 0.114 B"
    bounds = (0.0, 1.0)
    differentiable = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        check_images(images, prompts)
        channels = images.to(torch.float64).mean((2, 3))
        return channels @ torch.tensor(LUMA, dtype=torch.float64, device=images.device)
