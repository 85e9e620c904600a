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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
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

Numbers = Any  # an mpf, or an array of them


@dataclass(frozen=True)
class Case:
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


def draw(seed: int) -> Case:
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
    return Case(dim, kind, a)


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


# --- mpmath: numbers, and numpy's arrays of them


def reference(case: Case) -> tuple[dict[str, list], dict[str, float]]:
    """({quantity: its entries}, {quantity: its condition number}); mpf, and floats."""
    with mpmath.workdps(DIGITS):
        exact = {
            name: np.vectorize(mpmath.mpf, otypes=[object])(value)[()]
            for name, value in case.arrays.items()
        }
        truth = _quantities(case, exact)
        rng = np.random.default_rng(0)
        squares = dict.fromkeys(truth, 0.0)
        for _ in range(DIRECTIONS):
            moved = _quantities(case, {k: _moved(v, k, rng) for k, v in exact.items()})
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


def _moved(value: Numbers, name: str, rng: np.random.Generator) -> Numbers:
    """Every number times 1 +- STEP; matrices stay symmetric."""
    signs = rng.choice([-1, 1], size=np.shape(value))
    if name in ("matrix", "covs", "precisions"):
        signs = np.triu(signs) + np.triu(signs, 1).mT
    return value * (1 + STEP * signs.astype(object))


Factor = tuple[Any, Any, Any]  # exp(-y'Ly/2 + h'y + c) as (L, h, c)


@dataclass(frozen=True)
class Term:
    """The integral of one product of Gaussians, its mean and covariance."""

    mass: Any
    mean: np.ndarray
    cov: np.ndarray

    def spread_about(self, place: np.ndarray) -> Any:
        """E|Y - place|^2."""
        return np.trace(self.cov) + (self.mean - place) @ (self.mean - place)


def _term(factor: Sequence[Any]) -> Term:
    """exp(-y'Ly/2 + h'y + c) over y, but for (2 pi)^{d/2}."""
    precision, pull, constant = factor
    inverse, log_det = _inverse(precision)
    mean = inverse @ pull
    return Term(mpmath.exp(constant + pull @ mean / 2 - log_det / 2), mean, inverse)


def _inverse(matrix: np.ndarray) -> tuple[np.ndarray, Any]:
    """Inverse and log det of a positive definite matrix, swept pivot by pivot."""
    swept, det = matrix.copy(), mpmath.mpf(1)
    for i in range(len(swept)):
        row, pivot = swept[i].copy(), swept[i, i]
        det *= pivot
        swept -= np.outer(row, row / pivot)
        swept[i] = swept[:, i] = row / pivot
        swept[i, i] = -1 / pivot
    return -swept, mpmath.log(det)


def _at(factor: Factor, y: np.ndarray) -> Any:
    precision, pull, constant = factor
    return mpmath.exp(-y @ precision @ y / 2 + pull @ y + constant)


@dataclass(frozen=True)
class _Reader:
    """The factors of one problem."""

    case: Case
    v: dict[str, Numbers]

    def base(self) -> Iterator[Factor]:
        v = self.v
        spreads = v["covs"] if "covs" in v else [np.diag(s**2) for s in v["stds"]]
        for weight, mean, cov in zip(v["weights"], v["means"], spreads, strict=True):
            precision, log_det = _inverse(cov)
            pull = precision @ mean
            yield precision, pull, mpmath.log(weight) - log_det / 2 - mean @ pull / 2

    def bumps(self) -> list[Factor]:
        v = self.v
        known = v["precisions"] if "precisions" in v else [np.diag(w**-2) for w in v["widths"]]
        pairs = zip(v["centres"], known, strict=True)
        return [(p, p @ centre, -(centre @ p @ centre) / 2) for centre, p in pairs]

    def noise(self) -> Factor:
        """N(x; t y, (1 - t)^2 I) as a function of y, but for what does not depend on y."""
        t, x = self.v["t"], self.v["x"]
        rate = t / (1 - t) ** 2
        return np.eye(self.case.dim, dtype=object) * (t * rate), rate * x, 0


def _quantities(case: Case, v: dict[str, Numbers]) -> dict[str, list]:
    read = _Reader(case, v)
    d, t, a, x = case.dim, v["t"], v["scale"], v["x"]
    base, noise = list(read.base()), read.noise()
    sigma = 1 - t

    def terms(*factors: Factor) -> list[Term]:
        return [_term([sum(parts) for parts in zip(own, *factors, strict=True)]) for own in base]

    plain = terms(noise)
    mass = sum(term.mass for term in plain)
    mean = sum(term.mass * term.mean for term in plain) / mass
    spread = sum(term.mass * term.spread_about(mean) for term in plain) / mass
    m, covariance, third = _reward_moments(case, v, read, terms, plain, mean)
    slope = covariance / sigma**2
    v0 = (mean - x) / sigma
    div0 = (t / sigma**2 * spread - d) / sigma
    found = {
        "E(r|x)": [m],
        "grad m": t * slope,
        "velocity, base": v0,
        "divergence, base": [div0],
        "velocity, NFT": v0 + sigma * a * slope,
        "divergence, NFT": [div0 + sigma * a * t / sigma**4 * (third - m * spread)],
    }
    if case.kind == "bumps":
        found["log E(r|x)"] = [mpmath.log(abs(m))]
    # exp(a r) and 1 + a r + (a r)^2 / 2: with noise at x, and without (the normaliser).
    own_mass = sum(term.mass for term in terms())
    for name, factors in _tilts(case, v, read):
        total = sum(weight * term.mass for weight, f in factors for term in terms(f))
        parts = [(weight * p.mass, p.mean) for weight, f in factors for p in terms(noise, f)]
        tilted = sum(share for share, _ in parts)
        if total <= 0 or tilted <= 0:
            continue
        log_z = mpmath.log(total / own_mass)
        found[f"log Z, {name}"] = [log_z]
        found[f"velocity, {name}"] = (sum(s * place for s, place in parts) / tilted - x) / sigma
        if name == "exp":
            density = (
                mpmath.log(sum(_at(f, v["y"]) for f in base)) - d * mpmath.log(2 * mpmath.pi) / 2
            )
            found["log density, exp"] = [density + a * _value(case, v) - log_z]
    return {name: list(value) for name, value in found.items()}


