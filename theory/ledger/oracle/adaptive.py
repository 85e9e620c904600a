r"""NFT with normalised branches at one (x, t), by brute force on a grid of X_1.

The loss r |e+|^2 / w+ + (1 - r) |e-|^2 / w-, e+- = v_0 +- b (mu - v_0) - V, b = nft_beta, with
weights w that are held fixed in its derivative. The problem varies along the first axis only, and
along the others X_1 is N(0, rest_std^2), independent. On the line: Gauss and Legendre's rule on
panels a third as wide as the narrowest feature, cut again at every kink. The other axes enter by
the law of T = sum |e_i|, whose density is convolved numerically. The derivative's zero by
bisection and secants (Brent).

Normalisers, of the errors in X_1 ("x1") or in V ("velocity"):

    branch   w+- = mean |e+-| over coordinates, of the sample itself, as the released code
    shared   both branches by the mean of the two sizes
    batch    every branch by its size's mean over all samples at this x
    off      1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from theory.ledger.oracle.conditional import Instant
from theory.ledger.oracle.integrals.integrate import EDGE, Array
from theory.ledger.oracle.integrals.plane import PlaneNumbers

FLOOR = 1e-5
NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)
PANEL = 1 / 3
MOST = 200_000
GRADES = 4.0 ** np.arange(-22, 1)
CHUNK = 2**21

SPACES = ("x1", "velocity")
NORMALISERS = ("branch", "shared", "batch", "off")


class Normaliser(NamedTuple):
    """How errors are divided: kind (see above), the space they are taken in, the least weight."""

    kind: str = "branch"
    space: str = "x1"
    floor: float = FLOOR


class Line:
    """X_1 on the first axis given X_t = x: panels, and means over them."""

    def __init__(self, case: PlaneNumbers, x: Array, at: Instant) -> None:
        if case.plane_dim != 1 or not np.array_equal(case.frame, np.eye(case.dim)):
            raise ValueError("the problem must vary along the first axis only, unrotated")
        if np.shape(x) != (case.dim,):
            raise ValueError(f"x must have shape ({case.dim},), got {np.shape(x)}")
        self.case, self.at, self.x = case, at, x
        std = np.sqrt(case.covs[:, 0, 0])
        peaks = case.means[:, 0]
        kernel = at.sigma / at.alpha if at.alpha > 0 else np.inf
        width = PANEL * min(float(std.min()), kernel)
        low, high = float((peaks - 12 * std).min()), float((peaks + 12 * std).max())
        origin = x[0] / at.alpha if at.alpha > 0 else 0.0
        if np.isfinite(kernel):  # beyond both, nothing is left of the product
            low, high = max(low, min(origin, high) - 40 * kernel), min(high, origin + 40 * kernel)
            low = min(low, high - width)
        count = int(np.ceil((high - low) / width))
        if count > MOST:
            raise ValueError(f"x must need at most {MOST} panels, got {count}")
        edges = np.linspace(low, high, count + 1)
        self.top = 0.0
        heights = self.log_density(0.5 * (edges[1:] + edges[:-1]))
        self.top = float(heights.max())
        keep = np.flatnonzero(heights > self.top - 1.5 * EDGE)
        self.edges = edges[keep[0] : keep[-1] + 2]
        self.total = float(self.integral(lambda y: np.ones((1, len(y))))[0])

    def log_density(self, y: Array) -> Array:
        """log of the product of prior and kernel, (n,), less its top."""
        at = self.at
        own = self.case.log_density(y[:, None])
        return np.asarray(own - 0.5 * ((self.x[0] - at.alpha * y) / at.sigma) ** 2 - self.top)

    def integral(self, f: Callable[[Array], Array], kinks: Array | None = None) -> Array:
        """int f times the density, (m,) for f (n,) -> (m, n), the panels cut at the kinks and
        graded towards them."""
        cuts = []
        if kinks is not None:
            graded = np.concatenate([[0.0], (self.edges[1] - self.edges[0]) * GRADES])
            cuts = [(kinks[:, None] + sign * graded).ravel() for sign in (1, -1)]
        edges = np.unique(np.concatenate([self.edges, *cuts]))
        edges = edges[(edges >= self.edges[0]) & (edges <= self.edges[-1])]
        half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
        y = (middle[:, None] + half[:, None] * NODES).ravel()
        h = np.exp(self.log_density(y)) * (half[:, None] * WEIGHTS).ravel()
        return np.asarray(f(y) @ h)

    def velocity(self, y: Array) -> Array:
        return self.at.velocity(self.x[0], y)

    def place(self, v: float) -> float:
        """The y with velocity v: linear in y."""
        zero, one = self.velocity(np.array([0.0, 1.0]))
        return float((v - zero) / (one - zero))

    @property
    def slope(self) -> float:
        """dX_1 / dV at fixed x."""
        zero, one = self.velocity(np.array([0.0, 1.0]))
        return float(1 / (one - zero))


def semi_gradient(
    case: PlaneNumbers,
    x: Array,
    at: Instant,
    nft_beta: float,
    normaliser: Normaliser = Normaliser(),  # noqa: B008 (a tuple)
) -> tuple[Callable[[float], float], float, float]:
    """(g, v_0, reach): g(mu) = E[r e+ / w+ - (1 - r) e- / w-] of errors in the normaliser's space,
    that is the loss's derivative in mu over 2 nft_beta and over dX_1 / dV in space "x1"; v_0 on
    the first axis; a distance from it within which g changes its sign.

    Raises:
        ValueError: an unknown normaliser, nft_beta <= 0, a problem that varies in more than the
            first axis, other than 0, 1, 2 or 4 other axes, or other axes with a normaliser that
            is not the sample's own.
    """
    if normaliser.kind not in NORMALISERS or normaliser.space not in SPACES or nft_beta <= 0:
        raise ValueError(f"normaliser must be known and nft_beta > 0, got {normaliser}, {nft_beta}")
    line = Line(case, x, at)
    others = _other_axes(line, case.dim - 1)
    if case.dim > 1 and normaliser.kind != "branch":
        raise ValueError(f"{normaliser.kind} needs d = 1, got d = {case.dim}")
    v0 = float(line.integral(lambda y: line.velocity(y)[None])[0] / line.total)
    reach = 1.01 * float(np.abs(line.velocity(line.edges[[0, -1]]) - v0).max()) / nft_beta
    unit = line.slope if normaliser.space == "x1" else 1.0

    def weigh(size: Array) -> Array:
        return np.maximum(size, normaliser.floor)

    def divided(error: Array, other: Array) -> Array:
        if normaliser.kind == "off":
            return error
        if normaliser.kind == "shared":
            return error / weigh(0.5 * (np.abs(error) + np.abs(other)))
        if others is None:
            return error / weigh(np.abs(error))
        return others.divided(error, unit, weigh)

    def derivative(mu: float) -> float:
        push = nft_beta * (mu - v0)
        edge = normaliser.floor * (line.slope / unit)
        kinks = [line.place(v0 + k * push) + j * edge for k in (1, -1) for j in (-1, 0, 1)]
        near = np.array([*kinks, line.place(v0)])  # max(|u|, |D|) of the shared one has it too

        def values(y: Array) -> Array:
            r, v = case.reward(y[:, None]), line.velocity(y)
            plus, minus = unit * (v0 + push - v), unit * (v0 - push - v)
            if normaliser.kind == "batch":
                sizes = np.abs(plus), np.abs(minus)
                return np.stack([r * plus, (1 - r) * minus, weigh(sizes[0]), weigh(sizes[1])])
            return (r * divided(plus, minus) - (1 - r) * divided(minus, plus))[None]

        got = line.integral(values, near) / line.total
        return float(got[0] / got[2] - got[1] / got[3] if normaliser.kind == "batch" else got[0])

    return derivative, v0, reach


def stationary(
    case: PlaneNumbers,
    x: Array,
    at: Instant,
    nft_beta: float,
    normaliser: Normaliser = Normaliser(),  # noqa: B008 (a tuple)
) -> float:
    """The mu on the first axis where the derivative of the mean loss vanishes, w held fixed.
    Raises ValueError where `semi_gradient` does."""
    derivative, v0, reach = semi_gradient(case, x, at, nft_beta, normaliser)
    return float(brentq(derivative, v0 - reach, v0 + reach, xtol=1e-14))


def start_gradient(case: PlaneNumbers, x: Array, at: Instant, nft_beta: float) -> float:
    """The mean derivative in mu, at mu = v_0, of (5 / nft_beta) [r |e+|^2/w+ + (1 - r) |e-|^2/w-]
    with the released normaliser of errors in X_1: a central difference with w held fixed."""
    line = Line(case, x, at)
    v0 = float(line.integral(lambda y: line.velocity(y)[None])[0] / line.total)
    unit, kink = line.slope, line.place(v0)
    step = float(np.abs(line.velocity(line.edges[[0, -1]]) - v0).max()) / nft_beta

    def values(y: Array) -> Array:
        r, v = case.reward(y[:, None]), line.velocity(y)
        size = np.maximum(np.abs(unit * (v0 - v)), FLOOR)  # of both branches, at mu = v_0

        def loss(mu: float) -> Array:
            plus = unit * (v0 + nft_beta * (mu - v0) - v)
            minus = unit * (v0 - nft_beta * (mu - v0) - v)
            return np.asarray((5 / nft_beta) * (r * plus**2 + (1 - r) * minus**2) / size)

        return np.asarray((loss(v0 + step) - loss(v0 - step)) / (2 * step))[None]

    near = np.array([kink - FLOOR, kink, kink + FLOOR])
    return float(line.integral(values, near)[0] / line.total)


def sampled(
    case: PlaneNumbers, x: Array, at: Instant, steps: Array, n: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """E[a'(r e+ / w+ - (1 - r) e- / w-)] over n draws of X_1 given X_t = x, with its standard
    error, at u = step a for every step; a: the frame's first axis, turned as it may be, w the mean
    size of the error over the coordinates of R^d. ValueError where draws are hardly ever kept."""
    if case.plane_dim != 1:
        raise ValueError(f"the problem must vary along a line, got a plane of {case.plane_dim}")
    rotated = case.frame.T @ x
    kept: list[Array] = []
    tried = 0
    while sum(map(len, kept)) < n:
        which = rng.choice(len(case.weights), size=n, p=case.weights)
        y = case.means[which, 0] + np.sqrt(case.covs[which, 0, 0]) * rng.standard_normal(n)
        chance = np.exp(-0.5 * ((rotated[0] - at.alpha * y) / at.sigma) ** 2)
        kept.append(y[rng.uniform(size=n) < chance])
        tried += n
        if tried > 300 * n:
            raise ValueError("x must be nearer to the bulk: fewer than one draw in 300 is kept")
    y = np.concatenate(kept)[:n]
    precision = 1 / case.rest_std**2 + (at.alpha / at.sigma) ** 2
    noise = rng.standard_normal((n, case.dim - 1)) / np.sqrt(precision)
    # V less v_0: linear in X_1, and along other axes with mean zero by construction.
    gain = at.dalpha - at.dsigma * at.alpha / at.sigma
    line = Line(
        PlaneNumbers(
            case.weights, case.means, case.covs, case.kind, case.parameters, case.scale, np.eye(1)
        ),
        rotated[:1],
        at,
    )
    mean = float(line.integral(lambda z: z[None])[0] / line.total)
    r = case.reward(y[:, None])
    gap = gain * np.concatenate([(y - mean)[:, None], noise], axis=1) @ case.frame.T
    axis = case.frame[:, 0]
    along = gap @ axis
    out, error = np.empty(len(steps)), np.empty(len(steps))
    for i, u in enumerate(steps):
        plus, minus = u * axis - gap, -u * axis - gap
        value = r * (u - along) / np.abs(plus).mean(1)
        value = value - (1 - r) * (-u - along) / np.abs(minus).mean(1)
        out[i], error[i] = value.mean(), value.std() / np.sqrt(n)
    return out, error


class _Axes(NamedTuple):
    """T = sum over n other axes of |v_0 - V|: nodes (m,) and shares (m,)."""

    nodes: Array
    shares: Array
    axes: int

    def divided(self, error: Array, unit: float, weigh: Callable[[Array], Array]) -> Array:
        """E[error / w], w = (|error| + unit T) / d, over T; (n,)."""
        out = np.empty(len(error))
        step = max(1, CHUNK // len(self.nodes))
        for i in range(0, len(error), step):
            part = error[i : i + step, None]
            size = (np.abs(part) + unit * self.nodes) / (self.axes + 1)
            out[i : i + step] = (part / weigh(size)) @ self.shares
        return out


def _other_axes(line: Line, count: int) -> _Axes | None:
    """The law of T, by numerical integrals along one axis and numerical convolutions."""
    if count == 0:
        return None
    if count not in (1, 2, 4):
        raise ValueError(f"other axes must be 0, 1, 2 or 4, got {count}")
    at, s = line.at, line.case.rest_std
    z = s * np.linspace(-14, 14, 4001)
    logs = -0.5 * (z / s) ** 2 - 0.5 * ((line.x[1] - at.alpha * z) / at.sigma) ** 2
    h = np.exp(logs - logs.max())
    v = at.velocity(line.x[1], z)
    centre = float(v @ h / h.sum())
    spread = float(np.sqrt((v - centre) ** 2 @ h / h.sum()))
    # Every other axis has a law of |v_0 - V| of one shape: that of the first of them.
    zero, one = at.velocity(line.x[1], np.array([0.0, 1.0]))
    offset = -zero / (one - zero)  # the place where V is zero

    def one_axis(size: Array) -> Array:
        total = np.zeros(np.shape(size))
        for sign in (1, -1):
            place = line.slope * (centre + sign * size) + offset  # the X_1 with that V
            total = total + np.exp(
                -0.5 * (place / s) ** 2
                - 0.5 * ((line.x[1] - at.alpha * place) / at.sigma) ** 2
                - logs.max()
            )
        return np.asarray(total)

    density: Callable[[Array], Array] = one_axis
    for _ in range(count // 2):  # 1, 2, 4: the sum of two of the last
        density = _convolved(density)
    edges = spread * np.concatenate([[0.0], GRADES, np.arange(2.0, 12.0 * count**0.5 + 4)])
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    nodes = (middle[:, None] + half[:, None] * NODES).ravel()
    shares = density(nodes) * (half[:, None] * WEIGHTS).ravel()
    return _Axes(nodes, shares / shares.sum(), count)


def _convolved(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """T -> int_0^T f(s) f(T - s) ds."""
    node, weight = np.polynomial.legendre.leggauss(60)

    def density(size: Array) -> Array:
        flat = np.ravel(size)
        inner = 0.5 * flat[:, None] * (1 + node)
        value = (f(inner) * f(flat[:, None] - inner)) @ weight * 0.5 * flat
        return np.asarray(value.reshape(np.shape(size)))

    return density
