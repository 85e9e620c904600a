r"""Gradient descent on matching weighted by a signed advantage, step by step in exact rationals.

The student predicts W x + B A x; trained are A and B. Every step goes down

    mean over rows of c (2 r - 1) |v(x) - y|^2 / w,    c = 5,

w = max(mean |v(x) - y|, 1e-5) held fixed, or 1. There is no old copy in it and no nft_beta. In any
one entry of A or B the loss is quadratic: central differences are its exact derivatives.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.conditional import Instant
from theory.ledger.oracle.integrals import Array, PlaneNumbers
from theory.ledger.oracle.released.loss import LEAST_WEIGHT, PREFACTOR, _Given

Matrix = list[list[Fraction]]


class Numbers(NamedTuple):
    """A batch x, y (n, d), r (n,), and the student's W (d, d), A (k, d), B (d, k)."""

    x: Array
    y: Array
    r: Array
    W: Array
    A: Array
    B: Array


def _exact(values: Array) -> Matrix:
    return [[Fraction(float(v)) for v in row] for row in np.atleast_2d(values)]


def _times(matrix: Matrix, vector: list[Fraction]) -> list[Fraction]:
    return [sum((a * b for a, b in zip(row, vector, strict=True)), Fraction(0)) for row in matrix]


class _Descent:
    """The batch in rationals, and the loss at (A, B)."""

    def __init__(self, given: Numbers, normalised: bool) -> None:
        self.x, self.y = _exact(given.x), _exact(given.y)
        self.pull = [PREFACTOR * (2 * Fraction(float(r)) - 1) for r in given.r]
        self.frozen = [_times(_exact(given.W), x) for x in self.x]
        self.normalised = normalised

    def errors(self, a: Matrix, b: Matrix) -> Matrix:
        moved = (_times(b, _times(a, x)) for x in self.x)
        return [
            [p + q - y for p, q, y in zip(*row, strict=True)]
            for row in zip(self.frozen, moved, self.y, strict=True)
        ]

    def weights(self, a: Matrix, b: Matrix) -> list[Fraction]:
        if not self.normalised:
            return [Fraction(1)] * len(self.x)
        sizes = (sum(map(abs, row), Fraction(0)) / len(row) for row in self.errors(a, b))
        return [max(size, LEAST_WEIGHT) for size in sizes]

    def loss(self, a: Matrix, b: Matrix, weights: list[Fraction]) -> Fraction:
        rows = zip(self.pull, self.errors(a, b), weights, strict=True)
        total = sum((p * sum(e * e for e in row) / w for p, row, w in rows), Fraction(0))
        return total / len(self.x)

    def stepped(self, a: Matrix, b: Matrix, rate: Fraction) -> tuple[Matrix, Matrix]:
        held = self.weights(a, b)
        found: list[Matrix] = []
        for which, matrix in enumerate((a, b)):
            new = [list(row) for row in matrix]
            for i, row in enumerate(matrix):
                for j, value in enumerate(row):
                    ends = []
                    for side in (1, -1):
                        changed = [list(r) for r in matrix]
                        changed[i][j] = value + side
                        pair = (changed, b) if which == 0 else (a, changed)
                        ends.append(self.loss(*pair, held))
                    new[i][j] = value - rate * (ends[0] - ends[1]) / 2
            found.append(new)
        return found[0], found[1]


def descended(given: Numbers, rate: float, steps: int, normalised: bool = False) -> Array:
    """A and B after the steps, flattened and joined."""
    descent = _Descent(given, normalised)
    a, b = _exact(given.A), _exact(given.B)
    for _ in range(steps):
        a, b = descent.stepped(a, b, Fraction(rate))
    return np.array([float(v) for matrix in (a, b) for row in matrix for v in row])


def curvatures(case: PlaneNumbers, x: Array, at: Instant, b: float) -> Array:
    """Second derivatives given X_t = x, along the first axis, of E[(2 r - 1)|mu - V|^2 | x] at
    mu = E[V | x] and of the loss with the old copy kept there, (2,): second differences of every
    sample's value, which are exact, and then their mean."""
    known = _Given(case, x, at)
    step = np.eye(case.plane_dim)[0]

    def bends(y: Array) -> Array:
        r, gap = case.reward(y), known.mean - known.v(y)
        weighted = [(2 * r - 1) * ((gap + s * step) ** 2).sum(axis=1) for s in (-1, 0, 1)]
        kept = [known.values(y, s * step, b)[2] for s in (-1, 0, 1)]
        return np.stack([low - 2 * middle + high for low, middle, high in (weighted, kept)], 1)

    return known.law.mean(bends).value
