r"""Given prompt and reward, are the tuned samples' features the base's? Collapse beyond the tilt.

A tilt p Phi(r)/Z changes the law of the reward and leaves that of everything else, given the
reward, as it was: then the labels (base or tuned) do not depend on the features f given prompt and
reward. Rows are cut into strata, narrow in reward, within prompts. In a stratum, given its number
of tuned rows, the labels are conditional Poisson with odds exp(curve(r)) (inclusion.py, curve.py):
permutations, each as likely as the reward ratio makes it. With pi the chance of each row,

    S = sum_i (y_i - pi_i) phi(f_i) = sum_tuned (1 - pi) phi - sum_base pi phi

compares tuned samples with reweighted base samples, both weighted to where they overlap:
pi/(1 - pi) is the ratio, up to the stratum's factor, and unlike it cannot blow up. phi holds random
Fourier features (Rahimi and Recht 2007) of Gaussian kernels of several bandwidths: |S|^2 is the
maximum mean discrepancy (Gretton et al. 2012) of the two; summed over all rows, or within prompts
and then squared, which finds what prompts do in directions of their own. The ratio is estimated
anew in every permutation, to first order: phi is taken less its weighted projection, within
strata, on the curve's functions, to which the refitted residual is orthogonal. The largest of the
standardised discrepancies is ranked among its permutations.

Second opinion: a classifier two-sample test (Lopez-Paz and Oquab 2017). Gradient-boosted trees
learn to tell the overlap-weighted sides apart by f on every second stratum; on the others
their score is phi.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.features import MOST_ROWS, at_most, centred, deviations, spread
from theory.audit.data.samples import Array, AuditData, Pooled, Whole
from theory.audit.estimators.curve import basis, fit_curve
from theory.audit.fit.inclusion import SMALL, draw_labels, inclusion
from theory.audit.fit.likelihood import intercepts, prompt_means

PERMUTATIONS = 999
STRATUM = 16  # rows; a prompt's last two strata share what is left
FEATURES = 256  # random Fourier features of a bandwidth
BANDWIDTHS = (0.5, 1.0, 2.0)  # times the median distance
PAIRS = 2000  # of rows, for the median
LEAST_SPREAD = 1e-5  # of a standardised feature
LEAST_INFORMED = 50  # sum of label variances over strata, below which nothing can be told
TRAINED = 400  # rows a half needs for the classifier
Floats = NDArray[np.float32]


class TooFewError(ValueError):
    """Too few samples to say anything; says of what."""


@dataclass(frozen=True, eq=False)
class Strata:
    """Rows by stratum: pooled, its `prompt` being strata; prompt (N,) the true ones; raw (N, d)
    features in units of the base's (features.py), features (N, d) standardised within prompts,
    over both sides; log_ratio (N,) of the curve; p,
    pi, c as in inclusion.py; functions (N, k) of the curve; side_row (N,): where a row stands in
    its side."""

    pooled: Pooled
    prompt: Whole
    raw: Floats
    features: Floats
    log_ratio: Array
    p: Array
    chance: Array
    weight: Array
    functions: Array
    side_row: Whole

    @property
    def informed(self) -> float:
        """The label variance that is left within strata, in units of a pair of rows (1/2)."""
        return 2 * float(self.weight.sum())


@dataclass(frozen=True, eq=False)
class Conditional:
    """p_value: of one law given prompt and reward. prompt_p (P,): each prompt's own, nan where it
    has too few rows. witness: (base rows, tuned rows), the discrepancy's own direction at every
    row of a side (nan: not looked at), high where tuned samples are too many. accuracy, c2st_p: of
    the classifier, chance being 1/2 (None: too few rows). informed: label variance it rests on.
    rows: looked at."""

    p_value: float
    statistic: float
    prompt_p: Array
    witness: tuple[Array, Array]
    accuracy: float | None
    c2st_p: float | None
    informed: float
    rows: int
    permutations: int


@dataclass(frozen=True, eq=False)
class Permuted:
    """Strata, and labels (1 + permutations, N) of their rows, the real ones first."""

    strata: Strata
    labels: NDArray[np.bool_]

    @property
    def residual(self) -> Floats:
        """y - pi, (1 + permutations, N)."""
        return self.labels.astype(np.float32) - self.strata.chance.astype(np.float32)


def permute(data: AuditData, seed: int = 0, permutations: int = PERMUTATIONS) -> Permuted:
    """Strata of the data and permutations of their labels.

    Raises:
        ValueError: no features.
        TooFewError: too few rows in strata with both sides.
    """
    strata = stratify(data)
    drawn = draw_labels(strata.p, strata.pooled, permutations, np.random.default_rng(seed))
    return Permuted(strata, np.concatenate([strata.pooled.label[None] == 1, drawn]))


def conditional_test(
    data: AuditData, permuted: Permuted, seed: int = 0, second: bool = True
) -> Conditional:
    """The test above; second: the classifier too."""
    strata, residual = permuted.strata, permuted.residual
    rng = np.random.default_rng(seed + 1)
    parts, by_prompt, directions = [], [], []
    for phi in fourier_features(strata, rng):
        S = prompt_sums(strata, residual, orthogonal(phi, strata))  # (prompts, labels, features)
        total = S.sum(0)
        parts += [np.square(total).sum(1), np.square(S).sum((0, 2))]
        by_prompt.append(np.square(S).sum(2))
        directions.append((phi, total[0]))
    z = standardised(np.stack(parts))
    statistic = z.max(0)
    own = standardised(np.stack(by_prompt)).max(0)  # (prompts, labels)
    found = np.full(len(data.prompts), np.nan)
    there = np.unique(strata.prompt)
    enough = np.bincount(strata.prompt, strata.weight)[there] * 2 >= LEAST_INFORMED / 10
    found[there[enough]] = rank(own)[enough]
    best = int(z[:, 0].argmax()) // 2
    accuracy, c2st = _classifier(strata, residual, seed) if second else (None, None)
    return Conditional(
        p_value=float(rank(statistic)),
        statistic=float(statistic[0]),
        prompt_p=found,
        witness=_witness(strata, *directions[best], data),
        accuracy=accuracy,
        c2st_p=c2st,
        informed=strata.informed,
        rows=len(strata.pooled),
        permutations=len(residual) - 1,
    )


def standardised(values: Array) -> Array:
    """Over the last axis, the labels: less their mean, over their standard deviation; the real
    labels are one of them, so that ranks are exact."""
    spread = values.std(-1, keepdims=True)
    return np.asarray((values - values.mean(-1, keepdims=True)) / np.where(spread > 0, spread, 1.0))


def rank(values: NDArray[np.floating[Any]]) -> Array:
    """Over the last axis: the share of labels whose value is at least that of the real ones."""
    return np.asarray((values >= values[..., :1]).mean(-1))


# --- strata


def stratify(data: AuditData) -> Strata:
    """Rows in strata that hold both sides; rows of one seed are on one side only."""
    units = deviations(data)
    data = at_most(data.unpaired(), MOST_ROWS)
    base, tuned = data.base, data.tuned
    prompt = np.concatenate([base.prompt, tuned.prompt])
    order = np.argsort(prompt, kind="stable")
    side_row = np.concatenate([base.row, tuned.row])[order]
    sides = [units.standard(side).astype(np.float32) for side in (base.features, tuned.features)]
    features = np.concatenate(sides)[order]
    prompt = prompt[order]
    whole = replace(data.pooled, unit=None)
    kept = whole.two_sided(np.ones(len(whole), dtype=bool))
    if not kept.any():
        raise TooFewError("no prompt has samples on both sides")
    whole = whole.take(kept)
    prompt, features, side_row = prompt[kept], features[kept], side_row[kept]
    functions = basis(whole)
    curve = fit_curve(whole, functions)
    order, stratum = _cut(whole)
    pooled = Pooled.sorted(whole.reward[order], whole.label[order], stratum)
    inside = pooled.two_sided(np.ones(len(pooled), dtype=bool))
    order = order[inside]
    if not len(order):
        raise TooFewError("no stratum of rewards has samples on both sides")
    pooled = Pooled.sorted(whole.reward[order], whole.label[order], stratum[inside])
    _, p = intercepts(curve.log_ratio[order], pooled)
    given = inclusion(p, pooled)
    found = Strata(
        pooled,
        prompt[order],
        features[order],
        _standard(features, prompt)[order],
        curve.log_ratio[order],
        p,
        given.chance,
        given.weight,
        functions[order],
        side_row[order],
    )
    if found.informed < LEAST_INFORMED:
        raise TooFewError(
            f"strata of equal prompt and reward hold the information of {found.informed:.0f} pairs "
            f"of samples, {LEAST_INFORMED} are needed"
        )
    return found


def _cut(pooled: Pooled) -> tuple[Whole, Whole]:
    """(order of rows by prompt and reward, the stratum (N,) of each in that order)."""
    order = np.lexsort((pooled.reward, pooled.prompt))
    place = np.arange(len(pooled)) - pooled.starts[pooled.prompt]
    count = np.maximum(pooled.sizes // STRATUM, 1).astype(np.int64)
    within = place * count[pooled.prompt] // pooled.sizes[pooled.prompt].astype(np.int64)
    key = pooled.prompt * (int(count.max()) + 1) + within
    return order, np.unique(key, return_inverse=True)[1].astype(np.int64)


def _standard(features: Floats, prompt: Whole) -> Floats:
    """Less the prompt's mean, over the standard deviation within prompts; constant ones dropped."""
    rest = centred(features.astype(np.float64), prompt)
    own = spread(rest, prompt)
    varies = own > LEAST_SPREAD
    if not varies.any():
        raise TooFewError("no feature varies within prompts")
    return np.asarray(rest[:, varies] / own[varies], dtype=np.float32)


