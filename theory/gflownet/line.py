"""Gaussian kernels on the line: averages along a policy's own trajectories, as matrices.

Functions of the state are values on a uniform grid, and go on straight beyond its ends. d = 1,
ancestral kernels, float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from theory.fields.mixture import VelocityModel
from theory.laws.distances import Array
from theory.samplers.chain import Chain

# Nodes of a kernel's average, in its standard deviations, and what a spline's reading is made of.
SPACING, REACH = 0.15, 9.0
NODES = np.arange(-REACH, REACH + SPACING / 2, SPACING)
WEIGHTS = np.exp(-0.5 * NODES**2) / np.exp(-0.5 * NODES**2).sum()
ORDER = 6


@dataclass(frozen=True, eq=False)
class Line:
    """A prior chain on a grid of states: its kernels' means and slopes, (T, n), at the points."""

    chain: Chain
    base: VelocityModel
    axis: Array

    @cached_property
    def kernels(self) -> tuple[Array, Array]:
        """m# and J#."""
        means, slopes = [], []
        for k in range(self.chain.steps):
            x = torch.as_tensor(self.axis)[:, None].requires_grad_(True)
            mean = self.chain.mean(self.base, k, x)
            (slope,) = torch.autograd.grad(mean.sum(), x)
            means.append(mean.detach().numpy()[:, 0])
            slopes.append(slope.numpy()[:, 0])
        return np.array(means), np.array(slopes)

    @cached_property
    def widths(self) -> Array:
        """s_k, (T, 1)."""
        return self.chain.coefficients(torch.zeros(1, dtype=torch.float64))[2].numpy()[:, None]

    @cached_property
    def slope(self) -> Array:
        """(n, n): d/dx of values on the grid, by a cubic spline."""
        return np.asarray(CubicSpline(self.axis, np.eye(len(self.axis)))(self.axis, 1))

    def stencil(self, places: Array) -> tuple[Array, Array, Array]:
        """How values on the grid are read at `places` (p,): the points (p, ORDER) that polynomials
        go through, their weights, and how far a place is beyond the grid."""
        axis, step = self.axis, self.axis[1] - self.axis[0]
        inside = np.clip(places, axis[0], axis[-1])
        first = np.floor((inside - axis[0]) / step).astype(int) - (ORDER // 2 - 1)
        first = np.clip(first, 0, len(axis) - ORDER)
        offset = (inside - axis[first]) / step
        weights = np.ones((len(places), ORDER))
        for i in range(ORDER):
            for j in range(ORDER):
                if i != j:
                    weights[:, i] *= (offset - j) / (i - j)
        return first[:, None] + np.arange(ORDER), weights, places - inside

    def read(self, values: Array, places: Array) -> Array:
        """Values on the grid at `places`, of any shape."""
        points, weights, beyond = self.stencil(places.ravel())
        low, high = self.slope[[0, -1]] @ values
        found = (values[points] * weights).sum(1) + beyond * np.where(beyond < 0, low, high)
        return np.asarray(found.reshape(places.shape))

    def average(self, places: Array, weights: Array) -> Array:
        """(n, n): sum_q weights[i, q] of what values read at places[i, q]."""
        n, count = places.shape
        points, stencil, beyond = self.stencil(places.ravel())
        cells = (np.arange(n).repeat(count) * n)[:, None] + points
        shares = weights.ravel()[:, None] * stencil
        table = np.bincount(cells.ravel(), shares.ravel(), n * n).reshape(n, n)
        out = weights * beyond.reshape(places.shape)
        low, high = (np.where(side, out, 0.0).sum(1) for side in (out < 0, out > 0))
        return np.asarray(table + np.outer(low, self.slope[0]) + np.outer(high, self.slope[-1]))


@dataclass(frozen=True, eq=False)
class Walk:
    """A policy's law along its own trajectories, u (T, n) being its shifts in units of s^2.

    ahead: A_k.  back: B_k.  slopes: J.  log_p: log p_k, (T + 1, n).  ratios: E[log N(x'; m, s^2) -
    eta log N(x'; m#, s^2) | X_{k+1} = x'], (T, n).
    """

    ahead: list[Array]
    back: list[Array]
    slopes: Array
    log_p: Array
    ratios: Array


def walked(line: Line, u: Array, prior: float) -> Walk:
    """The law of the policy with shifts s_k^2 u_k, kernel by kernel."""
    chain, axis, s = line.chain, line.axis, line.widths
    base, base_slopes = line.kernels
    mean = base + s**2 * u
    slopes = base_slopes + s**2 * u @ line.slope.T
    ratio, variance = (row.numpy() for row in chain.noising)
    start = float(chain.start(torch.ones(1, dtype=torch.float64)))
    log_p = [-0.5 * (axis / start) ** 2 - math.log(start * math.sqrt(2 * math.pi))]
    ahead, back, ratios = [], [], []
    for k in range(chain.steps):
        width, normaliser = float(s[k, 0]), math.log(float(s[k, 0]) * math.sqrt(2 * math.pi))
        spread = np.broadcast_to(WEIGHTS, (len(axis), len(NODES)))
        ahead.append(line.average(mean[k][:, None] + width * NODES, spread))
        # X_k given X_{k+1} = x' is near what P_B noises x' to: there are the nodes.
        places = ratio[k] * axis[:, None] + math.sqrt(variance[k]) * NODES
        own, other = (line.read(m[k], places) for m in (mean, base))
        own = -0.5 * ((axis[:, None] - own) / width) ** 2 - normaliser
        other = -0.5 * ((axis[:, None] - other) / width) ** 2 - normaliser
        joint = CubicSpline(axis, log_p[-1])(places) + own
        top = joint.max(1, keepdims=True)
        weights = np.exp(joint - top)
        mass = weights.sum(1)
        log_p.append(np.log(mass) + top[:, 0] + math.log(SPACING * math.sqrt(variance[k])))
        weights /= mass[:, None]
        back.append(line.average(places, weights))
        ratios.append((weights * (own - prior * other)).sum(1))
    return Walk(ahead, back, slopes, np.array(log_p), np.array(ratios))


class Tridiagonal:
    """Blocks of (n, n): below_i z_{i-1} + own_i z_i + above_i z_{i+1} = right_i."""

    def __init__(self, count: int, n: int) -> None:
        zero = np.zeros((n, n))
        self.below, self.own, self.above = [zero] * count, [zero] * count, [zero] * count
        self.right = [np.zeros(n) for _ in range(count)]

    def solved(self) -> list[Any]:
        """z, by block elimination."""
        own, right = [self.own[0]], [self.right[0]]
        for i in range(1, len(self.own)):
            factor = np.linalg.solve(own[-1].T, self.below[i].T).T
            own.append(self.own[i] - factor @ self.above[i - 1])
            right.append(self.right[i] - factor @ right[-1])
        values = [np.linalg.solve(own[-1], right[-1])]
        for i in range(len(own) - 2, -1, -1):
            values.append(np.linalg.solve(own[i], right[i] - self.above[i] @ values[-1]))
        return values[::-1]
