"""Which columns of a table are used, and for what."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

SETTINGS = (
    "scheduler",
    "sampler",
    "steps",
    "num_inference_steps",
    "guidance",
    "guidance_scale",
)


@dataclass(frozen=True)
class Plan:
    """Columns that are used: by role ("reward", ...), and features; listed: one of lists. ignored:
    the others, which rows of JSON may have or not."""

    named: dict[str, str]
    features: tuple[str, ...]
    listed: bool
    ignored: tuple[str, ...] = field(compare=False)

    @property
    def used(self) -> list[str]:
        return list(dict.fromkeys([*self.named.values(), *self.features]))


Choose = Callable[[str, Sequence[str]], Plan]


def choose_columns(
    where: str, names: Sequence[str], asked: Mapping[str, str | None], prefix: str
) -> Plan:
    named = {}
    for role, told in asked.items():
        if told is not None and told not in names:
            raise ValueError(
                f"{role} must be a column of {where}, one of {quoted(names)}, got {told!r}"
            )
        if told is not None or role in names:
            named[role] = role if told is None else told
    named |= {name: name for name in SETTINGS if name in names and name not in named.values()}
    pattern = re.compile(re.escape(prefix) + r"[\s_.:-]*([0-9]+)")
    free = [name for name in names if name not in named.values()]
    numbered = sorted((int(m[1]), name) for name in free if (m := pattern.fullmatch(name)))
    features = [name for _, name in numbered]
    first = min(1, numbered[0][0]) if numbered else 0
    if [number for number, _ in numbered] != list(range(first, first + len(numbered))):
        raise ValueError(
            f"{where}: columns of features must be numbered from 0 or 1 on, each number once, got "
            f"{quoted(features)}"
        )
    lists = [name for name in free if name in (prefix, prefix + "s")]
    if len(lists) + bool(features) > 1:
        raise ValueError(
            f"{where}: features must be one column of lists or numbered columns, got "
            f"{quoted(lists + features)}"
        )
    chosen = tuple(lists or features)
    ignored = tuple(name for name in free if name not in chosen)
    plan = Plan(named, chosen, bool(lists), ignored)
    count = Counter(names)
    for name in plan.used:
        if count[name] > 1:
            raise ValueError(f"{where}: must have one column {name!r}, got {count[name]}")
    return plan


def quoted(names: Sequence[str], most: int = 20) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*map(repr, names[:most]), *more]) or "none"
