"""Copies: rows of one side that are one sample written several times. Each counts once.

Samplers pad their last batch with copies, ranks draw the same noise, exports are joined with
themselves: rows that look independent and are not. They are found in two ways, in prompts that
are alike up to white space, case and Unicode form:

    by seed    rows of one prompt and seed, where seeds name samples: what rows of one seed differ
               by is at most NAMED of the variance within prompts. (A seed may also be that of a
               batch, or a constant: its rows then differ like any others, and are no copies.)
    by value   rows with the same reward and the same features, to the last bit or, of features,
               up to a small relative error (pictures encoded again).

Equal values are no proof; equal_rows.py says when they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from theory.audit.data.equal_rows import (
    SOME,
    Mask,
    counts_as,
    equal,
    mean_square,
    nearly_equal,
    numbers,
    order_of,
    scaled,
    some_of,
)
from theory.audit.data.inputs import spelling
from theory.audit.data.samples import AuditData, Side, Whole

NAMED = 0.05  # of the variance within prompts, what rows of one seed may differ by


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
    base, tuned = (_of_side(side, first) for side in (data.base, data.tuned))
    joined = np.union1d(base.joined, tuned.joined)
    names = [data.prompts[i] for i in joined]
    copies = Copies(
        (base.by_seed, tuned.by_seed),
        (base.by_value, tuned.by_value),
        (base.ties, tuned.ties),
        merged=tuple(group for group in groups if group[0] in names),
        spelt=tuple(group for group in groups if group[0] not in names),
    )
    if any(copies.left_out):
        data = data.take(base.kept, tuned.kept)
    return (_merged(data, first, joined) if len(joined) else data), copies


def _merged(data: AuditData, first: Whole, joined: Whole) -> AuditData:
    """Prompts of these spellings become one, under the first of their names."""
    to = np.where(np.isin(first, joined), first, np.arange(len(first)))
    names, number = np.unique(to, return_inverse=True)
    base, tuned = (side.renumbered(number) for side in (data.base, data.tuned))
    return AuditData(tuple(data.prompts[i] for i in names), base, tuned, data.left_out)


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
        new = (np.diff(prompt[rows]) != 0) | (np.diff(side.seed[rows]) != 0)
        group = np.append(0, np.cumsum(new))
        sizes = np.bincount(group)
        if int(sizes.max()) > 1 and _are_names(side, prompt, rows, group, sizes):
            leave_out(rows, group, np.ones_like(sizes), 0)
    for way in (equal, nearly_equal) if side.dim else (equal,):
        rows = np.flatnonzero(kept)
        some = side.take(rows) if len(rows) < len(side) else side
        found = way(some, prompt[rows])
        each = counts_as(found)
        if (each < found.sizes).any():
            order = order_of(some, prompt[rows]) if found.order is None else found.order
            leave_out(rows[order], np.repeat(np.arange(len(each)), found.sizes), each, 1)
        if way is equal:
            ties = int((each - 1).sum())
    return _Found(kept, counts[0], counts[1], ties, joined)


# --- by seed


def _are_names(side: Side, prompt: Whole, rows: Whole, group: Whole, sizes: Whole) -> bool:
    """Whether rows of one prompt and seed are one sample: they differ by little or nothing."""
    repeated = np.flatnonzero(sizes[group] > 1)[:SOME]
    some = some_of(len(side))
    for values in (side.reward[:, None], side.features):
        of_seeds, of_all = scaled(values, rows[repeated], some)
        inside = mean_square(of_seeds, numbers(group[repeated]))
        own = mean_square(of_all, numbers(prompt[some]))
        whole = np.where(own > 0, own, of_all.var(0))
        varies = whole > 0
        if varies.any() and float((inside[varies] / whole[varies]).mean()) > NAMED:
            return False
    return True
