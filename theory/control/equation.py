"""Hamilton-Jacobi-Bellman equations on grids, d = 1 and 2, any drift and diffusion schedule.

    W_t + b . grad W + (g^2/2) (lap W - kappa |grad W|^2) + f = 0,    W(x, 1) = c(x)

kappa = 1 is the value function's equation (slides, "Value function"; DESIGN's D3); kappa = -1 is
that of log E[...], which the law of the optimum needs. W is smooth where densities are not: it is
solved for as it stands, by central differences (one-sided at the edges, no boundary values: the
drift leads inwards) of order 8 (d = 1) or 4 (d = 2) in

    y = (x - centre(t)) / width(t)  (axis by axis),

coordinates that move with the law, and Radau's (d = 1) or BDF's (d = 2) implicit steps in time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp
from scipy.sparse import csr_array, diags_array, eye_array, kron

from theory.common.checks import check_dim, check_order, check_positive
from theory.laws.distances import Array
from theory.samplers.chain import grid_points

ORDERS = {1: 8, 2: 4}
METHODS = {1: "Radau", 2: "BDF"}
TOLERANCES = {1: (1e-10, 1e-11), 2: (1e-7, 1e-8)}

Vector = Callable[[Array, float], Array]  # x (n, d), t -> (n, d)
Scalar = Callable[[Array, float], Array]  # x (n, d), t -> (n,)


@dataclass(frozen=True)
class Frame:
    """x = centre(t) + width(t) y: functions of t that give (d,) and its time derivative (d,)."""

    centre: Callable[[float], tuple[Array, Array]]
    width: Callable[[float], tuple[Array, Array]]

    @classmethod
    def still(cls, dim: int) -> Frame:
        """x = y."""
        return cls(
            lambda t: (np.zeros(dim), np.zeros(dim)), lambda t: (np.ones(dim), np.zeros(dim))
        )

    def place(self, y: Array, t: float) -> Array:
        """x of y (n, d)."""
        return self.centre(t)[0] + self.width(t)[0] * y

    def find(self, x: Array, t: float) -> Array:
        """y of x (n, d)."""
        return (x - self.centre(t)[0]) / self.width(t)[0]


@dataclass(frozen=True)
class Equation:
    """The equation above; terminal: c, x (n, d) -> (n,)."""

    dim: int
    drift: Vector
    squared: Callable[[float], float]
    terminal: Callable[[Array], Array]
    state_cost: Scalar | None = None
    kappa: float = 1.0


@dataclass(frozen=True, eq=False)
class Solution:
    """W on a grid of y at decreasing times, t = 1 first: values (times, points)."""

    equation: Equation
    frame: Frame
    axes: tuple[Array, ...]
    times: Array
    values: Array
    order: int

    def at(self, t: float) -> Array:
        """W on the grid at one of the times, (points,)."""
        return self.values[self._index(t)]

    def points(self, t: float) -> Array:
        """x at the grid's points, (points, d)."""
        return self.frame.place(grid_points(self.axes).numpy(), t)

    def gradient_at(self, t: float) -> Array:
        """grad W on the grid at one of the times, (points, d)."""
        first, _ = _operators(self.axes, self.order)
        return np.stack([D @ self.at(t) for D in first], -1) / self.frame.width(t)[0]

    def _index(self, t: float) -> int:
        k = int(np.argmin(np.abs(self.times - t)))
        if abs(float(self.times[k]) - t) > 1e-12:
            raise ValueError(
                f"t must be one of the solution's times, {self.times.tolist()}, got {t:g}"
            )
        return k


