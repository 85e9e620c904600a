r"""Second routes for the released training code: its reward mapping, its penalty, its averages.

The reward mapping by sums alone. A prompt's rewards have the density p on the line; the sum z of
n - 1 others has the density

    g(z) = (1/2 pi) int psi(u)^(n-1) exp(-i u z) du,    psi(u) = int p(y) exp(i u y) dy,

both by the trapezoidal rule, which is spectrally accurate for smooth p; integrals of the clipped
line against p or g are cut at its two kinks, Gauss and Legendre on every piece. Small batches of
atoms are enumerated. The penalised loss is minimised from its values (`oracle.conditional`), and
averages are carried step by step in exact rationals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import gammaln

from theory.ledger.oracle.conditional import Instant, _minimiser, _Split
from theory.ledger.oracle.flow import Field
from theory.ledger.oracle.integrals.integrate import Array
from theory.ledger.oracle.integrals.plane import PlaneNumbers
from theory.ledger.oracle.online import LineLaw, sampled, start

_FAR = 9.5  # standard deviations that a component reaches
_FINE = 5  # nodes to the narrowest component
_PANELS, _ORDER = 10, 24
_WIDE = 6.0  # of a panel, in standard deviations of the narrowest component
_ROWS = 200  # at once
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_ORDER)


# --- the reward mapping


@dataclass(frozen=True, eq=False)
class _Line:
    """A mixture density on uniform nodes, (K,) each: weights, means, stds."""

    weights: Array
    means: Array
    stds: Array

    def density(self, y: Array) -> Array:
        gaps = (np.asarray(y)[..., None] - self.means) / self.stds
        parts = np.exp(-0.5 * gaps**2) / self.stds / np.sqrt(2 * np.pi)
        return np.asarray(parts @ self.weights)

    @property
    def ends(self) -> tuple[float, float]:
        low, high = self.means - _FAR * self.stds, self.means + _FAR * self.stds
        return float(low.min()), float(high.max())

    def nodes(self) -> tuple[Array, float]:
        step = float(self.stds.min()) / _FINE
        low, high = self.ends
        return np.arange(low, high + step, step), step

    def moments(self) -> tuple[float, float]:
        """Mean and variance, by sums."""
        y, step = self.nodes()
        p = self.density(y) * step
        mean = float(p @ y)
        return mean, float(p @ (y - mean) ** 2)


def pooled_std(weights: Array, means: Array, stds: Array) -> float:
    """Standard deviation of the pooled rewards of P prompts, arrays (P, K), by sums."""
    share = 1 / len(weights)
    pooled = _Line((share * weights).ravel(), means.ravel(), stds.ravel())
    return float(np.sqrt(pooled.moments()[1]))


def _sum_of_others(law: _Line, others: int) -> tuple[Array, Array]:
    """Nodes z and g(z) dz of the sum of `others` rewards."""
    y, step = law.nodes()
    mean, variance = law.moments()
    p = law.density(y) * step
    # The sum lies within reach of its own standard deviation, and within what its parts reach.
    low, high = law.ends
    reach = 12 * np.sqrt(others * variance) + (high - low)
    start, stop = (
        max(others * low, others * mean - reach),
        min(others * high, others * mean + reach),
    )
    width = float(np.sqrt(others) * law.stds.min())
    u_step = np.pi / (1.05 * (stop - start))
    u = np.arange(0.0, 9.0 / width + u_step, u_step)
    psi = np.exp(1j * np.outer(u, y - mean)) @ p
    z_step = width / _FINE
    z = np.arange(start, stop + z_step, z_step)
    power = psi**others
    power[0] *= 0.5
    g = (np.exp(-1j * np.outer(z - others * mean, u)) @ power).real * u_step / np.pi
    return z, g * z_step


def _pieces(cuts: Array, panels: int) -> tuple[Array, Array]:
    """Nodes and weights (m, panels * order) on the pieces between cuts (m, 4)."""
    nodes, weights = [], []
    for left, right in zip(cuts.T[:-1], cuts.T[1:], strict=True):
        edges = np.linspace(left, right, panels + 1).T
        half = 0.5 * np.diff(edges, axis=1)[..., None]
        nodes.append((edges[:, :-1, None] + half * (1 + _NODES)).reshape(len(cuts), -1))
        weights.append((half * _WEIGHTS).reshape(len(cuts), -1))
    return np.hstack(nodes), np.hstack(weights)


def mapped_slope(
    weights: Array, means: Array, stds: Array, size: float, group: int, clip: float
) -> float:
    """Cov(clip(A), R) / Var R for A = (R - mean of the group) / size; group = 0: infinite.

    weights, means, stds (K,) of the prompt's rewards."""
    law = _Line(weights, means, stds)
    mean, variance = law.moments()
    if group:
        z, g = _sum_of_others(law, group - 1)
        own, taken = 1 - 1 / group, z / group
    else:
        g, own, taken = np.ones(1), 1.0, np.array([mean])
    low, high = law.ends
    kinks = np.clip((taken[:, None] + size * clip * np.array([-1.0, 1.0])) / own, low, high)
    cuts = np.column_stack([np.full(len(g), low), kinks, np.full(len(g), high)])
    panels = max(_PANELS, int((high - low) / (_WIDE * law.stds.min())))
    total = 0.0
    for first in range(0, len(g), _ROWS):
        rows = slice(first, first + _ROWS)
        y, w = _pieces(cuts[rows], panels)
        mapped = np.clip((own * y - taken[rows, None]) / size, -clip, clip)
        total += float(g[rows] @ (w * law.density(y) * mapped * (y - mean)).sum(axis=1))
    return total / variance


