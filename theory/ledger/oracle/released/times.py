r"""Samplers of a field that is known at some times only, on the line, by sums over a grid.

D(x, tau) = v*(x, tau) - v(x, tau), v* = v + scale Cov(V, r | x) of
`theory.ledger.oracle.flow.LineField`, is known at times tau_j; between them it is

    linear    numpy's interpolation in t of the row (D(x, tau_j))_j, constant beyond its ends
    nearest   that of the nearest tau_j, the earlier of two
    none      0, but at the tau_j themselves

A sampler is a map T of starts x_0 ~ N(0, 1). Its slopes are never formed: E r is a sum of
r(T(x_0)) by Gauss and Legendre, and TV is half the total variation of the difference of two
distribution functions, each Phi of the map's inverse, a spline through (T(x_0), x_0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.special import ndtr

from theory.ledger.oracle.flow import Field, LineField, solve
from theory.ledger.oracle.integrals import Array, PlaneNumbers

RTOL, ATOL = 1e-10, 1e-12
STARTS = np.linspace(-7.5, 7.5, 751)
_SAME = 1e-9
_NODES, _PANELS = 12, 30
_DEGREE = 5


def known_field(
    case: PlaneNumbers, scale: float, times: Sequence[float], between: str = "linear"
) -> Field:
    """The field of a student that was trained at `times`, x (n,), t -> (n,).

    Raises ValueError for an unknown `between` or a case off the line."""
    if between not in ("linear", "nearest", "none"):
        raise ValueError(f"between must be linear, nearest or none, got {between!r}")
    base, full = LineField(case), LineField(case, scale=scale)
    taus = np.asarray(times, dtype=np.float64)

    def shares(t: float) -> Array:
        """The weight of every trained time, (m,)."""
        at = np.abs(taus - t)
        if between == "none":
            return np.asarray(at <= _SAME, dtype=np.float64)
        if between == "nearest":
            return np.asarray(np.arange(len(taus)) == at.argmin(), dtype=np.float64)
        return np.array([np.interp(t, taus, row) for row in np.eye(len(taus))])

    def field(x: Array, t: float) -> Array:
        total = base(x, t)
        for tau, share in zip(taus.tolist(), shares(t).tolist(), strict=True):
            if share:
                total = total + share * (full(x, tau) - base(x, tau))
        return total

    return field


def euler(field: Field, x0: Array, times: Sequence[float]) -> Array:
    """Where Euler steps between these times, from 0 on, and 1 take x_0 (n,)."""
    x = np.asarray(x0, dtype=np.float64)
    for t, stop in pairwise((*times, 1.0)):
        x = x + (stop - t) * field(x, t)
    return x


def ode(field: Field, x0: Array, breaks: Sequence[float] = ()) -> Array:
    """The flow's map, piece by piece between times where the field has kinks or jumps. Raises
    RuntimeError if the solver gives up."""
    x = np.asarray(x0, dtype=np.float64)
    for start, stop in pairwise((0.0, *breaks, 1.0)):
        # A stage at a jump belongs to the piece that it is a stage of.
        inside = 1e-9 * (stop - start)
        low, high = start + inside, stop - inside

        def rate(t: float, state: Array, low: float = low, high: float = high) -> Array:
            return field(state, min(max(t, low), high))

        x = solve(rate, x, (start, stop), RTOL, ATOL)
    return x


def reward_nodes() -> tuple[Array, Array]:
    """Starts and weights under N(0, 1): Gauss and Legendre's on panels."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    middle = STARTS[0] + (STARTS[-1] - STARTS[0]) * (np.arange(_PANELS) + 0.5) / _PANELS
    half = (STARTS[-1] - STARTS[0]) / (2 * _PANELS)
    x = (middle[:, None] + half * nodes).ravel()
    weight = half * np.tile(weights, _PANELS) * np.exp(-0.5 * x**2)
    return x, np.asarray(weight / math.sqrt(2 * math.pi))


def mean_reward(case: PlaneNumbers, ends: Array, weights: Array) -> float:
    """E r of the law, from where `reward_nodes` go."""
    return float(weights @ case.reward(float(case.frame[0, 0]) * ends[:, None]))


def distribution(ends: Array, y: Array) -> Array:
    """The distribution function at y, from where STARTS go. Raises ValueError unless these are in
    increasing order."""
    if np.any(np.diff(ends) <= 0):
        raise ValueError("the map does not increase: it has no inverse")
    inside = np.clip(y, ends[0], ends[-1])
    return np.asarray(ndtr(make_interp_spline(ends, STARTS, _DEGREE)(inside)))


def total_variation(p: Array, q: Array, points: int = 20_001) -> float:
    """TV of two laws, from where STARTS go under each."""
    y = np.linspace(min(p[0], q[0]), max(p[-1], q[-1]), points)
    return float(0.5 * np.abs(np.diff(distribution(p, y) - distribution(q, y))).sum())
