"""The size of a picture as JPEG: large for busy pictures, small for plain ones.

    size = (bytes of the JPEG - bytes of the JPEG of a grey picture of the same size) / 1000

in kB. A JPEG's header and tables alone are some 620 bytes, which at 16 or 32 pixels would be most
of it: small pictures are enlarged first, every pixel repeated, until the shorter side has `least`
pixels, and the grey picture's bytes are taken off. "compressibility" and "incompressibility" are
the field's names for minus and plus the size (Black et al. 2024, DDPO; their code's quality is 95).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scaleup.rewards.contract import Reward, check_images, enlarge, to_uint8
from theory.common.checks import check_order

GREY = 128  # the level that JPEG codes as zero: no constant picture takes fewer bytes


def jpeg_bytes(picture: np.ndarray, quality: int) -> int:
    """Bytes of Pillow's JPEG of a picture (h, w, 3) uint8, 4:2:0, its default Huffman tables."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=quality)
    return buffer.tell()


@lru_cache(maxsize=64)
def _grey_bytes(height: int, width: int, quality: int) -> int:
    return jpeg_bytes(np.full((height, width, 3), GREY, dtype=np.uint8), quality)


@dataclass(frozen=True)
class JpegSize(Reward):
    """Size in kB beyond that of a grey picture.

    quality: of the JPEG, 1 to 95. least: pixels of the shorter side below which pictures are
    enlarged.

    Raises:
        ValueError: quality or least out of range.
    """

    quality: int = 95
    least: int = 64

    name = "jpeg_size"
    summary = "size as JPEG in kB, beyond that of a grey picture"
    bounds = (0.0, float("inf"))

    def __post_init__(self) -> None:
        check_order("quality", self.quality, 1, 95)
        check_order("least", self.least, 1)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        check_images(images, prompts)
        pixels = enlarge(to_uint8(images), self.least).permute(0, 2, 3, 1).numpy()
        grey = _grey_bytes(*pixels.shape[1:3], self.quality)
        sizes = [jpeg_bytes(picture, self.quality) - grey for picture in pixels]
        return torch.tensor(sizes, dtype=torch.float64, device=images.device) / 1000


@dataclass(frozen=True)
class Incompressibility(JpegSize):
    """The JPEG's size, by the field's name."""

    name = "incompressibility"


@dataclass(frozen=True)
class Compressibility(JpegSize):
    """Minus the JPEG's size."""

    name = "compressibility"
    summary = "minus the size as JPEG in kB, beyond that of a grey picture"
    bounds = (-float("inf"), 0.0)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return -super().__call__(images, prompts)