def gaussian_batch_slope(group: int, prompts: int) -> float:
    """Cov(A, R) of N(0, 1) rewards in a batch of `prompts` groups, clip and floor off.

    R less its group's mean is sqrt(1 - 1/n) z, z standard normal, and N S^2 is z^2 plus an
    independent chi-square q of N - 2: E[(1 - 1/n) z^2 sqrt(N / (z^2 + q))], by sums in polar
    coordinates of (z, sqrt(q)).
    """
    rows, own = group * prompts, 1 - 1 / group
    freedom = rows - 2
    if freedom == 0:
        z, w_z = _gauss(0.0, 12.0, 200)
        half_normal = np.sqrt(2 / np.pi) * np.exp(-0.5 * z**2)
        return float(own * np.sqrt(rows) * (w_z @ (z * half_normal)))
    # The root is singular at z = q = 0: not in polar coordinates.
    angle, w_angle = _gauss(0.0, 0.5 * np.pi, 60 + 6 * int(np.sqrt(rows)))
    radius, w_radius = _gauss(0.0, np.sqrt(rows) + 12.0, 400)
    # z = rho cos, sqrt(q) = rho sin; the chi density of sqrt(q).
    rho, phi = radius[:, None], angle[None]
    log_chi = (freedom - 1) * np.log(rho * np.sin(phi)) - 0.5 * (rho * np.sin(phi)) ** 2
    log_chi = log_chi - (0.5 * freedom - 1) * np.log(2.0) - gammaln(0.5 * freedom)
    half_normal = np.sqrt(2 / np.pi) * np.exp(-0.5 * (rho * np.cos(phi)) ** 2)
    value = own * rho * np.cos(phi) ** 2 * np.sqrt(rows) * half_normal * np.exp(log_chi)
    return float(w_radius @ (value * rho) @ w_angle)


@lru_cache(maxsize=64)
def _legendre(count: int) -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(count)


def _gauss(low: float, high: float, count: int) -> tuple[Array, Array]:
    nodes, weights = _legendre(count)
    half = 0.5 * (high - low)
    return low + half * (1 + nodes), half * weights


def enumerated_slopes(
    values: Array, chances: Array, group: int, floor: float, clip: float, spread: float
) -> Array:
    """Cov(r, R) / Var R of every prompt, (P,), by all batches: `group` rows of each prompt.

    values (P, k), chances (P, k): what rewards a prompt's rows have. r as the code computes it."""
    prompts, k = values.shape
    if k ** (group * prompts) > 300_000:
        raise ValueError("too many batches to enumerate")
    cells = np.array(list(product(range(k), repeat=group * prompts)))
    cells = cells.reshape(-1, prompts, group)
    owner = np.arange(prompts)[None, :, None]
    raw, chance = values[owner, cells], chances[owner, cells].prod(axis=(1, 2))
    spread_of_batch = raw.std(axis=(1, 2))[:, None, None]
    advantage = (raw - raw.mean(axis=2, keepdims=True)) / (spread_of_batch + floor)
    r = np.clip(0.5 + np.clip(advantage, -clip, clip) / spread, 0.0, 1.0)
    mean = (values * chances).sum(axis=1)
    variance = ((values - mean[:, None]) ** 2 * chances).sum(axis=1)
    gap = raw - mean[None, :, None]
    return np.asarray((chance[:, None] * (r * gap).mean(axis=2)).sum(axis=0) / variance)


