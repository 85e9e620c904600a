"""Numbers that compare a tuned model with its base, each with an interval.

    mean reward           m = mean r
    gain                  (mean r_tuned - mean r_base) / std r_base, by pairs of the same seed
    diversity             Tr Cov(f) of features f; within prompts: around each one's mean
    Frechet distance      |m_b - m_t|^2 + Tr(C_b + C_t - 2 (C_b^1/2 C_t C_b^1/2)^1/2)
    prompt accuracy       the share of pictures that show what their prompt names

Intervals are bootstrapped over pictures, seeded (Efron 1987: BCa; Davison and Hinkley 1997: basic);
Wilson's (1927) for shares. Drawing whole pictures treats their prompts as drawn too: where every
prompt has the same number of pictures by design, such an interval is somewhat too wide.

The Frechet distance (Dowson and Landau 1982; squared, as FID is, Heusel et al. 2017) of two samples
is biased: it is positive when the laws are the same, by about 1/n. A resample is biased by about as
much again, so 2 value - mean(resampled) takes the bias off (`corrected`), and so does the basic
interval, 2 value - quantiles: it may lie below `value`. `floor` is the distance between random
halves of the base, for scale: what samples of other seeds would have without any difference. Pairs
of the same seed show far smaller ones, since an unchanged model's are zero: there the interval is
the evidence. With few pictures for the number of features (n below some 20 d) `corrected` takes
only a part of the bias off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.stats import DegenerateDataWarning

from theory.audit.estimators.excess import frechet as frechet_of_moments
from theory.common.checks import check_order

Array = NDArray[np.float64]
CONFIDENCE = 0.95
RESAMPLES = 1000
# BCa needs a jackknife of n x n numbers; at this n it moves the ends by less than their error.
MOST_FOR_BCA = 2000
# As many prompts must have pictures before whole prompts are drawn instead of pictures.
LEAST_PROMPTS = 8
SPLITS = 20


@dataclass(frozen=True)
class Estimate:
    """A number, and the interval that covers the truth with probability CONFIDENCE."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class Frechet(Estimate):
    """value is the plain one; corrected, with its small-sample bias taken off; floor as above."""

    corrected: float
    floor: float

    def __str__(self) -> str:
        # The interval is about the corrected value; the plain one may lie outside it.
        return f"{self.corrected:.3g} [{self.low:.3g}, {self.high:.3g}] (plain {self.value:.3g})"


