r"""Diversity and Frechet distance: what the tilt implies, and what was lost or moved beyond it.

Any tilt narrows a law or moves it. The base reweighted by the free curve of its rewards is what a
tilt alone would have left; tuned samples are compared with that, not with the base:

    variance within prompts    V_base -> V_implied -> V_tuned
    lost beyond the tilt       1 - V_tuned / V_implied
    Frechet distance           of (base, tuned); implied: (base, reweighted base); excess:
                               (reweighted base, tuned), less its mean over permuted labels

V is the trace of the features' covariance within prompts, prompts in the tuned samples' shares,
without bias: sum w |f - m|^2 / (1 - sum w^2). The interval of the lost share resamples prompts
where there are enough, else rows within prompts and sides, the curve following to first order.
Its p-value is that of sum (y - pi) |f - m|^2 among the permutations of conditional.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.audit.conditional import (
    MOST_ROWS,
    Permuted,
    TooFewError,
    at_most,
    orthogonal,
    prompt_sums,
    rank,
    standardised,
)
from theory.audit.curve import RIDGE, basis, fit_curve
from theory.audit.likelihood import Fit
from theory.audit.reweighting import reweighted
from theory.audit.samples import Array, AuditData, Side
from theory.audit.tilt import LEAST_CLUSTERS, Interval

RESAMPLES = 400
FRECHET_DRAWS = 60
WIDE = 256  # features, from which on the Frechet distance is that of the first WIDE directions
LEAST_ROWS = 4  # of a prompt and side, to have a variance
LEAST_VARIANCE = 1e-12  # of the largest prompt's
EFFECTIVE = 3.0  # of the reweighted base in a prompt


@dataclass(frozen=True, eq=False)
class Excess:
    """base, implied, tuned: variances within prompts. lost: 1 - tuned/implied with its interval,
    p_value of none. by_prompt, by_prompt_p (P,): the same of each prompt, nan where it has too few
    rows. frechet_*: total of base and tuned, implied by the tilt, excess beyond it (the floor taken
    off), floor, p_value. resampled: what the interval is over."""

    base: float
    implied: float
    tuned: float
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
    """
    data = at_most(data, MOST_ROWS)
    spread = Spread.of(data)
    if not spread.good.any():
        raise TooFewError(
            f"no prompt has {LEAST_ROWS} tuned samples and a reweighted base of {EFFECTIVE:g}"
        )
    base, implied, tuned = (spread.mean(v) for v in (spread.base, spread.implied, spread.tuned))
    error, freedom, what = _log_error(data, spread, seed)
    log = math.log(tuned / implied)
    inner = Interval.of(log, error, freedom)
    lost = Interval(-math.expm1(log), -math.expm1(inner.high), -math.expm1(inner.low),
                    error * tuned / implied)  # fmt: skip
    p_value, by_prompt_p = _p_values(permuted, spread, len(data.prompts))
    distances = _distances(data, spread, permuted)
    return Excess(
        base, implied, tuned, lost, p_value,
        1 - np.divide(spread.tuned, spread.implied, out=np.full(len(spread.good), np.nan),
                      where=spread.good), by_prompt_p,
        **distances, resampled=what,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Spread:
    """By prompt (P,): variances, shares of the tuned samples, which have rows enough; centre (P, d)
    the implied mean; weights (n0,) of the base's rows, adding up to 1 in a prompt."""

    base: Array
    implied: Array
    tuned: Array
    share: Array
    good: NDArray[np.bool_]
    centre: Array
    weights: Array
    curve: Fit
    functions: Array

    @staticmethod
    def of(data: AuditData) -> Spread:
        pooled = data.pooled
        functions = basis(pooled)
        curve = fit_curve(pooled, functions)
        weights = reweighted(curve.log_ratio, pooled).weights
        even = 1 / pooled.n0[data.base.prompt]
        base, _ = _variance(data.base, even, pooled.count)
        implied, centre = _variance(data.base, weights, pooled.count)
        tuned, _ = _variance(data.tuned, 1 / pooled.n1[data.tuned.prompt], pooled.count)
        effective = 1 / np.bincount(data.base.prompt, weights**2)
        good = (pooled.n1 >= LEAST_ROWS) & (pooled.n0 >= LEAST_ROWS) & (effective >= EFFECTIVE)
        # Features that are constant in a prompt leave rounding only.
        least = LEAST_VARIANCE * float(base.max(initial=0.0))
        good &= (implied > least) & (tuned > least)
        return Spread(base, implied, tuned, pooled.n1 / pooled.n1.sum(), good, centre, weights,
                      curve, functions)  # fmt: skip

    def mean(self, values: Array, weight: Array | float = 1.0) -> float:
        """Over prompts that have rows enough, by share."""
        share = self.share * self.good * weight
        return float((share[self.good] * values[self.good]).sum() / share.sum())


def _variance(side: Side, weights: Array, count: int) -> tuple[Array, Array]:
    """(V (P,), weighted means (P, d)); weights add up to 1 in every prompt."""
    assert side.features is not None
    starts = np.searchsorted(side.prompt, np.arange(count))
    x = side.features.astype(np.float64)
    means = np.add.reduceat(weights[:, None] * x, starts)
    away = np.square(x - means[side.prompt]).sum(1)
    room = 1 - np.add.reduceat(weights**2, starts)
    return np.add.reduceat(weights * away, starts) / np.maximum(room, 1e-12), means


def _log_error(data: AuditData, spread: Spread, seed: int) -> tuple[float, float, str]:
    """(standard error of log V_tuned - log V_implied, degrees of freedom, what was resampled)."""
    rng = np.random.default_rng(seed + 2)
    count, logs = len(data.prompts), np.empty(RESAMPLES)
    if int(spread.good.sum()) >= LEAST_CLUSTERS:
        for i in range(RESAMPLES):
            u = rng.exponential(size=count)
            logs[i] = math.log(spread.mean(spread.tuned, u) / spread.mean(spread.implied, u))
        return float(logs.std(ddof=1)), float(spread.good.sum() - 1), "prompts"
    assert data.base.features is not None
    assert data.tuned.features is not None
    pooled, fit = data.pooled, spread.curve
    scores = fit.scores(pooled)
    inverse = np.linalg.inv(fit.information + RIDGE * np.eye(len(fit.theta)))
    # Squares about fixed centres: the means' own noise is of second order.
    own = [
        np.square(side.features.astype(np.float64) - spread.centre[side.prompt]).sum(1)
        for side in (data.base, data.tuned)
        if side.features is not None
    ]
    centres = [_means(side, count) for side in (data.base, data.tuned)]
    is_base = pooled.is_base
    for i in range(RESAMPLES):
        u = rng.exponential(size=len(pooled))
        theta = fit.theta + inverse @ ((u - 1) @ scores)
        ratio = np.exp(spread.functions[is_base] @ (theta - fit.theta))
        parts = []
        for side, away, weight in (
            (data.base, own[0], u[is_base] * spread.weights * ratio),
            (data.tuned, own[1], u[~is_base]),
        ):
            total = np.bincount(side.prompt, weight, count)
            parts.append(np.bincount(side.prompt, weight * away, count) / total)
        gap = np.square(centres[1] - spread.centre).sum(1)
        logs[i] = math.log(spread.mean(parts[1] - gap) / spread.mean(parts[0]))
    return float(logs.std(ddof=1)), math.inf, "samples"


def _means(side: Side, count: int) -> Array:
    assert side.features is not None
    starts = np.searchsorted(side.prompt, np.arange(count))
    sizes = np.bincount(side.prompt, minlength=count)
    return np.add.reduceat(side.features.astype(np.float64), starts) / sizes[:, None]


def _p_values(permuted: Permuted, spread: Spread, count: int) -> tuple[float, Array]:
    """Of no loss of variance: pooled, and in each prompt (P,)."""
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
    return float(rank(np.abs(standardised(S.sum(0))))), by_prompt


# --- Frechet distance


def _distances(data: AuditData, spread: Spread, permuted: Permuted) -> dict[str, float]:
    base, tuned = data.base, data.tuned
    assert base.features is not None
    assert tuned.features is not None
    turn = _directions(np.concatenate([base.features, tuned.features]))
    share = data.pooled.n1 / data.pooled.n1.sum()
    of_tuned = moments(tuned.features @ turn, np.full(len(tuned), 1 / len(tuned)))
    even = share[base.prompt] / data.pooled.n0[base.prompt]
    of_base = moments(base.features @ turn, even)
    implied = moments(base.features @ turn, share[base.prompt] * spread.weights)
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
