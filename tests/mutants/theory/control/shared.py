"""What the rooms share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from theory.fields.diffusion import Diffusion
from theory.ledger.oracle.control.line import extrapolated
from theory.ledger.oracle.control.linear import LinearNumbers, dense_value

SCALE = 1.3
STEP = 1e-5  # of central differences
LOOSE = (1e-8, 1e-9)  # of time steps: below QUADRATURE, a third of the time
MEMORYLESS = Diffusion.of_memoryless(1.0)


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False


def later(n: LinearNumbers, start: float) -> LinearNumbers:
    """The numbers on [start, 1] as ones on [0, 1]; their control is sqrt(1 - start) times as large.
    Mean and covariance are those at `start` already."""
    keep = 1 - start

    def of(part):
        return lambda t: keep * part(start + keep * t)

    return LinearNumbers(
        of(n.matrix),
        of(n.shift),
        lambda t: math.sqrt(keep) * n.noise(start + keep * t),
        of(n.running_matrix),
        of(n.running_vector),
        *n[5:],
    )


def value_of(numbers: LinearNumbers, x: Sequence[float]) -> float:
    """-log E[exp(-cost) | X_0 = x], the steps of dense paths extrapolated to 0."""
    place = np.array(x)
    return float(extrapolated(lambda n: np.array(dense_value(numbers, place, n)), 8, 3).value)


def scaled(factor: float) -> Callable[..., Any]:
    """A part that gives so many times what it should."""
    return lambda whole, self, *given: factor * whole(*given)
