r"""Diversity and Frechet distance: what the tilt implies, and what was lost or moved beyond it.

Any tilt narrows a law or moves it. The base reweighted by the free curve of its rewards is what a
tilt alone would have left; tuned samples are compared with that, not with the base:

    variance within prompts    base -> implied, by the reweighted base
    lost beyond the tilt       1 - V_tuned / V_base, tuned weighted by 1 - pi, base by pi
    Frechet distance           of (base, tuned); implied: (base, reweighted base); excess:
                               (reweighted base, tuned), less its mean over permuted labels

V is the trace of the features' covariance within prompts, without bias: sum w |f - m|^2 /
(1 - sum w^2); features are in units of the base's deviation within prompts (features.py), so that
none outweighs the rest. The loss is measured where the two laws overlap, as in conditional.py: the
tail that a tilt moves mass to is thin in the base's samples, and their reweighted variance misses
it. The interval resamples prompts where there are enough, else rows, the curve following to first
order; the p-value of no loss is of the same resamples: where the interval ends at 0 it is 5 %. That
of one prompt is that of sum (y - pi) |f - m|^2 among the permutations of conditional.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from theory.audit.data.features import MOST_ROWS, Deviations, at_most, deviations
from theory.audit.data.samples import SIDES, Array, AuditData, Pooled
from theory.audit.estimators.conditional import (
    Permuted,
    TooFewError,
    orthogonal,
    prompt_sums,
    rank,
    standardised,
)
from theory.audit.estimators.curve import RIDGE, fit_curve
from theory.audit.estimators.reweighting import reweighted
from theory.audit.estimators.tilt import Interval, like_these
from theory.audit.fit.inclusion import TINY
from theory.audit.fit.likelihood import Fit, chance_of

RESAMPLES = 400
FRECHET_DRAWS = 60
WIDE = 256  # features, from which on the Frechet distance is that of the first WIDE directions
LEAST_ROWS = 4  # of a prompt and side, to have a variance
LEAST_VARIANCE = 1e-12  # of the largest prompt's
EFFECTIVE = 3.0  # of the reweighted base in a prompt


class OneRowError(ValueError):
    """One row decides; says which."""


@dataclass(frozen=True, eq=False)
class Excess:
    """base, implied: variances within prompts. lost: beyond the tilt, with its interval, p_value of
    none. by_prompt, by_prompt_p (P,): the same of each prompt, nan where it has too few
    rows. frechet_*: total of base and tuned, implied by the tilt, excess beyond it (the floor taken
    off), floor, p_value. resampled: what the interval is over."""

    base: float
    implied: float
    lost: Interval
    p_value: float
    by_prompt: Array
    by_prompt_p: Array
    frechet_total: float
    frechet_implied: float
    frechet_excess: float
    frechet_floor: float
    frechet_p: float
    resampled: str


def excess(data: AuditData, permuted: Permuted, seed: int = 0) -> Excess:
    """The comparison above.

    Raises:
        TooFewError: no prompt has rows enough on both sides.
        OneRowError: one row decides the loss.
    """
    units = deviations(data)
    data = at_most(data, MOST_ROWS)
    spread = Spread.of(data, units)
    if not spread.good.any():
        raise TooFewError(
            f"no prompt has {LEAST_ROWS} tuned samples and a reweighted base of {EFFECTIVE:g}"
        )
    shares = spread.pooled.n1
    base, implied = spread.mean(spread.base, shares), spread.mean(spread.implied, shares)
    log = spread.log_ratio
    error, freedom, what = _log_error(spread, seed)
    inner = Interval.of(log, error, freedom)
    lost = Interval(
        -math.expm1(log), -math.expm1(inner.high), -math.expm1(inner.low), error * math.exp(log)
    )
    _check_one_row(data, spread, units, log, inner)
    p_value = 2 * float(student.sf(abs(log) / error, freedom)) if error > 0 else 1.0
    by_prompt_p = _p_values(permuted, spread, len(data.prompts))
    distances = _distances(data, units, spread, permuted)
    by_prompt = np.full(len(spread.good), np.nan)
    own = spread.good
    by_prompt[own] = 1 - spread.overlap_tuned[own] / spread.overlap_base[own]
    return Excess(base, implied, lost, p_value, by_prompt, by_prompt_p, **distances, resampled=what)


@dataclass(frozen=True, eq=False)
class Spread:
    """By prompt (P,): variances of the base, of the base reweighted, and of both where they
    overlap; mass of the overlap; good: rows enough. weights (n0,) of the base's rows, adding up to
    1 in a prompt; pooled, curve: the rows and their ratio; features (N, d) of the pooled rows, in
    their units, less their prompts' means."""

    base: Array
    implied: Array
    overlap_base: Array
    overlap_tuned: Array
    mass: Array
    good: NDArray[np.bool_]
    weights: Array
    pooled: Pooled
    curve: Fit
    features: NDArray[np.floating[Any]]

    @staticmethod
    def of(data: AuditData, units: Deviations) -> Spread:
        pooled, rows = data.pooled, units.standard(pooled_features(data))
        curve = fit_curve(pooled)
        rest = rows - pooled.over_rows(pooled.sums(rows) / pooled.sizes[:, None])
        weights = np.zeros(len(pooled))
        weights[pooled.is_base] = found = reweighted(curve.log_ratio, pooled).weights
        label = pooled.label
        base = _variance(rest, 1 - pooled.label, pooled)
        implied = _variance(rest, weights, pooled)
        tuned = _variance(rest, label * (1 - curve.chance), pooled)
        overlap = _variance(rest, (1 - label) * curve.chance, pooled)
        effective = 1 / pooled.sums(weights**2)
        good = (pooled.n1 >= LEAST_ROWS) & (pooled.n0 >= LEAST_ROWS) & (effective >= EFFECTIVE)
        # Features that are constant in a prompt leave rounding only.
        least = LEAST_VARIANCE * max(float(base.max(initial=0.0)), 1.0)  # features have unit ones
        good &= (np.minimum(implied, overlap) > least) & (tuned > least)
        mass = pooled.sums(curve.weight)
        return Spread(base, implied, overlap, tuned, mass, good, found, pooled, curve, rest)

    def mean(self, values: Array, share: Array) -> float:
        """Over prompts that have rows enough."""
        return float((share * values)[self.good].sum() / share[self.good].sum())

    @property
    def log_ratio(self) -> float:
        """log(V_tuned/V_base) where they overlap."""
        of_tuned = self.mean(self.overlap_tuned, self.mass)
        return math.log(of_tuned / self.mean(self.overlap_base, self.mass))


