"""The tolerance tiers, by name. Tests, ledger and figure checks use these and no bare numbers.

algebra           identities in float64
float32           the same arithmetic in another order, in training, or numbers kept in float32
float32_parity    a mean loss in float32 by two routes from the same draws: errors of rows cancel
quadrature_tight  closed form against an adaptive integral of a smooth density
quadrature        closed form against an ODE, a PDE or a hard integral (d = 1; d = 2 in `_2d`)
monte_carlo       anything sampled: false-failure rate of the concentration bound
trained           networks: share of the distance there was to go
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

FALSE_FAILURE_RATE = 1e-6
# How far higher terms may bend a slope that is fitted over the smallest decade of a figure.
SLOPE = 0.1
TRAINED_SHARE = 0.05


@dataclass(frozen=True)
class Tier:
    """|actual - expected| <= rtol max(|expected|, scale), scale the problem's own size."""

    name: str
    rtol: float

    def error(self, actual: ArrayLike, expected: ArrayLike, scale: float = 0.0) -> float:
        """Largest error relative to max(|expected|, scale)."""
        a, b = np.asarray(actual, dtype=float), np.asarray(expected, dtype=float)
        size = np.maximum(np.abs(b), np.asarray(scale, dtype=float))
        # Equal values agree, infinite ones and those without a size too; nan never does.
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            gap = np.where(a == b, 0.0, np.abs(a - b))
            ratio = np.where(gap == 0, 0.0, np.where(np.isinf(b), np.inf, gap / size))
        return float(np.max(ratio, initial=0.0))

    def holds(self, actual: ArrayLike, expected: ArrayLike, scale: float = 0.0) -> bool:
        """Whether the tier is met; nan never is."""
        return self.error(actual, expected, scale) <= self.rtol


ALGEBRA = Tier("algebra", 1e-10)
FLOAT32 = Tier("float32", 1e-5)
FLOAT32_PARITY = Tier("float32_parity", 1e-6)
QUADRATURE_TIGHT = Tier("quadrature_tight", 1e-9)
QUADRATURE = Tier("quadrature", 1e-6)
QUADRATURE_2D = Tier("quadrature_2d", 1e-4)
