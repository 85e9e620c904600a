"""Redness: how much more red than green and blue there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaleup.rewards.contract import Reward, check_images


@dataclass(frozen=True)
class Redness(Reward):
    """Mean over pixels of R - (G + B)/2: 1 for a red picture, 0 for a grey one, -1 for cyan."""

    name = "redness"
    summary = "mean of R - (G + B)/2"
    bounds = (-1.0, 1.0)
    differentiable = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        check_images(images, prompts)
        red, green, blue = images.to(torch.float64).mean((2, 3)).unbind(1)
        return red - (green + blue) / 2
