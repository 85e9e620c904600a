"""Every closed form at 50 digits, on problems whose scales lie up to 1e6 apart (mpmath).

Written from the definitions and sharing nothing with the closed forms but the problem's numbers:
base, bumps, exp(a r) and N(x; alpha y, sigma^2 I) are Gaussians in y, their product is

    exp(-y'L y/2 + h'y + c),  L, h, c the sums of theirs,
    integral  (2 pi)^{d/2} det(L)^{-1/2} exp(h'L^-1 h/2 + c),  mean  L^-1 h,  covariance  L^-1,

and every quantity is a sum of such integrals. That cancels by up to (1e6)^4, and 50 digits carry
it. The condition number of a value is the norm of its relative derivatives in the logarithms of
all float64 inputs, from differences along random signs in the same precision.

mpmath is in the `dev` extra.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import torch

from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem
from theory.tilts.bump_rewards import bumps_reward
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.rewards import Reward
from theory.tilts.wrappers import Exponential, TruncatedExponential

DIGITS = 50
DIMS = (1, 2, 5)
KINDS = ("bumps", "linear", "quadratic")
# Positions, deviations and widths lie within 10^-DECADES and 10^DECADES of one another's middle.
DECADES = 3.0
TOP_EXPONENT, LEAST_EXPONENT = 3.0, -3.0
STEP = mpmath.mpf(10) ** -18
DIRECTIONS = 3
# Below exp of this the logarithm is what is compared.
LEAST_LOG = -700.0

Numbers = Any  # an mpf, or lists of them


@dataclass(frozen=True)
class Drawn:
    """One problem in float64, a point x of X_t and a point y of the data.

    arrays: weights, means, stds or covs; vector, constant, matrix of a reward, or heights, centres,
    and widths or precisions; scale, t, x, y.
    """

    dim: int
    kind: str
    arrays: dict[str, np.ndarray]

    def problem(self) -> Problem:
        """The same for the closed forms."""
        a = {name: torch.as_tensor(value) for name, value in self.arrays.items()}
        base = GaussianSum.mixture(a["weights"], a["means"], covs=a.get("covs"), stds=a.get("stds"))
        reward: Reward
        if self.kind == "bumps":
            reward = bumps_reward(
                a["heights"], a["centres"], widths=a.get("widths"), precisions=a.get("precisions")
            )
        elif self.kind == "linear":
            reward = linear_reward(a["vector"], a["constant"])
        else:
            reward = quadratic_reward(a["matrix"], a["vector"], a["constant"])
        return Problem(f"{self.kind}, d = {self.dim}", base, reward, float(self.arrays["scale"]))

    def at(self) -> tuple[torch.Tensor, float, torch.Tensor]:
        """x (1, d), t, y (1, d)."""
        x, y = (torch.as_tensor(self.arrays[key])[None] for key in ("x", "y"))
        return x, float(self.arrays["t"]), y


# --- random problems


def draw(seed: int) -> Drawn:
    """A problem, a function of the seed alone."""
    rng = np.random.default_rng([seed, 18])
    dim = int(rng.choice(DIMS, p=[0.5, 0.3, 0.2]))
    kind = str(rng.choice(KINDS, p=[0.7, 0.1, 0.2]))
    diagonal = dim == 1 or bool(rng.random() < 0.5)
    k = int(rng.integers(1, 4 if dim < 5 else 3))
    a: dict[str, np.ndarray] = {}
    weights = rng.dirichlet(np.ones(k))
    a["weights"] = weights / weights.sum()
    a["means"] = rng.normal(size=(k, dim)) * _size(rng)
    stds = np.array([[_size(rng, -3, 2) for _ in range(dim)] for _ in range(k)])
    if rng.random() < 0.3:
        stds[:] = stds[:, :1]
    axes = [_rotation(rng, dim) for _ in range(k)]
    if diagonal:
        a["stds"], axes = stds, [np.eye(dim)] * k
    else:
        a["covs"] = np.stack([_symmetric(q * s**2 @ q.T) for q, s in zip(axes, stds, strict=True)])
        if min(np.linalg.eigvalsh(c).min() / np.linalg.eigvalsh(c).max() for c in a["covs"]) < 1e-9:
            return draw(seed + 1_000_003)  # no covariance in float64 any more

    def from_base(which: int) -> np.ndarray:
        return a["means"][which] + axes[which] @ (stds[which] * rng.normal(size=dim))

    _draw_reward(rng, kind, diagonal, a, from_base)
    t = float(rng.choice([0.0, rng.random(), 1 - 10 ** rng.uniform(-6, -0.5)], p=[0.15, 0.45, 0.4]))
    y = from_base(int(rng.integers(k)))
    if kind == "bumps" and rng.random() < 0.4:  # a point that the first bump sees
        near = a["widths"][0] if diagonal else 1 / np.sqrt(np.linalg.eigvalsh(a["precisions"][0]))
        y = a["centres"][0] + float(np.min(near)) * rng.normal(size=dim)
    a["t"], a["y"] = np.asarray(t), y
    a["x"] = t * y + (1 - t) * rng.normal(size=dim) * rng.choice([1.0, 3.0], p=[0.8, 0.2])
    return Drawn(dim, kind, a)


def _size(rng: np.random.Generator, low: float = -DECADES, high: float = DECADES) -> float:
    return float(10 ** rng.uniform(low, high))


def _rotation(rng: np.random.Generator, dim: int) -> np.ndarray:
    return np.asarray(np.linalg.qr(rng.normal(size=(dim, dim)))[0])


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return 0.5 * (matrix + matrix.T)


def _draw_reward(
    rng: np.random.Generator,
    kind: str,
    diagonal: bool,
    a: dict[str, np.ndarray],
    from_base: Callable[[int], np.ndarray],
) -> None:
    k, dim = a["means"].shape
    if kind == "bumps":
        m = 2 if dim == 1 and rng.random() < 0.4 else 1
        a["centres"] = np.stack([from_base(int(rng.integers(k))) for _ in range(m)])
        if rng.random() < 0.5:  # away from the component, by its own distance
            a["centres"] = a["centres"] + _size(rng) * rng.normal(size=(m, dim))
        widths = np.array([[_size(rng) for _ in range(dim)] for _ in range(m)])
        if diagonal:
            a["widths"] = widths
        else:
            widths = np.maximum(widths, widths.max() * 10 ** -rng.uniform(0, 4))
            q = _rotation(rng, dim)
            a["precisions"] = np.stack([_symmetric(q * w**-2.0 @ q.T) for w in widths])
        a["heights"] = np.exp(rng.normal(size=m)) * rng.choice([1.0, -1.0], p=[0.75, 0.25], size=m)
        exponent = rng.uniform(*((0.2, TOP_EXPONENT) if m == 1 else (0.1, 0.8)))
        a["scale"] = np.asarray(exponent / np.abs(a["heights"]).sum())
        return
    size = _size(rng)
    a["vector"] = np.asarray(rng.normal(size=dim)) / size
    slope = float(np.abs(a["vector"]).max())
    covs = a["covs"] if "covs" in a else np.stack([np.diag(s**2) for s in a["stds"]])
    top = max(float(np.linalg.eigvalsh(c).max()) for c in covs)
    top += float(((a["means"] - a["weights"] @ a["means"]) ** 2).sum(-1).max())
    scale, centre = rng.uniform(0.2, 3.0) / (slope * math.sqrt(top)), a["weights"] @ a["means"]
    level = float(a["vector"] @ centre)
    if kind == "quadratic":  # of that slope at the base's mean
        H = a["matrix"] = _symmetric(rng.normal(size=(dim, dim))) / size**2
        scale = min(scale, 0.7 / max(float(np.linalg.eigvalsh(H).max()) * top, 1e-300))
        a["vector"] = a["vector"] - H @ centre
        level -= 0.5 * float(centre @ H @ centre)
    # exp(scale r) is near 1 at the base's mean: its normaliser is a number that float64 can hold.
    a["constant"], a["scale"] = np.asarray(rng.normal() / scale - level), np.asarray(scale)


# --- mpmath


def reference(drawn: Drawn) -> tuple[dict[str, list], dict[str, float]]:
    """({quantity: its entries}, {quantity: its condition number}); mpf, and floats."""
    with mpmath.workdps(DIGITS):
        exact = {name: _mp(value) for name, value in drawn.arrays.items()}
        truth = _quantities(drawn, exact)
        rng = np.random.default_rng(0)
        squares = dict.fromkeys(truth, 0.0)
        for _ in range(DIRECTIONS):
            moved = _quantities(drawn, {k: _moved(v, k, rng) for k, v in exact.items()})
            for name, value in truth.items():
                squares[name] = max(squares[name], gap(moved[name], value, name) / float(STEP))
        return truth, squares


def gap(value: list, true: list, name: str, floor: float = 0.0) -> float:
    """Largest difference of the entries over the largest entry, or over exp(LEAST_LOG) where that
    is more (or `floor`); of logarithms the difference itself, or relative to them beyond it."""
    with mpmath.workdps(DIGITS):
        difference = max(abs(mpmath.mpf(v) - w) for v, w in zip(value, true, strict=True))
        size = max(abs(w) for w in true)
        if name.startswith("log"):
            size = max(size, mpmath.mpf(1)) if abs(true[0]) > -LEAST_LOG else mpmath.mpf(1)
        else:
            size = max(size, mpmath.exp(LEAST_LOG), mpmath.mpf(floor))
        return float(difference / size) if size else (0.0 if not difference else math.inf)


def _mp(value: np.ndarray) -> Numbers:
    return [_mp(v) for v in value] if value.ndim else mpmath.mpf(float(value))


def _moved(value: Numbers, name: str, rng: np.random.Generator) -> Numbers:
    """Every number times 1 +- STEP; matrices stay symmetric."""
    if not isinstance(value, list):
        return value * (1 + STEP * int(rng.choice([-1, 1])))
    if name == "matrix":
        return _moved_matrix(value, rng)
    if name in ("covs", "precisions"):
        return [_moved_matrix(v, rng) for v in value]
    return [_moved(v, name, rng) for v in value]


def _moved_matrix(value: list, rng: np.random.Generator) -> list:
    signs = np.triu(rng.choice([-1, 1], size=(len(value), len(value))))
    signs = signs + np.triu(signs, 1).T
    rows = zip(value, signs, strict=True)
    return [[v * (1 + STEP * int(s)) for v, s in zip(a, b, strict=True)] for a, b in rows]


@dataclass(frozen=True)
class Term:
    """The integral of one product of Gaussians, its mean and covariance."""

    mass: Any
    mean: list
    cov: list

    def trace(self) -> Any:
        return sum(self.cov[i][i] for i in range(len(self.mean)))


def _term(precision: list, pull: list, constant: Any) -> Term:
    """exp(-y'Ly/2 + h'y + c) over y, but for (2 pi)^{d/2}."""
    inverse, log_det = _inverse(precision)
    mean = _times(inverse, pull)
    return Term(mpmath.exp(constant + _dot(pull, mean) / 2 - log_det / 2), mean, inverse)


def _inverse(matrix: list) -> tuple[list, Any]:
    """Inverse and log det of a positive definite matrix, by Cholesky."""
    d = len(matrix)
    if d == 1:
        return [[1 / matrix[0][0]]], mpmath.log(matrix[0][0])
    zero = mpmath.mpf(0)
    root = [[zero] * d for _ in range(d)]
    for i in range(d):
        for j in range(i + 1):
            rest = matrix[i][j] - sum(root[i][m] * root[j][m] for m in range(j))
            root[i][j] = mpmath.sqrt(rest) if i == j else rest / root[j][j]
    upper = [[zero] * d for _ in range(d)]  # columns of root^-1
    for c in range(d):
        for i in range(c, d):
            rest = (1 if i == c else 0) - sum(root[i][m] * upper[c][m] for m in range(c, i))
            upper[c][i] = rest / root[i][i]
    inverse = [
        [sum(upper[i][m] * upper[j][m] for m in range(max(i, j), d)) for j in range(d)]
        for i in range(d)
    ]
    return inverse, 2 * sum(mpmath.log(root[i][i]) for i in range(d))


def _dot(a: list, b: list) -> Any:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _times(matrix: list, vector: list) -> list:
    return [_dot(row, vector) for row in matrix]


def _plus(a: list, b: list, factor: Any = 1) -> list:
    if isinstance(a[0], list):
        return [_plus(x, y, factor) for x, y in zip(a, b, strict=True)]
    return [x + factor * y for x, y in zip(a, b, strict=True)]


def _eye(d: int, factor: Any) -> list:
    return [[factor if i == j else mpmath.mpf(0) for j in range(d)] for i in range(d)]


@dataclass(frozen=True)
class _Reader:
    """The factors of one problem as (L, h, c)."""

    drawn: Drawn
    v: dict[str, Numbers]

    def base(self) -> Iterator[tuple[list, list, Any]]:
        v, d = self.v, self.drawn.dim
        spreads = v.get("covs") or [
            [[s[i] ** 2 if i == j else mpmath.mpf(0) for j in range(d)] for i in range(d)]
            for s in v["stds"]
        ]
        for weight, mean, cov in zip(v["weights"], v["means"], spreads, strict=True):
            precision, log_det = _inverse(cov)
            pull = _times(precision, mean)
            yield precision, pull, mpmath.log(weight) - log_det / 2 - _dot(mean, pull) / 2

    def bumps(self) -> list[tuple[list, list, Any]]:
        v, d = self.v, self.drawn.dim
        precisions = v.get("precisions") or [
            [[w[i] ** -2 if i == j else mpmath.mpf(0) for j in range(d)] for i in range(d)]
            for w in v["widths"]
        ]
        found = []
        for centre, precision in zip(v["centres"], precisions, strict=True):
            pull = _times(precision, centre)
            found.append((precision, pull, -_dot(centre, pull) / 2))
        return found

    def noise(self) -> tuple[list, list, Any]:
        """N(x; t y, (1 - t)^2 I) as a function of y, but for what does not depend on y."""
        t, x = self.v["t"], self.v["x"]
        rate = t / (1 - t) ** 2
        return _eye(self.drawn.dim, t * rate), [rate * xi for xi in x], mpmath.mpf(0)


def _quantities(drawn: Drawn, v: dict[str, Numbers]) -> dict[str, list]:
    read = _Reader(drawn, v)
    d, t, a = drawn.dim, v["t"], v["scale"]
    none = (_eye(d, mpmath.mpf(0)), [mpmath.mpf(0)] * d, mpmath.mpf(0))
    base = list(read.base())
    sigma = 1 - t

    def terms(factors: list[tuple[list, list, Any]]) -> list[Term]:
        rows = []
        for own in base:
            L, h, c = own
            for other in factors:
                L, h, c = _plus(L, other[0]), _plus(h, other[1]), c + other[2]
            rows.append(_term(L, h, c))
        return rows

    noise = read.noise()
    plain = terms([noise])
    mass = sum(term.mass for term in plain)
    mean = _average(plain, mass)
    moments = _reward_moments(drawn, v, read, noise, terms, plain, mass, mean)
    m, covariance, third = moments
    slope = [c / sigma**2 for c in covariance]
    v0 = [(mi - xi) / sigma for mi, xi in zip(mean, v["x"], strict=True)]
    spread = sum(p.mass * (p.trace() + _square(p.mean, mean)) for p in plain) / mass
    div0 = (t / sigma**2 * spread - d) / sigma
    found = {
        "E(r|x)": [m],
        "grad m": [t * s for s in slope],
        "velocity, base": v0,
        "divergence, base": [div0],
        "velocity, NFT": _plus(v0, slope, sigma * a),
        "divergence, NFT": [div0 + sigma * a * t / sigma**4 * third],
    }
    if drawn.kind == "bumps":
        found["log E(r|x)"] = [mpmath.log(abs(m))]
    # exp(a r) and 1 + a r + (a r)^2 / 2: with noise at x, and without (the normaliser).
    own_mass = sum(term.mass for term in terms([none]))
    for name, factors in _tilts(drawn, v, read):
        total, tilted, second = mpmath.mpf(0), mpmath.mpf(0), [mpmath.mpf(0)] * d
        for weight, factor in factors:
            total += weight * sum(term.mass for term in terms([factor]))
            for term in terms([noise, factor]):
                tilted += weight * term.mass
                second = _plus(second, term.mean, weight * term.mass)
        if total <= 0 or tilted <= 0:
            continue
        log_z = mpmath.log(total / own_mass)
        found[f"log Z, {name}"] = [log_z]
        moved = [s / tilted for s in second]
        found[f"velocity, {name}"] = [
            (mi - xi) / sigma for mi, xi in zip(moved, v["x"], strict=True)
        ]
        if name == "exp":
            found["log density, exp"] = [_log_density(read, v, base) + a * _value(drawn, v) - log_z]
    return found


def _average(terms: list[Term], mass: Any) -> list:
    total = [mpmath.mpf(0)] * len(terms[0].mean)
    for term in terms:
        total = _plus(total, term.mean, term.mass / mass)
    return total


def _square(a: list, b: list) -> Any:
    gap = _plus(a, b, -1)
    return _dot(gap, gap)


def _reward_moments(
    drawn: Drawn,
    v: dict[str, Numbers],
    read: _Reader,
    noise: tuple,
    terms: Callable[..., list[Term]],
    plain: list[Term],
    mass: Any,
    mean: list,
) -> tuple[Any, list, Any]:
    """E[r|x], Cov(X_1, r|x) and E[|X_1 - E[X_1|x]|^2 (r - E[r|x])|x]."""
    first, cross, third = mpmath.mpf(0), [mpmath.mpf(0)] * drawn.dim, mpmath.mpf(0)
    if drawn.kind == "bumps":
        for height, bump in zip(v["heights"], read.bumps(), strict=True):
            for term in terms([noise, bump]):
                share = height * term.mass / mass
                first += share
                cross = _plus(cross, _plus(term.mean, mean, -1), share)
                third += share * (term.trace() + _square(term.mean, mean))
    else:
        d = drawn.dim
        H = v.get("matrix") or _eye(d, mpmath.mpf(0))
        for term in plain:
            share, S = term.mass / mass, term.cov
            offset, slope = _plus(term.mean, mean, -1), _plus(_times(H, term.mean), v["vector"])
            SH = [[_dot(S[i], H[j]) for j in range(d)] for i in range(d)]
            value = _dot(_plus(slope, v["vector"]), term.mean) / 2 + v["constant"]
            value += sum(SH[i][i] for i in range(d)) / 2
            push = _times(S, slope)
            first += share * value
            cross = _plus(cross, _plus(push, offset, value), share)
            SHS = sum(_dot(SH[i], S[i]) for i in range(d))
            third += share * (
                value * (term.trace() + _dot(offset, offset)) + 2 * _dot(offset, push) + SHS
            )
    spread = sum(p.mass * (p.trace() + _square(p.mean, mean)) for p in plain) / mass
    return first, cross, third - first * spread


def _tilts(drawn: Drawn, v: dict[str, Numbers], read: _Reader) -> Iterator[tuple[str, list]]:
    """The tilt's factors as weighted Gaussians in y."""
    a, d = v["scale"], drawn.dim
    if drawn.kind != "bumps":
        matrix = v.get("matrix") or _eye(d, mpmath.mpf(0))
        quadratic = (
            [[-a * h for h in row] for row in matrix],
            [a * b for b in v["vector"]],
            a * v["constant"],
        )
        yield "exp", [(mpmath.mpf(1), quadratic)]
        return
    bumps, heights = read.bumps(), v["heights"]
    size = float(a) * sum(abs(float(h)) for h in heights)
    order = 2
    while (order + 1) * math.log(size) - math.lgamma(order + 2) > math.log(1e-19):
        order += 1

    def factors(top: int) -> list:
        rows = []
        for degree in range(top + 1):
            for n in [(degree,)] if len(bumps) == 1 else _pairs(degree):
                weight = mpmath.mpf(1)
                L, h, c = _eye(d, mpmath.mpf(0)), [mpmath.mpf(0)] * d, mpmath.mpf(0)
                for count, height, bump in zip(n, heights, bumps, strict=True):
                    weight *= (a * height) ** count / math.factorial(count)
                    L, h = _plus(L, bump[0], count), _plus(h, bump[1], count)
                    c += count * bump[2]
                rows.append((weight, (L, h, c)))
        return rows

    yield "exp", factors(order)
    yield "order 2", factors(2)


