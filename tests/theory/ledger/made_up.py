"""Rows that are made up: an exact one, a false one with a map, an approximation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from theory.ledger.core.claim import PROFILES, Claim, Context, Finding
from theory.ledger.core.region import Region

FAST = PROFILES["fast"]
MAPPED = replace(FAST, cells=4)


def part(context: Context) -> Finding:
    """Its number is its seed: parts must not share one."""
    return Finding(
        "first | part",
        "claim",
        "exact",
        True,
        "error 1e-12 | of x < y",
        {"error": 1e-12, "tv": 0.25, "settings": 3, "seed": context.seed, "gone": np.nan},
        "d = 1 | x",
        mutants={"a | wrong one": np.bool_(True)},  # type: ignore[dict-item]
    )


def other(context: Context) -> Finding:
    return Finding("second", "support", "exact", np.bool_(True), "<b>", {"seed": context.seed})  # type: ignore[arg-type]


def failing(context: Context) -> Finding:
    return Finding("fails", "claim", "exact", False, "TV 0.3", worst="N(0, 1)")


def ordered(context: Context) -> Finding:
    return Finding("slope", "claim", "order", True, "slope 2.00", order=2)


def raising(context: Context) -> Finding:
    raise RuntimeError("no such thing")


def some_map(cells: int) -> Region:
    x = np.linspace(1.0, 2.0, cells)
    return Region("a | map", "x | size", x, "y", x, 0.04 * np.outer(x, x), "TV")


EXACT = Claim(
    "Q1",
    "liu, (1) | <i>",
    "a * b | c_d < e",
    "r > 0 & s",
    "by hand",
    "by | foot",
    "exact",
    "Mind the | pipe.",
    (part, other),
)
WRONG = replace(EXACT, id="Q2", recorded="false", remark="", parts=(failing,), region=some_map)
ORDER = replace(EXACT, id="Z3", recorded="order 2", parts=(ordered, other))
CLAIMS = (EXACT, WRONG, ORDER)