def pooled_features(data: AuditData) -> NDArray[np.float64]:
    """(N, d), in the order of the pooled rows."""
    found = np.empty((len(data.pooled), data.dim))
    found[data.pooled.is_base] = data.base.features
    found[~data.pooled.is_base] = data.tuned.features
    return found


def _variance(x: NDArray[Any], weights: NDArray[Any], pooled: Pooled) -> Array:
    """V of every prompt (P,), of rows with weights >= 0; nan where they leave none."""
    w = weights / pooled.over_rows(np.maximum(pooled.sums(weights), TINY))
    means = pooled.sums(w[:, None] * x)
    away = pooled.sums(w * np.square(x - pooled.over_rows(means)).sum(1))
    room = 1 - pooled.sums(w**2)
    return np.asarray(away / np.maximum(room, TINY) * (room > 0))


def _check_one_row(
    data: AuditData, spread: Spread, units: Deviations, log: float, found: Interval
) -> None:
    """The loss again without the row of each side that makes most of its variance, where that may
    move it out of its interval."""
    pooled, chance = spread.pooled, spread.curve.chance
    room = min(log - found.low, found.high - log)
    for label, side in enumerate((data.base, data.tuned)):
        own = np.flatnonzero(pooled.label == label)
        w = (chance if label == 0 else 1 - chance)[own]
        prompt = pooled.prompt[own]
        w = w / np.maximum(np.bincount(prompt, w, pooled.count), TINY)[prompt]
        x = spread.features[own]
        means = np.stack([np.bincount(prompt, w * column, pooled.count) for column in x.T], 1)
        parts = w * np.square(x - means[prompt]).sum(1) * (spread.mass * spread.good)[prompt]
        row = int(np.argmax(parts))
        if -math.log1p(-min(float(parts[row] / parts.sum()), 0.999)) < room:
            continue
        kept = [np.ones(len(s), dtype=bool) for s in (data.base, data.tuned)]
        kept[label][row] = False
        again = Spread.of(data.take(*kept), units)
        left = again.log_ratio if again.good.any() else math.nan
        if not found.low <= left <= found.high:
            what = "none can be measured" if math.isnan(left) else f"{_percent(left)} are lost"
            raise OneRowError(
                f"one row decides it: without {SIDES[label]} row {int(side.row[row]) + 1} of the "
                f"variance {what}, with it {_percent(log)}"
            )


def _percent(log: float) -> str:
    return f"{-100 * math.expm1(log):.3g} %"


