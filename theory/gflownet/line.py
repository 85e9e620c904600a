"""Gaussian kernels on the line: averages along a policy's own trajectories, as matrices.

d = 1, ancestral kernels, float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from theory.gflownet.blocks import Tridiagonal
from theory.gflownet.grids import NODES, SPACING, WEIGHTS, Axis, Grid, Walk
from theory.laws.distances import Array


@dataclass(frozen=True, eq=False)
class Line(Grid):
    """A prior chain on a grid of one axis."""

    @cached_property
    def only(self) -> Axis:
        """The axis."""
        (points,) = self.axes
        return Axis(points)

    @cached_property
    def one(self) -> Array:
        return np.eye(len(self.only.points))

    @property
    def slope(self) -> Array:
        return self.only.slope

    @cached_property
    def slopes(self) -> Array:
        """J#, (T, n)."""
        return self.kernels[1][:, 0, 0]

    def slopes_of(self, k: int, u: Array) -> Array:
        """J_k of shifts s_k^2 u, (n,)."""
        return self.slopes[k] + float(self.widths[k, 0]) ** 2 * (self.slope @ u)

    @property
    def pulls(self) -> list[Array]:
        return [np.diag(row) for row in self.slopes]

    def system(self, count: int) -> Tridiagonal:
        return Tridiagonal(count, np.zeros_like(self.one))

    def walked(self, u: Array, prior: float) -> Walk:
        chain, axis, s = self.chain, self.only.points, self.widths
        base = self.kernels[0]
        mean = base + s**2 * u
        ratio, variance = (row.numpy() for row in chain.noising)
        start = float(chain.start(torch.ones(1, dtype=torch.float64)))
        log_p = [-0.5 * (axis / start) ** 2 - math.log(start * math.sqrt(2 * math.pi))]
        ahead, back, ratios = [], [], []
        for k in range(chain.steps):
            width, normaliser = float(s[k, 0]), math.log(float(s[k, 0]) * math.sqrt(2 * math.pi))
            spread = np.broadcast_to(WEIGHTS, (len(axis), len(NODES)))
            ahead.append(self.only.average(mean[k][:, None] + width * NODES, spread))
            # X_k given X_{k+1} = x' is near what P_B noises x' to: there are the nodes.
            places = ratio[k] * axis[:, None] + math.sqrt(variance[k]) * NODES
            own, other = (self.only.read(m[k], places) for m in (mean, base))
            own = -0.5 * ((axis[:, None] - own) / width) ** 2 - normaliser
            other = -0.5 * ((axis[:, None] - other) / width) ** 2 - normaliser
            joint = CubicSpline(axis, log_p[-1])(places) + own
            top = joint.max(1, keepdims=True)
            weights = np.exp(joint - top)
            mass = weights.sum(1)
            log_p.append(np.log(mass) + top[:, 0] + math.log(SPACING * math.sqrt(variance[k])))
            weights /= mass[:, None]
            back.append(self.only.average(places, weights))
            ratios.append((weights * (own - prior * other)).sum(1))
        return Walk(ahead, back, np.array(log_p), ratios.__getitem__, [1.0] * len(log_p))
