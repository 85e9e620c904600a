"""Your own reward in one file: how green a picture is.

    python -m scaleup train --reward examples/my_reward.py:strength=2
    python -m scaleup train --reward 0.5*brightness+0.5*examples/my_reward.py

The file's text is part of what names a run: after a change to it, another run begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scaleup import Reward, check_images
from theory import check_positive


# Fields are options; what is said of the reward are class attributes, without annotations.
@dataclass(frozen=True)
class Greenness(Reward):
    """Mean over pixels of G - (R + B)/2, times strength: 1 for green, 0 for grey, -1 for magenta.

    strength: > 0.
    """

    strength: float = 1.0

    name = "greenness"
    summary = "mean of G - (R + B)/2"
    differentiable = True  # gradients reach the pictures: adjoint matching can use it

    def __post_init__(self) -> None:
        check_positive("strength", self.strength)

    # Methods that need rewards in [0, 1] ask here.
    @property
    def bounds(self) -> tuple[float, float]:
        return -self.strength, self.strength

    # Pictures (n, 3, h, w) in [0, 1], a prompt each, in; one float64 a picture out.
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        check_images(images, prompts)
        red, green, blue = images.to(torch.float64).mean((2, 3)).unbind(1)
        return self.strength * (green - (red + blue) / 2)
