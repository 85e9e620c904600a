"""Rows of one prompt that are equal, or nearly, in all that is known of them.

Equal values are no proof: a reward of 0 or 1 has thousands. They are copies where chance does not
make such ties. Either all values of a side come k, 2k, 3k times, of so many values that no
chance does that: each then counts a k-th. Or values lie far apart, and those that are equal are
many more than those that are next to equal, as they would be of numbers that were rounded; and they
come so and so many times each, or are most values: not a few atoms beside a continuous law.
Near features are no proof either where rows that are no copies are as near.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.samples import Array, Side, Whole

CHANCE = 1e-9  # of all values coming a multiple of k times
LEAST_TIED = 5  # values that occur several times, to call them copies
FACTOR = 5  # so many more values are equal than are next to equal
NEXT = 1.5  # times the least gap between values
ALIKE = 0.9  # share of the tied values that occur equally often
DISTINCT = 0.4  # share of the rows, from which on values are too many to be atoms
TIED = 0.05  # share of the values that are tied then, which few atoms are not
ROUNDING, NEAR = 1e-6, 0.02  # of a reward and a feature encoded again, in standard deviations
MET = 0.05  # rows near in features, but not in reward, that a row has: above, near ones are chance
SOME = 20_000  # rows, enough for a deviation
BLOCK = 8192  # rows whose features are looked at at once
Rows = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Groups:
    """sizes of groups of equal rows, in an order of rows (None: order_of's); atom:
    tied groups whose value occurs in other prompts too; next_to: pairs of rows that are as near to
    equal as any that are not."""

    order: Whole | None
    sizes: Whole
    atom: Mask
    next_to: int


def order_of(side: Side, prompt: Whole) -> Whole:
    """Rows by prompt and reward."""
    return np.lexsort((side.reward, prompt))


def equal(side: Side, prompt: Whole) -> Groups:
    """Rows that are equal in prompt, reward and features."""
    order: Whole | None = None
    if not side.dim and (np.diff(prompt) >= 0).all():
        # Values alone, a prompt at a time: a tenth of the time that their order takes.
        value = np.array(side.reward)
        ends = np.flatnonzero(np.diff(prompt, append=-1)) + 1
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            value[start:end].sort()
        where = prompt
    else:
        value = _mixed(side, prompt) if side.dim else side.reward
        order = np.lexsort((value, side.reward, prompt))
        value, where = value[order], prompt[order]
    new = np.ones(len(value), dtype=bool)
    new[1:] = np.diff(where) != 0
    if not side.dim or order is None:
        new[1:] |= np.diff(value) != 0
    else:
        new[1:] |= np.diff(side.reward[order]) != 0
        for rows in _blocks(np.flatnonzero(~new)):
            new[rows] = (side.features[order[rows]] != side.features[order[rows - 1]]).any(1)
    sizes = np.diff(np.append(np.flatnonzero(new), len(value)))
    if len(sizes) == len(value):
        return Groups(order, sizes, np.zeros(len(sizes), dtype=bool), 0)
    value, where = value[new], where[new]  # one a group
    atom = np.zeros(len(sizes), dtype=bool)
    atom[sizes > 1] = _in_other_prompts(value[sizes > 1], where[sizes > 1], value, where)
    if side.dim:
        by_value = np.lexsort((value, where))
        value, where = value[by_value], where[by_value]
    gaps = np.diff(value)[np.diff(where) == 0]
    gaps = gaps[gaps > 0]
    next_to = int((gaps <= NEXT * gaps.min()).sum()) if len(gaps) else 0
    return Groups(order, sizes, atom, next_to)


def nearly_equal(side: Side, prompt: Whole) -> Groups:
    """Rows of a prompt whose rewards are equal up to rounding, and features up to a small error."""
    reward, spread = _deviations(side.reward[:, None], prompt), _deviations(side.features, prompt)
    order = np.lexsort((_mixed(side, prompt), side.reward, prompt))
    new = np.ones(len(order), dtype=bool)
    if _meet_by_chance(side, prompt, reward[0], spread):
        return Groups(order, np.ones(len(order), dtype=np.int64), ~new, 0)
    new[1:] = np.diff(prompt[order]) != 0
    new[1:] |= np.diff(side.reward[order]) > ROUNDING * reward[0]
    next_to = 0
    for rows in _blocks(np.flatnonzero(~new)):
        away = _away(side.features, order[rows], order[rows - 1], spread)
        new[rows] = away > NEAR
        next_to += int(((away > NEAR) & (away <= 3 * NEAR)).sum())
    sizes = np.diff(np.append(np.flatnonzero(new), len(order)))
    return Groups(order, sizes, np.zeros(len(sizes), dtype=bool), next_to)


def _away(features: Rows, rows: Whole, others: Whole, spread: Array) -> Array:
    """Root mean square of what rows of features differ by, in deviations."""
    gap = features[rows] - features[others].astype(np.float64)
    return np.asarray(np.sqrt(np.square(gap / spread).mean(1)))


def _meet_by_chance(side: Side, prompt: Whole, reward: float, spread: Array) -> bool:
    """Whether rows of a prompt with other rewards, which are no copies, are near in features too:
    features are few, or say little, and near ones prove nothing."""
    order = np.lexsort((np.random.default_rng(0).random(len(prompt)), prompt))
    pairs = 1 + np.flatnonzero(np.diff(prompt[order]) == 0)[:SOME]
    rows, others = order[pairs], order[pairs - 1]
    other = np.abs(side.reward[rows] - side.reward[others]) > ROUNDING * reward
    rows, others = rows[other], others[other]
    near = 0
    for i in _blocks(np.arange(len(rows))):
        near += int((_away(side.features, rows[i], others[i], spread) <= NEAR).sum())
    of_a_prompt = len(prompt) / len(np.unique(prompt))
    return near * of_a_prompt > MET * len(rows)


def _blocks(rows: Whole) -> Iterator[Whole]:
    """So many at once that their features take little memory."""
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _mixed(side: Side, prompt: Whole) -> Array:
    """(n,) reward and features as one number, in their deviations, with weights drawn once; equal
    rows have equal numbers: sums are taken row by row, not by a library's product."""
    drawn = np.random.default_rng(0).normal(size=side.features.shape[1])
    weights = drawn / _deviations(side.features, prompt)
    found = side.reward / _deviations(side.reward[:, None], prompt)[0]
    for rows in _blocks(np.arange(len(side))):
        found[rows] += (side.features[rows] * weights).sum(1)
    return found


def _deviations(values: Rows, prompt: Whole) -> Array:
    """(d,) within prompts, of all rows where that is nothing; inf where they do not vary."""
    some = some_of(len(values))
    (x,) = scaled(values, some)
    reach = np.abs(values[some] - values[some[len(some) // 2]]).max(0)
    size = np.maximum(reach, np.finfo(float).tiny)
    own = mean_square(x, numbers(prompt[some]))
    found = size * np.sqrt(np.where(own > 0, own, x.var(0)))
    return np.where(found > 0, found, np.inf)


def counts_as(found: Groups) -> Whole:
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


def some_of(n: int) -> Whole:
    """Every so many of n rows, about SOME: enough for a deviation."""
    return np.arange(0, n, -(-n // SOME))


def scaled(values: Rows, *parts: Whole) -> list[Array]:
    """Rows of values (n, d) about a middle one, in units in which their squares are no trouble."""
    middle = values[parts[-1][len(parts[-1]) // 2]].astype(np.float64)
    rest = [values[rows] - middle for rows in parts]
    size = np.maximum(np.abs(rest[-1]).max(0), np.finfo(float).tiny)
    return [x / size for x in rest]


def numbers(values: Whole) -> Whole:
    return np.unique(values, return_inverse=True)[1]


def mean_square(x: Rows, group: Whole) -> Array:
    """Variances (d,) within groups (n,), numbers from 0, without bias; 0 where all rows differ in
    it."""
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    starts = np.cumsum(counts) - counts
    x = x[order]
    rest = x - np.repeat(np.add.reduceat(x, starts) / counts[:, None], counts, axis=0)
    return np.asarray(np.square(rest).sum(0) / max(len(x) - len(counts), 1))
