r"""The released DiffusionNFT code's loss, from values of it alone: of one sample, and given X_t.

    l(mu) = (5 / b) [r |x+ - y|^2 / w+ + (1 - r) |x- - y|^2 / w-],  x+- = v +- b (mu - v),

b = nft_beta, y the data, v and mu the old copy's and the student's predictions of it, w+- the
normaliser max(mean |x+- - y|, 1e-5), held fixed under differentiation, or 1. One sample is done in
exact rationals. Given X_t = x the targets are velocities V = alpha' X_1 + sigma' X_0, v = E[V | x],
w+- = 1, and there is no prefactor.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.conditional import Instant, _Split
from theory.ledger.oracle.integrals import Array, PlaneNumbers

PREFACTOR = 5
LEAST_WEIGHT = Fraction(1, 100_000)
Vector = Sequence[Fraction]


class Sample(NamedTuple):
    """One sample: old prediction v, data y (one length), mapped reward r, b = nft_beta."""

    v: Vector
    y: Vector
    r: Fraction
    b: Fraction
    normalised: bool = False


def _errors(s: Sample, mu: Vector) -> tuple[list[Fraction], list[Fraction]]:
    """x+ - y and x- - y."""
    steps = [s.b * (m - v) for m, v in zip(mu, s.v, strict=True)]
    gaps = [v - y for v, y in zip(s.v, s.y, strict=True)]
    pairs = list(zip(gaps, steps, strict=True))
    return [g + step for g, step in pairs], [g - step for g, step in pairs]


def weights(s: Sample, mu: Vector) -> tuple[Fraction, Fraction]:
    """w+ and w-."""
    if not s.normalised:
        return Fraction(1), Fraction(1)
    up, down = (sum(map(abs, e), Fraction(0)) / len(e) for e in _errors(s, mu))
    return max(up, LEAST_WEIGHT), max(down, LEAST_WEIGHT)


def value(s: Sample, mu: Vector, held: tuple[Fraction, Fraction] | None = None) -> Fraction:
    """l(mu), exactly; with the weights that are held, if any. mu, v and y of one length, which
    ValueError asks for."""
    up, down = held or weights(s, mu)
    plus, minus = (sum((e * e for e in part), Fraction(0)) for part in _errors(s, mu))
    return PREFACTOR / s.b * (s.r * plus / up + (1 - s.r) * minus / down)


def gradient(s: Sample, mu: Vector) -> list[Fraction]:
    """dl/dmu with the weights at mu held: central differences, exact for a quadratic."""
    held, found = weights(s, mu), []
    for j in range(len(mu)):
        up, down = list(mu), list(mu)
        up[j] += 1
        down[j] -= 1
        found.append((value(s, up, held) - value(s, down, held)) / 2)
    return found


class _Given(_Split):
    """V and r given X_t = x in the case's plane; in other directions nothing is asked."""

    def __init__(self, case: PlaneNumbers, x: Array, at: Instant) -> None:
        if case.dim != case.plane_dim or np.shape(x) != (case.dim,):
            raise ValueError(
                "the problem must vary in all its directions, and x be one point of it, got x of "
                f"shape {np.shape(x)} in d = {case.dim}, plane of {case.plane_dim}"
            )
        super().__init__(case, x, at)
        self.mean = self.law.mean(self.v).value

    def values(self, y: Array, step: Array, b: float) -> tuple[Array, Array, Array]:
        """|v+ - V|^2, |v- - V|^2 and the loss of every y, at a student that is `step` away."""
        gap, r = self.mean - self.v(y), self.case.reward(y)
        plus, minus = ((gap + s * b * step) ** 2 for s in (1, -1))
        plus, minus = plus.sum(axis=1), minus.sum(axis=1)
        return plus, minus, r * plus + (1 - r) * minus


def branch_means(case: PlaneNumbers, x: Array, at: Instant, b: float, step: Array) -> Array:
    """E[|v+ - V|^2 | x], E[|v- - V|^2 | x] and the mean loss, (3,), for mu = E[V | x] + step (d,).

    Raises ValueError for a problem with directions that its plane does not have."""
    given = _Given(case, x, at)
    along_frame = case.frame.T @ np.asarray(step)
    return given.law.mean(lambda y: np.stack(given.values(y, along_frame, b), axis=1)).value


def gradient_at_old(case: PlaneNumbers, x: Array, at: Instant, b: float) -> Array:
    """d/dmu of the mean loss at mu = E[V | x], (d,): central differences of every sample's loss,
    which are exact, and then their mean. Raises as above."""
    given = _Given(case, x, at)
    eye = np.eye(case.plane_dim)

    def slopes(y: Array) -> Array:
        return np.stack(
            [(given.values(y, e, b)[2] - given.values(y, -e, b)[2]) / 2 for e in eye], axis=1
        )

    return np.asarray(case.frame @ given.law.mean(slopes).value)
