"""Changes to an estimator that are off by default, each by its name.

clip          a state's term above it is capped, and has no gradient: the cost of rare, steep
              states. It moves the fixed point: where terms are cut, the expectation is of the rest.
subset        a row's loss at that many of its T states, drawn uniformly without replacement and
              weighted by T/subset: the expected loss and gradient are those of all states.
reward_scale  a factor on the reward before the method's own scale; gradients and target are those
              of scale * reward_scale.

Shapes: terms (rows, m), one for a state; index (rows, m), the states drawn, or None for all T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from theory.methods.contract.draws import Draws


def clipped(terms: Tensor, clip: float) -> Tensor:
    """min(term, clip), without gradient where a term is above; clip = 0: as they are."""
    return terms.clamp_max(clip) if clip else terms


def draw_subset(n: int, steps: int, subset: int, draws: Draws) -> Tensor:
    """(rows, subset): for every row so many different numbers from 0 .. steps - 1, increasing."""
    return draws.uniform(n, steps).argsort(1)[:, :subset].sort(1).values


def drawn(values: Tensor, index: Tensor | None) -> Tensor:
    """Of values (rows, T, *event) those at the states drawn, (rows, m, *event)."""
    if index is None:
        return values
    return values.take_along_dim(index.reshape(*index.shape, *[1] * (values.ndim - 2)), 1)


def drawn_coefficient(values: Tensor, index: Tensor | None, event_axes: int) -> Tensor:
    """Of numbers (T,), one a state, those at the states drawn, so that they multiply
    (rows, m, *event): (T, 1, ...) or (rows, m, 1, ...)."""
    found = values if index is None else values[index]
    return found.reshape(*found.shape, *[1] * event_axes)


def over_states(terms: Tensor, steps: int, clip: float = 0.0) -> Tensor:
    """The sum of clipped terms (rows, m), times T/m where not all states are there; (rows,)."""
    total = clipped(terms, clip).sum(1)
    count = terms.shape[1]
    return total if count == steps else total * (steps / count)


def squares(x: Tensor) -> Tensor:
    """|x|^2 of every state, (rows, m) from (rows, m, *event): summed over the event's numbers."""
    return torch.sum(x.square().flatten(2), 2)
