r"""The noise kernels that section 2.1 prints, multiplied out by dense linear algebra.

    q(x_{t-1} | x_t) = N(sqrt(a_{t-1} / a_t) x_t, sqrt(1 - a_{t-1} / a_t) I)

states the spread either as a standard deviation or, as everywhere else, as a variance. The text
says that these give q(x_t | x_T) = N(sqrt(a_T - a_t) x_T, sqrt(1 - a_T - a_t) I).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.integrals import Array


class Noised(NamedTuple):
    """x_t given x_T is N(factor x_T, variance I), each (T,) for t = 0 .. T - 1."""

    factor: Array
    variance: Array


def multiplied(a: Array, *, as_variance: bool = False) -> Noised:
    """The product of the one-step kernels, levels a (T + 1,) increasing to a_T <= 1: x_0, ..., x_T
    solve a bidiagonal linear system in x_T and the noises. Raises ValueError for other levels."""
    _check(a)
    steps = len(a) - 1
    ratio = a[:-1] / a[1:]
    spread = np.sqrt(1 - ratio)
    size = np.sqrt(spread) if as_variance else spread
    system = np.eye(steps) - np.diag(np.sqrt(ratio[:-1]), 1)
    of_end = np.linalg.solve(system, np.append(np.zeros(steps - 1), np.sqrt(ratio[-1])))
    of_noise = np.linalg.solve(system, np.diag(size))
    return Noised(of_end, (of_noise**2).sum(axis=1))


def as_printed(a: Array, *, as_variance: bool = False) -> Noised:
    """q(x_t | x_T) of the text; nan where the spread is the root of a negative number."""
    _check(a)
    with np.errstate(invalid="ignore"):
        spread = np.sqrt(1 - a[-1] - a[:-1])
    return Noised(np.sqrt(a[-1] - a[:-1]), spread if as_variance else spread**2)


def _check(a: Array) -> None:
    if np.ndim(a) != 1 or len(a) < 3 or a[0] < 0 or np.any(np.diff(a) <= 0) or a[-1] > 1:
        raise ValueError(f"a must be three levels or more that increase up to at most 1, got {a}")
