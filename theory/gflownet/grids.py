"""A prior chain on a uniform grid of states, and its policies' laws there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from theory.fields.mixture import VelocityModel
from theory.gflownet.blocks import Tridiagonal
from theory.laws.distances import Array
from theory.samplers.chain import Chain, grid_points

# Nodes of a kernel's average, in its standard deviations, and the points that a value is read from.
SPACING, REACH = 0.15, 9.0
NODES = np.arange(-REACH, REACH + SPACING / 2, SPACING)
WEIGHTS = np.exp(-0.5 * NODES**2) / np.exp(-0.5 * NODES**2).sum()
ORDER = 6
# The slope of a polynomial through ORDER values, at the first of them, in steps.
END_SLOPE = np.array([-137 / 60, 5, -5, 10 / 3, -5 / 4, 1 / 5])


@dataclass(frozen=True, eq=False)
class Axis:
    """Functions of one variable: values at points (n,) in equal steps, straight on beyond them."""

    points: Array

    @cached_property
    def slope(self) -> Array:
        """(n, n): d/dx of values on the grid, by a cubic spline."""
        return np.asarray(CubicSpline(self.points, np.eye(len(self.points)))(self.points, 1))

    def stencil(self, places: Array) -> tuple[Array, Array]:
        """How values are read at `places` (p,): the points (p, ORDER) that polynomials go through,
        and their weights."""
        axis, step = self.points, self.points[1] - self.points[0]
        inside = np.clip(places, axis[0], axis[-1])
        first = np.floor((inside - axis[0]) / step).astype(int) - (ORDER // 2 - 1)
        first = np.clip(first, 0, len(axis) - ORDER)
        offset = (inside - axis[first]) / step
        weights = np.ones((len(places), ORDER))
        for i in range(ORDER):
            for j in range(ORDER):
                if i != j:
                    weights[:, i] *= (offset - j) / (i - j)
        beyond = ((places - inside) / step)[:, None]
        weights += beyond * np.where(beyond < 0, END_SLOPE, -END_SLOPE[::-1])
        return first[:, None] + np.arange(ORDER), weights

    def read(self, values: Array, places: Array) -> Array:
        """Values on the grid at `places`, of any shape."""
        points, weights = self.stencil(places.ravel())
        return np.asarray((values[points] * weights).sum(1).reshape(places.shape))

    def average(self, places: Array, weights: Array) -> Array:
        """(rows, n): sum_q weights[i, q] of what values read at places[i, q]."""
        (rows, count), n = places.shape, len(self.points)
        points, stencil = self.stencil(places.ravel())
        cells = (np.arange(rows).repeat(count) * n)[:, None] + points
        shares = weights.ravel()[:, None] * stencil
        table = np.bincount(cells.ravel(), shares.ravel(), rows * n)
        return np.asarray(table, dtype=float).reshape(rows, n)


@dataclass(frozen=True, eq=False)
class Walk:
    """A policy's law along its own trajectories.

    ahead: A_k.  back: B_k.  log_p: log p_k, (T + 1, n).  ratio: by k, E[log N(x'; m, s^2 I) - eta
    log N(x'; m#, s^2 I) | X_{k+1} = x'], (n,).  seen: of states 0 .. T, numbers or (n,): 1, and 0
    where the policy comes so rarely that what lies behind is not known, and is left out.
    """

    ahead: list[Any]
    back: list[Any]
    log_p: Array
    ratio: Callable[[int], Array]
    seen: Sequence[float | Array]


@dataclass(frozen=True, eq=False)
class Grid(ABC):
    """A prior chain on n points in d dimensions. Scalars on it are (n,), vectors (d n,), one
    component after the other; linear maps of both are matrices, or `@` like them."""

    chain: Chain
    base: VelocityModel
    axes: tuple[Array, ...]

    @cached_property
    def points(self) -> Tensor:
        """(n, d)."""
        return grid_points(self.axes)

    @cached_property
    def kernels(self) -> tuple[Array, Array]:
        """m#, (T, d n), and J#, (T, d, d, n): J#[k, i, j] is dm#_i/dx_j."""
        means, jacobians = [], []
        for k in range(self.chain.steps):
            x = self.points.clone().requires_grad_(True)
            mean = self.chain.mean(self.base, k, x)
            rows = [torch.autograd.grad(m.sum(), x, retain_graph=True)[0].T for m in mean.T]
            means.append(mean.detach().numpy().T.ravel())
            jacobians.append(torch.stack(rows).numpy())
        return np.array(means), np.array(jacobians)

    @cached_property
    def widths(self) -> Array:
        """s_k, (T, 1)."""
        return self.chain.coefficients(torch.zeros(1, dtype=torch.float64))[2].numpy()[:, None]

    @property
    @abstractmethod
    def one(self) -> Any:
        """The map of a value to itself."""

    @property
    @abstractmethod
    def slope(self) -> Any:
        """The gradient of a scalar."""

    @property
    @abstractmethod
    def pulls(self) -> list[Any]:
        """J#_k transposed, of vectors."""

    @abstractmethod
    def system(self, count: int) -> Tridiagonal:
        """Equations for `count` scalars or vectors."""

    @abstractmethod
    def walked(self, u: Array, prior: float) -> Walk:
        """The law of the policy with shifts s_k^2 u_k, u (T, d n), kernel by kernel."""
