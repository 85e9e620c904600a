r"""The released reward mapping as a law: what one epoch's tilt is in units of the raw reward.

A row with raw reward R, in a group of n rows of one prompt (its own among them), gets

    r = 1/2 + clip(A, -C, C) / D,    A = (R - mean of the group) / (S + floor),    C = 5, D = 10,

S the standard deviation over the whole batch, floor = 1e-4 (C / D = 1/2, so that the code's last
clamp to [0, 1] changes nothing). The loss is linear in r and the other rows are independent of X_1
and of the noise: given a prompt, the loss sees E[r | R] alone, and the step of an epoch is

    (2 / nft_beta) Cov(Y, E[r | R] | X_t).

To first order E R moves by (2/nft_beta) Cov(r, R), which is what the tilt exp(a R) does at

    a = (2/nft_beta) Cov(r, R) / Var R,    per raw reward; times std(R) per standard deviation.

Without clipping, for a batch of any law and size, rows of a prompt being exchangeable,

    Cov(r, R) = E[V_p / (S + floor)] / D,    V_p the group's variance (divided by n),

since the A of a group add up to 0. A large batch has S fixed, and E V_p = (1 - 1/n) Var R; hence

    a std(R) = (0.2 / nft_beta) (1 - 1/n) std(R) / (S + floor):    0.2/nft_beta where n is large
    and every prompt has the mean and the spread of the batch.

With clipping, S fixed, rewards a Gaussian mixture: the mean of the others is one too, given how
many of them come from which component, and Stein's identity gives Cov(clip(A), R) of jointly
Gaussian pairs as Cov(A, R) P(|A| < C); with another advantage mode, f(A) in A's place, as
Cov(A, R) E f'(A) (theory.released.modes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from theory.common.checks import check_finite, check_order, check_positive
from theory.methods.matching.reward_mapping import CLIP, SPREAD, STD_FLOOR
from theory.released.modes import mode

Array = NDArray[np.float64]
MOST_SPLITS = 20_000  # ways in which the other rows fall into components


@dataclass(frozen=True, eq=False)
class Rewards:
    """Raw rewards of one prompt: the mixture sum_k w_k N(m_k, s_k^2); weights, means, stds (K,).

    Raises:
        ValueError: shapes differ, weights that are negative or do not sum to 1, stds not positive.
    """

    weights: Array
    means: Array
    stds: Array

    def __post_init__(self) -> None:
        for name in ("weights", "means", "stds"):
            value = np.atleast_1d(np.asarray(getattr(self, name), dtype=float))
            object.__setattr__(self, name, value)
            if value.ndim != 1 or value.shape != np.shape(np.atleast_1d(self.weights)):
                raise ValueError(f"{name} must be one number a part, got shape {value.shape}")
            if not np.isfinite(value).all():
                raise ValueError(f"{name} must hold finite numbers, got {value.tolist()}")
        if (self.weights < 0).any() or abs(self.weights.sum() - 1) > 1e-9:
            raise ValueError(
                f"weights must be numbers >= 0 that sum to 1, got {self.weights.tolist()}"
            )
        if (self.stds <= 0).any():
            raise ValueError(f"stds must be numbers > 0, got {self.stds.tolist()}")

    @classmethod
    def gaussian(cls, mean: float = 0.0, std: float = 1.0) -> Rewards:
        return cls(np.ones(1), np.array([mean]), np.array([std]))

    @cached_property
    def mean(self) -> float:
        return float(self.weights @ self.means)

    @cached_property
    def variance(self) -> float:
        return float(self.weights @ (self.stds**2 + (self.means - self.mean) ** 2))

    @property
    def std(self) -> float:
        return math.sqrt(self.variance)


def batch_std(prompts: Sequence[Rewards], shares: ArrayLike | None = None) -> float:
    """S of an infinite batch: sqrt(mean of the prompts' variances + variance of their means);
    shares (P,) of the prompts in it, equal unless told."""
    if not prompts:
        raise ValueError("prompts must be one or more, got []")
    p = np.full(len(prompts), 1 / len(prompts)) if shares is None else np.asarray(shares, float)
    if p.shape != (len(prompts),) or (p < 0).any() or abs(p.sum() - 1) > 1e-9:
        raise ValueError(
            f"shares must be {len(prompts)} numbers >= 0 that sum to 1, got {p.tolist()}"
        )
    means = np.array([q.mean for q in prompts])
    within = np.array([q.variance for q in prompts])
    return float(math.sqrt(p @ within + p @ (means - p @ means) ** 2))


@dataclass(frozen=True, eq=False)
class MappedRewards:
    """E[r | R] and its slope for one prompt, S fixed.

    std: S, of the batch; group: rows n of the prompt in it, None: infinitely many; adv_mode: what
    stands in A's place (theory.released.modes).

    Raises:
        ValueError: std not positive; group below 2, or too large for this many components; another
            adv_mode.
    """

    rewards: Rewards
    std: float
    group: int | None = 24
    clip: float = CLIP
    floor: float = STD_FLOOR
    adv_mode: str = "all"
    _splits: list[tuple[float, float, float]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_positive("std", self.std)
        check_positive("clip", self.clip)
        check_finite("floor", self.floor)
        mode(self.adv_mode)
        if self.group is not None:
            check_order("group", self.group, 2)
            ways = math.comb(self.group - 2 + len(self.rewards.weights), self.group - 1)
            if ways > MOST_SPLITS:
                raise ValueError(
                    f"group must have at most {MOST_SPLITS} splits with "
                    f"{len(self.rewards.weights)} components, got {ways} of group = {self.group}"
                )
        object.__setattr__(self, "_splits", list(self._others()))

    def _others(self) -> Iterator[tuple[float, float, float]]:
        """(probability, mean, variance) of what is taken from (n - 1) R / n, by split."""
        law = self.rewards
        if self.group is None:
            yield 1.0, law.mean, 0.0
            return
        n, logs = self.group, np.log(np.maximum(law.weights, 1e-300))
        for counts in _compositions(self.group - 1, len(logs)):
            c = np.array(counts, dtype=float)
            log_p = gammaln(n) - gammaln(c + 1).sum() + c @ logs
            yield math.exp(log_p), float(c @ law.means) / n, float(c @ law.stds**2) / n**2

    @property
    def own(self) -> float:
        """1 - 1/n: the share of the own reward that the group's mean, which holds it, leaves."""
        return 1.0 if self.group is None else 1 - 1 / self.group

    def expected(self, raw: ArrayLike) -> Array:
        """E[r | R = raw], of raw's shape."""
        x, size = np.asarray(raw, dtype=float), self.std + self.floor
        f, total = mode(self.adv_mode), np.zeros(x.shape)
        for p, mean, variance in self._splits:
            total += p * f.mean((self.own * x - mean) / size, math.sqrt(variance) / size, self.clip)
        return np.asarray(0.5 + total / SPREAD)

    @cached_property
    def slope(self) -> float:
        """Cov(r, R) / Var R."""
        law, size, f = self.rewards, self.std + self.floor, mode(self.adv_mode)
        total = 0.0
        for p, mean, variance in self._splits:
            centre = (self.own * law.means - mean) / size
            width = np.sqrt((self.own * law.stds) ** 2 + variance) / size
            pairs = self.own * law.stds**2 / size * f.slope(centre, width, self.clip)
            pairs = pairs + (law.means - law.mean) * f.mean(centre, width, self.clip)
            total += p * float(law.weights @ pairs)
        return total / (SPREAD * law.variance)

    def effective_tilt(self, nft_beta: float) -> float:
        """a std(R): the tilt of one epoch per standard deviation of the prompt's rewards."""
        check_positive("nft_beta", nft_beta)
        return 2 / nft_beta * self.slope * self.rewards.std


def ideal_tilt(nft_beta: float) -> float:
    """0.2/nft_beta: per standard deviation, infinite group, nothing clipped, equal prompts."""
    check_positive("nft_beta", nft_beta)
    return 2 / (SPREAD * nft_beta)


def gaussian_batch_share(group: int, prompts: int) -> float:
    """The factor on 0.2/nft_beta for equal Gaussian prompts in a finite batch of N = n P rows,
    floor 0, nothing clipped:

        (N (n - 1)) / (n (N - 1)) E[S] / std(R),
        E[S] / std(R) = sqrt(2/N) Gamma(N/2) / Gamma((N-1)/2).

    V_p / S^2 is independent of S^2 and N S^2 of N - 1 degrees of freedom holds n V_p of n - 1.

    Raises:
        ValueError: group below 2 or prompts below 1.
    """
    check_order("group", group, 2)
    check_order("prompts", prompts, 1)
    rows = group * prompts
    spread = math.sqrt(2 / rows) * math.exp(gammaln(rows / 2) - gammaln((rows - 1) / 2))
    return rows * (group - 1) / (group * (rows - 1)) * spread


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Whole numbers >= 0, `parts` of them, that add up to total."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


def finite_batch_slopes(
    values: ArrayLike, chances: ArrayLike, group: int, floor: float = STD_FLOOR
) -> Array:
    """E[V_p / (S + floor)] / (D Var_p R) for rewards on atoms, (P,): Cov(r, R) / Var R of every
    prompt where no |A| reaches the clip, by the counts of the atoms in a batch.

    values, chances (P, k): the atoms of P prompts, of which the batch holds `group` rows each.

    Raises:
        ValueError: shapes differ, chances that do not sum to 1, or too many batches.
    """
    x, p = np.asarray(values, dtype=float), np.asarray(chances, dtype=float)
    check_order("group", group, 2)
    if x.ndim != 2 or x.shape != p.shape:
        raise ValueError(
            f"values and chances must have one shape (P, k), got {x.shape} and {p.shape}"
        )
    if (p < 0).any() or np.abs(p.sum(1) - 1).max() > 1e-9:
        raise ValueError(f"chances must be rows >= 0 that sum to 1, got {p.tolist()}")
    counts = np.array(list(_compositions(group, x.shape[1])), dtype=float)
    if len(counts) ** len(x) > MOST_SPLITS:
        raise ValueError(
            f"batches of atoms must be {MOST_SPLITS} at most, got {len(counts)} ** {len(x)}"
        )
    with np.errstate(divide="ignore"):
        logs = np.where(p > 0, np.log(np.where(p > 0, p, 1.0)), -1e300)
    chance = np.exp(gammaln(group + 1) - gammaln(counts + 1).sum(1) + logs @ counts.T)  # (P, m)
    first, second = x @ counts.T / group, x**2 @ counts.T / group
    every = np.stack(np.meshgrid(*[np.arange(len(counts))] * len(x), indexing="ij"), -1)
    every = every.reshape(-1, len(x))
    own = np.arange(len(x))
    weight = chance[own, every].prod(1)
    mean, square = first[own, every], second[own, every]
    within = square - mean**2
    spread = np.sqrt(np.maximum(square.mean(1) - mean.mean(1) ** 2, 0.0))
    variance = (p * (x - (p * x).sum(1, keepdims=True)) ** 2).sum(1)
    return np.asarray(weight @ (within / (spread + floor)[:, None]) / (SPREAD * variance))
