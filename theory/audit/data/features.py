"""Features in one unit: each over the base's standard deviation of it within prompts.

Whatever adds features up (distances, variances, a Frechet distance) depends on their units, and an
audit cannot know these: a brightness of 0 to 1, a file size in bytes, a coordinate of CLIP. So all
of them are standardised, those of one unit too: no result changes when a feature is measured
otherwise, and none outweighs the rest. A feature that does not vary within prompts is dropped.
A row that makes more than MOST_SHARE of a feature's variance does not set its unit: the TRIMMED
share of rows that lie farthest out is left out of it then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.samples import LEAST_ROWS, MOST_SHARE, TRIMMED, Array, AuditData, Side, Whole

MOST_ROWS = 50_000  # of a side; of more, an even choice
BLOCK = 32  # features at once


@dataclass(frozen=True, eq=False)
class Deviations:
    """centre (d,), and unit (d,): inf of a feature that does not vary. largest: (0 base or 1 tuned,
    row as given, feature, share), of what one row makes of a feature's variance on its side."""

    centre: Array
    unit: Array
    largest: tuple[int, int, int, float]

    def standard(self, features: NDArray[np.floating[Any]]) -> Array:
        """(n, d) in these units; zero of features that do not vary."""
        return np.asarray((features - self.centre) / self.unit)


def deviations(data: AuditData) -> Deviations:
    """Of the features of both sides.

    Raises:
        ValueError: there are none.
    """
    if not data.dim:
        raise ValueError("features must be given for both sides, got none")
    few = at_most(data, MOST_ROWS)
    unit, largest = np.empty(data.dim), (0, 0, 0, -1.0)
    for start in range(0, data.dim, BLOCK):
        columns = slice(start, start + BLOCK)
        found = [_of_side(side, columns) for side in (few.base, few.tuned)]
        pooled = np.sqrt(sum(s.square for s in found) / max(sum(s.freedom for s in found), 1))
        own = found[0].spread
        size = np.maximum(
            *(np.abs(side.features[:, columns]).max(0) for side in (few.base, few.tuned))
        )
        # Of what is left when rows that are alike lose their mean.
        least = 16 * np.finfo(few.base.features.dtype).eps * size
        chosen = np.where(own > least, own, pooled)
        unit[columns] = np.where(chosen > least, chosen, np.inf)
        for number, side in enumerate((few.base, few.tuned)):
            share = np.where(np.isfinite(unit[columns]), found[number].share, -1.0)
            feature = int(np.argmax(share))
            if float(share[feature]) > largest[3]:
                row = int(side.row[found[number].farthest[feature]])
                largest = (number, row, start + feature, float(share[feature]))
    return Deviations(few.base.features.mean(0, dtype=np.float64), unit, largest)


def at_most(data: AuditData, most: int) -> AuditData:
    """About so many rows of each side: an even choice of every prompt's, one at least."""

    if max(len(data.base), len(data.tuned)) <= most:
        return data

    def choice(side: Side) -> NDArray[np.bool_]:
        if len(side) <= most:
            return np.ones(len(side), dtype=bool)
        sizes = np.bincount(side.prompt, minlength=len(data.prompts))
        kept = np.ceil(sizes * (most / len(side)))
        place = np.arange(len(side)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        share = (kept / np.maximum(sizes, 1))[side.prompt]
        return np.asarray(np.floor((place + 1) * share) > np.floor(place * share))

    return data.take(choice(data.base), choice(data.tuned))


@dataclass(frozen=True, eq=False)
class _Of:
    """Of some features of one side: square (d,), summed over rows less their prompts' means, with
    freedom; spread; share of the square that the farthest row makes, 0 where rows are few."""

    square: Array
    freedom: int
    spread: Array
    share: Array
    farthest: Whole


def _of_side(side: Side, columns: slice) -> _Of:
    values = side.features[:, columns].astype(np.float64)
    rest = centred(values, side.prompt)
    freedom = len(rest) - len(np.unique(side.prompt))
    square = np.square(rest).sum(0)
    farthest = np.abs(rest).argmax(0)
    share = np.square(rest[farthest, np.arange(rest.shape[1])]) / np.where(square > 0, square, 1.0)
    share *= freedom >= LEAST_ROWS
    return _Of(square, freedom, spread(values, side.prompt), share, farthest)


def centred(values: Array, prompt: Whole) -> Array:
    """Rows (n, d) less their prompt's mean; rows are sorted by prompt."""
    _, starts, counts = np.unique(prompt, return_index=True, return_counts=True)
    means = np.add.reduceat(values, starts) / counts[:, None]
    return np.asarray(values - np.repeat(means, counts, axis=0))


def spread(values: Array, prompt: Whole) -> Array:
    """Standard deviations (d,) of rows (n, d) within prompts, not set by a single row: of features
    of which one row makes more than MOST_SHARE, that of the others about their prompts' medians."""
    square = np.square(centred(values, prompt))
    _, counts = np.unique(prompt, return_counts=True)
    freedom, total = len(values) - len(counts), square.sum(0)
    found = np.sqrt(total / max(freedom, 1))
    if freedom >= LEAST_ROWS:
        kept = len(values) - max(1, round(TRIMMED * len(values)))
        middle = np.cumsum(counts) - counts + counts // 2
        for j in np.flatnonzero(square.max(0) > MOST_SHARE * total):
            column = values[np.lexsort((values[:, j], prompt)), j]
            away = np.square(column - np.repeat(column[middle], counts))
            inner = float(np.partition(away, kept - 1)[:kept].sum())
            if inner > 0:
                found[j] = np.sqrt(inner / max(freedom - len(values) + kept, 1))
    return np.asarray(found)
