"""The samples of an audit: two sides sorted by prompt, and both pooled."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
SIDES = ("base", "tuned")
SMALL = 32  # rows of a prompt, up to which chances are exact (inclusion.py)
LEAST_SIZE = 1e-100  # of values whose squares are no trouble, and its inverse
MOST_SHARE = 0.25  # of the variance, that one row may make
TRIMMED, LEAST_ROWS = 0.01, 50  # of each end; rows, below which one may well make so much


@dataclass(frozen=True, eq=False)
class Side:
    """n samples of one model, sorted by prompt: reward (n,), prompt (n,) (index), features (n, d),
    d = 0 where there are none, seed (n,) or None, row (n,): where each stood in what was given."""

    reward: Array
    prompt: Whole
    features: NDArray[np.floating[Any]]
    seed: Whole | None
    row: Whole

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def dim(self) -> int:
        """Features a sample."""
        return int(self.features.shape[1])

    def take(self, rows: NDArray[Any]) -> Side:
        """Some rows (indices, or a mask)."""
        seed = None if self.seed is None else self.seed[rows]
        return Side(self.reward[rows], self.prompt[rows], self.features[rows], seed, self.row[rows])

    def renumbered(self, number: Whole) -> Side:
        """Prompt i as number[i], and rows sorted by it; rows of negative ones are left out."""
        prompt = number[self.prompt]
        order = np.argsort(prompt, kind="stable")
        rows = order[np.searchsorted(prompt[order], 0) :]
        return replace(self.take(rows), prompt=prompt[rows])


@dataclass(frozen=True, eq=False)
class AuditData:
    """Base and tuned samples of the same prompts; left_out: prompts that one side alone has."""

    prompts: tuple[str, ...]
    base: Side
    tuned: Side
    left_out: tuple[str, ...] = ()

    @cached_property
    def pooled(self) -> Pooled:
        """Both sides' rewards as one sample with labels."""
        return Pooled.of(self)

    @property
    def dim(self) -> int:
        """Features a sample; 0 where there are none."""
        return self.base.dim

    @cached_property
    def paired(self) -> bool:
        """Whether some samples of both sides came from one seed and prompt."""
        return self.pooled.unit is not None

    def take(self, base: NDArray[Any], tuned: NDArray[Any]) -> AuditData:
        """Some rows of each side."""
        return AuditData(self.prompts, self.base.take(base), self.tuned.take(tuned), self.left_out)

    def unpaired(self) -> AuditData:
        """The same without rows that share their seed and prompt with a row of the other side.

        A prompt whose base has as many rows that stand alone as there are tuned ones keeps all of
        its tuned rows and those; in others every second shared seed keeps its base row, the rest
        their tuned row.
        """
        if not self.paired:
            return self
        keys = [_keys(side) for side in (self.base, self.tuned)]
        shared = [np.isin(keys[0], keys[1]), np.isin(keys[1], keys[0])]
        count = len(self.prompts)
        alone = np.bincount(self.base.prompt[~shared[0]], minlength=count)
        rich = alone >= np.bincount(self.tuned.prompt, minlength=count)
        even = np.unique(keys[0][shared[0]])[::2]
        to_base = [np.isin(own, even) & ~rich[own["prompt"]] for own in keys]
        return self.take(~shared[0] | to_base[0], ~to_base[1])


def _keys(side: Side) -> NDArray[Any]:
    """(prompt, seed, turn) of each row as one value, to compare rows by. turn: which of a side's
    rows of this prompt and seed it is, as given: a seed may be that of a batch."""
    assert side.seed is not None
    found = np.zeros(len(side), dtype=[(name, np.int64) for name in ("prompt", "seed", "turn")])
    found["prompt"], found["seed"] = side.prompt, side.seed
    order = np.lexsort((side.row, side.seed, side.prompt))
    new = np.ones(len(side), dtype=bool)
    new[1:] = found[order[1:]] != found[order[:-1]]
    found["turn"][order] = np.arange(len(side)) - np.flatnonzero(new)[np.cumsum(new) - 1]
    return found


