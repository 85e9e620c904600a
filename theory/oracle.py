r"""The second route: posterior fields, marginals and distances by adaptive integration.

A base density p, a weight w = Phi(r) (signed if need be) and the path X_t = alpha X_1 + sigma X_0,
with X_0 ~ N(0, I) independent of X_1, enter as callables and plain numbers. Everything is a ratio
of

    I[f](x) = int f(y) h(y) dy,  h(y) = w(y) p(y) exp(-|x - alpha y|^2 / (2 sigma^2)),  d = 1 or 2,

so E[f(X_1) | X_t = x] = I[f] / I[1]. No Gaussian identity is used, p is never asked for more than
its values, and this module shares neither code nor algebra with the closed forms that it checks.

How an integral is done. (1) Ascent on log|h| from the region's points, a grid and x / alpha finds
the modes m_k and, by difference quotients, an affine frame D_k in which each has unit curvature.
(2) h is cut up by a smooth partition of unity, w_k = softmax_k(log|h(m_k)| - |D_k^-1 (y - m_k)|^2 /
2): sum_k w_k = 1 is all that correctness needs, the frames only bring speed. (3) w_k h is
integrated in y = m_k + D_k u, over a box grown until its faces are below e^-60 of the peak, by
globally adaptive bisection with the 21-point Gauss-Kronrod rule (its tensor product in d = 2), many
cells at once. The error estimate is the plain |Kronrod - Gauss| summed over axes and cells, which
is pessimistic.

All in float64. log p must be stable and defined everywhere, -inf off the support, never NaN: a
posterior may sit outside the region. A feature far narrower than its surroundings is seen if it
is one of the points.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import logsumexp, rel_entr

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

RTOL = 1e-11
TV_RTOL_2D = 1e-6  # |p - q| has a kink along a curve
EDGE = 60.0  # a box holds everything within e^-EDGE of the peak
MAX_CELLS = {1: 40_000, 2: 50_000}  # cells evaluated in one integral
MAX_ORDER = 6
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


@dataclass(frozen=True)
class Density:
    """log p, (n, d) -> (n,), up to a constant, and the region that holds its mass."""

    log_density: Function
    region: Region


@lru_cache
def _rule(d: int) -> tuple[Array, Array]:
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
    nodes, weights = _rule(d)
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


def _adapt(f: Function, lower: Array, upper: Array, rtol: float, atol: Array | float) -> Array:
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


def _mesh(axes: list[Array]) -> Array:
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def _cells(edges: list[Array], points: Array, levels: int) -> tuple[Array, Array]:
    """The grid of cells between the edges; those that touch a point are halved in every axis,
    `levels` times."""
    low, high = _mesh([e[:-1] for e in edges]), _mesh([e[1:] for e in edges])
    halves = _mesh([np.array([0.0, 1.0])] * len(edges))[:, None]
    for _ in range(levels if len(points) else 0):
        inside = np.logical_and(points >= low[:, None], points <= high[:, None])
        hit = np.any(np.all(inside, axis=2), axis=1)
        a, b, c = low[hit], high[hit], (low[hit] + high[hit]) / 2
        low = np.concatenate([low[~hit], *np.where(halves, c, a)])
        high = np.concatenate([high[~hit], *np.where(halves, b, c)])
    return low, high


def _split(region: Region) -> tuple[Array, Array]:
    """The region cut at its points' coordinates (at most 12 an axis in d = 2), graded towards
    the points."""
    d, edges = len(region.lower), []
    for a, b, inner in zip(region.lower, region.upper, region.points.T, strict=True):
        cuts = np.unique([a, b, *inner])
        some = np.linspace(0, len(cuts) - 1, min(len(cuts), 14)).astype(int)
        edges.append(cuts if d == 1 else cuts[some])
    return _cells(edges, region.points, 10 if d == 1 else 6)


def integrate(f: Function, region: Region, rtol: float = RTOL, atol: float = 0.0) -> Estimate:
    """int f over the region, (m,), for f (n, d) -> (n, m); every component's error is below
    max(atol, rtol int |f|). Raises QuadratureError if it is not, ValueError for an f of the
    wrong shape."""
    return Estimate(*_adapt(f, *_split(region), rtol, atol)[:2])


@dataclass(frozen=True)
class _Chart:
    """y = centre + frame u, u in the box [lower, upper]; log_peak = log|h| at the centre."""

    centre: Array
    frame: Array
    log_peak: float
    lower: Array
    upper: Array

    def local(self, y: Array) -> Array:
        return np.asarray(np.linalg.solve(self.frame, (y - self.centre).T).T, dtype=np.float64)


def _climb(log_h: Function, y: Array, width: Array) -> Iterator[_Chart]:
    """Local maxima above the starts y (n, d), with frames of unit curvature. Newton's step with
    a line search; derivatives are difference quotients over steps along the last frame's axes
    that change log_h by up to 1."""
    (n, d), rows = y.shape, np.arange(len(y))
    steps, factors = 4.0 ** np.arange(2, -26, -1), np.append(2.0 ** np.arange(6, -34, -1), 0.0)
    frame, value = np.tile(np.diag(width), (n, 1, 1)), log_h(y)
    for sweep in range(60):
        move = steps[:, None, None, None] * np.swapaxes(frame, 1, 2)
        rise = log_h(y[:, None] + np.stack([move, -move])) - value[:, None]
        # Off the support, mirror the other side; take the longest step below all the wild ones.
        rise = np.where(np.isfinite(rise), rise, rise[::-1])
        wild = np.logical_or.accumulate(np.any(np.abs(rise) > 1, axis=0)[::-1], axis=0)
        pick = np.minimum(wild.sum(axis=0), len(steps) - 1)
        up, down = np.nan_to_num(rise[:, pick, rows[:, None], np.arange(d)], neginf=-1.0)
        basis = frame * steps[pick][:, None, :]
        slope, bend = (up - down) / 2, (up + down)[:, :, None] * np.eye(d)
        if d == 2:
            pair = log_h(y + np.stack([basis.sum(axis=2), -basis.sum(axis=2)])) - value
            cross = (pair.sum(axis=0) - (up + down).sum(axis=1)) / 2
            bend[:, 0, 1] = bend[:, 1, 0] = np.where(np.isfinite(cross), cross, 0.0)
        eigenvalue, turn = np.linalg.eigh(bend)
        scaled = basis @ turn / np.sqrt(np.maximum(np.abs(eigenvalue), 1e-8))[:, None, :]
        dual = np.linalg.inv(basis)
        newton = np.einsum("nij,nkj,nlk,nl->ni", scaled, scaled, dual, slope)
        trial = y + factors[:, None, None] * newton
        heights = log_h(trial)
        best = heights.argmax(axis=0)
        gain, y, value = heights[best, rows] - value, trial[best, rows], heights[best, rows]
        length = np.linalg.norm(scaled, axis=1)
        frame = scaled * np.minimum(1.0, 4 * width.max() / length)[:, None, :]
        if sweep >= 2 and np.all(gain < 1e-6):
            break
    box = np.full(d, math.sqrt(2 * EDGE) + 0.5)
    return (_Chart(y[i], frame[i], float(value[i]), -box, box) for i in np.argsort(-value))


def _locate(log_h: Function, region: Region, extra: Array) -> list[_Chart]:
    """Charts, highest peak first, whose boxes hold all that lies within e^-EDGE of that peak.
    Starts: the region's points, extra (1, d), the best place on each line between them, and the
    highest local maxima on a grid."""
    d, side = len(region.lower), 257 if len(region.lower) == 1 else 33
    grid = _mesh([np.linspace(a, b, side) for a, b in zip(region.lower, region.upper, strict=True)])
    rank = np.pad(log_h(grid).reshape([side] * d), 1, constant_values=-np.inf)
    windows = [rank[tuple(slice(s, s + side) for s in shift)] for shift in np.ndindex(*[3] * d)]
    heights = windows[3**d // 2].ravel()
    top = np.flatnonzero(heights >= np.max(windows, axis=0).ravel())
    line = np.linspace(0, 1, 65)[:, None, None]
    lines = line * extra + (1 - line) * np.concatenate([region.points, extra])
    best = lines[log_h(lines).argmax(axis=0), np.arange(lines.shape[1])]
    starts = np.concatenate([grid[top[np.argsort(-heights[top])[:8]]], region.points, best, extra])
    starts = starts[np.isfinite(log_h(starts))]
    if not len(starts):
        raise ValueError("the integrand vanishes wherever it was looked at: give the region points")
    modes: list[_Chart] = []
    for new in _climb(log_h, starts, region.upper - region.lower):
        if modes and new.log_peak < modes[0].log_peak - EDGE:
            break
        at = new.centre[None]
        gaps = [np.stack([m.local(at), new.local(m.centre[None])]) for m in modes]
        if all(np.abs(gap).max() >= 1 for gap in gaps):  # else a mode that is known
            modes.append(new)
    cloud = np.concatenate([grid, starts])
    return [_fit(log_h, modes, k, cloud) for k in range(len(modes))]


def _share(charts: list[_Chart], k: int, y: Array) -> Array:
    """log w_k(y), (n,): the partition of unity."""
    logs = np.stack([c.log_peak - (c.local(y) ** 2).sum(axis=1) / 2 for c in charts])
    return np.asarray(logs[k] - logsumexp(logs, axis=0))


def _fit(log_h: Function, charts: list[_Chart], k: int, cloud: Array) -> _Chart:
    """Chart k, its box grown until w_k h is negligible on the faces and wherever the cloud is
    outside."""
    chart, floor = charts[k], charts[0].log_peak - EDGE
    far = chart.local(cloud[log_h(cloud) + _share(charts, k, cloud) > floor])
    box = np.stack([chart.lower, chart.upper, *far])
    box = np.stack([box.min(axis=0), box.max(axis=0)])
    for _ in range(80):
        count = min(8 * (box[1] - box[0]).max(), 4000.0) if len(box[0]) == 2 else 1
        line = np.linspace(0, 1, 1 + int(count))[:, None]  # thin arms must not pass between
        grow = np.zeros(box.shape, dtype=bool)
        for end, axis in np.ndindex(*box.shape):
            face = box[0] + line * (box[1] - box[0])
            face[:, axis] = box[end, axis]
            y = chart.centre + face @ chart.frame.T
            grow[end, axis] = np.max(log_h(y) + _share(charts, k, y)) > floor
        if not grow.any():
            return replace(chart, lower=box[0], upper=box[1])
        box = np.where(grow, 1.5 * box, box)
    raise QuadratureError("the integrand does not decay: no box holds it")


class _Law:
    """h = w p exp(-|x - alpha y|^2 / (2 sigma^2)) and its charts; without x, h = w p."""

    def __init__(
        self,
        density: Density,
        weight: Function | None,
        x: Array | None = None,
        alpha: float = 0.0,
        sigma: float = 1.0,
    ) -> None:
        region = density.region
        self.x = np.zeros(len(region.lower)) if x is None else np.asarray(x, dtype=np.float64)
        if self.x.shape != region.lower.shape or not np.all(np.isfinite(self.x)):
            raise ValueError(f"x must be one finite point of shape {region.lower.shape}")
        if not (math.isfinite(alpha) and 0 < sigma < math.inf):
            raise ValueError(f"alpha must be finite and sigma positive, got {alpha} and {sigma}")
        self.density, self.weight, self.alpha, self.sigma = density, weight, alpha, sigma
        with np.errstate(over="ignore"):
            origin = self.x / alpha if alpha else np.full_like(self.x, np.inf)
        middle = (region.lower + region.upper) / 2
        self.origin = origin if np.all(np.isfinite(origin)) else middle
        charts = _locate(self.log_h, region, self.origin[None])
        self.origin = charts[0].centre
        self.charts = [replace(c, log_peak=float(self.log_h(c.centre[None])[0])) for c in charts]

    def log_h(self, y: Array) -> Array:
        """log|h| at y (..., d) relative to the kernel's value at the origin: the kernel sees
        differences of y only, so that a large exponent costs no digits."""
        flat = y.reshape(-1, y.shape[-1])
        gap = flat - self.origin
        rest = self.x - self.alpha * self.origin
        pull = self.alpha * (gap @ rest - self.alpha * (gap**2).sum(axis=1) / 2)
        with np.errstate(divide="ignore", over="ignore"):  # far out, exp(r) may overflow
            out = self.density.log_density(flat) + pull / self.sigma**2
            if self.weight is not None:
                out = out + np.log(np.minimum(np.abs(self.weight(flat)), HUGE))
        if out.shape != pull.shape or np.any(np.isnan(out)):
            raise ValueError("log density and weight must map (n, d) to (n,) and never give NaN")
        return np.asarray(out).reshape(y.shape[:-1])

    def log_scale(self) -> float:
        """What `integral` leaves out: log|h| at the highest peak."""
        rest = self.x - self.alpha * self.origin
        return self.charts[0].log_peak - float(rest @ rest) / (2 * self.sigma**2)

    def integral(self, f: Function | None = None) -> tuple[Array, Array]:
        """int h (1, f) e^-log_scale and its error, each (1 + m,)."""
        total, points = np.zeros((3, 1)), self.density.region.points
        ticks = np.concatenate(
            [np.arange(0, 12, 3), np.arange(12, 192, 12), 192 * 2.0 ** np.arange(99)]
        )
        peak = self.charts[0].log_peak
        for k, chart in enumerate(self.charts):

            def integrand(u: Array, k: int = k, chart: _Chart = chart) -> Array:
                y = chart.centre + u @ chart.frame.T
                h = np.exp(self.log_h(y) + _share(self.charts, k, y) - peak)[:, None]
                h *= abs(np.linalg.det(chart.frame))
                if self.weight is not None:
                    weight = self.weight(y)
                    if np.any(np.isinf(weight) & (h[:, 0] > 0)):
                        raise QuadratureError("the weight overflows where it matters: rescale it")
                    h *= np.sign(weight)[:, None]
                return h if f is None else np.hstack([h, h * f(y)])

            local = chart.local(points)
            local = local[np.all((local > chart.lower) & (local < chart.upper), axis=1)]
            line = len(chart.centre) == 1
            cuts = np.concatenate([ticks, -ticks, local.ravel() if line else []])
            ends = zip(chart.lower, chart.upper, strict=True)
            edges = [np.unique([a, b, *cuts[(cuts > a) & (cuts < b)]]) for a, b in ends]
            cells = _cells(edges, local, 8 if line else 3)
            total = total + _adapt(integrand, *cells, RTOL, RTOL * total[2])
        return total[0], total[1]

    def mean(self, f: Function) -> Estimate:
        """int h f / int h."""
        value, error = self.integral(f)
        if abs(value[0]) <= 1e3 * error[0]:
            raise QuadratureError(
                f"the weight cancels: its integral {value[0]:.2e} has error {error[0]:.2e}"
            )
        ratio = value[1:] / value[0]
        return Estimate(ratio, (error[1:] + np.abs(ratio) * error[0]) / abs(value[0]))


def normaliser(density: Density, weight: Function | None = None) -> Estimate:
    """int p w, shape (). weight is (n, d) -> (n,), e.g. Phi(r); it may be signed. Raises
    QuadratureError."""
    law = _Law(density, weight)
    value, error = law.integral()
    return Estimate(value[0] * np.exp(law.log_scale()), error[0] * np.exp(law.log_scale()))


def expectation(density: Density, f: Function, weight: Function | None = None) -> Estimate:
    """int p w f / int p w, (m,), for an f (n, d) -> (n, m) that grows slowly. Raises
    QuadratureError, also where a signed weight cancels."""
    return _Law(density, weight).mean(f)


def posterior_expectation(
    density: Density,
    f: Function,
    x: Array,
    alpha: float,
    sigma: float,
    weight: Function | None = None,
) -> Estimate:
    """E[f(X_1) | X_t = x] under p w, (m,), for one x (d,) and f (n, d) -> (n, m); accurate
    relative to E[|f| | x]. Raises ValueError for sigma <= 0 or an x of the wrong shape,
    QuadratureError as above."""
    return _Law(density, weight, x, alpha, sigma).mean(f)


def velocity(
    density: Density,
    x: Array,
    alpha: float,
    sigma: float,
    dalpha: float,
    dsigma: float,
    weight: Function | None = None,
) -> Estimate:
    """E[alpha' X_1 + sigma' X_0 | X_t = x], X_0 = (x - alpha X_1) / sigma, (d,). Raises as the
    posterior does."""
    law = _Law(density, weight, x, alpha, sigma)
    found = law.mean(lambda y: dalpha * y + dsigma * (x - alpha * y) / sigma)
    return replace(found, error=found.error + EPS * np.abs(x) * abs(dsigma) / sigma)


def score(
    density: Density, x: Array, alpha: float, sigma: float, weight: Function | None = None
) -> Estimate:
    """grad log of the law of X_t at x: E[(alpha X_1 - x) / sigma^2 | X_t = x], (d,). The
    rounding of X_1 leaves about 1e-16 |x| / sigma^2, which the error includes. Raises as the
    posterior does."""
    found = _Law(density, weight, x, alpha, sigma).mean(lambda y: (alpha * y - x) / sigma**2)
    return replace(found, error=found.error + EPS * np.abs(x) / sigma**2)


def _partitions(n: int) -> Iterator[tuple[int, ...]]:
    """The block sizes of every set partition of n labels, the block of the first label in front."""
    if n == 1:
        yield (1,)
        return
    for sizes in _partitions(n - 1):
        yield from (tuple(s + (i == j) for j, s in enumerate(sizes)) for i in range(len(sizes)))
        yield (*sizes, 1)


def mixed_cumulant(
    density: Density, reward: Function, order: int, x: Array, alpha: float, sigma: float,
    dalpha: float, dsigma: float, weight: Function | None = None
) -> Estimate:  # fmt: skip
    """kappa(V, r, ..., r), the joint cumulant of V = alpha' X_1 + sigma' X_0 and `order` <= 6
    copies of the reward r, (n, d) -> (n,), given X_t = x: the sum over set partitions of
    (-1)^(b-1) (b-1)! prod of the b blocks' central moments, (d,). Order 0 is E[V | x], 1 the
    covariance. Raises as the posterior does."""
    if order not in range(MAX_ORDER + 1):
        raise ValueError(f"order must be 0..{MAX_ORDER}, got {order}")
    law = _Law(density, weight, x, alpha, sigma)
    d = len(law.x)

    def variables(y: Array) -> Array:
        return np.column_stack([dalpha * y + dsigma * (x - alpha * y) / sigma, reward(y)])

    first = law.mean(variables)
    if order == 0:
        return Estimate(first.value[:d], first.error[:d])

    def products(y: Array) -> Array:
        gap = variables(y) - first.value
        powers = gap[:, d:, None] ** np.arange(order + 1)  # (n, 1, order + 1)
        return np.concatenate([gap[:, :d, None] * powers, powers], axis=1).reshape(len(y), -1)

    central = law.mean(products)
    moment, slip = central.value.reshape(d + 1, -1), central.error.reshape(d + 1, -1)
    value, error = np.zeros(d), np.zeros(d)
    for (head, *rest), count in Counter(_partitions(order + 1)).items():
        factor = count * (-1) ** len(rest) * math.factorial(len(rest))
        others = np.prod(moment[d, rest])
        wobble = sum(
            slip[d, b] * abs(np.prod(moment[d, rest[:i] + rest[i + 1 :]]))
            for i, b in enumerate(rest)
        )
        value += factor * moment[:d, head - 1] * others
        error += abs(factor) * (
            slip[:d, head - 1] * abs(others) + np.abs(moment[:d, head - 1]) * wobble
        )
    return Estimate(value, error)


def marginal_density(
    density: Density, x: Array, alpha: float, sigma: float, weight: Function | None = None
) -> Estimate:
    """The density of X_t at x, shape (): int p w N(x; alpha y, sigma^2 I) / int p w. Raises as
    the posterior does."""
    law, base = _Law(density, weight, x, alpha, sigma), _Law(density, weight)
    (top, top_error), (bottom, bottom_error) = law.integral(), base.integral()
    unit = math.exp(law.log_scale() - base.log_scale()) / (2 * math.pi * sigma**2) ** (len(x) / 2)
    value = unit * top[0] / bottom[0]
    return Estimate(value, (unit * top_error[0] + abs(value) * bottom_error[0]) / abs(bottom[0]))


def _check_normalised(p: Function, q: Function, region: Region) -> None:
    mass = integrate(lambda y: np.column_stack([p(y), q(y)]), region).value
    if np.any(np.abs(mass - 1) > 1e-6):
        raise ValueError(f"the densities integrate to {mass} over the region, not to 1")


def _cut(p: Function, q: Function, region: Region) -> Region:
    """The region with the sign changes of p - q, bracketed on a fine grid, added to its points
    (d = 1)."""
    low, high = _split(region)
    grid = np.unique(low + np.linspace(0, 1, 129) * (high - low))
    gap, noise = p(grid[:, None]) - q(grid[:, None]), 1e-15 * p(grid[:, None]).max()
    grid, gap = grid[np.abs(gap) > noise], gap[np.abs(gap) > noise]

    def at(s: float) -> float:
        return float((p(np.array([[s]])) - q(np.array([[s]])))[0])

    flips = np.flatnonzero(np.sign(gap[1:]) != np.sign(gap[:-1]))
    zeros = [brentq(at, grid[i], grid[i + 1], xtol=1e-15) for i in flips]
    return replace(region, points=np.unique([*region.points[:, 0], *zeros])[:, None])


def distance(p: Function, q: Function, region: Region) -> tuple[Estimate, Estimate]:
    """TV = int |p - q| / 2 and KL = int p log(p / q), each (), of normalised densities (n, d) ->
    (n,). In d = 1 the sign changes of p - q are bracketed, so TV is as accurate as KL; in d = 2
    TV is held to 1e-6. KL is inf if q = 0 (or underflows) where p is not negligible. Raises
    ValueError unless both integrate to 1 within 1e-6, and QuadratureError."""
    _check_normalised(p, q, region)
    line = len(region.lower) == 1
    cut = _cut(p, q, region) if line else region
    tv = integrate(
        lambda y: np.abs(p(y) - q(y))[:, None] / 2, cut, RTOL if line else TV_RTOL_2D, 1e-15
    )
    low, high = _split(cut)
    d = low.shape[1]
    y = (low[:, None] + (high - low)[:, None] * (_rule(d)[0] + 1) / 2).reshape(-1, d)
    if np.any((q(y) == 0) & (p(y) > 1e-30 * p(y).max())):
        kl = Estimate(np.array([np.inf]), np.zeros(1))
    else:
        kl = integrate(
            lambda y: rel_entr(p(y), np.maximum(q(y), 5e-324))[:, None], cut, RTOL, 1e-15
        )
    return Estimate(tv.value[0], tv.error[0]), Estimate(kl.value[0], kl.error[0])


def wasserstein_1d(p: Function, q: Function, region: Region) -> Estimate:
    """W1 = int |F - G|, (), of normalised densities (n, 1) -> (n,) with distribution functions
    F, G. F - G is monotone between sign changes of p - q, so its zeros are bracketed; between
    two, int_a^b (F - G) = (b - a) (F - G)(b) - int_a^b (y - a) (p - q). Raises ValueError in d =
    2 and unless both integrate to 1 within 1e-6."""
    if len(region.lower) != 1:
        raise ValueError("wasserstein_1d needs d = 1")
    _check_normalised(p, q, region)

    def moments(a: float, b: float) -> Estimate:
        """int_a^b (p - q) (1, y - a), (2,)."""
        inner = region.points[(region.points[:, 0] > a) & (region.points[:, 0] < b)]
        piece = Region(np.array([a]), np.array([b]), inner)
        return integrate(
            lambda y: (p(y) - q(y))[:, None] * np.hstack([y**0, y - a]), piece, atol=1e-15
        )

    def difference(a: float, gap: float, c: float) -> float:
        return gap + (float(moments(a, c).value[0]) if c > a else 0.0)

    value, error, gap = 0.0, 0.0, 0.0  # gap = (F - G)(a)
    knots = np.unique([*region.lower, *_cut(p, q, region).points[:, 0], *region.upper])
    for a, b in pairwise(knots):
        ends = [a, b]
        if gap * (gap + moments(a, b).value[0]) < 0:
            ends.append(brentq(partial(difference, a, gap), a, b))
        for left, right in pairwise(np.unique(ends)):
            piece = moments(left, right)
            gap += piece.value[0]
            value += abs((right - left) * gap - piece.value[1])
            error += (right - left) * piece.error[0] + piece.error[1]
    return Estimate(np.asarray(value), np.asarray(error))