def _reward_moments(
    case: Case,
    v: dict[str, Numbers],
    read: _Reader,
    terms: Callable[..., list[Term]],
    plain: list[Term],
    mean: np.ndarray,
) -> tuple[Any, np.ndarray, Any]:
    """E[r|x], Cov(X_1, r|x) and E[|X_1 - E[X_1|x]|^2 r|x]."""
    rows: list[tuple[Any, Any, Any]] = []
    mass = sum(term.mass for term in plain)
    if case.kind == "bumps":
        for height, bump in zip(v["heights"], read.bumps(), strict=True):
            for term in terms(read.noise(), bump):
                share = height * term.mass / mass
                rows.append((share, share * (term.mean - mean), share * term.spread_about(mean)))
    else:
        H = v.get("matrix", np.zeros((case.dim, case.dim), dtype=object))
        for term in plain:
            share, S, offset = term.mass / mass, term.cov, term.mean - mean
            slope = H @ term.mean + v["vector"]
            value = (slope + v["vector"]) @ term.mean / 2 + v["constant"] + np.trace(S @ H) / 2
            cross, curved = S @ slope + value * offset, 2 * offset @ S @ slope + np.trace(S @ H @ S)
            rows.append((share * value, share * cross,
                         share * (value * term.spread_about(mean) + curved)))  # fmt: skip
    first, cross, third = (sum(column) for column in zip(*rows, strict=True))
    return first, cross, third


def _tilts(case: Case, v: dict[str, Numbers], read: _Reader) -> Iterator[tuple[str, list]]:
    """The tilt's factors as weighted Gaussians in y."""
    a, d = v["scale"], case.dim
    if case.kind != "bumps":
        matrix = v.get("matrix", np.zeros((d, d), dtype=object))
        yield "exp", [(1, (-a * matrix, a * v["vector"], a * v["constant"]))]
        return
    bumps, heights = read.bumps(), v["heights"]
    size = float(a) * sum(abs(float(h)) for h in heights)
    order = 2
    while (order + 1) * math.log(size) - math.lgamma(order + 2) > math.log(1e-19):
        order += 1

    def factor(powers: tuple[int, ...]) -> tuple[Any, Factor]:
        weights = ((a * h) ** n / math.factorial(n) for h, n in zip(heights, powers, strict=True))
        L, h, c = (sum(n * part for n, part in zip(powers, parts, strict=True))
                   for parts in zip(*bumps, strict=True))  # fmt: skip
        return math.prod(weights), (L, h, c)

    for name, top in (("exp", order), ("order 2", 2)):
        yield (
            name,
            [
                factor(powers)
                for powers in product(range(top + 1), repeat=len(bumps))
                if sum(powers) <= top
            ],
        )


def _value(case: Case, v: dict[str, Numbers]) -> Any:
    """r(y)."""
    y = v["y"]
    if case.kind == "bumps":
        bumps = _Reader(case, v).bumps()
        return sum(height * _at(bump, y) for height, bump in zip(v["heights"], bumps, strict=True))
    curve = y @ v["matrix"] @ y / 2 if case.kind == "quadratic" else 0
    return curve + v["vector"] @ y + v["constant"]


# --- the closed forms


def computed(case: Case) -> dict[str, list[float] | str]:
    """The same quantities by the closed forms; the message where one is refused."""
    x, t, y = case.at()
    problem = case.problem()
    a = problem.scale
    exp, second = Exponential(a), TruncatedExponential(a, 2)
    asked: dict[str, Callable[[], torch.Tensor]] = {
        "E(r|x)": lambda: problem.conditional_reward.mean(x, t),
        "log E(r|x)": lambda: problem.conditional_reward.log_mean(x, t)[0],
        "grad m": lambda: problem.conditional_reward.gradient(x, t),
        "velocity, base": lambda: problem.base_field(x, t),
        "divergence, base": lambda: problem.base_field.divergence(x, t),
        "velocity, NFT": lambda: problem.nft_field(2 / a)(x, t),
        "divergence, NFT": lambda: problem.nft_field(2 / a).divergence(x, t),
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
