"""Gaussian kernels in the plane: averages along a policy's own trajectories, without matrices.

An average over a kernel is a product of one over each axis. A_k first averages at the grid's
points, exactly for an interpolant, and then reads the result at the means. B_k = p_k N(x'; m_k,
s_k^2 I)/p_{k+1} sums over states x by the trapezoidal rule, on a finer grid where kernels are
narrow. At states that the policy all but never visits such sums say little, and rounds led by them
run away: flows there are taught by what lies ahead alone. d = 2, ancestral kernels, float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from scipy.sparse import csr_array

from theory.gflownet.blocks import Linear, Swept
from theory.gflownet.grids import NODES, WEIGHTS, Axis, Grid, Walk
from theory.laws.distances import Array

# Steps of the states summed over in standard deviations of the kernel; the least density, of a
# state's highest: it falls no further, and what is as rare is left out of the sums.
FINE, LEAST = 0.8, 1e-24
# Standard deviations that a kernel reaches; the share of an axis below which others are left out.
WINDOW, NARROW = 10.0, 1 / 3
RARE = 1e-12  # of a state's highest density, where what lies behind is left out
TINY = 1e-300  # a density that the sums do not reach


@dataclass(frozen=True, eq=False)
class Plane(Grid):
    """A prior chain on a grid of two axes."""

    one = 1.0

    @cached_property
    def both(self) -> tuple[Axis, Axis]:
        """The axes."""
        first, second = self.axes
        return Axis(first), Axis(second)

    @cached_property
    def shape(self) -> tuple[int, int]:
        first, second = self.axes
        return len(first), len(second)

    def along(self, matrices: Sequence[Array], values: Array) -> Array:
        """A matrix an axis on scalars or vectors, (c, rows of the first x rows of the second)."""
        first, second = matrices
        fields = first @ values.reshape(-1, *self.shape) @ second.T
        return np.asarray(fields.reshape(len(fields), -1))

    @cached_property
    def slope(self) -> Linear:
        one, two = (axis.slope for axis in self.both)
        still = [np.eye(n) for n in self.shape]

        def gradient(values: Array) -> Array:
            parts = self.along((one, still[1]), values), self.along((still[0], two), values)
            return np.concatenate(parts).ravel()

        return Linear(gradient)

    @cached_property
    def pulls(self) -> list[Linear]:
        def pull(jacobian: Array) -> Linear:
            return Linear(lambda v: np.einsum("ijn,in->jn", jacobian, v.reshape(2, -1)).ravel())

        return [pull(jacobian) for jacobian in self.kernels[1]]

    def system(self, count: int) -> Swept:
        return Swept(count, Linear(lambda values: 0.0 * values))

    # --- a policy's law

    def walked(self, u: Array, prior: float) -> Walk:
        start = float(self.chain.start(torch.ones(1, dtype=torch.float64)))
        bowl = 0.5 * (self.points.numpy() ** 2).sum(1)
        log_p = [-bowl / start**2 - math.log(2 * math.pi * start**2)]
        base = self.kernels[0]
        mean = base + self.widths**2 * u
        ahead, back, ratios = [], [], []
        for k in range(self.chain.steps):
            ahead.append(self.ahead(k, mean[k]))
            behind = Behind(self, k, mean[k], log_p[-1])
            log_p.append(behind.log_density)
            back.append(Linear(behind.average))
            ratios.append(partial(behind.ratio, base[k], prior))
        seen = [1 / (1 + RARE * np.exp(row.max() - row)) for row in log_p]
        return Walk(ahead, back, np.array(log_p), lambda k: ratios[k](), seen)

    @cached_property
    def smoothings(self) -> list[list[Array]]:
        """A kernel's averages about the points of each axis, by kernel."""
        return [
            [axis.average(axis.points[:, None] + s * NODES, np.tile(WEIGHTS, (len(axis.points), 1)))
             for axis in self.both]
            for s in self.widths[:, 0]
        ]  # fmt: skip

    def ahead(self, k: int, mean: Array) -> Linear:
        """A_k."""
        reading = self.reading(mean.reshape(2, -1))
        smoothing = self.smoothings[k]
        return Linear(lambda values: (self.along(smoothing, values) @ reading.T).ravel())

    def reading(self, places: Array) -> csr_array:
        """(p, n): values on the grid at places (2, p)."""
        found = [axis.stencil(x) for axis, x in zip(self.both, places, strict=True)]
        return self.products([points for points, _ in found], [weights for _, weights in found])

    def products(self, points: Sequence[Array], weights: Sequence[Array]) -> csr_array:
        """(p, n), sparse: the product of weights (p, w) of each axis at these of its points."""
        (i, j), (one, two) = points, weights
        columns = (i[:, :, None] * self.shape[1] + j[:, None, :]).ravel()
        starts = np.arange(len(i) + 1) * (i.shape[1] * j.shape[1])
        values = (one[:, :, None] * two[:, None, :]).ravel()
        return csr_array((values, columns, starts), shape=(len(i), math.prod(self.shape)))

    @cached_property
    def finer(self) -> list[tuple[list[Array], float]]:
        """Readings (rows, n) of each axis at the states summed over and their cell, by kernel."""
        found = []
        for width in self.widths[:, 0]:
            readings, cell = [], 1.0
            for axis in self.both:
                x = axis.points
                times = math.ceil((x[1] - x[0]) / (FINE * width))
                places = np.linspace(x[0], x[-1], times * (len(x) - 1) + 1)
                readings.append(axis.average(places[:, None], np.ones((len(places), 1))))
                cell *= places[1] - places[0]
            found.append((readings, cell))
        return found


