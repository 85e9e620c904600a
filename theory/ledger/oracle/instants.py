"""The paths once more, in plain numpy: coefficients written out, derivatives by complex steps."""

from __future__ import annotations

import cmath
from collections.abc import Callable

from theory.ledger.oracle.conditional import Instant

Coefficients = Callable[[complex], tuple[complex, complex]]
STEP = 1e-30  # a complex step has no cancellation, so it may be this small


def _preserving(t: complex) -> tuple[complex, complex]:
    s = 1 - t
    alpha = cmath.exp(-(0.1 * s + 9.95 * s * s) / 2)
    return alpha, cmath.sqrt(1 - alpha * alpha)


PATHS: dict[str, Coefficients] = {
    "rectified_flow": lambda t: (t, 1 - t),
    "trigonometric": lambda t: (cmath.sin(cmath.pi / 2 * t), cmath.cos(cmath.pi / 2 * t)),
    "variance_preserving": _preserving,
    "variance_exploding": lambda t: (1 + 0j, 80 * (1 - t) ** 7),
}


def instant(path: str, t: float) -> Instant:
    """alpha, sigma and their time derivatives of the default path of that name."""
    alpha, sigma = PATHS[path](t + 1j * STEP)
    return Instant(alpha.real, sigma.real, alpha.imag / STEP, sigma.imag / STEP)
