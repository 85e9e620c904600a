"""Adaptive integrals over a box: 21-point Gauss-Kronrod, its tensor product in d = 2."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

RTOL = 1e-11
EDGE = 60.0  # a box holds everything within e^-EDGE of the peak
MAX_CELLS = {1: 40_000, 2: 50_000}  # cells evaluated in one integral
GUARD = 10  # what lies between all nodes of a cell is in no estimate: aim lower than asked
EPS = float(np.finfo(np.float64).eps)
HUGE = float(np.finfo(np.float64).max)

# Kronrod's 21 nodes and weights (QUADPACK, dqk21) in pairs, the non-negative half; every second
# node is Gauss's.
_HALF_RULE = """
0                    0.14944555400291691  0.14887433898163121  0.14773910490133849
0.29439286270146020  0.14277593857706008  0.43339539412924719  0.13470921731147333
0.56275713466860468  0.12349197626206585  0.67940956829902441  0.10938715880229764
0.78081772658641690  0.09312545458369761  0.86506336668898451  0.07503967481091995
0.93015749135570823  0.05475589657435200  0.97390652851717172  0.03255816230796473
0.99565716302580808  0.01169463886737187"""


class QuadratureError(RuntimeError):
    """An integral did not reach its tolerance; the message says what was reached."""


@dataclass(frozen=True)
class Estimate:
    """A number or array made of integrals, and the estimate of its absolute error, entrywise."""

    value: Array
    error: Array


@dataclass(frozen=True)
class Region:
    """A box with corners `lower`, `upper` (d,), d = 1 or 2, that holds the mass, and `points`
    (m, d) in it where features sit: centres of modes, in d = 1 also kinks and jumps. ValueError
    for anything else."""

    lower: Array
    upper: Array
    points: Array

    def __post_init__(self) -> None:
        d = np.size(self.lower)
        if d not in (1, 2) or np.shape(self.lower) != (d,) or np.shape(self.upper) != (d,):
            raise ValueError("lower and upper must have shape (1,) or (2,)")
        if not np.all(np.isfinite([self.lower, self.upper])) or np.any(self.lower >= self.upper):
            raise ValueError("a region needs finite lower < upper")
        if np.ndim(self.points) != 2 or np.shape(self.points)[1] != d:
            raise ValueError(f"points must have shape (m, {d})")
        if not np.all((self.points >= self.lower) & (self.points <= self.upper)):
            raise ValueError("points must lie inside the region")


@lru_cache
def rule(d: int) -> tuple[Array, Array]:
    """Nodes (21^d, d) on [-1, 1]^d, weights (1 + d, 21^d): Kronrod's in all axes, then Gauss's
    in axis j."""
    half, weight = np.array(_HALF_RULE.split(), dtype=np.float64).reshape(11, 2).T
    node, kronrod = np.concatenate([-half[:0:-1], half]), np.concatenate([weight[:0:-1], weight])
    gauss = np.zeros(21)
    gauss[1::2] = np.polynomial.legendre.leggauss(10)[1]
    if d == 1:
        return node[:, None], np.stack([kronrod, gauss])
    nodes = np.stack(np.meshgrid(node, node, indexing="ij"), axis=-1).reshape(-1, 2)
    pairs = [(kronrod, kronrod), (gauss, kronrod), (kronrod, gauss)]
    return nodes, np.stack([np.outer(a, b).ravel() for a, b in pairs])


def _apply(f: Function, lower: Array, upper: Array) -> Array:
    """(2 + d, c, m) for c cells: the integral, that of |f|, and the errors axis by axis."""
    d = lower.shape[1]
    nodes, weights = rule(d)
    parts = []
    for i in range(0, len(lower), step := 2**16 // len(nodes)):
        half, mid = (upper - lower)[i : i + step] / 2, (upper + lower)[i : i + step] / 2
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):  # refused below
            flat = f((mid[:, None] + half[:, None] * nodes).reshape(-1, d))
        if np.ndim(flat) != 2 or len(flat) != len(half) * len(nodes):
            raise ValueError(f"an integrand maps (n, {d}) to (n, m), not to {np.shape(flat)}")
        if not np.all(np.isfinite(flat)):
            raise QuadratureError("the integrand is not finite at some node")
        values = flat.reshape(len(half), len(nodes), -1) * half.prod(axis=1)[:, None, None]
        sums = np.moveaxis(weights @ values, 1, 0)
        parts.append(np.stack([sums[0], weights[0] @ np.abs(values), *np.abs(sums[1:] - sums[0])]))
    return np.concatenate(parts, axis=1)


def adapt(f: Function, lower: Array, upper: Array, rtol: float, atol: Array | float) -> Array:
    """(3, m): integral, error, integral of |f| over the cells (c, d). Bisects those with the
    largest errors."""
    found, evaluated, met = _apply(f, lower, upper), len(lower), 0
    while True:
        error = found[2:].sum(axis=0)
        value, size = found[:2].sum(axis=1)
        tol = np.maximum(atol, rtol * size)
        met += bool(np.all(error.sum(axis=0) <= tol))
        aim = tol / GUARD
        if met > 3 or np.all(error.sum(axis=0) <= aim):
            return np.stack([value, error.sum(axis=0), size])
        unit = np.where(tol > 0, tol, 1.0)
        order = np.argsort((error / unit).max(axis=1))
        small = np.all(np.cumsum(error[order], axis=0) <= aim / 2, axis=1)
        keep, split = order[small], order[~small]
        axis, rows = (found[2:, split] / unit).max(axis=2).argmax(axis=0), np.arange(len(split))
        a, b = lower[split], upper[split]
        middle = (a[rows, axis] + b[rows, axis]) / 2
        stuck = (middle <= a[rows, axis]) | (middle >= b[rows, axis])
        evaluated += 2 * len(split)
        if evaluated > MAX_CELLS[lower.shape[1]] or np.any(stuck):
            if met:
                return np.stack([value, error.sum(axis=0), size])
            worst = np.argmax(error.sum(axis=0) / unit)
            raise QuadratureError(
                f"component {worst}, value {value[worst]:.6g}: reached error "
                f"{error[:, worst].sum():.2e}, asked for {tol[worst]:.2e}, with {evaluated} cells"
            )
        left, right = b.copy(), a.copy()
        left[rows, axis] = right[rows, axis] = middle
        fresh = np.concatenate([a, right]), np.concatenate([left, b])
        lower = np.concatenate([lower[keep], fresh[0]])
        upper = np.concatenate([upper[keep], fresh[1]])
        found = np.concatenate([found[:, keep], _apply(f, *fresh)], axis=1)


def mesh(axes: list[Array]) -> Array:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def cells_between(edges: list[Array], points: Array, levels: int) -> tuple[Array, Array]:
    """The grid of cells between the edges; those that touch a point are halved in every axis,
    `levels` times."""
    low, high = mesh([e[:-1] for e in edges]), mesh([e[1:] for e in edges])
    halves = mesh([np.array([0.0, 1.0])] * len(edges))[:, None]
    for _ in range(levels if len(points) else 0):
        inside = np.logical_and(points >= low[:, None], points <= high[:, None])
        hit = np.any(np.all(inside, axis=2), axis=1)
        a, b, c = low[hit], high[hit], (low[hit] + high[hit]) / 2
        low = np.concatenate([low[~hit], *np.where(halves, c, a)])
        high = np.concatenate([high[~hit], *np.where(halves, b, c)])
    return low, high


def split(region: Region) -> tuple[Array, Array]:
    """The region cut at its points' coordinates (at most 12 an axis in d = 2), graded towards
    the points."""
    d, edges = len(region.lower), []
    for a, b, inner in zip(region.lower, region.upper, region.points.T, strict=True):
        cuts = np.unique([a, b, *inner])
        some = np.linspace(0, len(cuts) - 1, min(len(cuts), 14)).astype(int)
        edges.append(cuts if d == 1 else cuts[some])
    return cells_between(edges, region.points, 10 if d == 1 else 6)


def integrate(f: Function, region: Region, rtol: float = RTOL, atol: float = 0.0) -> Estimate:
    """int f over the region, (m,), for f (n, d) -> (n, m); every component's error is below
    max(atol, rtol int |f|). Raises QuadratureError if it is not, ValueError for an f of the
    wrong shape."""
    return Estimate(*adapt(f, *split(region), rtol, atol)[:2])
