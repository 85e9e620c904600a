"""The contract of a reward: pictures and prompts in, one float64 a picture out.

    values = reward(images, prompts)        images (n, 3, h, w) in [0, 1], RGB; values (n,)

A reward is a frozen dataclass: its fields are its options, `reward:option=value` on the command
line. A smallest one of your own, in a file of its own (`--reward path/to/greenness.py`):

    from dataclasses import dataclass
    import torch
    from scaleup.rewards.contract import Reward, check_images

    @dataclass(frozen=True)
    class Greenness(Reward):
        name = "greenness"
        summary = "mean of the green channel"
        bounds = (0.0, 1.0)
        differentiable = True

        def __call__(self, images, prompts):
            check_images(images, prompts)
            return images[:, 1].to(torch.float64).mean((1, 2))
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor


class Reward(ABC):
    """One number a picture.

    name: as it is asked for.  summary: one line.  bounds: [low, high], what values can be;
    infinite where there is no bound.  differentiable: whether gradients reach the pictures.
    """

    # Properties, so that a weighted sum can have its own; a subclass sets plain class attributes,
    # without annotations, for these are no options.

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    def summary(self) -> str:
        return ""

    @property
    def bounds(self) -> tuple[float, float]:
        return (-math.inf, math.inf)

    @property
    def differentiable(self) -> bool:
        return False

    @abstractmethod
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """r(picture, prompt), (n,) float64, on the pictures' device.

        Raises:
            ValueError: images or prompts are not what `check_images` allows.
        """

    def parts(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Values by label, each (n,): the reward's own, and those of rewards it is made of."""
        return {self.label: self(images, prompts)}

    @property
    def label(self) -> str:
        """The text that gives this reward: its name, and the options that are not defaults."""
        options: dict[str, dataclasses.Field[Any]] = getattr(self, "__dataclass_fields__", {})
        changed = [
            f"{key}={_text(getattr(self, key))}"
            for key, field in options.items()
            if getattr(self, key) != field.default
        ]
        return f"{self.name}:{','.join(changed)}" if changed else self.name


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
