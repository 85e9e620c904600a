"""The order of an approximation: the slope of log error against log parameter, as it tends to 0.

    log error = c + k log eps + b eps (+ b_2 eps^2) + residual

by least squares; the terms in eps take up what higher orders bend. k with the interval that the
residuals give (Student's t). Errors below 100 times the numerical floor are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from theory.common.tolerances import SLOPE
from theory.laws.distances import Array

CONFIDENCE = 0.99
ABOVE_FLOOR = 100.0
LEAST_POINTS = 6


@dataclass(frozen=True)
class Slope:
    """slope +- half (interval of CONFIDENCE) over [low, high] of the parameter."""

    slope: float
    half: float
    low: float
    high: float

    @property
    def order(self) -> int:
        return round(self.slope)

    @property
    def is_order(self) -> bool:
        """Whether the interval and its distance from a whole number are within tier SLOPE."""
        return self.half <= SLOPE and abs(self.slope - self.order) <= SLOPE

    def __str__(self) -> str:
        return f"{self.slope:.3f} ± {self.half:.3f} for [{self.low:.2g}, {self.high:.2g}]"


def fit_slope(parameters: Array, errors: Array, floor: float, bends: int = 2) -> Slope:
    """The slope at small parameters.

    Raises:
        ValueError: fewer than LEAST_POINTS errors stand above the floor, or one is not finite.
    """
    if not np.isfinite(errors).all():
        raise ValueError(f"errors must be finite numbers, got {errors.tolist()}")
    keep = errors > ABOVE_FLOOR * floor
    if keep.sum() < LEAST_POINTS:
        raise ValueError(
            f"errors must stand {ABOVE_FLOOR:g} times above the floor {floor:.1e} at "
            f"{LEAST_POINTS} or more parameters, got {int(keep.sum())} such of {errors.tolist()}"
        )
    eps, log_error = parameters[keep], np.log(errors[keep])
    design = np.stack([np.ones_like(eps), np.log(eps), *(eps ** (j + 1) for j in range(bends))], 1)
    found, *_ = np.linalg.lstsq(design, log_error, rcond=None)
    left = log_error - design @ found
    freedom = max(len(eps) - design.shape[1], 1)
    cov = np.linalg.inv(design.T @ design) * (left @ left) / freedom
    half = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2) * np.sqrt(cov[1, 1]))
    return Slope(float(found[1]), half, float(eps.min()), float(eps.max()))
