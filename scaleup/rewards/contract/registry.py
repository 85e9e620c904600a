"""Rewards by name, or from a file of the user's own, with options; and weighted sums of them.

redness                               a reward with its defaults
jpeg_size:quality=80                  options after a colon, separated by commas
path/to/my_reward.py:strength=2       the one Reward that the file defines
0.7*redness+0.3*brightness            a weighted sum; -1*redness turns the sign

A path with a comma or a plus sign in it cannot be written as text: build the reward in Python.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from theory.common.registry import Catalogue, Registry, Rows, is_needed

if TYPE_CHECKING:
    from scaleup.rewards.contract.reward import Reward

# A plus sign, unless it is the sign of an exponent: 1e+3*redness.
PLUS = re.compile(r"(?<![\d.][eE])\+")
REGISTRY: Registry[Reward] = Registry(
    "reward",
    package="scaleup.rewards",
    base="scaleup.rewards.contract.reward:Reward",
    without=("contract",),
    more=("a path that ends in .py", "a weighted sum (0.7*redness+0.3*brightness)"),
)
rewards = REGISTRY.items


def parse_reward(text: str) -> Reward:
    """A reward, or a weighted sum of rewards, from its text.

    Raises:
        ValueError: unknown reward or option, a value out of range, a weight that is no number, a
            file without exactly one reward.
        FileNotFoundError: no such file.
    """
    from scaleup.rewards.contract.weighted import Weighted

    terms = [(weight, REGISTRY.parse(term)) for weight, term in _terms(text)]
    if len(terms) == 1 and terms[0][0] is None:
        return terms[0][1]
    weights = tuple(1.0 if weight is None else weight for weight, _ in terms)
    return Weighted(tuple(reward for _, reward in terms), weights)


def reward_sources(text: str) -> list[tuple[str, Reward]]:
    """(path of its file, or name of its module; reward) of every reward in a text that
    `parse_reward` takes.

    Raises:
        ValueError, FileNotFoundError: as `parse_reward`.
    """
    return [REGISTRY.source(term) for _, term in _terms(text)]


def _terms(text: str) -> list[tuple[float | None, str]]:
    """(weight or None, `name:option=value`) of every term of a sum."""
    found: list[tuple[float | None, str]] = []
    for part in PLUS.split(text):
        head, star, rest = part.strip().partition("*")
        try:
            found.append((float(head), rest.strip()) if star else (None, head))
        except ValueError as error:
            raise ValueError(
                f"weight in reward {part.strip()!r} must be a number before the *, got {head!r}"
            ) from error
    return found


def _measured() -> Rows:
    rows: Rows = []
    for name, kind in rewards().items():
        # What needs an instance's options is a property of the class, and not shown.
        what, bounds, gradient = (getattr(kind, k) for k in ("summary", "bounds", "differentiable"))
        options = [
            f"{f.name}={'...' if is_needed(f) else f.default}"
            for f in dataclasses.fields(kind)  # type: ignore[arg-type]
            if f.init
        ]
        rows.append(
            {
                "reward": name,
                "what": what if isinstance(what, str) else "",
                "values in": str(bounds) if isinstance(bounds, tuple) else "any",
                "gradient": "yes" if gradient is True else "no",
                "options": ", ".join(options) or "none",
            }
        )
    return rows


# Of every built-in reward: its summary, bounds and options, and whether it has a gradient.
REWARDS = Catalogue(Path(__file__).parents[1], _measured)