def _log_error(spread: Spread, seed: int) -> tuple[float, float, str]:
    """(standard error of log(V_tuned/V_base) where they overlap, degrees of freedom, resampled)."""
    rng = np.random.default_rng(seed + 2)
    pooled, fit, logs = spread.pooled, spread.curve, np.empty(RESAMPLES)
    if like_these(spread.mass[spread.good]):
        for i in range(RESAMPLES):
            share = spread.mass * rng.exponential(size=pooled.count)
            ratio = spread.mean(spread.overlap_tuned, share)
            logs[i] = math.log(ratio / spread.mean(spread.overlap_base, share))
        return float(logs.std(ddof=1)), float(spread.good.sum() - 1), "prompts"
    scores = fit.scores(pooled)
    inverse = np.linalg.inv(fit.information + RIDGE * np.eye(len(fit.theta)))
    logit = np.log(np.maximum(fit.chance, TINY)) - np.log(np.maximum(1 - fit.chance, TINY))
    for i in range(RESAMPLES):
        u = rng.exponential(size=len(pooled))
        chance = chance_of(logit + fit.slope @ (inverse @ ((u - 1) @ scores)))
        parts = [
            spread.mean(_variance(spread.features, u * weight, pooled), spread.mass)
            for weight in (pooled.label * (1 - chance), (1 - pooled.label) * chance)
        ]
        logs[i] = math.log(parts[0] / parts[1]) if min(parts) > 0 else math.nan
    if np.isnan(logs).any():
        raise TooFewError("the variance where base and tuned overlap rests on very few samples")
    return float(logs.std(ddof=1)), math.inf, "samples"


def _p_values(permuted: Permuted, spread: Spread, count: int) -> Array:
    """Of no loss of variance in each prompt (P,)."""
    strata = permuted.strata
    # About the mean of the overlap, which sees no label: about the reweighted base's own mean, base
    # rows would lie closer than tuned ones by as much as each weighs in it.
    turns, starts = np.unique(strata.prompt, return_index=True)
    c = strata.weight[:, None]
    centre = np.add.reduceat(c * strata.raw, starts) / np.add.reduceat(c, starts)
    away = np.square(strata.raw - centre[np.searchsorted(turns, strata.prompt)]).sum(1)
    away = away / away.mean()
    kept = orthogonal(away[:, None].astype(np.float32), strata)
    S = prompt_sums(strata, permuted.residual, kept)[..., 0].astype(np.float64)
    by_prompt = np.full(count, np.nan)
    by_prompt[np.unique(strata.prompt)] = rank(np.abs(standardised(S)))
    by_prompt[~spread.good] = np.nan
    return by_prompt


# --- Frechet distance


def _distances(
    data: AuditData, units: Deviations, spread: Spread, permuted: Permuted
) -> dict[str, float]:
    base, tuned = data.base, data.tuned
    of_side = [units.standard(side.features) for side in (base, tuned)]
    turn = _directions(np.concatenate(of_side))
    share = data.pooled.n1 / data.pooled.n1.sum()
    of_tuned = moments(of_side[1] @ turn, np.full(len(tuned), 1 / len(tuned)))
    even = share[base.prompt] / data.pooled.n0[base.prompt]
    of_base = moments(of_side[0] @ turn, even)
    implied = moments(of_side[0] @ turn, share[base.prompt] * spread.weights)
    strata = permuted.strata
    x, ratio = strata.raw @ turn, np.exp(strata.log_ratio - strata.log_ratio.max())
    values = []
    for labels in permuted.labels[: FRECHET_DRAWS + 1]:
        counts = np.bincount(strata.prompt[labels], minlength=len(data.prompts))
        of_prompt = np.bincount(strata.prompt[~labels], ratio[~labels], len(data.prompts))
        weight = ratio[~labels] * (counts / np.maximum(of_prompt, 1e-300))[strata.prompt[~labels]]
        own = np.full(int(labels.sum()), 1 / int(labels.sum()))
        values.append(frechet(moments(x[labels], own), moments(x[~labels], weight / weight.sum())))
    found = np.array(values)
    return {
        "frechet_total": frechet(of_base, of_tuned),
        "frechet_implied": frechet(of_base, implied),
        "frechet_excess": float(found[0] - found[1:].mean()),
        "frechet_floor": float(found[1:].mean()),
        "frechet_p": float(rank(found)),
    }


def _directions(features: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """(d, k): all axes, or the WIDE of largest variance."""
    d = features.shape[1]
    if d <= WIDE:
        return np.eye(d, dtype=features.dtype)
    rest = features - features.mean(0)
    _, vectors = np.linalg.eigh(rest.T @ rest)
    return np.asarray(vectors[:, -WIDE:])


def moments(x: NDArray[np.floating[Any]], weights: Array) -> tuple[Array, Array]:
    """(mean, covariance without bias) of rows (n, d) with weights that add up to 1."""
    mean = weights @ x.astype(np.float64)
    rest = x - mean
    return mean, (weights[:, None] * rest).T @ rest / (1 - float((weights**2).sum()))


def frechet(p: tuple[Array, Array], q: tuple[Array, Array]) -> float:
    """|m_p - m_q|^2 + Tr(C_p + C_q - 2 (C_p^1/2 C_q C_p^1/2)^1/2)."""
    values, vectors = np.linalg.eigh(p[1])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ q[1] @ root).clip(0)).sum()
    gap = p[0] - q[0]
    return max(float(gap @ gap + np.trace(p[1]) + np.trace(q[1]) - 2 * cross), 0.0)
