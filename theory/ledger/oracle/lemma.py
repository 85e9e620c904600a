r"""The contrast of one sample in exact rationals, and its minimiser from values of it alone.

l(mu) = r |mu_+ - y|^2 + (1 - r) |mu_- - y|^2,  mu_+- = v +- b (mu - v).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

Vector = Sequence[Fraction]


def contrast(mu: Vector, v: Vector, y: Vector, r: Fraction, b: Fraction) -> Fraction:
    """l(mu), exactly; mu, v and y of one length, which ValueError asks for."""
    total = Fraction(0)
    for target, old, place in zip(y, v, mu, strict=True):
        plus, minus = old + b * (place - old), old - b * (place - old)
        total += r * (plus - target) ** 2 + (1 - r) * (minus - target) ** 2
    return total


def minimiser(v: Vector, y: Vector, r: Fraction, b: Fraction) -> list[Fraction]:
    """Where l is stationary, from its values on a stencil of unit steps around 0: l is
    quadratic, so that its differences are its exact derivatives. Raises ValueError where the
    differences give no minimum (b = 0) or the lengths differ."""
    d = len(v)

    def at(*axes: tuple[int, int]) -> Fraction:
        mu = [Fraction(0)] * d
        for axis, step in axes:
            mu[axis] += step
        return contrast(mu, v, y, r, b)

    middle = at()
    up, down = [at((j, 1)) for j in range(d)], [at((j, -1)) for j in range(d)]
    rows = []
    for j in range(d):
        row = [at((j, 1), (k, 1)) - up[j] - up[k] + middle for k in range(d)]
        row[j] = up[j] - 2 * middle + down[j]
        rows.append([*row, -(up[j] - down[j]) / 2])
    return _solve(rows)


def _solve(rows: list[list[Fraction]]) -> list[Fraction]:
    """Gauss and Jordan on a symmetric system (d, d + 1) with positive pivots, else ValueError."""
    d = len(rows)
    for j in range(d):
        if rows[j][j] <= 0:
            raise ValueError("the contrast has no minimum: b must not be 0")
        rows[j] = [value / rows[j][j] for value in rows[j]]
        for k in range(d):
            if k != j:
                factor = rows[k][j]
                rows[k] = [a - factor * c for a, c in zip(rows[k], rows[j], strict=True)]
    return [row[d] for row in rows]
