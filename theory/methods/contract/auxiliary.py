"""Auxiliary networks: what methods train beside their student, made by the task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from theory.methods.contract.draws import Draws

# Numbers a row that a network returns; "event": as many as an event has, in the event's shape.
Outputs = int | Literal["event"]
# Builds a network with `outputs` numbers a row, (rows, outputs), from (x, t).
AuxiliaryMaker = Callable[[int, Draws], nn.Module]


@runtime_checkable
class StartsAtZero(Protocol):
    """A network whose last layer can be set to 0."""

    def zero_last(self) -> None:
        """The last layer to 0, and so what the network returns."""
