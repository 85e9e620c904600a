"""The best Gaussian kernels of a discrete chain, KL-regularised, exactly.

Over all chains with the kernels of `theory.samplers.chain`, and their means free,

    max E[r(X_T)] - KL(chain || base chain) / scale,

is dynamic programming: with V_T = r and W_k(m) = E[V_{k+1}(m + s_k xi)],

    V_k(x) = max_m W_k(m) - |m - m_k^base(x)|^2 / (2 scale s_k^2),
    m*     = m_k^base(x) + scale s_k^2 grad W_k(m*).

As T grows its law tends to base exp(scale r) / Z; at finite T it is what a Gaussian policy can
reach. d = 1 and 2, on grids, float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.interpolate import BSpline, CubicSpline, NdBSpline, make_interp_spline
from scipy.sparse import eye_array, kron
from torch import Tensor

from theory.common.checks import check_positive
from theory.fields.mixture import VelocityModel
from theory.laws.distances import Array
from theory.samplers.chain import Chain, check_axes, grid_points

# Nodes of a kernel's average: Gauss-Hermite in the plane, where they are paid for twice; on the
# line the trapezoidal rule, which wide kernels over narrow rewards need (48 Gauss-Hermite nodes
# leave 5e-5 of the control on bumps_1d in 6 steps).
HERMITE_NODES = 48
LINE_NODES = (-8.0, 8.0, 0.15)
NEWTON_STEPS, FULL_STEPS = 120, 20
NEWTON_TOLERANCE = 1e-12


class NotUniqueError(ValueError):
    """Where several kernels may be the best."""


@dataclass(frozen=True, eq=False)
class ChainOptimum:
    """The optimal kernels as a velocity at the chain's times, and the value functions V_k.

    A VelocityModel (x (rows, d), t (rows,) among the chain's times), float64, d = 1 and 2.
    log_z: E[V_0(X_0)] * scale, the optimal value in units of the KL.
    """

    chain: Chain
    base: VelocityModel
    scale: float
    log_z: float
    shifts: list[Surface]
    values: list[Surface]

    def __call__(self, x: Tensor, t: Tensor | float, cond: object = None) -> Tensor:
        times = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        Q, shift = self.chain.coefficients(x)[1], torch.zeros_like(x)
        for k, rows in self.rows_by_kernel(times):
            shift[rows] = torch.as_tensor(self.shifts[k](x[rows].detach().numpy())) / Q[k]
        return self.base(x, times, cond) + shift

    def value(self, x: Tensor, t: Tensor | float) -> Tensor:
        """V_k(x) at t = t_k, (rows, 1)."""
        result = torch.zeros(len(x), 1, dtype=x.dtype)
        for k, rows in self.rows_by_kernel(torch.as_tensor(t, dtype=x.dtype).expand(len(x))):
            result[rows] = torch.as_tensor(self.values[k](x[rows].detach().numpy()))
        return result

    def rows_by_kernel(self, times: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(k, the rows whose time is t_k) of every kernel that has any.

        Raises:
            ValueError: a time that is none of the chain's.
        """
        for k, rows in self.chain.rows_by_state(times):
            if k == self.chain.steps:
                raise ValueError(f"t must be one of the chain's {k} times before 1, got 1")
            yield k, rows


@dataclass(frozen=True, eq=False)
class Surface:
    """Values (n, c) on a tensor grid, by cubic splines; straight on beyond the grid's ends."""

    axes: tuple[Array, ...]
    values: Array

    @cached_property
    def spline(self) -> CubicSpline | NdBSpline:
        """Through all columns at once."""
        columns = self.values.reshape(*map(len, self.axes), -1)
        if len(self.axes) == 1:
            return CubicSpline(self.axes[0], columns)
        knots = []
        for i, axis in enumerate(self.axes):
            along = make_interp_spline(axis, columns, axis=i)
            knots.append(along.t)
            columns = np.moveaxis(along.c, 0, i)
        return NdBSpline(tuple(knots), np.ascontiguousarray(columns), 3)

    def inside(self, x: Array) -> Array:
        """The grid's points that are nearest to x (n, d)."""
        return np.stack([x[:, i].clip(a[0], a[-1]) for i, a in enumerate(self.axes)], -1)

    def slope(self, x: Array, axis: int) -> Array:
        """Derivatives along an axis at points (n, d), (n, c)."""
        x = self.inside(x)
        if isinstance(self.spline, CubicSpline):
            return np.asarray(self.spline(x[:, 0], 1))
        return np.asarray(self.spline(x, nu=[int(axis == i) for i in range(x.shape[1])]))

    def __call__(self, x: Array) -> Array:
        """Values at points (n, d), (n, c)."""
        inside = self.inside(x)
        one = isinstance(self.spline, CubicSpline)
        found = np.asarray(self.spline(inside[:, 0] if one else inside))
        beyond = x - inside
        out = np.flatnonzero(beyond.any(-1))
        if len(out):
            for i in range(len(self.axes)):
                found[out] += self.slope(inside[out], i) * beyond[out, i, None]
        return found


def regularised_optimum(
    chain: Chain,
    base: VelocityModel,
    reward: Callable[[Tensor], Tensor],
    scale: float,
    axes: tuple[Array, ...],
    curvatures: Sequence[float] | None = None,
) -> ChainOptimum:
    """max E[r(X_T)] - KL(chain || base chain)/scale over Gaussian kernels, on a grid of states.

    curvatures: c_0 .. c_T, where r is the end's reward less c_T |x|^2/2, and V_k less c_k |x|^2/2
        goes on about straight beyond the grid, as V_k does where none are given.

    Raises:
        ValueError: d is above 2, or scale is not > 0.
        NotUniqueError: the maximum over a kernel's mean (a kernel is so wide, or the reward so
            curved, that scale s_k^2 times the smoothed value's curvature reaches 1): more steps
            make the kernels narrower.
    """
    check_axes(axes)
    check_positive("scale", scale)
    points = grid_points(axes)
    s = chain.coefficients(points)[2].tolist()
    c = np.zeros(chain.steps + 1) if curvatures is None else np.asarray(curvatures)
    bowl = 0.5 * (points.numpy() ** 2).sum(-1)

    def terminal(x: Array) -> Array:
        return reward(torch.as_tensor(x)).numpy()[:, None]

    later: Callable[[Array], Array]
    later = terminal if len(axes) == 1 else Surface(axes, terminal(points.numpy()))
    shifts: list[Surface] = []
    values: list[Surface] = []
    for k in range(chain.steps - 1, -1, -1):
        with torch.no_grad():
            start = chain.mean(base, k, points).numpy()
        mean, value = best_kernel(later, start, s[k], scale, k, c[k + 1])
        later = Surface(axes, (value - c[k] * bowl)[:, None])
        values.insert(0, Surface(axes, value[:, None]) if c[k] else later)
        shifts.insert(0, Surface(axes, mean - start))
    weight = np.exp(-0.5 * (points / chain.start(torch.ones(1, dtype=torch.float64))).numpy() ** 2)
    weight = weight.prod(-1)
    log_z = scale * float((weight * values[0].values[:, 0]).sum() / weight.sum())
    return ChainOptimum(chain, base, scale, log_z, shifts, values)


def best_kernel(
    later: Callable[[Array], Array],
    start: Array,
    std: float,
    scale: float,
    k: int,
    curvature: float = 0.0,
) -> tuple[Array, Array]:
    """The means m (n, d) that maximise E[later(m + std xi) + curvature |m + std xi|^2/2] - |m -
    start|^2/(2 scale std^2), from the base's means `start` (n, d), and that maximum (n,); k names
    the kernel in errors.

    later: values (n, 1) at points (n, d), a Surface in d = 2.

    Raises:
        NotUniqueError: the maximum.
        ValueError: Newton's method does not settle.
    """
    smooth, gain = SMOOTHED[start.shape[1]](later, std), scale * std**2
    mean = _solve(smooth, start, gain, 1 - gain * curvature, k)
    bowl = curvature * ((mean**2).sum(-1) + start.shape[1] * std**2) / 2
    return mean, smooth(mean)[0] + bowl - ((mean - start) ** 2).sum(-1) / (2 * gain)


Smooth = Callable[[Array], tuple[Array, Array, Array]]


def _stein(std: float, dim: int) -> tuple[Array, Array]:
    """Nodes z (q,) and the rows (3, q) that make W, W' and W'' of values at m + std z.

    W(m) = E[V(m + s xi)]; by Stein W' = E[V xi]/s and W'' = E[V (xi^2 - 1)]/s^2.
    """
    if dim == 1:
        z = np.arange(*LINE_NODES)
        w = np.exp(-0.5 * z**2)
    else:
        z, w = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
    w = w / w.sum()
    return z, np.stack([w, w * z / std, w * (z**2 - 1) / std**2])


def _smoothed_line(value: Callable[[Array], Array], std: float) -> Smooth:
    """m -> W (n,), grad W (n, 1), Hessian W (n, 1, 1), d = 1."""
    z, rows = _stein(std, 1)

    def at(m: Array) -> tuple[Array, Array, Array]:
        found = value((m + std * z).reshape(-1, 1)).reshape(len(m), len(z)) @ rows.T
        return found[:, 0], found[:, 1:2], found[:, 2:, None]

    return at


def _smoothed_plane(later: Surface, std: float) -> Smooth:
    """m -> W (n,), grad W (n, 2), Hessian W (n, 2, 2), d = 2.

    The sums over nodes factor over the axes: on the grid W and its derivatives are products
    with one matrix an axis (a spline's values at the nodes are linear in those on the grid);
    between the grid's points, splines of them.
    """
    z, rows = _stein(std, 2)
    one, two = (_averages(axis, std * z, rows) for axis in later.axes)
    V = later.values.reshape(len(later.axes[0]), -1)
    orders = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
    tables = np.stack([(one[i] @ V @ two[j].T).ravel() for i, j in orders], -1)
    value, hessian = Surface(later.axes, tables[:, :3]), Surface(later.axes, tables[:, 3:])
    low, high = (np.array([axis[i] for axis in later.axes]) for i in (0, -1))

    def at(m: Array) -> tuple[Array, Array, Array]:
        # Beyond the grid's ends slopes go straight on, and their own slope is what it is there.
        found, curve = value(m), hessian(np.clip(m, low, high))
        return found[:, 0], found[:, 1:], curve[:, [0, 1, 1, 2]].reshape(-1, 2, 2)

    return at


SMOOTHED: dict[int, Callable[[Any, float], Smooth]] = {1: _smoothed_line, 2: _smoothed_plane}


def _averages(axis: Array, steps: Array, rows: Array) -> Array:
    """sum_q rows[j, q] of what a spline through values on the axis, straight on beyond its ends,
    reads at axis + steps (q,): (3, n, n) coefficients of the values, for rows (3, q)."""
    basis, eye = make_interp_spline(axis, np.eye(len(axis))), eye_array(len(axis))
    places = axis[:, None] + steps
    inside = places.clip(axis[0], axis[-1])
    read = BSpline.design_matrix(inside.ravel(), basis.t, basis.k)
    past, slopes = places - inside, basis(axis[[0, -1]], 1)
    ends = np.stack([past.clip(max=0), past.clip(min=0)])
    return np.stack(
        [(kron(eye, row[None]) @ read) @ basis.c + (ends @ row).T @ slopes for row in rows]
    )


def _solve(smooth: Smooth, start: Array, gain: float, own: float, k: int) -> Array:
    """own m = start + gain grad W(m), by Newton's method; settled points are left alone."""
    mean, eye = start.copy(), own * np.eye(start.shape[1])
    open_ = np.arange(len(mean))
    for step in range(NEWTON_STEPS):
        _, slope, curve = smooth(mean[open_])
        matrix = eye - gain * curve
        least = np.linalg.eigvalsh(matrix)[:, 0].min()
        if least <= 0:
            raise NotUniqueError(
                f"kernel {k}: 1 - scale s^2 (curvature of the smoothed value) must stay above 0, "
                f"so that the best kernel is unique, got {least:.3g}; use more steps or a smaller "
                "scale"
            )
        rest = start[open_] + gain * slope - own * mean[open_]
        move = np.linalg.solve(matrix, rest[..., None])[..., 0]
        # A point far out, between two ways to go, may go to and fro: shorter steps settle it.
        mean[open_] += move if step < FULL_STEPS else 0.5 * move
        open_ = open_[np.abs(move).max(-1) > NEWTON_TOLERANCE * (1 + np.abs(mean).max())]
        if not len(open_):
            return mean
    raise ValueError(f"kernel {k}: Newton's method did not settle in {NEWTON_STEPS} steps")