# --- the penalty


def penalised_minimiser(
    case: PlaneNumbers,
    x: Array,
    at: Instant,
    nft_beta: float,
    kl_weight: float,
    v_old: Array,
    v_ref: Array,
    size: float = 1.0,
) -> Array:
    """The velocity mu (d,) that minimises, given X_t = x on the rectified-flow path,

        E[(5/b) (r |x1+ - X_1|^2 + (1 - r) |x1- - X_1|^2) / size | x] + kl_weight |mu - v_ref|^2,

    x1+- = x1(v_old) +- b (x1(mu) - x1(v_old)), x1(v) = x + sigma v, b = nft_beta, from values of
    values of this loss alone."""
    parts = _Split(case, x, at)
    e, frame = parts.e, case.frame
    here, old, ref = frame.T @ x, frame.T @ v_old, frame.T @ v_ref
    share = float(parts.law.mean(lambda y: parts.reward(y)).value[0])

    def losses(mu: Array, v: Array, r: Array | float, where: tuple[Array, Array, Array]) -> Array:
        """The loss by coordinates; all broadcast. where: x, v_old and v_ref."""
        x, v_old, v_ref = where
        data, x1_old, x1_new = x + at.sigma * v, x + at.sigma * v_old, x + at.sigma * mu
        plus, minus = (x1_old + s * nft_beta * (x1_new - x1_old) for s in (1, -1))
        fit = r * (plus - data) ** 2 + (1 - r) * (minus - data) ** 2
        return np.asarray(5 / nft_beta * fit / size + kl_weight * (mu - v_ref) ** 2)

    def plane(mu: Array, y: Array) -> Array:
        r = parts.reward(y)[:, :, None]
        return losses(mu, parts.v(y)[:, None, :], r, (here[:e], old[:e], ref[:e])).sum(axis=-1)

    def rest(mu: Array, w: Array) -> Array:
        return losses(mu[..., None], w, share, (here[e:, None], old[e:, None], ref[e:, None]))

    return _minimiser(parts, plane, rest, old, 1.0 + float(np.abs(old).max()))


def pushed_origin(field: Callable[[float, float], float], rtol: float = 1e-10) -> float:
    """X_1 of dX = field(X, t) dt from X_0 = 0: the mean of the law where fields are affine."""
    done = solve_ivp(
        lambda t, x: [field(float(x[0]), t)], (0.0, 1.0), [0.0], method="DOP853",
        rtol=rtol, atol=1e-12,
    )  # fmt: skip
    if not done.success:
        raise RuntimeError(f"the flow could not be followed: {done.message}")
    return float(done.y[0, -1])


# --- averages


def followed_tilt(
    decays: Sequence[Fraction], step: Fraction, kept: Fraction = Fraction(1)
) -> tuple[Fraction, Fraction]:
    """(tilt of the old copy, sum of its full updates) after the epochs, carried one by one.

    Every epoch the student goes to `kept` of (old + step), and old <- d old + (1 - d) student."""
    old = updates = Fraction(0)
    for d in decays:
        student = kept * (old + step)
        old = d * old + (1 - d) * student
        updates += 1 - d
    return old, updates


def ramp(k: Fraction, flat: Fraction, rate: Fraction, most: Fraction) -> Fraction:
    """0 before step `flat`, then rate (k - flat), at most `most`."""
    return Fraction(0) if k < flat else min(rate * (k - flat), most)


