"""Grids of the recursion: data nodes y, Eulerian nodes x at fixed stage times, interpolation.

Data laws live as log q on uniform axes y. Velocities are wanted at the stage times of a few
DOP853 steps from t = 1 back to t = 0. At each time the x grid holds
t y + (1-t) xi for all data nodes and |xi| <= REACH.

Posterior moments there are sums over y with weights N(x; t y, (1-t)^2) q(y). In units of
tau = (1-t)/t, the width of the weight in y, two regimes:

    tau > LATE h    the sum over data nodes with matrices made once: trapezoidal, error
                    2 exp(-2 pi^2 tau^2/h^2) at most for what is resolved; over every second
                    node where tau > 2 LATE h
    else            x = t y on the data nodes, y = x/t + tau xi in local nodes xi, log q
                    interpolated there; the matrices do not depend on the node

and at t = 1 the limits. Interpolating log q keeps relative accuracy in the tails. Beyond the
data axes log q continues by its quadratic (curvature capped at 0) on GHOST nodes a side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import DOP853

Array = NDArray[np.float64]

STAGES = 12
TABLEAU_A = np.asarray(DOP853.A)[:STAGES, :STAGES]
TABLEAU_B = np.asarray(DOP853.B)
TABLEAU_C = np.asarray(DOP853.C)[:STAGES]

# Nodes whose log-density lies further below the peak are not carried along trajectories.
CUT = 60.0
REACH = 11.2  # sqrt(2 CUT) and some: standard deviations of X_0 that CUT reaches
LATE = 1.3
CLOCK = 1.5
GHOST = 33  # data nodes beyond each end of the axis
MARGIN = 17  # of them on the x grid at late times: LATE * REACH and a stencil
STENCIL = 12
LOG_STENCIL = 10


def lagrange(offsets: Array, place: Array) -> Array:
    """Weights (len(place), len(offsets)) of the polynomial through nodes at whole offsets."""
    weights = np.ones((len(place), len(offsets)))
    for m, own in enumerate(offsets):
        for j, other in enumerate(offsets):
            if j != m:
                weights[:, m] *= (place - other) / (own - other)
    return weights


def moment(angle: Array) -> Array:
    """1 - t at an angle in [0, pi/2]: tan(angle) = CLOCK (1-t)/t.

    A centred Gaussian of std 1/CLOCK keeps its shape in this time.
    """
    rise = np.sin(angle)
    return np.asarray(rise / (rise + CLOCK * np.cos(angle)))


@dataclass(frozen=True)
class Clock:
    """Stage times (T,) from 1 to 0, stage (steps, STAGES) -> their index, widths (steps,).

    Neighbouring steps share a time. A Chebyshev interpolant in time instead of fields at every
    stage time was tried and needs as many times: borders between modes move across the grid.
    """

    times: Array
    stage: NDArray[np.int64]
    widths: Array

    @staticmethod
    def even(steps: int) -> Clock:
        """Steps of one angle."""
        ends = moment(np.linspace(0, 0.5 * np.pi, steps + 1))
        widths = np.diff(ends)
        left = np.append(0.0, ends[:-1, None] + TABLEAU_C[1:] * widths[:, None])
        left[-1] = 1.0
        stage = (STAGES - 1) * np.arange(steps)[:, None] + np.arange(STAGES)
        return Clock(1 - left, stage, widths)


@dataclass(frozen=True, eq=False)
class Axis:
    """One data axis: uniform nodes, their ghosts, and the x grids.

    nodes (n,); extended (n + 2 GHOST,); `size` nodes on every x grid.
    """

    nodes: Array

    @property
    def step(self) -> float:
        return float(self.nodes[1] - self.nodes[0])

    @property
    def extended(self) -> Array:
        n = len(self.nodes) + 2 * GHOST
        return np.asarray(self.nodes[0] + self.step * (np.arange(n) - GHOST))

    @property
    def size(self) -> int:
        return len(self.nodes) + 2 * MARGIN

    def is_late(self, t: float) -> bool:
        return (1 - t) <= LATE * self.step * t

    def stride(self, t: float) -> int:
        """2 where sums over every second node do, else 1."""
        return 2 if (1 - t) > 2 * LATE * self.step * t else 1

    def grids(self, t: Array) -> tuple[Array, Array]:
        """(origin, spacing) of the x grids at times (T,)."""
        low = t * self.nodes[0] - (1 - t) * REACH
        spacing = (t * self.nodes[-1] + (1 - t) * REACH - low) / (self.size - 1 - STENCIL)
        origin = low - 0.5 * STENCIL * spacing
        late = np.array([self.is_late(s) for s in t])
        spacing = np.where(late, t * self.step, spacing)
        origin = np.where(late, t * (self.nodes[0] - MARGIN * self.step), origin)
        return origin, spacing

    def kernel(self, t: float, x: Array) -> Array:
        """exp(-(x - t y)^2 / 2 (1-t)^2) at every `stride`-th extended node y, rows of maximum 1."""
        exponent = -0.5 * ((x[:, None] - t * self.extended[:: self.stride(t)]) / (1 - t)) ** 2
        return np.asarray(np.exp(exponent - exponent.max(1, keepdims=True)))

    def local(self, t: float, xi: Array) -> Array:
        """Weights (len(xi), 2 half + 1) of log q at a node + tau xi from its neighbours."""
        place = (1 - t) / t * xi / self.step
        half = GHOST - MARGIN
        weights = np.zeros((len(xi), 2 * half + 1))
        for k, s in enumerate(place):
            first = int(np.floor(s)) - LOG_STENCIL // 2 + 1
            weights[k, first + half : first + half + LOG_STENCIL] = lagrange(
                np.arange(first, first + LOG_STENCIL, dtype=float), np.array([s])
            )[0]
        return weights


def extend(log_q: Array) -> Array:
    """log q with GHOST nodes on both sides of every axis, by quadratics through its ends."""
    for axis in range(log_q.ndim):
        moved = np.moveaxis(log_q, axis, 0)
        ends = [_continue(moved[::-1])[::-1], moved, _continue(moved)]
        log_q = np.moveaxis(np.concatenate(ends), 0, axis)
    return log_q


def _continue(values: Array) -> Array:
    """GHOST further rows after the last, from rows -1, -4 and -7."""
    a, b, c = values[-7], values[-4], values[-1]
    bend = np.minimum((c - 2 * b + a) / 9, 0.0)
    slope = (c - b) / 3 + 1.5 * bend
    s = np.arange(1, GHOST + 1, dtype=float).reshape(-1, *([1] * (values.ndim - 1)))
    return np.asarray(c + s * slope + 0.5 * s**2 * bend)


# Powers of the place in its cell -> weights of the STENCIL nodes around it.
_POWERS = np.linalg.inv(
    np.vander(np.arange(STENCIL) - (STENCIL // 2 - 1.0), STENCIL, increasing=True)
).T


def cell_weights(place: Array) -> Array:
    """Interpolation weights (STENCIL, N) at places (N,) from the node before the middle cell."""
    powers = np.empty((STENCIL, len(place)))
    powers[0] = 1.0
    for k in range(1, STENCIL):
        np.multiply(powers[k - 1], place, out=powers[k])
    return np.asarray(_POWERS @ powers)


def interpolate(values: Array, place: Array) -> Array:
    """values (m, c) or (m1, m2, c) at places (N, d) in units of nodes -> (N, c).

    Places outside the grid get the numbers of its nearest end; see `outside`.
    """
    before = STENCIL // 2 - 1
    firsts, weights = [], []
    for i in range(place.shape[1]):
        inside = np.minimum(np.maximum(place[:, i], 0.0), values.shape[i] - 1.0)
        first = np.minimum(
            np.maximum(inside.astype(np.int64) - before, 0), values.shape[i] - STENCIL
        )
        firsts.append(first)
        weights.append(cell_weights(inside - first - before))
    if len(firsts) == 1:
        picked = values.take(firsts[0] + _OFFSETS[:, None], axis=0)
        return np.asarray(np.einsum("knc,kn->nc", picked, weights[0]))
    result = np.zeros((len(place), values.shape[-1]))
    columns = firsts[1] + _OFFSETS[:, None]
    for a in range(STENCIL):
        row = values[firsts[0] + a, columns]
        result += weights[0][a][:, None] * np.einsum("knc,kn->nc", row, weights[1])
    return result


_OFFSETS = np.arange(STENCIL)


def outside(shape: tuple[int, ...], place: Array) -> NDArray[np.bool_] | None:
    """Which places have no cell of the grid around them; None where all do."""
    if place.min() >= 0 and all(place[:, i].max() <= m - 1 for i, m in enumerate(shape)):
        return None
    return np.asarray(((place < 0) | (place > np.array(shape) - 1.0) | ~np.isfinite(place)).any(1))
