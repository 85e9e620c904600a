"""E6, E8: sizes that nothing can hold are refused at once."""

import struct
import zlib
from pathlib import Path

import pytest

from scaleup.audit.gather import _picture
from scaleup.training.config import TrainConfig
from toys.__main__ import main as toys

HUGE = 1_000_000_000_000


@pytest.mark.parametrize("name", ["evaluate", "bank"])
def test_e6_more_pictures_than_are_held(name):
    with pytest.raises(
        ValueError, match=rf"{name} must be a whole number from \d to 1000000, got {HUGE}"
    ):
        TrainConfig(**{name: HUGE})


def test_e6_more_seeds_than_are_trained(capsys):
    assert toys(["train", "--method", "nft", "--problem", "note_1d", "--seeds", "1000000000"]) == 2
    assert "--seeds must be a whole number from 1 to 10000, got 1000000000" in (
        capsys.readouterr().err
    )


def png(width, height):
    """The beginning of a PNG, which promises so many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
        + struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 8) + b"IDAT"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(30_000, 30_000), "Image size .900000000 pixels. exceeds limit"),
        (png(10_000, 10_000), ""),  # PIL warns of this one
        (png(8, 8)[:-2], ""),
        (b"P6 3", ""),
        (b"", "cannot identify"),
    ],
)
def test_e8_a_picture_that_cannot_be_read(content, said, tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"image = '{path}' cannot be read: .*{said}"):
        _picture(path)
