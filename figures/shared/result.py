"""What a figure module returns, and the two settings it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

SETTINGS = ("small", "full")


@dataclass(frozen=True)
class Result:
    """A figure and the numbers behind it.

    numbers: plain data (dicts, lists, floats, strings), written as JSON beside the picture and
        compared with the committed reference.
    trained: results of trained networks by label (toys/evaluation/evaluate.py), written beside the
        numbers. Training is exact to the bit on one machine only: these are held to the `trained`
        tier.
    """

    figure: Figure
    numbers: dict[str, Any]
    trained: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What is written beside the picture."""
        return {**self.numbers, "trained": self.trained} if self.trained else self.numbers
