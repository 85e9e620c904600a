r"""The reward ratio as a free curve, and the test of a wrapper against it.

    log q_g(r)/p_g(r) = alpha_g + z b + sum_k b_k L_k(u) + sum_k c_k L_k(u_g)

z the standardised reward, u its rank among all rows, u_g among its prompt's rows (base and tuned
alike, so that the labels do not enter), L_k Legendre polynomials on [-1, 1]. Smooth and with few
parameters: what any wrapper of r, or of ranks, does to the law of rewards, up to wiggles.

A wrapper's goodness of fit is Neyman's smooth test: the score of (b_k, c_k) at the wrapper's fit,
less its projection on the wrapper's own slope; S' V^-1 S is chi^2 with as many degrees of freedom
as there are directions left. It needs no fit of the curve and is calibrated as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import chi2, rankdata
from scipy.stats import f as fisher

from theory.audit.data.samples import Array, Pooled
from theory.audit.fit.inclusion import TINY
from theory.audit.fit.likelihood import Evaluate, Fit, maximise, prompt_means

DEGREE = 5
FEW = 8  # rows a prompt, on average, below which ranks within prompts carry nothing
RIDGE = 1.0  # of standardised coefficients: a prior of one row's weight
RANK_TOLERANCE = 1e-7
MOST_DIRECTIONS = 3
BLOCK = 8192  # rows


def basis(pooled: Pooled) -> Array:
    """(N, k) functions of the reward, each of size about one."""
    share = (rankdata(pooled.reward) - 0.5) / len(pooled)
    s = ndtri(share)  # normal scores: the normal's quantiles at the ranks
    overall = 2 * share - 1
    found = np.column_stack([pooled.z, s, (s**2 - 1) / 2, _polynomials(overall)])
    if pooled.count > 1 and len(pooled) / pooled.count >= FEW:
        found = np.hstack([found, rank_basis(pooled)])
    return found


def rank_basis(pooled: Pooled) -> Array:
    """(N, DEGREE) of the ranks within prompts alone."""
    own = np.empty(len(pooled))
    ends = np.append(pooled.starts[1:], len(pooled))
    for start, end in zip(pooled.starts, ends, strict=True):
        values = pooled.reward[start:end]
        own[start:end] = (2 * rankdata(values) - 1) / len(values) - 1  # mid-ranks, on (-1, 1)
    return _polynomials(own)


def _polynomials(values: Array) -> Array:
    """(N, DEGREE): Legendre's of degree 1, 2, ... at values on (-1, 1)."""
    return np.ascontiguousarray(legendre.legval(values, np.eye(DEGREE + 1)[:, 1:]).T)


def fit_curve(pooled: Pooled, functions: Array | None = None) -> Fit:
    """The free curve, held by a weak ridge so that it exists where labels are nearly separated."""
    H = basis(pooled) if functions is None else functions
    return maximise(linear(H), np.zeros(H.shape[1]), pooled, ridge=RIDGE)


def linear(H: Array) -> Evaluate:
    """H theta."""
    return lambda theta: (H @ theta, H)


@dataclass(frozen=True)
class Goodness:
    """chi^2 of a wrapper against the free curve, its degrees of freedom and p-value."""

    statistic: float
    freedom: int
    p_value: float


def goodness(fit: Fit, pooled: Pooled, functions: Array, clusters: bool = False) -> Goodness:
    """Neyman's smooth test of a fit.

    clusters: prompts may have ratios of their own: the variance of the score is that of the
    prompts' sums (Hotelling's T^2), where there are MOST_DIRECTIONS times as many as directions.
    Without, it is that of the labels; rows of one seed count as one.
    """
    k = fit.slope.shape[1]
    products, sizes, scores = _moments(fit, pooled, functions)
    # Less what the wrapper's own parameters explain.
    inner = np.linalg.lstsq(products[:k, :k], products[:k, k:], rcond=1e-12)[0]
    onto = np.vstack([-inner, np.eye(functions.shape[1])])
    by_prompt = scores @ onto
    score, variance = by_prompt.sum(0), onto.T @ products @ onto
    if pooled.unit is not None:
        own = np.stack(
            [
                np.bincount(pooled.unit, (pooled.label - fit.chance) * column).astype(np.float64)
                for column in _columns(fit, pooled, functions, inner)
            ],
            1,
        )
        variance = np.asarray(own.T @ own, dtype=np.float64)
    # In units of the functions as they were: what prompts or a wrapper explain leaves rounding.
    scale = np.sqrt(np.maximum(sizes[k:], TINY))
    values, vectors = np.linalg.eigh(variance / np.outer(scale, scale))
    good = values > RANK_TOLERANCE
    freedom = int(good.sum())
    if not freedom:
        return Goodness(0.0, 0, 1.0)
    turn = vectors[:, good] / scale[:, None]
    if clusters and pooled.count >= MOST_DIRECTIONS * freedom:
        sums = by_prompt @ turn
        rest = sums - sums.mean(0)
        groups = pooled.count
        robust = rest.T @ rest * (groups / (groups - 1))
        total = sums.sum(0)
        statistic = float(total @ np.linalg.solve(robust, total))
        share = (groups - freedom) / (freedom * (groups - 1))
        p_value = float(fisher.sf(statistic * share, freedom, groups - freedom))
        return Goodness(statistic, freedom, p_value)
    statistic = float(((score @ turn) ** 2 / values[good]).sum())
    return Goodness(statistic, freedom, float(chi2.sf(statistic, freedom)))


def _moments(fit: Fit, pooled: Pooled, functions: Array) -> tuple[Array, Array, Array]:
    """Of A = (wrapper's slope, functions), (N, m): sum c (A - A_g)(A - A_g)', (m, m); sum c A^2,
    (m,); sums of (y - pi) A over prompts, (P, m), which centring does not change."""
    m = fit.slope.shape[1] + functions.shape[1]
    inner, scores = np.zeros((m, m)), np.zeros((pooled.count, m))
    totals, rest = np.zeros((pooled.count, m)), pooled.label - fit.chance
    # In blocks that stay in the cache: a million rows at once are read from memory each time.
    for start in range(0, len(pooled), BLOCK):
        rows = slice(start, start + BLOCK)
        A = np.hstack([fit.slope[rows], functions[rows]])
        weighted = fit.weight[rows, None] * A
        inner += A.T @ weighted
        prompt = pooled.prompt[rows]
        first = np.flatnonzero(np.diff(prompt, prepend=-1))
        totals[prompt[first]] += np.add.reduceat(weighted, first)
        scores[prompt[first]] += np.add.reduceat(rest[rows, None] * A, first)
    mass = np.maximum(pooled.sums(fit.weight), TINY)
    return inner - (totals / mass[:, None]).T @ totals, np.diag(inner), scores


def _columns(fit: Fit, pooled: Pooled, functions: Array, inner: NDArray[Any]) -> Iterator[Array]:
    """The functions less their prompts' means and what the wrapper explains, one after another."""
    means = prompt_means(functions, fit.weight, pooled)
    for j in range(functions.shape[1]):
        yield functions[:, j] - pooled.over_rows(means[:, j]) - fit.slope @ inner[:, j]
