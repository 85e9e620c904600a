"""Named control problems with exact optima: Ornstein-Uhlenbeck and double wells.

Kinds that papers on stochastic optimal control test their methods on (Nuesken and Richter 2021;
Domingo-Enrich et al. 2023), none of them symmetric here. Time runs from 0 to 1, g = 1, costs are
E [int |u|^2/2 + f dt + c].

    ou_linear        d = 10: dX = A X dt, A with rotation; f = 0, c = q'x
    ou_quadratic     d = 10: the same with f = x'F x/2 and c = x'Q x/2 + q'x, F and Q full
    ou_unstable      d = 20: A has positive eigenvalues, f and c stronger
    double_well_10d  -grad sum kappa_i (x_i^2 - 1)^2 from (-1, ..., -1), c = sum nu_i (x_i - 1)^2;
                     three stiff coordinates (kappa = 5, nu = 3) and seven soft ones (1, 1)
    double_well_20d  the same with five kinds of coordinates

Linear-quadratic optima are Riccati's (`theory.control.linear`). In a separable double well V is a
sum over coordinates, each a Hamilton-Jacobi-Bellman equation on the line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from scipy.interpolate import CubicSpline, make_interp_spline
from torch import Tensor

from theory.common.checks import check_choice, check_positive, check_shape
from theory.control.chain_optimum import Surface, best_kernel
from theory.control.equation import Equation, solve
from theory.control.linear import LinearQuadratic
from theory.laws.distances import Array

# Of a well's grid: its drift pushes inwards from |x| = REACH like a cube.
REACH, POINTS, TIMES = 3.0, 401, 81
# A chain's: beyond it Euler's map overshoots, and no trajectory comes there (below e^-17).
CHAIN_REACH = 2.2
STIFFEST = 50.0
SPLINE = 5


Values = TypeVar("Values", Array, Tensor)


def well_drift(kappa: Any, x: Values) -> Values:
    """-grad sum kappa_i (x_i^2 - 1)^2 of arrays or tensors."""
    return -4 * kappa * x * (x**2 - 1)


def well_cost(nu: Any, x: Values) -> Values:
    """nu_i (x_i - 1)^2 of every coordinate."""
    return nu * (x - 1) ** 2


@dataclass(frozen=True, eq=False)
class DoubleWell:
    """dX_i = (-4 kappa_i X_i (X_i^2 - 1) + g u_i) dt + g dB_i from `begin`, c above, f = 0."""

    kappa: Array
    nu: Array
    begin: Array
    g: float = 1.0
    name: str = "double well"

    def __post_init__(self) -> None:
        check_positive("g", self.g)
        for name in ("kappa", "nu", "begin"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=float))
            check_shape(name, getattr(self, name), (self.kappa.size,))
        if not (((self.kappa > 0) & (self.kappa <= STIFFEST)).all() and (self.nu >= 0).all()):
            raise ValueError(
                f"kappa must lie in (0, {STIFFEST:g}], which the grid resolves, and nu be >= 0, "
                f"got kappa = {self.kappa.tolist()} and nu = {self.nu.tolist()}"
            )

    @property
    def dim(self) -> int:
        return len(self.kappa)

    def drift(self, x: Array) -> Array:
        """-grad sum kappa_i (x_i^2 - 1)^2, (n, d)."""
        return np.asarray(well_drift(self.kappa, x))

    def terminal(self, x: Array) -> Array:
        """c, (n,)."""
        return np.asarray(well_cost(self.nu, x).sum(-1))

    @cached_property
    def _kinds(self) -> list[tuple[float, float]]:
        return sorted({(float(k), float(n)) for k, n in zip(self.kappa, self.nu, strict=True)})

    @cached_property
    def kind_of(self) -> list[int]:
        """The number of every coordinate's kind."""
        pairs = zip(self.kappa, self.nu, strict=True)
        return [self._kinds.index((float(k), float(n))) for k, n in pairs]

    @cached_property
    def _solutions(self) -> list[tuple[Array, CubicSpline]]:
        """(grid, V over time on it) of every kind of coordinate."""
        found = []
        times = (np.arange(TIMES - 1) / (TIMES - 1)).tolist()
        for kappa, nu in self._kinds:
            run = solve(self._equation(kappa, nu), times, points=POINTS, reach=REACH)
            found.append((run.axes[0], CubicSpline(run.times[::-1], run.values[::-1])))
        return found

    def _equation(self, kappa: float, nu: float) -> Equation:
        """Of one coordinate."""
        return Equation(
            1,
            drift=lambda x, t: well_drift(kappa, x),
            squared=lambda t: self.g**2,
            terminal=lambda x: well_cost(nu, x[:, 0]),
        )

    def _coordinates(self, x: Array, t: float, derivative: int) -> Array:
        """V_i or its derivative at x_i, (n, d)."""
        _check_places(x, self.dim, REACH)
        if not 0 <= t <= 1:
            raise ValueError(f"t must be a time in [0, 1], got {t:g}")
        splines = [make_interp_spline(a, V(t), k=SPLINE) for a, V in self._solutions]
        return np.stack([splines[j](x[:, i], derivative) for i, j in enumerate(self.kind_of)], -1)

    def value(self, x: Array, t: float) -> Array:
        """V(x, t), x (n, d) -> (n,)."""
        return np.asarray(self._coordinates(x, t, 0).sum(-1))

    def gradient(self, x: Array, t: float) -> Array:
        """grad V, (n, d)."""
        return self._coordinates(x, t, 1)

    def control(self, x: Array, t: float) -> Array:
        """u* = -g grad V, (n, d)."""
        return -self.g * self.gradient(x, t)

    def expected_value(self) -> float:
        """V(begin, 0): the optimal value."""
        return float(self.value(self.begin[None], 0.0)[0])

    def discrete(self, times: Sequence[float]) -> DiscreteWell:
        """The exact optimum of Euler-Maruyama's chain on times (0, ..., 1), by dynamic programming.

        Raises:
            ValueError: times that do not ascend from 0 to 1, or steps so long that the best
                control is not unique or Euler's map leaves the grid (4 kappa dt must be small).
        """
        grid = np.asarray(times, dtype=float)
        if len(grid) < 2 or (np.diff(grid) <= 0).any() or grid[0] != 0 or grid[-1] != 1:
            raise ValueError(f"times must ascend from 0 to 1, got {list(times)!r}")
        axis = np.linspace(-CHAIN_REACH, CHAIN_REACH, POINTS)
        shifts: list[list[Surface]] = []
        values: list[Surface] = []
        for kappa, nu in self._kinds:
            later: Callable[[Array], Array] = partial(well_cost, -nu)
            own: list[Surface] = []
            for k in range(len(grid) - 2, -1, -1):
                dt = float(grid[k + 1] - grid[k])
                start = (axis + dt * well_drift(kappa, axis))[:, None]
                mean, best = best_kernel(later, start, self.g * dt**0.5, 1.0, k)
                later = Surface((axis,), best[:, None])
                own.insert(0, Surface((axis,), (mean - start) / (self.g * dt)))
            assert isinstance(later, Surface)
            shifts.append(own)
            values.append(later)
        return DiscreteWell(self, grid, shifts, values)