def solve(
    equation: Equation,
    times: Sequence[float],
    *,
    points: int,
    reach: float,
    frame: Frame | None = None,
    order: int | None = None,
    tolerances: tuple[float, float] | None = None,
) -> Solution:
    """W at t = 1 and at `times` in [0, 1), on `points` an axis with |y| <= reach.

    Raises:
        ValueError: d is not 1 or 2, fewer points than the stencil holds, times outside [0, 1), or
            the solution does not stay finite (the message says at which t).
    """
    check_dim("a grid", equation.dim, 2)
    order = ORDERS[equation.dim] if order is None else order
    check_order("points", points, 2 * order + 1)
    check_positive("reach", reach)
    stops = sorted({float(t) for t in times}, reverse=True)
    if not stops or not (stops[-1] >= 0 and stops[0] < 1):
        raise ValueError(f"times must be times in [0, 1), got {list(times)!r}")
    frame = Frame.still(equation.dim) if frame is None else frame
    axes = (np.linspace(-reach, reach, points),) * equation.dim
    rtol, atol = tolerances or TOLERANCES[equation.dim]
    system = _System(equation, frame, axes, order)
    found, start = [equation.terminal(frame.place(system.y, 1.0))], 1.0
    for stop in stops:
        # From stop to stop: no interpolation between the steps is needed.
        run = solve_ivp(
            system.rate,
            (1 - start, 1 - stop),
            found[-1],
            method=METHODS[equation.dim],
            jac=system.jacobian,
            rtol=rtol,
            atol=atol,
        )
        if not run.success or not np.isfinite(run.y[:, -1]).all():
            raise ValueError(
                f"the equation has no finite solution before t = {1 - run.t[-1]:.4g} "
                f"({run.message}): must be costs whose value function stays finite, and grids that "
                "resolve it"
            )
        found.append(run.y[:, -1])
        start = stop
    return Solution(equation, frame, axes, np.array([1.0, *stops]), np.array(found), order)


class _System:
    """W_tau, tau = 1 - t, on the grid's points, and its Jacobian."""

    def __init__(
        self, equation: Equation, frame: Frame, axes: tuple[Array, ...], order: int
    ) -> None:
        self.equation, self.frame = equation, frame
        self.y = grid_points(axes).numpy()
        self.first, self.second = _operators(axes, order)
        self._kept: dict[float, tuple[Array, Array, Array | float]] = {}

    def _coefficients(self, tau: float) -> tuple[Array, Array, Array | float]:
        if tau not in self._kept:
            if len(self._kept) > 8:
                self._kept.clear()
            t = min(max(1 - tau, 0.0), 1.0)
            (centre, dcentre), (width, dwidth) = self.frame.centre(t), self.frame.width(t)
            x = centre + width * self.y
            drift = (self.equation.drift(x, t) - dcentre - dwidth * self.y) / width
            f = 0.0 if self.equation.state_cost is None else self.equation.state_cost(x, t)
            self._kept[tau] = drift, self.equation.squared(t) / width**2, f
        return self._kept[tau]

    def rate(self, tau: float, w: Array) -> Array:
        drift, g2, total = self._coefficients(tau)
        for i, (D, DD) in enumerate(zip(self.first, self.second, strict=True)):
            slope = D @ w
            curved = DD @ w - self.equation.kappa * slope**2
            total = total + drift[:, i] * slope + 0.5 * g2[i] * curved
        return np.asarray(total)

    def jacobian(self, tau: float, w: Array) -> object:
        drift, g2, _ = self._coefficients(tau)
        total = csr_array((len(w), len(w)))
        for i, (D, DD) in enumerate(zip(self.first, self.second, strict=True)):
            steer = drift[:, i] - g2[i] * self.equation.kappa * (D @ w)
            total = total + 0.5 * g2[i] * DD + diags_array(steer) @ D
        return total.tocsc()


def _operators(axes: tuple[Array, ...], order: int) -> tuple[list[csr_array], list[csr_array]]:
    """First and second derivatives along each axis, as sparse matrices over the grid."""
    lines = [[differences(a, order, k) for a in axes] for k in (1, 2)]
    if len(axes) == 1:
        return lines[0], lines[1]
    one, other = (eye_array(len(a)) for a in axes)
    first, second = ([csr_array(kron(a, other)), csr_array(kron(one, b))] for a, b in lines)
    return first, second


def differences(axis: Array, order: int, derivative: int) -> csr_array:
    """The matrix of a derivative on a uniform axis: order + 1 points, central where they fit."""
    n, h = len(axis), float(axis[1] - axis[0])
    size = order + 1
    rows, columns, entries = [], [], []
    for i in range(n):
        first = min(max(i - order // 2, 0), n - size)
        offsets = np.arange(first, first + size) - i
        rows += [i] * size
        columns += list(range(first, first + size))
        entries += list(_weights(tuple(offsets.tolist()), derivative) / h**derivative)
    return csr_array((entries, (rows, columns)), shape=(n, n))


def _weights(offsets: tuple[int, ...], derivative: int) -> Array:
    """Weights that make the derivative at 0 of every polynomial through the offsets."""
    powers = np.vander(np.asarray(offsets, dtype=float), increasing=True).T
    right = np.zeros(len(offsets))
    right[derivative] = float(derivative)  # 1! and 2! are 1 and 2
    return np.asarray(np.linalg.solve(powers, right))