def _pairs(degree: int) -> list[tuple[int, int]]:
    return [(i, degree - i) for i in range(degree + 1)]


def _value(drawn: Drawn, v: dict[str, Numbers]) -> Any:
    """r(y)."""
    y = v["y"]
    if drawn.kind == "bumps":
        bumps = _Reader(drawn, v).bumps()
        return sum(
            height * mpmath.exp(-_dot(y, _times(L, y)) / 2 + _dot(h, y) + c)
            for height, (L, h, c) in zip(v["heights"], bumps, strict=True)
        )
    curve = _dot(y, _times(v["matrix"], y)) / 2 if drawn.kind == "quadratic" else mpmath.mpf(0)
    return curve + _dot(v["vector"], y) + v["constant"]


def _log_density(read: _Reader, v: dict[str, Numbers], base: list) -> Any:
    """log of the base's density at y."""
    y = v["y"]
    total = sum(mpmath.exp(-_dot(y, _times(L, y)) / 2 + _dot(h, y) + c) for L, h, c in base)
    return mpmath.log(total) - len(y) * mpmath.log(2 * mpmath.pi) / 2


# --- the closed forms


def computed(drawn: Drawn) -> dict[str, list[float] | str]:
    """The same quantities by the closed forms; the message where one is refused."""
    x, t, y = drawn.at()
    problem = drawn.problem()
    a = problem.scale
    exp, second = Exponential(a), TruncatedExponential(a, 2)
    nft = problem.nft_field
    asked: dict[str, Callable[[], torch.Tensor]] = {
        "E(r|x)": lambda: problem.conditional_reward.mean(x, t),
        "log E(r|x)": lambda: problem.conditional_reward.log_mean(x, t)[0],
        "grad m": lambda: problem.conditional_reward.gradient(x, t),
        "velocity, base": lambda: problem.base_field(x, t),
        "divergence, base": lambda: problem.base_field.divergence(x, t),
        "velocity, NFT": lambda: nft(2 / a)(x, t),
        "divergence, NFT": lambda: nft(2 / a).divergence(x, t),
        "log Z, exp": lambda: problem.tilt(exp).log_z,
        "velocity, exp": lambda: problem.tilted_field(exp)(x, t),
        "log density, exp": lambda: problem.tilt(exp).log_density(y),
        "log Z, order 2": lambda: problem.tilt(second).log_z,
        "velocity, order 2": lambda: problem.tilted_field(second)(x, t),
    }
    found: dict[str, list[float] | str] = {}
    for name, ask in asked.items():
        try:
            found[name] = ask().flatten().tolist()
        except ValueError as error:
            found[name] = str(error)
    return found
