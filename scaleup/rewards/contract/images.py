"""Pictures as rewards see them: (n, 3, h, w), floating point, values in [0, 1], RGB."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# A decoder may leave [0, 1] by rounding; anything beyond that is a wrong range.
RANGE_TOLERANCE = 1e-3


def check_images(images: Tensor, prompts: Sequence[str] | None = None) -> None:
    """Refuse what is no batch of pictures, or one that the prompts do not match.

    Raises:
        TypeError: images is no tensor, or prompts is one text.
        ValueError: shape, dtype, range or the number of prompts is wrong.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a torch.Tensor, got a {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 1:
        raise ValueError(f"images must have shape (n, 3, h, w), got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(
            "images must be floating-point numbers in [0, 1] (divide bytes by 255), got "
            f"{images.dtype}"
        )
    if images.numel():
        low, high = (float(v) for v in torch.aminmax(images.detach()))
        if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # nan fails too
            raise ValueError(f"images must have values in [0, 1], got [{low:g}, {high:g}]")
    if prompts is None:
        return
    if isinstance(prompts, str):
        raise TypeError(f"prompts must be a sequence of texts, one a picture, got {prompts!r}")
    if len(prompts) != len(images):
        raise ValueError(
            f"prompts must be one text a picture, got {len(prompts)} for {len(images)} pictures"
        )


def to_uint8(images: Tensor) -> Tensor:
    """round(255 x) as bytes, (n, 3, h, w), on the CPU; [0, 1] is clamped to."""
    check_images(images)
    # Through float32 at least: in half precision 255 x is a multiple of 1/8 only.
    wide = images.detach().to("cpu", torch.float64)
    return (wide.clamp(0, 1) * 255).round().to(torch.uint8)


def enlarge(images: Tensor, least: int) -> Tensor:
    """Every pixel repeated k x k times, k the least whole number with min(h, w) k >= least."""
    factor = -(-least // min(images.shape[-2:]))
    if factor <= 1:
        return images
    return images.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
