"""What an audit is given: rewards, prompts and features of base and tuned samples, as arrays.

Rows are kept sorted by prompt, so that sums over a prompt are sums over a slice. Everything that
would make a verdict out of nothing is refused here, or left to `Doubt` where it is a matter of
how many samples there are.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Whole = NDArray[np.int64]
SHOWN = 3  # names in an error message
SIDES = ("base", "tuned")
SMALL = 32  # rows of a prompt, up to which chances are exact (inclusion.py)
LEAST_SIZE = 1e-100  # of values whose squares are no trouble, and its inverse
MOST_SHARE = 0.25  # of the variance, that one row may make
TRIMMED, LEAST_ROWS = 0.01, 50  # of each end; rows, below which one may well make so much


@dataclass(frozen=True, eq=False)
class Side:
    """n samples of one model, sorted by prompt: reward (n,), prompt (n,) (index), features (n, d)
    or None, seed (n,) or None, row (n,): where each stood in what was given."""

    reward: Array
    prompt: Whole
    features: NDArray[np.floating[Any]] | None
    seed: Whole | None
    row: Whole

    def __len__(self) -> int:
        return len(self.reward)

    def take(self, rows: NDArray[Any]) -> Side:
        """Some rows (indices, rising, or a mask)."""

        def pick(values: Any) -> Any:
            return None if values is None else values[rows]

        return Side(
            self.reward[rows], self.prompt[rows], pick(self.features), pick(self.seed),
            self.row[rows],
        )  # fmt: skip


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
        return 0 if self.base.features is None else int(self.base.features.shape[1])

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
    starts = np.flatnonzero(new)
    found["turn"][order] = np.arange(len(side)) - starts[np.cumsum(new) - 1]
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
            keys = np.concatenate([_keys(base), _keys(tuned)])
            _, numbers = np.unique(keys, return_inverse=True)
            shared = np.intersect1d(numbers[: len(base)], numbers[len(base) :])
            if len(shared):
                unit = numbers[order].astype(np.int64)
        return Pooled.sorted(reward, label, prompt[order], unit)

    @staticmethod
    def sorted(reward: Array, label: Array, prompt: Whole, unit: Whole | None = None) -> Pooled:
        """From rows that are sorted by prompt; prompts without rows do not count."""
        _, starts, counts = np.unique(prompt, return_index=True, return_counts=True)
        n1 = np.add.reduceat(label, starts)
        return Pooled(
            reward, label, np.repeat(np.arange(len(starts)), counts), starts,
            (counts - n1).astype(np.float64), n1, *_standard(reward), unit,
        )  # fmt: skip

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

    def spreaded(self, values: NDArray[Any]) -> NDArray[Any]:
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
    unit = 1.0 if LEAST_SIZE < size < 1 / LEAST_SIZE or size == 0 else math.ldexp(
        1.0, math.frexp(size)[1] - 1
    )  # fmt: skip
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


def audit_data(
    base_reward: ArrayLike,
    tuned_reward: ArrayLike,
    base_prompt: Sequence[Any] | NDArray[Any] | None = None,
    tuned_prompt: Sequence[Any] | NDArray[Any] | None = None,
    *,
    base_features: ArrayLike | None = None,
    tuned_features: ArrayLike | None = None,
    base_seed: ArrayLike | None = None,
    tuned_seed: ArrayLike | None = None,
    prompt_names: Sequence[str] | None = None,
    common_prompts: bool = False,
) -> AuditData:
    """The samples of an audit, checked.

    rewards: (n,) and (m,). prompts: a value a row, texts or numbers; none at all: one prompt.
    prompt_names: what prompts are indices into, if they are. features: (n, d) and (m, d). seeds:
    whole numbers; samples of one seed and prompt on both sides are known to be dependent.
    common_prompts: leave out prompts that one side alone has.

    Raises:
        ValueError: rewards or features that are no finite numbers; shapes that do not fit; prompts
            or features of one side only; features of different width; prompts that one side alone
            has (unless common_prompts), or none in common.
    """
    rewards = [
        _rewards(f"{side} rewards", values)
        for side, values in zip(SIDES, (base_reward, tuned_reward), strict=True)
    ]
    sizes = [len(r) for r in rewards]
    names, prompts = _prompts(base_prompt, tuned_prompt, sizes, prompt_names)
    features = _features(base_features, tuned_features, sizes)
    seeds = [
        _seeds(f"{side} seeds", values, len(r))
        for side, values, r in zip(SIDES, (base_seed, tuned_seed), rewards, strict=True)
    ]
    names, prompts, kept, left_out = _in_common(names, prompts, common_prompts)
    sides = []
    for i in range(2):
        row = np.flatnonzero(kept[i])
        order = np.argsort(prompts[i], kind="stable")
        row, prompt = row[order], prompts[i][order]
        own, seed = features[i], seeds[i]
        sides.append(
            Side(
                rewards[i][row],
                prompt,
                None if own is None else own[row],
                None if seed is None else seed[row],
                row,
            )
        )
    return AuditData(names, sides[0], sides[1], left_out)


def _rewards(name: str, values: ArrayLike) -> Array:
    found = np.asarray(values)
    if found.dtype.kind not in "fiu" or found.ndim != 1:
        raise ValueError(
            f"{name} have shape {found.shape} and dtype {found.dtype}: allowed are real numbers of "
            "shape (n,)"
        )
    found = found.astype(np.float64)
    _check_finite(name, found)
    return found


def _check_finite(name: str, values: NDArray[Any]) -> None:
    bad = ~(np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(1))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{name}: {int(bad.sum())} rows hold values that are not finite, the first is row "
            f"{row} ({np.array2string(np.atleast_1d(values[row]), threshold=4)}): allowed are "
            "finite numbers"
        )


def _prompts(
    base: Any, tuned: Any, sizes: Sequence[int], known: Sequence[str] | None
) -> tuple[tuple[str, ...], list[Whole]]:
    """Names, and an index a row for each side."""
    if (base is None) != (tuned is None):
        lacks = SIDES[0] if base is None else SIDES[1]
        raise ValueError(f"{lacks} has no prompts, the other side has: allowed are both or neither")
    if base is None:
        return ("",), [np.zeros(n, dtype=np.int64) for n in sizes]
    sides = [np.asarray(values) for values in (base, tuned)]
    for side, found, n in zip(SIDES, sides, sizes, strict=True):
        if found.shape != (n,):
            raise ValueError(f"{side} prompts have shape {found.shape}: allowed is ({n},)")
    if known is not None:
        return tuple(known), [
            _indices(side, found, len(known)) for side, found in zip(SIDES, sides, strict=True)
        ]
    texts = [found.astype(str) if found.dtype.kind != "U" else found for found in sides]
    names, numbers = np.unique(np.concatenate(texts), return_inverse=True)
    numbers = numbers.astype(np.int64)
    return tuple(str(n) for n in names), [numbers[: sizes[0]], numbers[sizes[0] :]]


def _indices(side: str, values: NDArray[Any], count: int) -> Whole:
    whole = values.dtype.kind in "iu"
    if not whole or (len(values) and not 0 <= values.min() <= values.max() < count):
        raise ValueError(
            f"{side} prompts are no indices into {count} names: allowed are 0 to {count - 1}"
        )
    return values.astype(np.int64)


def _features(
    base: ArrayLike | None, tuned: ArrayLike | None, sizes: Sequence[int]
) -> list[NDArray[np.floating[Any]] | None]:
    if (base is None) != (tuned is None):
        lacks = SIDES[0] if base is None else SIDES[1]
        raise ValueError(
            f"{lacks} has no features, the other side has: allowed are both or neither"
        )
    if base is None or tuned is None:
        return [None, None]
    found: list[NDArray[np.floating[Any]] | None] = []
    widths = []
    for side, values, n in zip(SIDES, (base, tuned), sizes, strict=True):
        rows = np.asarray(values)
        if rows.dtype.kind not in "fiu" or rows.ndim != 2 or len(rows) != n or not rows.shape[1]:
            raise ValueError(
                f"{side} features have shape {rows.shape} and dtype {rows.dtype}: allowed are real "
                f"numbers of shape ({n}, d)"
            )
        rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)
        _check_finite(f"{side} features", rows)
        found.append(rows)
        widths.append(rows.shape[1])
    if widths[0] != widths[1]:
        raise ValueError(
            f"base has {widths[0]} features, tuned has {widths[1]}: allowed is one number for both"
        )
    return found


def _seeds(name: str, values: ArrayLike | None, n: int) -> Whole | None:
    if values is None:
        return None
    found = np.asarray(values)
    if found.dtype.kind not in "iu" or found.shape != (n,):
        raise ValueError(
            f"{name} have shape {found.shape} and dtype {found.dtype}: allowed are whole numbers "
            f"of shape ({n},)"
        )
    return found.astype(np.int64)


def _in_common(
    names: tuple[str, ...], prompts: list[Whole], allowed: bool
) -> tuple[tuple[str, ...], list[Whole], list[NDArray[np.bool_]], tuple[str, ...]]:
    """Names, indices and masks of rows once prompts of one side only are left out."""
    there = [np.bincount(p, minlength=len(names)) > 0 for p in prompts]
    both = there[0] & there[1]
    alone = [np.flatnonzero(mine & ~both) for mine in there]
    left_out = tuple(names[i] for side in alone for i in side)
    if not both.any():
        raise ValueError(_none_in_common(*([names[i] for i in side] for side in alone)))
    if left_out and not allowed:
        parts = [
            f"{len(found)} only in {side} ({some([names[i] for i in found])})"
            for side, found in zip(SIDES, alone, strict=True)
            if len(found)
        ]
        raise ValueError(
            f"prompts differ: {'; '.join(parts)}: allowed are the same prompts on both sides, or "
            "common_prompts, which leaves these out"
        )
    new = np.cumsum(both) - 1
    kept = [both[p] for p in prompts]
    return (
        tuple(n for n, good in zip(names, both, strict=True) if good),
        [new[p[k]].astype(np.int64) for p, k in zip(prompts, kept, strict=True)],
        kept,
        left_out,
    )


def _none_in_common(base: Sequence[str], tuned: Sequence[str]) -> str:
    text = f"base and tuned have no prompt in common: base has {some(base)}, tuned {some(tuned)}"
    known = {spelling(name) for name in base}
    alike = sum(spelling(name) in known for name in tuned)
    if alike:
        text += f" ({alike} are alike but for white space, case or Unicode form)"
    return text + ": allowed is at least one"


def spelling(prompt: str) -> str:
    """A prompt without what its spelling adds: Unicode form, case, white space."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def some(names: Sequence[str]) -> str:
    """The first names, cut where they are long."""
    shown = ", ".join(repr(n if len(n) <= 40 else n[:39] + "…") for n in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
