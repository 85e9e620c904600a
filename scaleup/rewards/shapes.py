"""The shape verifier as a reward, for the built-in model's prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from scaleup.builtin.shapes import verify_shapes
from scaleup.rewards.contract import Reward, check_images


@dataclass(frozen=True)
class Shapes(Reward):
    """1 where a picture shows the colour and the shape that its prompt names; what of it is right
    counts in part (scaleup/builtin/shapes.py). A rule like GenEval's, with no gradient.

    Raises, on a call:
        ValueError: a prompt names no known colour and shape.
    """

    name = "shapes"
    summary = "rule-based: colour and shape are the prompt's (half each)"
    bounds = (0.0, 1.0)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        check_images(images, prompts)
        return verify_shapes(images.detach().clamp(0, 1), prompts).to(images.device)