def _rows(name: str, values: ArrayLike, ndim: int, least: int = 2) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != ndim or len(found) < least:
        shape = "(n,)" if ndim == 1 else "(n, d)"
        raise ValueError(
            f"{name} must have shape {shape} with n at least {least}, got {found.shape}"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite, got values that are not")
    return found


def _same_length(name: str, values: Array, other_name: str, other: Array) -> None:
    if values.shape != other.shape:
        raise ValueError(
            f"{name} must have {other_name}'s shape, {other.shape}, row by row the same seed and "
            f"prompt, got {values.shape}"
        )


def _interval(
    statistic: Callable[..., Array], data: tuple[Array, ...], seed: int, resamples: int
) -> Estimate:
    """BCa (percentile where n is large) of a statistic of rows that are drawn together."""
    value = float(statistic(*data, axis=-1))
    n = data[0].shape[-1]
    check_order("resamples", resamples, 10)
    # Rows all alike: every resample is the sample, and BCa divides by zero.
    if all(np.ptp(part) == 0 for part in data):
        return Estimate(value, value, value)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = stats.bootstrap(
            data,
            statistic,
            n_resamples=resamples,
            paired=True,
            vectorized=True,
            confidence_level=CONFIDENCE,
            method="BCa" if n <= MOST_FOR_BCA else "percentile",
            batch=max(1, 2**22 // n),
            rng=np.random.default_rng(seed),
        )
    low, high = (float(v) for v in found.confidence_interval)
    if not (np.isfinite(low) and np.isfinite(high)):  # BCa's weights need resamples that differ
        ends = np.array([0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
        low, high = (float(v) for v in np.quantile(found.bootstrap_distribution, ends))
    return Estimate(value, low, high)


# --- rewards


def mean_reward(values: ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean of values (n,).

    Raises:
        ValueError: fewer than two, or not finite.
    """
    return _interval(np.mean, (_rows("values", values, 1),), seed, resamples)


def reward_gain(
    base: ArrayLike, tuned: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """(mean tuned - mean base) / std base (n - 1 in it); rows of the same seed and prompt.

    Raises:
        ValueError: shapes differ, fewer than two rows, not finite, or the base is constant.
    """
    first, second = _rows("base", base, 1), _rows("tuned", tuned, 1)
    _same_length("tuned", second, "base", first)
    if np.ptp(first) == 0:
        raise ValueError(
            f"base must be rewards that vary, got {first[0]:g} alone: a gain in standard "
            "deviations is not defined"
        )

    def gain(a: Array, b: Array, axis: int) -> Array:
        spread = np.std(a, axis=axis, ddof=1)
        # A resample of a nearly constant base may be constant; it says nothing of the spread.
        spread = np.where(spread > 0, spread, np.std(first, ddof=1))
        return np.asarray((np.mean(b, axis=axis) - np.mean(a, axis=axis)) / spread)

    return _interval(gain, (first, second), seed, resamples)


def accuracy(right: ArrayLike) -> Estimate:
    """Share of True in right (n,), with Wilson's interval.

    Raises:
        ValueError: right is empty or holds anything but True and False.
    """
    found = np.asarray(right)
    if found.ndim != 1 or not len(found) or found.dtype != np.bool_:
        raise ValueError(
            f"right must be (n,) of booleans, n at least 1, got shape {found.shape} and dtype "
            f"{found.dtype}"
        )
    test = stats.binomtest(int(found.sum()), len(found))
    ends = test.proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(float(test.statistic), float(ends.low), float(ends.high))


# --- diversity


def diversity(
    features: ArrayLike,
    prompt_index: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Tr Cov(f) of features (n, d), without bias; with prompts, within them:

        sum_p sum_i |f_pi - mean_p|^2 / sum_p (n_p - 1)

    Both are sums over units of a numerator and a denominator; units are drawn together. Units are
    pictures, or prompts where LEAST_PROMPTS of them have pictures to spare: two pictures of one
    prompt lie at the same distance from their mean, and are one piece of evidence, not two.

    Raises:
        ValueError: wrong shapes, not finite, or no prompt has two pictures.
    """
    rows = _rows("features", features, 2)
    asked = np.zeros(len(rows)) if prompt_index is None else np.asarray(prompt_index)
    if asked.shape != (len(rows),):
        raise ValueError(
            f"prompt_index must have shape ({len(rows)},), one a row, got {asked.shape}"
        )
    groups = np.unique(asked, return_inverse=True)[1]
    counts: Array = np.bincount(groups).astype(np.float64)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, groups, rows)
    away = np.square(rows - (sums / counts[:, None])[groups]).sum(1)
    room = ((counts - 1) / counts)[groups]
    if not (counts > 1).any():
        raise ValueError("at least one prompt must have two pictures, and none has")
    if (counts > 1).sum() >= LEAST_PROMPTS:
        away = np.bincount(groups, away).astype(np.float64)
        room = np.bincount(groups, room).astype(np.float64)
    spare = room > 0  # a prompt's only picture says nothing of what lies within prompts
    return _interval(
        lambda above, below, axis: above.sum(axis) / below.sum(axis),
        (away[spare], room[spare]),
        seed,
        resamples,
    )


# --- Frechet distance


def frechet(first: Array, second: Array) -> float:
    """The Frechet distance (squared) between Gaussians with two samples' moments.

    first (n, d), second (m, d). Tr (C_b^1/2 C_t C_b^1/2)^1/2 is the sum of the singular values of
    B T' / sqrt((n - 1)(m - 1)), B and T the centred rows: where n or m is smaller than d that
    matrix is the small one, else the eigenvalues of the symmetric product are.
    """
    gap = first.mean(0) - second.mean(0)
    a = (first - first.mean(0)) / np.sqrt(len(first) - 1)
    b = (second - second.mean(0)) / np.sqrt(len(second) - 1)
    if max(len(a), len(b)) >= a.shape[1]:
        return frechet_of_moments((gap, a.T @ a), (np.zeros_like(gap), b.T @ b))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = gap @ gap + np.square(a).sum() + np.square(b).sum() - 2 * cross
    return float(max(distance, 0.0))  # equal samples: rounding may leave it below zero


def frechet_distance(
    base: ArrayLike, tuned: ArrayLike, seed: int = 0, resamples: int = 400
) -> Frechet:
    """`frechet` of rows of the same seed and prompt, with corrected value, interval and floor.

    base, tuned: (n, d). Rows are drawn in pairs. n well above d is needed for more than a guess.

    Raises:
        ValueError: wrong shapes, not finite, shapes that differ, or fewer than four rows (two
            halves).
    """
    first, second = _rows("base", base, 2, least=4), _rows("tuned", tuned, 2, least=4)
    _same_length("tuned", second, "base", first)
    check_order("resamples", resamples, 10)
    rng, n = np.random.default_rng(seed), len(first)
    value = frechet(first, second)
    draws = (rng.integers(n, size=n) for _ in range(resamples))
    again = np.array([frechet(first[rows], second[rows]) for rows in draws])
    tail = (1 - CONFIDENCE) / 2
    low, high = (2 * value - np.quantile(again, q) for q in (1 - tail, tail))
    orders = [rng.permutation(n) for _ in range(SPLITS)]
    halves = [frechet(first[o[: n // 2]], first[o[n // 2 :]]) for o in orders]
    return Frechet(
        value=value,
        low=max(0.0, float(low)),
        high=max(0.0, float(high)),
        corrected=max(0.0, float(2 * value - again.mean())),
        floor=float(np.mean(halves)),
    )
