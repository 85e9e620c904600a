"""Files of scaleup, there whole or not at all: theory/common/files.py, and pictures."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from theory.common.files import (
    read_json,
    read_tensors,
    sha256,
    write_atomically,
    write_json,
    write_tensors,
)

__all__ = [
    "read_json",
    "read_tensors",
    "sha256",
    "write_atomically",
    "write_figure",
    "write_json",
    "write_picture",
    "write_tensors",
]


def write_figure(path: Path, figure: Figure, dpi: int = 110) -> None:
    """A figure as PNG; no dates or versions inside: the same numbers give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": "plumbline"}
    )
    write_atomically(path, buffer.getvalue())


def write_picture(path: Path, pixels: Tensor) -> None:
    """A picture (3, h, w) uint8 as PNG, pixel for pixel."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy()).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
