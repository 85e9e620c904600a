"""Auxiliary networks: what methods train beside their student, made by the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def made(
    maker: AuxiliaryMaker, event: Sequence[int], outputs: Outputs, draws: Draws, near_zero: bool
) -> nn.Module:
    """The maker's network for events (d,), at 0 where that is asked for and it can be."""
    network = maker(event[0] if outputs == "event" else outputs, draws)
    if near_zero and isinstance(network, StartsAtZero):
        network.zero_last()
    return network
