"""Copies: rows of one side that are one sample written several times. Each counts once.

Samplers pad their last batch with copies, ranks draw the same noise, exports are joined with
themselves: rows that look independent and are not. They are found in two ways, in prompts that
are alike up to white space, case and Unicode form:

    by seed    rows of one prompt and seed, where seeds name samples: what rows of one seed differ
               by is at most NAMED of the variance within prompts. (A seed may also be that of a
               batch, or a constant: its rows then differ like any others, and are no copies.)
    by value   rows with the same reward and the same features, to the last bit or, of features,
               up to a small relative error (pictures encoded again).

Equal values are no proof: a reward of 0 or 1 has thousands. They are copies where chance does not
make such ties. Either all values of a side come k, 2k, 3k times, of so many values that no
chance does that: each then counts a k-th. Or values lie far apart, and those that are equal are
many more than those that are next to equal, as they would be of numbers that were rounded; and they
come so and so many times each, or are most values: not a few atoms beside a continuous law.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.inputs import spelling
from theory.audit.data.samples import Array, AuditData, Side, Whole

NAMED = 0.05  # of the variance within prompts, what rows of one seed may differ by
CHANCE = 1e-9  # of all values coming a multiple of k times
LEAST_TIED = 5  # values that occur several times, to call them copies
FACTOR = 5  # so many more values are equal than are next to equal
NEXT = 1.5  # times the least gap between values
ALIKE = 0.9  # share of the tied values that occur equally often
DISTINCT = 0.4  # share of the rows, from which on values are too many to be atoms
TIED = 0.05  # share of the values that are tied then, which few atoms are not
ROUNDING, NEAR = 1e-6, 0.02  # of a reward and a feature encoded again, in standard deviations
SOME = 20_000  # rows, enough for a deviation
BLOCK = 8192  # rows whose features are looked at at once
Rows = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Copies:
    """Rows of (base, tuned) that are left out: by_seed, by_value; ties: rows that equal another in
    all that is known, and count. merged: spellings of one prompt that hold copies of each other;
    spelt: other prompts that are alike but for their spelling, which stay apart."""

    by_seed: tuple[int, int] = (0, 0)
    by_value: tuple[int, int] = (0, 0)
    ties: tuple[int, int] = (0, 0)
    merged: tuple[tuple[str, ...], ...] = ()
    spelt: tuple[tuple[str, ...], ...] = ()

    @property
    def left_out(self) -> tuple[int, int]:
        """Rows of (base, tuned)."""
        return self.by_seed[0] + self.by_value[0], self.by_seed[1] + self.by_value[1]


def spelt_alike(prompts: Sequence[str]) -> tuple[Whole, tuple[tuple[str, ...], ...]]:
    """(number of each prompt's spelling (P,), groups of prompts that share one)."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        groups[spelling(prompt)].append(i)
    first = np.arange(len(prompts))
    several = [group for group in groups.values() if len(group) > 1]
    for group in several:
        first[group] = group[0]
    return first, tuple(tuple(prompts[i] for i in group) for group in several)


def distinct(data: AuditData) -> tuple[AuditData, Copies]:
    """The data with one row of each sample, and what was left out."""
    first, groups = spelt_alike(data.prompts)
    found = [_of_side(side, first) for side in (data.base, data.tuned)]
    counts = {
        name: (int(getattr(found[0], name)), int(getattr(found[1], name)))
        for name in ("by_seed", "by_value", "ties")
    }
    joined = np.unique(np.concatenate([part.joined for part in found]))
    names = [data.prompts[i] for i in joined]
    merged = tuple(group for group in groups if group[0] in names)
    spelt = tuple(group for group in groups if group[0] not in names)
    copies = Copies(**counts, merged=merged, spelt=spelt)
    if any(copies.left_out):
        data = data.take(found[0].kept, found[1].kept)
    return (_merged(data, first, joined) if len(joined) else data), copies


def _merged(data: AuditData, first: Whole, joined: Whole) -> AuditData:
    """Prompts of these spellings become one, under the first of their names."""
    to = np.where(np.isin(first, joined), first, np.arange(len(first)))
    names, number = np.unique(to, return_inverse=True)

    def of(side: Side) -> Side:
        moved = replace(side, prompt=number[side.prompt].astype(np.int64))
        return moved.take(np.argsort(moved.prompt, kind="stable"))

    prompts = tuple(data.prompts[i] for i in names)
    return AuditData(prompts, of(data.base), of(data.tuned), data.left_out)


@dataclass(frozen=True, eq=False)
class _Found:
    """kept (n,): rows that count; numbers as in Copies; joined: spellings whose copies lie in
    several prompts."""

    kept: Mask
    by_seed: int
    by_value: int
    ties: int
    joined: Whole


def _of_side(side: Side, first: Whole) -> _Found:
    prompt = first[side.prompt]
    kept, joined = np.ones(len(side), dtype=bool), np.zeros(0, dtype=np.int64)
    counts, ties = [0, 0], 0

    def leave_out(rows: Whole, group: Whole, each: Whole, turn: int) -> None:
        """Of each group (numbers along rows, rising), all but as many rows as each says."""
        nonlocal joined
        place = np.arange(len(rows)) - np.searchsorted(group, group)
        out = place >= each[group]
        several = np.isin(group, group[out])
        own = side.prompt[rows]
        strange = several & (own != own[np.searchsorted(group, group)])
        joined = np.union1d(joined, prompt[rows[strange]])
        kept[rows[out]] = False
        counts[turn] += int(out.sum())

    if side.seed is not None:
        rows = np.lexsort((side.seed, prompt))
        group = _groups((prompt[rows], side.seed[rows]))
        sizes = np.bincount(group)
        if int(sizes.max()) > 1 and _are_names(side, prompt, rows, group, sizes):
            leave_out(rows, group, np.ones_like(sizes), 0)
    ways = (_equal,) if side.features is None else (_equal, _nearly_equal)
    for way in ways:
        rows = np.flatnonzero(kept)
        some = side.take(rows) if len(rows) < len(side) else side
        found = way(some, prompt[rows])
        each = _counts_as(found)
        if (each < found.sizes).any():
            order = _order(some, prompt[rows]) if found.order is None else found.order
            leave_out(rows[order], np.repeat(np.arange(len(each)), found.sizes), each, 1)
        if way is _equal:
            ties = int((each - 1).sum())
    return _Found(kept, counts[0], counts[1], ties, joined)


def _groups(keys: Sequence[NDArray[Any]]) -> Whole:
    """Numbers from 0 of runs of rows whose keys are equal; keys are sorted."""
    new = np.zeros(len(keys[0]), dtype=bool)
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    return np.cumsum(new)


# --- by seed


def _are_names(side: Side, prompt: Whole, rows: Whole, group: Whole, sizes: Whole) -> bool:
    """Whether rows of one prompt and seed are one sample: they differ by little or nothing."""
    repeated = np.flatnonzero(sizes[group] > 1)[:SOME]
    some = _some(len(side))
    kinds = [side.reward[:, None]] + ([] if side.features is None else [side.features])
    for values in kinds:
        of_seeds, of_all = _scaled(values, rows[repeated], some)
        inside = _mean_square(of_seeds, _numbers(group[repeated]))
        own = _mean_square(of_all, _numbers(prompt[some]))
        whole = np.where(own > 0, own, of_all.var(0))
        varies = whole > 0
        if varies.any() and float((inside[varies] / whole[varies]).mean()) > NAMED:
            return False
    return True


def _some(n: int) -> Whole:
    """Every so many of n rows, about SOME: enough for a deviation."""
    return np.arange(0, n, -(-n // SOME))


def _scaled(values: Rows, *parts: Whole) -> list[Array]:
    """Rows of values (n, d) about a middle one, in units in which their squares are no trouble."""
    middle = values[parts[-1][len(parts[-1]) // 2]].astype(np.float64)
    rest = [values[rows] - middle for rows in parts]
    size = np.maximum(np.abs(rest[-1]).max(0), np.finfo(float).tiny)
    return [x / size for x in rest]


def _numbers(values: Whole) -> Whole:
    return np.unique(values, return_inverse=True)[1]


def _mean_square(x: Rows, group: Whole) -> Array:
    """Variances (d,) within groups (n,), numbers from 0, without bias; 0 where all rows differ in
    it."""
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    starts = np.cumsum(counts) - counts
    x = x[order]
    rest = x - np.repeat(np.add.reduceat(x, starts) / counts[:, None], counts, axis=0)
    return np.asarray(np.square(rest).sum(0) / max(len(x) - len(counts), 1))


# --- by value


@dataclass(frozen=True, eq=False)
class _Groups:
    """sizes of groups of equal rows, one after another in an order of rows (None: _order's); atom:
    tied groups whose value occurs in other prompts too; next_to: pairs of rows that are as near to
    equal as any that are not."""

    order: Whole | None
    sizes: Whole
    atom: Mask
    next_to: int


def _order(side: Side, prompt: Whole) -> Whole:
    """Rows by prompt and reward."""
    return np.lexsort((side.reward, prompt))


def _equal(side: Side, prompt: Whole) -> _Groups:
    """Rows that are equal in prompt, reward and features."""
    order: Whole | None = None
    if side.features is None and (np.diff(prompt) >= 0).all():
        # Values alone, a prompt at a time: a tenth of the time that their order takes.
        value = np.array(side.reward)
        ends = np.flatnonzero(np.diff(prompt, append=-1)) + 1
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            value[start:end].sort()
        where = prompt
    else:
        value = side.reward if side.features is None else _mixed(side, prompt)
        order = np.lexsort((value, side.reward, prompt))
        value, where = value[order], prompt[order]
    new = np.ones(len(value), dtype=bool)
    new[1:] = np.diff(where) != 0
    if side.features is None or order is None:
        new[1:] |= np.diff(value) != 0
    else:
        new[1:] |= np.diff(side.reward[order]) != 0
        for rows in _blocks(np.flatnonzero(~new)):
            pair = side.features[order[rows]] == side.features[order[rows - 1]]
            new[rows] = ~pair.all(1)
    sizes = np.diff(np.append(np.flatnonzero(new), len(value)))
    if len(sizes) == len(value):
        return _Groups(order, sizes, np.zeros(len(sizes), dtype=bool), 0)
    value, where = value[new], where[new]  # one a group
    atom = np.zeros(len(sizes), dtype=bool)
    atom[sizes > 1] = _in_other_prompts(value[sizes > 1], where[sizes > 1], value, where)
    if side.features is not None:
        by_value = np.lexsort((value, where))
        value, where = value[by_value], where[by_value]
    gaps = np.diff(value)[np.diff(where) == 0]
    gaps = gaps[gaps > 0]
    next_to = int((gaps <= NEXT * gaps.min()).sum()) if len(gaps) else 0
    return _Groups(order, sizes, atom, next_to)


def _nearly_equal(side: Side, prompt: Whole) -> _Groups:
    """Rows of a prompt whose rewards are equal up to rounding, and features up to a small error."""
    assert side.features is not None
    reward, spread = _deviations(side.reward[:, None], prompt), _deviations(side.features, prompt)
    order = np.lexsort((_mixed(side, prompt), side.reward, prompt))
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.diff(prompt[order]) != 0
    new[1:] |= np.diff(side.reward[order]) > ROUNDING * reward[0]
    next_to = 0
    for rows in _blocks(np.flatnonzero(~new)):
        gap = side.features[order[rows]] - side.features[order[rows - 1]].astype(np.float64)
        away = np.sqrt(np.square(gap / spread).mean(1))
        new[rows] = away > NEAR
        next_to += int(((away > NEAR) & (away <= 3 * NEAR)).sum())
    sizes = np.diff(np.append(np.flatnonzero(new), len(order)))
    return _Groups(order, sizes, np.zeros(len(sizes), dtype=bool), next_to)


def _blocks(rows: Whole) -> Iterator[Whole]:
    """So many at once that their features take little memory."""
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _mixed(side: Side, prompt: Whole) -> Array:
    """(n,) reward and features as one number, in their deviations, with weights drawn once; equal
    rows have equal numbers: sums are taken row by row, not by a library's product."""
    assert side.features is not None
    drawn = np.random.default_rng(0).normal(size=side.features.shape[1])
    weights = drawn / _deviations(side.features, prompt)
    found = side.reward / _deviations(side.reward[:, None], prompt)[0]
    for rows in _blocks(np.arange(len(side))):
        found[rows] += (side.features[rows] * weights).sum(1)
    return found


def _deviations(values: Rows, prompt: Whole) -> Array:
    """(d,) within prompts, of all rows where that is nothing; inf where they do not vary."""
    some = _some(len(values))
    (x,) = _scaled(values, some)
    reach = np.abs(values[some] - values[some[len(some) // 2]]).max(0)
    size = np.maximum(reach, np.finfo(float).tiny)
    own = _mean_square(x, _numbers(prompt[some]))
    found = size * np.sqrt(np.where(own > 0, own, x.var(0)))
    return np.where(found > 0, found, np.inf)


def _counts_as(found: _Groups) -> Whole:
    """As how many samples each group of equal rows counts."""
    sizes = found.sizes
    if int(sizes.max()) == 1:
        return sizes
    factor = int(np.gcd.reduce(sizes))
    if factor > 1 and len(sizes) * math.log(factor) > -math.log(CHANCE):
        return np.asarray(sizes // factor)
    tied = (sizes > 1) & ~found.atom
    count = int(tied.sum())
    if count < LEAST_TIED or count <= FACTOR * found.next_to:
        return sizes
    usual = int(np.bincount(sizes[tied]).argmax())
    if float((sizes[tied] == usual).mean()) >= ALIKE:
        most = float(usual)
    elif len(sizes) >= DISTINCT * int(sizes.sum()) and count >= TIED * len(sizes):
        most = 8 * float(np.median(sizes[tied]))
    else:
        return sizes
    # A value that occurs many more times than the others is an atom: a reward at its bound.
    return np.where(tied & (sizes <= most), 1, sizes)


def _in_other_prompts(tied: Array, own: Whole, value: Array, prompt: Whole) -> Mask:
    """Whether tied values of prompts `own` are among the values of other prompts."""
    known, number = np.unique(tied, return_inverse=True)
    place = np.minimum(np.searchsorted(known, value), len(known) - 1)
    same = known[place] == value
    low, high = np.full(len(known), np.iinfo(np.int64).max), np.full(len(known), -1)
    np.minimum.at(low, place[same], prompt[same])
    np.maximum.at(high, place[same], prompt[same])
    return np.asarray((low[number] < own) | (high[number] > own))
