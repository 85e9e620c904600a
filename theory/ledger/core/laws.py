"""Laws of many problems at once on the line, and laws by draws in any dimension, for rows about
what a field samples.

Every batch is one call of the ODE: laws of NFT's optimum at many inverse temperatures, and the
tilts that they are compared with. Draws carry their log-density, so that they tell how far their
law is from a density that is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from theory.fields.mixture import ExactField
from theory.laws.distances import integral_of_absolute
from theory.laws.gaussians import GaussianSum
from theory.ledger.core.claim import Array, number
from theory.ledger.core.order import CONFIDENCE
from theory.problems.problem import Problem, load_problem
from theory.samplers.flow import FlowLaw
from theory.tilts.bump_rewards import BumpReward, bumps_reward
from theory.tilts.moments import reward_moments
from theory.tilts.quadratic import QuadraticReward
from theory.tilts.tilt import Tilt, polynomial_sum
from theory.tilts.wrappers import Exponential, TruncatedExponential

AXIS = np.linspace(-8.0, 9.0, 341)
LINE = np.linspace(-9.0, 9.0, 601)
RTOL, ATOL = 1e-5, 1e-7  # of maps, whose errors are read to two digits
DRAW_RTOL, DRAW_ATOL = 1e-6, 1e-8
SLOPE_RTOL, SLOPE_ATOL = 1e-10, 1e-12
LOG_FLOOR = 1e-9  # what SLOPE_RTOL leaves in a log-density
TARGETS = ("exp(ar)", "1+ar", "1+ar+(ar)²/2")


def exponential_tilts(problem: Problem, scales: Tensor) -> GaussianSum:
    """base exp(a r)/Z for a batch of a, as one batch of Gaussian sums."""
    reward = problem.reward
    assert isinstance(reward, BumpReward | QuadraticReward)
    base = problem.base
    if not base.batch_shape:
        base = base.expanded((len(scales),))
    return reward.exponential_tilt(base, scales).normalised()


def field_errors(problem: Problem, scales: Array, order: int = 1, stretch: float = 1.0) -> Array:
    """RMS over draws of X_t and over t of |v_order - v^a|, one a scale; v_order at stretch a."""
    a = torch.as_tensor(scales)
    generator = torch.Generator().manual_seed(5)
    tilts = exponential_tilts(problem, a)
    field = problem.cumulant_field(stretch * a, order)
    square = torch.zeros(len(scales), dtype=torch.float64)
    times = (0.1, 0.3, 0.5, 0.7, 0.9)
    for t in times:
        x = path_points(problem, t, 64, generator).expand(len(scales), -1, -1)
        exact = tilts.noised(x, torch.tensor(t), torch.tensor(1 - t)).mean
        square += ((field(x, t) - (exact - x) / (1 - t)) ** 2).sum(-1).mean(-1)
    return np.asarray((square / len(times)).sqrt())


def path_points(problem: Problem, t: float, n: int, generator: torch.Generator) -> Tensor:
    """n draws of X_t on the rectified flow, (n, d)."""
    x1 = problem.base.sample(n, generator)
    return t * x1 + (1 - t) * torch.randn(x1.shape, dtype=torch.float64, generator=generator)


def base_points(problem: Problem, n: int, seed: int = 3) -> Tensor:
    """n draws of the base, (n, d): where log-densities are compared."""
    return problem.base.sample(n, torch.Generator().manual_seed(seed))


def reward_spread(problem: Problem) -> float:
    """Standard deviation of r under the base."""
    return reward_moments(problem.base, problem.moments)[1]


# --- laws on the line


def column(values: Array) -> Tensor:
    return torch.as_tensor(values)[:, None]


def total_variation(p: Array, q: Array, axis: Array = LINE) -> float:
    return float(0.5 * np.trapezoid(np.abs(p - q), axis))


def nft_densities(problem: Problem, scales: Sequence[float], axis: Array = LINE) -> Array:
    """The densities of what NFT's optima sample by the ODE, (m, n): one solution for all scales."""
    a = torch.tensor(scales, dtype=torch.float64)
    points = column(axis).expand(len(a), len(axis), 1)
    law = FlowLaw(problem.cumulant_field(a, 1), rtol=1e-8, atol=1e-10)
    return law.log_density(points).exp().numpy()


def nft_density(problem: Problem, scale: float, axis: Array = LINE) -> Array:
    """The density at one scale."""
    return np.asarray(nft_densities(problem, (scale,), axis)[0])


def tilt_density(problem: Problem, scale: float, axis: Array = LINE) -> Array:
    """The density of base exp(scale r)/Z."""
    return problem.tilt(Exponential(scale)).log_density(column(axis)).exp().numpy()