@dataclass(frozen=True, eq=False)
class DiscreteWell:
    """u*_k and V_0 of a double well on a time grid."""

    problem: DoubleWell
    times: Array
    _controls: list[list[Surface]]
    _values: list[Surface]

    def control(self, x: Array, k: int) -> Array:
        """u*_k, (n, d); straight on beyond the grid, where a rare trajectory may come."""
        kinds = enumerate(self.problem.kind_of)
        return np.stack([self._controls[j][k](x[:, i : i + 1])[:, 0] for i, j in kinds], -1)

    def value(self, x: Array) -> Array:
        """V_0, (n,): the least expected cost of the chain.

        Raises:
            ValueError: x lies beyond the chain's grid.
        """
        _check_places(x, self.problem.dim, CHAIN_REACH)
        kinds = enumerate(self.problem.kind_of)
        return np.asarray(np.sum([-self._values[j](x[:, i : i + 1])[:, 0] for i, j in kinds], 0))


def _check_places(x: Array, dim: int, reach: float) -> None:
    """x stays where the grid is: far beyond where trajectories go."""
    if x.ndim != 2 or x.shape[1] != dim or (np.abs(x) > reach).any():
        raise ValueError(
            f"x must have shape (n, {dim}) within {reach:g}, got shape {x.shape} up to "
            f"{np.abs(x).max():.3g}"
        )


def _ou(dim: int, seed: int, growth: float, running: float, final: float, name: str) -> Case:
    rng = np.random.default_rng(seed)
    turn = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    A = growth * np.eye(dim) + 0.6 * (turn - turn.T) + 0.15 * (turn + turn.T)

    def definite(size: float) -> Array:
        root = rng.normal(size=(dim, dim)) / np.sqrt(dim)
        return np.asarray(size * (root @ root.T + 0.3 * np.eye(dim)))

    F, Q, S = definite(running), definite(final), definite(0.4)
    return LinearQuadratic(
        matrix=lambda t: A,
        shift=lambda t: np.zeros(dim),
        noise=lambda t: 1.0,
        running_matrix=F,
        final_matrix=Q,
        final_vector=(0.7 if final == 0 else 0.3) * rng.normal(size=dim),
        mean=0.5 * rng.normal(size=dim),
        cov=S,
        name=name,
    )


def _well(counts: Sequence[int], kinds: Sequence[tuple[float, float]], name: str) -> DoubleWell:
    kappa, nu = (np.repeat([kind[i] for kind in kinds], counts) for i in (0, 1))
    return DoubleWell(kappa, nu, -np.ones(len(kappa)), name=name)


Case = LinearQuadratic | DoubleWell

CASES: dict[str, Callable[[], Case]] = {
    "ou_linear": lambda: _ou(10, 1, -1.0, 0.0, 0.0, "ou_linear"),
    "ou_quadratic": lambda: _ou(10, 2, 0.2, 0.4, 0.6, "ou_quadratic"),
    "ou_unstable": lambda: _ou(20, 3, 1.0, 1.5, 1.0, "ou_unstable"),
    "double_well_10d": lambda: _well((3, 7), ((5.0, 3.0), (1.0, 1.0)), "double_well_10d"),
    "double_well_20d": lambda: _well(
        (3, 5, 4, 2, 6),
        ((5.0, 3.0), (1.0, 1.0), (3.0, 0.5), (2.0, 2.0), (0.6, 1.5)),
        "double_well_20d",
    ),
}


def control_case(name: str) -> Case:
    """A named control problem.

    Raises:
        ValueError: unknown name.
    """
    check_choice("name", name, CASES)
    return CASES[name]()