class Behind:
    """X_k given X_{k+1} at the grid's points."""

    def __init__(self, plane: Plane, k: int, mean: Array, log_p: Array) -> None:
        self.plane = plane
        self.width = float(plane.widths[k, 0])
        self.finer, cell = plane.finer[k]
        log_p = plane.along(self.finer, log_p)[0]
        top = float(log_p.max())
        self.seen = log_p > top + math.log(LEAST)
        self.mass = np.exp(log_p[self.seen] - top)
        self.near = self.points_near(self.at(mean))
        self.steps = self.apart(mean)
        self.kernels = [np.exp(-0.5 * z**2) for z in self.steps]
        self.spread = self.sums(*self.kernels)
        self.total = np.maximum(self.spread(self.mass), TINY)
        size = math.log(2 * math.pi * self.width**2 / cell)
        least = LEAST * self.total.max()
        self.log_density = np.log(np.maximum(self.total, least)) + top - size

    def at(self, values: Array) -> Array:
        """(c, states summed over)."""
        return self.plane.along(self.finer, values)[:, self.seen]

    def points_near(self, means: Array) -> list[Array]:
        """Points (states, w) of each axis that a kernel reaches, all of them if it is wide."""
        found = []
        for axis, mean in zip(self.plane.axes, means, strict=True):
            n, step = len(axis), axis[1] - axis[0]
            count = 2 * math.ceil(WINDOW * self.width / step)
            count = count if count < NARROW * n else n
            first = np.floor((mean - axis[0]) / step) - count // 2 + 1
            first = np.clip(first, 0, n - count).astype(int)
            found.append(first[:, None] + np.arange(count))
        return found

    def apart(self, mean: Array) -> list[Array]:
        """(x'_i - m_i(x))/s by axis, (states, w)."""
        parts = zip(self.plane.axes, self.near, self.at(mean), strict=True)
        return [(axis[near] - m[:, None]) / self.width for axis, near, m in parts]

    def sums(self, one: Array, two: Array) -> Callable[[Array], Array]:
        """Sums over the states of one(x, x'_1) two(x, x'_2) mass(x), (n,), for any mass."""
        if (one.shape[1], two.shape[1]) == self.plane.shape:
            return lambda mass: np.asarray((one.T @ (mass[:, None] * two)).ravel())
        table = self.plane.products(self.near, (one, two)).T
        return lambda mass: np.asarray(table @ mass)

    def average(self, values: Array) -> Array:
        """B_k."""
        found = [self.spread(self.mass * field) / self.total for field in self.at(values)]
        return np.concatenate(found)

    def ratio(self, base: Array, prior: float) -> Array:
        """E[log N(x'; m, s^2 I) - eta log N(x'; m#, s^2 I) | X_{k+1} = x'], (n,)."""
        first, second = (
            0.5 * (prior * other**2 - own**2) * kernel
            for own, other, kernel in zip(self.steps, self.apart(base), self.kernels, strict=True)
        )
        one, two = self.kernels
        costs = self.sums(first, two)(self.mass) + self.sums(one, second)(self.mass)
        return costs / self.total + (prior - 1) * math.log(2 * math.pi * self.width**2)
