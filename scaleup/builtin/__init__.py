"""The built-in model: a small pipeline of coloured shapes, its data and its verifier."""

from importlib.resources import files
from pathlib import Path


def builtin_folder() -> Path:
    """The folder of the shipped weights, in diffusers' layout."""
    return Path(str(files(__name__))) / "weights"
