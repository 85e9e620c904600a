"""Features of pictures, (n, d) float32: what diversity and the Frechet distance are measured in.

    statistics            35 numbers that need no model (the default)
    clip:model=FOLDER     CLIP's projected image features, of length 1

The statistics of a picture, all in units of intensity, so that none drowns the others:

    16   means of its luminance over a grid of 4 x 4 cells          what is where
     8   means of its two opponent colours over 2 x 2 cells         which colour is where
     3   standard deviation of each of the three over the picture   contrast
     8   mean |derivative| of the luminance in 4 directions, at the picture's own scale and at half
                                                                    edges, texture, shape

Luminance and opponent colours are (R+G+B)/sqrt 3, (R-B)/sqrt 2, (R-2G+B)/sqrt 6: a rotation of
RGB, so distances between colours are kept. Colour is placed more coarsely than luminance, as in
JPEG: few dimensions, because the Frechet distance's bias grows with their number (metrics.py).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from scaleup.rewards.clip_score import load_clip
from scaleup.rewards.contract import check_images
from theory.common.checks import check_order

LEAST_SIDE = 4
ROTATION = (
    (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    (1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)),
    (1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)),
)


class Features(ABC):
    """name: as it is asked for.  dim: numbers a picture."""

    name: str

    @property
    @abstractmethod
    def dim(self) -> int: ...

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """(n, dim) float32 of pictures (n, 3, h, w) in [0, 1], on their device, no gradient.

        Raises:
            ValueError: images are not what `check_images` allows.
        """


@dataclass(frozen=True)
class Statistics(Features):
    """The 35 numbers above, computed in float64.

    Raises, on a call:
        ValueError: a side shorter than 4 pixels.
    """

    name = "statistics"
    dim = 35

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        check_images(images)
        if min(images.shape[2:]) < LEAST_SIDE:
            raise ValueError(
                f"images must have sides of at least {LEAST_SIDE} pixels, got shape "
                f"{tuple(images.shape)}"
            )
        wide = images.to(torch.float64)
        rotation = torch.tensor(ROTATION, dtype=wide.dtype, device=wide.device)
        rotated = torch.einsum("ij,njhw->nihw", rotation, wide)
        luminance, colours = rotated[:, :1], rotated[:, 1:]
        parts = [
            adaptive_avg_pool2d(luminance, 4).flatten(1),
            adaptive_avg_pool2d(colours, 2).flatten(1),
            # Not torch's std: on CUDA its one pass leaves -1e-33, and nan, of saturated pictures.
            (rotated - rotated.mean((2, 3), keepdim=True)).square().mean((2, 3)).sqrt(),
            _edges(luminance),
            _edges(avg_pool2d(luminance, 2)),
        ]
        return torch.cat(parts, 1).to(torch.float32)


def _edges(luminance: Tensor) -> Tensor:
    """Mean |derivative| along x, y and the two diagonals, (n, 4)."""
    along = luminance[..., :-1, 1:] - luminance[..., :-1, :-1]
    down = luminance[..., 1:, :-1] - luminance[..., :-1, :-1]
    diagonals = [(along + down) / math.sqrt(2), (along - down) / math.sqrt(2)]
    return torch.cat([along, down, *diagonals], 1).abs().mean((2, 3))


@dataclass(frozen=True)
class ClipFeatures(Features):
    """CLIP's projected image features, of length 1; as clip_score prepares the pictures.

    model: a folder with a CLIPModel and its tokenizer. chunk: pictures at a time.

    Raises:
        ValueError: chunk out of range; the folder holds no CLIP model.
    """

    model: str
    chunk: int = 32

    name = "clip"

    def __post_init__(self) -> None:
        check_order("chunk", self.chunk, 1)

    @property
    def dim(self) -> int:
        return int(load_clip(self.model).model.config.projection_dim)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        check_images(images)
        if not len(images):
            return images.new_zeros(0, self.dim, dtype=torch.float32)
        return load_clip(self.model).of_images(images, self.chunk).to(torch.float32)


def parse_features(text: str) -> Features:
    """`statistics`, or `clip:model=FOLDER`.

    Raises:
        ValueError: anything else.
    """
    if text == Statistics.name:
        return Statistics()
    name, _, folder = text.partition(":model=")
    if name == ClipFeatures.name and folder:
        return ClipFeatures(folder)
    raise ValueError(f"features must be 'statistics' or 'clip:model=FOLDER', got {text!r}")
