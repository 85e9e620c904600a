r"""Labels given how many each prompt has: the chance that row i is tuned, and what it is worth.

With odds u_i, the labels y of a prompt of n rows, given sum y = m, are conditional Poisson:

    P(y) = prod u_i^{y_i} / e_m(u),    pi_i = P(y_i = 1) = p_i P(S without i = m - 1) / P(S = m)

where S = sum of Bernoulli(p_i), p_i = u_i/(1 + u_i), and any common factor of the odds will do: the
one with sum p_i = m makes P(S = m) about 1/sqrt(2 pi W), W = sum p_i (1 - p_i). Up to SMALL rows
P(S = m) and pi are computed exactly, by the recursion over rows and its adjoint; beyond, by
that expansion, pi_i = p_i - (w_i / 2W)(1 - 2 p_i - k), k the w-weighted mean of 1 - 2 p: its error
is of order 1/n^2. Where W tends to zero P(S = m) tends to one: W + exp(-2 pi W)/(2 pi) stands for W
there, and is W from W = 1 on. The covariance of the labels is, as Hajek (1964) has it,
diag(c) - c c'/sum c with c_i = pi_i (1 - pi_i) n/(n - 1): exact for pairs, and for n large.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.samples import SMALL, Array, Pooled

BLOCK = 4096  # prompts at once: the recursion keeps (prompts, rows, labels)
TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Inclusion:
    """chance pi (N,), weight c (N,), and log P(S = m) summed over prompts."""

    chance: Array
    weight: Array
    log_normaliser: float


def inclusion(p: Array, pooled: Pooled) -> Inclusion:
    """From Bernoulli chances p (N,) with sum_i p_i = n1 in every prompt."""
    w = p * (1 - p)
    W = np.maximum(pooled.sums(w), TINY)
    small = pooled.sizes <= SMALL
    skew = w * (1 - 2 * p)
    mean = pooled.sums(skew) / W
    rest = np.exp(-2 * np.pi * W)
    size = W + rest / (2 * np.pi)
    chance = p - 0.5 * pooled.over_rows((1 - rest) / size) * (skew - pooled.over_rows(mean) * w)
    log_normaliser = -0.5 * float(np.log(2 * np.pi * size[~small]).sum())
    weight = w
    if small.any():
        rows = small[pooled.prompt]
        n = pooled.sizes[pooled.prompt[rows]]
        found, logs = _exact(p, pooled)
        chance[rows] = found
        weight = np.array(w)
        weight[rows] = np.clip(found * (1 - found), 0.0, None) * (n / (n - 1))
        log_normaliser += logs
    return Inclusion(chance, weight, log_normaliser)


def _exact(p: Array, pooled: Pooled) -> tuple[Array, float]:
    """(pi of the rows of small prompts, sum of log P(S = m))."""
    place, used = pooled.small_rows  # (prompts, most rows), where a place holds a row
    m = pooled.n1[pooled.sizes <= SMALL].astype(np.int64)
    found, logs = np.empty(place.shape), 0.0
    for start in range(0, len(place), BLOCK):
        part = slice(start, start + BLOCK)
        found[part], log = _of_block(np.where(used[part], p[place[part]], 0.0), m[part])
        logs += log
    return found[used], logs


def _of_block(p: Array, m: NDArray[np.int64]) -> tuple[Array, float]:
    """pi (P, n) of chances p (P, n), padded by zeros, with m (P,) labels; sum of log P(S = m)."""
    later = _later(p, int(m.max()))
    prompts, n = p.shape
    rows = np.arange(prompts)
    total = np.maximum(later[0, rows, m], TINY)
    # The adjoint of log P(S = m) runs from the first row to the last.
    adjoint = np.zeros(later.shape[1:])
    adjoint[rows, m] = 1 / total
    found = np.empty_like(p)
    for i in range(n):
        one = p[:, i, None]
        found[:, i] = p[:, i] * (adjoint[:, 1:] * later[i + 1, :, :-1]).sum(1)
        lower = (1 - one) * adjoint
        lower[:, :-1] += one * adjoint[:, 1:]
        adjoint = lower
    return found, float(np.log(total).sum())


def _later(p: Array, most: int) -> Array:
    """(n + 1, P, most + 1): P(rows i, i + 1, ... hold k labels), without the condition."""
    prompts, n = p.shape
    later = np.zeros((n + 1, prompts, most + 1))
    later[n, :, 0] = 1.0
    for i in range(n - 1, -1, -1):
        one = p[:, i, None]
        later[i] = (1 - one) * later[i + 1]
        later[i, :, 1:] += one * later[i + 1, :, :-1]
    return later


def draw_labels(
    p: Array, pooled: Pooled, count: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """(count, N) labels with every prompt's number of them, by the law above; prompts are small.

    Row after row: P(y_i = 1 | k labels left) = p_i P(later rows hold k - 1)/P(rows from i hold k).

    Raises:
        ValueError: a prompt has more than SMALL rows.
    """
    if int(pooled.sizes.max()) > SMALL:
        raise ValueError(f"prompts must have at most {SMALL} rows, got {int(pooled.sizes.max())}")
    place, used = pooled.small_rows
    labels = np.zeros((count, len(pooled)), dtype=bool)
    for start in range(0, len(place), BLOCK):
        part = slice(start, start + BLOCK)
        chance, m = np.where(used[part], p[place[part]], 0.0), pooled.n1[part].astype(np.int64)
        later = _later(chance, int(m.max()))
        left = np.broadcast_to(m, (count, len(m))).copy()
        rows = np.arange(len(m))
        for i in range(chance.shape[1]):
            # P(y_i = 1 | k left) as a table over k, then looked up by every draw.
            table = np.zeros(later.shape[1:])
            table[:, 1:] = chance[:, i, None] * later[i + 1, :, :-1]
            table /= np.maximum(later[i], TINY)
            one = rng.random(left.shape, dtype=np.float32) < table[rows, left]
            left -= one
            here = used[part][:, i]
            labels[:, place[part][here, i]] = one[:, here]
    return labels