@dataclass(frozen=True, eq=False)
class Pooled:
    """N rows of both sides, sorted by prompt: reward, label (1: tuned), prompt, and slices.

    starts: (P,) where each prompt begins. n0, n1: (P,) base and tuned rows. z: rewards less centre,
    over spread: their mean and standard deviation, or those of most of them where one row makes
    MOST_SHARE of the variance. unit: (N,) rows of one seed and prompt share a number;
    None where no seed is on both sides.
    """

    reward: Array
    label: Array
    prompt: Whole
    starts: Whole
    n0: Array
    n1: Array
    centre: float
    spread: float
    unit: Whole | None

    @staticmethod
    def of(data: AuditData) -> Pooled:
        base, tuned = data.base, data.tuned
        prompt = np.concatenate([base.prompt, tuned.prompt])
        order = np.argsort(prompt, kind="stable")
        reward = np.concatenate([base.reward, tuned.reward])[order]
        label = np.concatenate([np.zeros(len(base)), np.ones(len(tuned))])[order]
        unit = None
        if base.seed is not None and tuned.seed is not None:
            _, numbers = np.unique(np.concatenate([_keys(base), _keys(tuned)]), return_inverse=True)
            if len(np.intersect1d(numbers[: len(base)], numbers[len(base) :])):
                unit = numbers[order].astype(np.int64)
        return Pooled.sorted(reward, label, prompt[order], unit)

    @staticmethod
    def sorted(reward: Array, label: Array, prompt: Whole, unit: Whole | None = None) -> Pooled:
        """From rows that are sorted by prompt; prompts without rows do not count."""
        _, starts, counts = np.unique(prompt, return_index=True, return_counts=True)
        n1 = np.add.reduceat(label, starts)
        return Pooled(
            reward,
            label,
            np.repeat(np.arange(len(starts)), counts),
            starts,
            (counts - n1).astype(np.float64),
            n1,
            *_standard(reward),
            unit,
        )

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def count(self) -> int:
        """Prompts."""
        return len(self.starts)

    @cached_property
    def sizes(self) -> Array:
        """(P,) rows a prompt."""
        return self.n0 + self.n1

    @cached_property
    def small_rows(self) -> tuple[Whole, NDArray[np.bool_]]:
        """The rows of prompts of at most SMALL, as a padded table, (small, most): row numbers,
        and which places hold one."""
        small = self.sizes <= SMALL
        sizes = self.sizes[small].astype(np.int64)
        across = np.arange(int(sizes.max(initial=0)))
        used = across < sizes[:, None]
        return np.where(used, self.starts[small][:, None] + across, 0), used

    @cached_property
    def z(self) -> Array:
        """(N,)"""
        return (self.reward - self.centre) / self.spread

    @property
    def is_base(self) -> NDArray[np.bool_]:
        return self.label == 0

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sums over prompts, (P, ...) of values (N, ...)."""
        return np.asarray(np.add.reduceat(values, self.starts, axis=0))

    def over_rows(self, values: NDArray[Any]) -> NDArray[Any]:
        """A value a prompt (P, ...) to its rows (N, ...)."""
        return values if self.count == 1 else values[self.prompt]

    def take(self, rows: NDArray[np.bool_]) -> Pooled:
        """Some rows, by a mask, standardised as all are."""
        unit = None if self.unit is None else self.unit[rows]
        found = Pooled.sorted(self.reward[rows], self.label[rows], self.prompt[rows], unit)
        return replace(found, centre=self.centre, spread=self.spread)

    def two_sided(self, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Of these rows (a mask), those of prompts that have both sides among them: the others say
        nothing of a ratio."""
        ones, all_ = self.sums(rows * self.label), self.sums(rows * 1.0)
        return np.asarray(rows & ((ones > 0) & (ones < all_))[self.prompt])


def _standard(values: Array) -> tuple[float, float]:
    """(centre, spread) of values (n,); 1 for a spread of nothing. Their size is a power of two
    times one first: squares neither overflow nor vanish."""
    size = float(np.abs(values).max(initial=0.0))
    plain = LEAST_SIZE < size < 1 / LEAST_SIZE or size == 0
    unit = 1.0 if plain else math.ldexp(1.0, math.frexp(size)[1] - 1)
    x = values if unit == 1.0 else values / unit
    centre, square = float(x.mean()), float(x.var())
    away = float(np.square([x.max() - centre, x.min() - centre]).max())
    if len(x) >= LEAST_ROWS and away > MOST_SHARE * square * len(x):
        ends = np.quantile(x, (TRIMMED, 1 - TRIMMED))
        most = x[(x >= ends[0]) & (x <= ends[1])]
        if np.ptp(most) > 0:
            centre, square = float(most.mean()), float(most.var())
    spread = math.sqrt(square) * unit
    return centre * unit, spread if spread > 0 else 1.0