def log_gap(
    field: ExactField,
    target: GaussianSum | Tilt,
    x: Tensor,
    rtol: float = 1e-9,
    atol: float = 1e-11,
) -> float:
    """The largest |log q - log p| at x (n, d): q what the field samples, p the target."""
    return float((FlowLaw(field, rtol, atol).log_density(x) - target.log_density(x)).abs().max())


# --- draws with their log-densities, in any dimension


@dataclass(frozen=True)
class Estimate:
    """A mean over draws with its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Array) -> Estimate:
        return cls(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))

    @property
    def half(self) -> float:
        """Half the width of the interval of CONFIDENCE."""
        return float(ndtri(0.5 + CONFIDENCE / 2)) * self.error

    def __str__(self) -> str:
        return f"{number(self.value)} ± {number(self.half)}"


@dataclass(frozen=True)
class Draws:
    """Draws x (n, d) of a flow's law q, log q there (n,), and log N(x_0; 0, I) where each began."""

    x: Tensor
    log_q: Array
    log_start: Array

    def against(self, log_p: Array) -> Distances:
        """How far q is from the normalised density p with these values at the draws, (n,)."""
        return Distances(self.log_q - log_p)


@dataclass(frozen=True)
class Distances:
    """log q - log p at draws of q, (n,)."""

    gaps: Array

    @property
    def mass(self) -> Estimate:
        """E_q[p / q], 1 for every normalised p: tells whether log q is that of the draws."""
        return Estimate.of(np.exp(-self.gaps))

    @property
    def tv(self) -> Estimate:
        """TV(q, p) = E_q |1 - p / q| / 2."""
        return Estimate.of(0.5 * np.abs(np.expm1(-self.gaps)))

    @property
    def excess(self) -> Array:
        """log q / p + p / q - 1, (n,): never negative, so that its mean KL(q | p) has little
        noise."""
        return np.asarray(self.gaps + np.expm1(-self.gaps))

    @property
    def kl(self) -> Estimate:
        """KL(q | p)."""
        return Estimate.of(self.excess)


def draw(field: ExactField, n: int, seed: int = 5) -> Draws:
    """n draws of what the field samples by its ODE."""
    law = FlowLaw(field, rtol=DRAW_RTOL, atol=DRAW_ATOL, method="dopri5")
    x0 = law.start(n, torch.Generator().manual_seed(seed))
    x, log_q = law.push_with_log_density(x0)
    log_start = -0.5 * (x0**2).sum(-1) - 0.5 * law.dim * math.log(2 * math.pi)
    return Draws(x, log_q.numpy(), log_start.numpy())


# --- families of bumps over the note's base


@dataclass(frozen=True)
class BumpFamily:
    """The note's base with bumps of height 1: centre, width and inverse temperature, one each a
    row."""

    centres: tuple[float, ...]
    widths: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def problem(self) -> Problem:
        count = len(self.centres)
        reward = bumps_reward(
            torch.ones(count, 1, dtype=torch.float64),
            torch.tensor(self.centres, dtype=torch.float64)[:, None, None],
            widths=torch.tensor(self.widths, dtype=torch.float64)[:, None],
        )
        return Problem("bump family", load_problem("note_1d").base.expanded((count,)), reward)

    @property
    def a(self) -> Tensor:
        return torch.tensor(self.scales, dtype=torch.float64)


@lru_cache(maxsize=8)
def family_laws(family: BumpFamily) -> tuple[Array, dict[str, Array]]:
    """(densities of NFT's law (m, n), {target: densities (m, n)}) on AXIS."""
    problem, a = family.problem, family.a
    points = torch.as_tensor(AXIS)[:, None].expand(len(a), len(AXIS), 1)
    field = problem.cumulant_field(a, 1)
    law = FlowLaw(field, rtol=RTOL, atol=ATOL, method="dopri5").log_density(points).exp()
    reward = problem.reward
    assert isinstance(reward, BumpReward)
    targets = {"exp(ar)": reward.exponential_tilt(problem.base, a).normalised()}
    for order, name in ((1, TARGETS[1]), (2, TARGETS[2])):
        total = polynomial_sum(problem.base, reward, TruncatedExponential(a, order))
        targets[name] = total.normalised()
    return law.numpy(), {name: t.density(points).numpy() for name, t in targets.items()}


def total_variations(p: Array, q: Array) -> Array:
    """TV of rows of densities on AXIS."""
    return np.array([0.5 * integral_of_absolute(AXIS, row) for row in p - q])


def product_family(
    centres: Sequence[float], scales: Sequence[float], width: float = 1.0
) -> BumpFamily:
    """Every pair of centre and scale, scales fastest."""
    pairs = [(c, s) for c in centres for s in scales]
    return BumpFamily(
        tuple(float(c) for c, _ in pairs), (width,) * len(pairs), tuple(float(s) for _, s in pairs)
    )