# --- discrepancies


def fourier_features(strata: Strata, rng: np.random.Generator) -> Iterator[Floats]:
    """(N, FEATURES) of every bandwidth: sqrt(2/D) cos(w'f + b)."""
    x = strata.features
    first, second = rng.integers(len(x), size=(2, PAIRS))
    median = float(np.median(np.linalg.norm(x[first] - x[second], axis=1)))
    for factor in BANDWIDTHS:
        w = rng.standard_normal((x.shape[1], FEATURES)) / (factor * max(median, 1e-6))
        b = rng.uniform(0, 2 * np.pi, FEATURES)
        phase = x @ w.astype(np.float32) + b.astype(np.float32)
        yield np.cos(phase) * np.float32(np.sqrt(2 / FEATURES))


def orthogonal(phi: Floats, strata: Strata) -> Floats:
    """phi (N, D) less what strata and the curve's functions explain of it, weighted by c."""
    pooled, c = strata.pooled, strata.weight
    H = strata.functions - pooled.over_rows(prompt_means(strata.functions, c, pooled))
    weighted = c[:, None] * H
    rest = phi - pooled.over_rows(prompt_means(phi, c, pooled)).astype(np.float32)
    inner = np.linalg.lstsq(weighted.T @ H, weighted.T @ rest.astype(np.float64), rcond=1e-8)[0]
    return np.asarray(rest - H.astype(np.float32) @ inner.astype(np.float32))