def averaged_factors(
    A: Sequence[Array], B: Sequence[Array], decays: Sequence[float]
) -> tuple[Array, Array]:
    """(product of averaged factors, average of products) after following A[1:], B[1:] from A[0],
    B[0]; A (r, n), B (m, r)."""
    a, b, whole = A[0], B[0], B[0] @ A[0]
    for new_a, new_b, d in zip(A[1:], B[1:], decays, strict=True):
        a, b = d * a + (1 - d) * new_a, d * b + (1 - d) * new_b
        whole = d * whole + (1 - d) * new_b @ new_a
    return b @ a, whole


# --- epochs on the line


@dataclass(frozen=True)
class Epochs:
    """nft_beta, kl_weight and the normaliser's constant size; mode as `online.laws` has it ("refit"
    or "student"); mapped: rewards less their mean under the data's law, over 10 times their
    standard deviation (+ 1e-4), plus 1/2."""

    nft_beta: float
    kl_weight: float
    size: float = 1.0
    mode: str = "student"
    mapped: bool = False

    def rewarded(self, law: LineLaw, x: Array, t: float) -> tuple[Array, Array, Array]:
        """E[V], E[r] and E[r V] given X_t = x, r as the loss takes it, each (m,)."""
        u, m, product = law.moments(x, t)
        if not self.mapped:
            return u, m, product
        p = np.exp(law.values - law.values.max())
        mean = float(p @ law.rewards / p.sum())
        std = float(np.sqrt(p @ (law.rewards - mean) ** 2 / p.sum()))
        gain = 0.1 / (std + 1e-4)
        return u, 0.5 + gain * (m - mean), 0.5 * u + gain * (product - mean * u)

    def optimum(
        self, law: LineLaw, x: Array, t: float, old: Array | None, reference: Array
    ) -> tuple[Array, Array]:
        """u, and where the penalised loss on x_1-predictions is stationary, each (m,)."""
        if t == 1:
            return x, x
        u, m, product = self.rewarded(law, x, t)
        v = u if old is None else old
        b, sigma = self.nft_beta, 1 - t
        # x1+- - x1 = sigma (v +- b (mu - v) - V), with weights r and 1 - r.
        top, bottom = self.kl_weight * reference, np.full(len(x), self.kl_weight)
        for s, mass, target in ((1, m, product), (-1, 1 - m, u - product)):
            lead = 5 / b / self.size * sigma**2 * s * b
            top = top + lead * (target - mass * (1 - s * b) * v)
            bottom = bottom + lead * s * b * mass
        return u, np.asarray(top / bottom)


def released_laws(
    case: PlaneNumbers, rules: Sequence[Epochs], decays: Sequence[float]
) -> list[LineLaw]:
    """The laws after 0, 1, ... epochs: penalised optima from v_old, anchored to the first field,
    the old field following as d v + (1 - d) mu. Raises as `online.sampled` does."""
    first = start(case)
    found = [first]
    field: Field = first.velocity
    for rule, d in zip(rules, decays, strict=True):
        field = _followed(rule, first, found[-1], field, d)
        found.append(sampled(found[-1], field))
    return found


def _followed(rule: Epochs, first: LineLaw, law: LineLaw, before: Field, d: float) -> Field:
    def field(x: Array, t: float) -> Array:
        old = before(x, t) if rule.mode == "student" else None
        u, new = rule.optimum(law, x, t, old, first.velocity(x, t))
        return np.asarray(d * (u if old is None else old) + (1 - d) * new)

    return field


def mean_after_epoch(case: PlaneNumbers, rule: Epochs) -> float:
    """Mean of what one epoch's optimum samples, where its field is affine."""
    law = start(case)

    def velocity(x: float, t: float) -> float:
        place = np.array([x])
        if 1 - t < 1e-9:
            return x
        return float(rule.optimum(law, place, t, None, law.velocity(place, t))[1][0])

    return pushed_origin(velocity)


def schedule_sums(
    flat: int, rate: float, most: float, epochs: int, steps: int, kept: float, step: float
) -> Array:
    """(full updates, tilt of the old copy), carried epoch by epoch in exact rationals."""
    decays = [
        ramp(Fraction(steps * e), Fraction(flat), Fraction(rate), Fraction(most))
        for e in range(1, epochs + 1)
    ]
    old, updates = followed_tilt(decays, Fraction(step), Fraction(kept))
    return np.array([float(updates), float(old)])
