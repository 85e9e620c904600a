"""Adjoints that are not finite: found with one synchronisation, and named.

A NonFiniteAdjointError is raised before the optimiser's step; both trainers then save the state
that they had, and stop.
"""

from __future__ import annotations

import torch
from torch import Tensor

from theory.samplers.chain import Chain


class NonFiniteAdjointError(ValueError):
    """An adjoint is infinite or nan; says of which method, at which state and in which row."""


def finite_rows(values: Tensor, axes: int) -> Tensor:
    """Whether everything is finite along all but the first `axes` axes."""
    return torch.isfinite(values).flatten(axes).all(-1)


def refuse(
    label: str, chain: Chain, finite: Tensor, first: int, rows: Tensor | None = None
) -> None:
    """Say where an adjoint was first not finite, going back from the end.

    finite (states, rows), of states first, first + 1, ...; rows: the rows' numbers in their batch.

    Raises:
        NonFiniteAdjointError: always.
    """
    at = int((~finite).any(1).nonzero().max())
    row = int((~finite[at]).nonzero()[0])
    k, number = first + at, row if rows is None else int(rows[row])
    t = float(chain.times[k]) if k < chain.steps else 1.0
    where = "the reward's gradient" if k == chain.steps else f"the step back to k = {k}"
    raise NonFiniteAdjointError(
        f"{label}: the adjoint is not finite, first (going back from k = {chain.steps}) at state k "
        f"= {k}, t = {t:.4g}, in row {number} of the batch, by {where}: rewards and velocities "
        "must have gradients that stay finite along the trajectories; a smaller learning rate or "
        "scale may keep them so; no step was taken"
    )


class Watch:
    """Looks at the gradients of a rollout's states while autograd runs back through them; raises
    at state 1, with one synchronisation, if any was not finite."""

    def __init__(self, label: str, chain: Chain, rows: Tensor) -> None:
        self.label, self.chain, self.rows = label, chain, rows
        self.finite: dict[int, Tensor] = {}

    def on(self, state: Tensor, k: int) -> None:
        """Watch X_k, (rows, *event)."""
        if state.requires_grad:
            state.register_hook(lambda gradient: self._see(k, gradient))

    def _see(self, k: int, gradient: Tensor) -> None:
        self.finite[k] = finite_rows(gradient, 1)
        if k == 1:
            finite = torch.stack([self.finite[j] for j in sorted(self.finite)])
            self.finite = {}
            if not bool(finite.all()):
                refuse(self.label, self.chain, finite, 1, self.rows)