def prompt_sums(strata: Strata, residual: Floats, phi: Floats) -> Floats:
    """(prompts, labels, D): sums of residual (labels, N) times phi (N, D) over each prompt."""
    _, starts = np.unique(strata.prompt, return_index=True)
    pairs = pairwise([*starts.tolist(), len(strata.prompt)])
    return np.stack([residual[:, a:b] @ phi[a:b] for a, b in pairs])


def _witness(
    strata: Strata, phi: Floats, direction: Floats, data: AuditData
) -> tuple[Array, Array]:
    """phi(f) S at the rows of each side, by the row's place in what was given."""
    values = (phi @ direction).astype(np.float64)
    found = []
    for side, label in ((data.base, 0), (data.tuned, 1)):
        own = np.full(int(side.row.max()) + 1, np.nan)
        rows = strata.pooled.label == label
        own[strata.side_row[rows]] = values[rows]
        found.append(own)
    return found[0], found[1]


# --- the classifier


def _classifier(strata: Strata, residual: Floats, seed: int) -> tuple[float | None, float | None]:
    """(overlap-weighted accuracy on held-out strata, p-value), or None where there are too few."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from sklearn.ensemble import HistGradientBoostingClassifier

    half = strata.pooled.prompt % 2 == 0
    if min(int(half.sum()), int((~half).sum())) < TRAINED:
        return None, None
    y = strata.pooled.label
    w = np.where(y == 1, 1 - strata.chance, strata.chance)
    trees = HistGradientBoostingClassifier(
        max_iter=60,
        max_leaf_nodes=15,
        min_samples_leaf=20,
        max_bins=32,
        random_state=seed,
        early_stopping=False,
    )
    trees.fit(strata.features[half], y[half], sample_weight=w[half])
    score = np.zeros(len(y), dtype=np.float32)
    score[~half] = trees.decision_function(strata.features[~half])
    kept = orthogonal(score[:, None], strata)[:, 0]
    kept[half] = 0
    values = residual @ kept
    right = (score[~half] > 0) == (y[~half] == 1)
    return float((w[~half] * right).sum() / w[~half].sum()), float(rank(values))


assert STRATUM * 2 <= SMALL
