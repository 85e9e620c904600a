"""What a figure module returns, and the two settings it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

SETTINGS = ("small", "full")


@dataclass(frozen=True)
class Result:
    """A figure and the numbers behind it.

    numbers: plain data (dicts, lists, floats, strings), written as JSON beside the picture and
        compared with the committed reference.
    """

    figure: Figure
    numbers: dict[str, Any]
