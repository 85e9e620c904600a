"""Block-tridiagonal systems: below_i z_{i-1} + own_i z_i + above_i z_{i+1} = right_i."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, gmres

from theory.laws.distances import Array

# Of what a guess leaves of the equations, that is left: at 1e-3 the mixing of rounds takes several
# times as many of them. Steps at most.
LEFT, MOST_SWEEPS = 1e-6, 200
ROUNDING = 1e-13  # of the right side, swept: no residual is asked to be smaller


class NotSettledError(ValueError):
    """Steps that lead to no solution."""


class Linear:
    """A linear map that no matrix is made of: `@` and multiples, as matrices have them."""

    __array_ufunc__ = None  # numpy's numbers leave products to this class

    def __init__(self, apply: Callable[[Array], Array]) -> None:
        self.apply = apply

    def __matmul__(self, values: Array) -> Array:
        return self.apply(values)

    def __rmul__(self, factor: float | Array) -> Linear:
        return Linear(lambda values: factor * self.apply(values))


class Tridiagonal:
    """Blocks that are matrices (n, n)."""

    def __init__(self, count: int, zero: Any) -> None:
        self.below, self.own, self.above = [zero] * count, [zero] * count, [zero] * count
        self.right: list[Any] = [0.0] * count

    def solved(self, near: list[Array]) -> list[Array]:
        """z, by block elimination; a z that is near, if any, is not asked for."""
        own, right = [self.own[0]], [self.right[0]]
        for i in range(1, len(self.own)):
            factor = np.linalg.solve(own[-1].T, self.below[i].T).T
            own.append(self.own[i] - factor @ self.above[i - 1])
            right.append(self.right[i] - factor @ right[-1])
        values = [np.linalg.solve(own[-1], right[-1])]
        for i in range(len(own) - 2, -1, -1):
            values.append(np.linalg.solve(own[i], right[i] - self.above[i] @ values[-1]))
        return values[::-1]


class Swept(Tridiagonal):
    """Blocks that are maps (`Linear`), the own ones numbers; by GMRES, each step of it a sweep from
    the last row to the first."""

    def solved(self, near: list[Array]) -> list[Array]:
        """z, nearer than `near`, or than 0 if that is empty: LEFT of the residual is left.

        Raises:
            NotSettledError: more of it is left.
        """
        ends = np.cumsum([0, *(len(right) for right in self.right)])

        def parts(flat: Array) -> list[Array]:
            return [flat[a:b] for a, b in pairwise(ends)]

        def sweep(rest: list[Array]) -> Array:
            """own_i z_i + above_i z_{i+1} = rest_i."""
            values = [rest[-1] / self.own[-1]]
            for i in range(len(rest) - 2, -1, -1):
                values.append((rest[i] - self.above[i] @ values[-1]) / self.own[i])
            return np.concatenate(values[::-1])

        def swept(flat: Array) -> Array:
            z = parts(flat)
            return flat + sweep([0 * z[0], *(self.below[i] @ z[i - 1] for i in range(1, len(z)))])

        guess, goal = np.concatenate(near) if near else np.zeros(ends[-1]), sweep(self.right)
        move, failed = gmres(
            LinearOperator((ends[-1], ends[-1]), matvec=swept, dtype=float),
            goal - swept(guess),
            rtol=LEFT,
            atol=ROUNDING * float(np.linalg.norm(goal)),
            restart=MOST_SWEEPS,
            maxiter=1,
        )
        if failed:
            raise NotSettledError(
                f"a round's equations must be solved in {MOST_SWEEPS} sweeps, got more than "
                f"{LEFT:g} of what the guess left"
            )
        return parts(guess + move)
