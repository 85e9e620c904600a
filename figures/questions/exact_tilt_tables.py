"""What the numbers of page exact_tilt say: who was nearest, at what cost, and the page's tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from theory.laws.distances import Array

TITLES = {
    "note_1d": "1-D", "bump_2d": "2-D", "wide_64d": "64-D", "linear_2d": "2-D, far tail",
}  # fmt: skip
NAMES = {
    "nft": "NFT", "explicit": "explicit matching", "implicit": "implicit matching",
    "weighted": "weighted flow matching",
}  # fmt: skip
ESS_STAGES = (1, 2, 4, 8, 16)
GOALS = (0.2, 0.1, 0.05, 0.02)


def left(row: Mapping[str, Any]) -> float:
    """TV to exp(a r) as a share of the way, the mean of the row's networks."""
    return float(np.mean(row["shares"]))


def rows_of(numbers: Mapping[str, Any], problem: str, **wanted: Any) -> list[Mapping[str, Any]]:
    """Trained rows of a problem, and of a loss, stages or steps where those are given."""
    return [
        row
        for row in numbers["trained"]
        if row["problem"] == problem and all(row[k] == v for k, v in wanted.items())
    ]


def best_by_budget(numbers: Mapping[str, Any]) -> list[tuple[str, int, Mapping[str, Any]]]:
    """(problem, steps, nearest scheme) of every budget that at least three schemes had."""
    return [
        (problem, steps, min(rows, key=left))
        for problem in numbers["problems"]
        for steps in sorted({row["steps"] for row in rows_of(numbers, problem)})
        if len(rows := rows_of(numbers, problem, steps=steps)) > 2
    ]


def cheapest(numbers: Mapping[str, Any], problem: str, goal: float) -> Mapping[str, Any] | None:
    """The row with the fewest gradient steps that leaves at most `goal` of the way."""
    good = [row for row in rows_of(numbers, problem) if left(row) <= goal]
    return min(good, key=lambda row: (row["steps"], left(row)), default=None)


def is_once(row: Mapping[str, Any]) -> bool:
    """Whether a scheme is one of the unbiased losses in one stage."""
    return row["stages"] == 1 and row["loss"] in ("implicit", "weighted")


def bias_curve(numbers: Mapping[str, Any], problem: str) -> tuple[Array, Array]:
    """(stages, exact share left) of NFT."""
    rows = [r for r in numbers["problems"][problem]["exact"] if r["loss"] == "nft"]
    return np.array([r["stages"] for r in rows]), np.array([r["share"] for r in rows])


def slope(numbers: Mapping[str, Any], problem: str) -> float:
    """Share left over the tilt of a stage in standard deviations, at the most stages measured."""
    stages, shares = bias_curve(numbers, problem)
    return float(shares[-1] * stages[-1] / numbers["problems"][problem]["stds"])


def scheme(row: Mapping[str, Any]) -> str:
    """NFT, 16 stages."""
    return f"{NAMES[row['loss']]}, {row['stages']} stage{'s' if row['stages'] > 1 else ''}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def effective(numbers: Mapping[str, Any], problem: str) -> dict[int, float]:
    return {r["stages"]: r["share"] for r in numbers["problems"][problem]["weight_share"]}


def zero(line: Mapping[str, Any]) -> str:
    row = next(r for r in line["exact"] if r["loss"] == "implicit")
    return f"below {row['share']:.0e}"


def largest_gap(numbers: Mapping[str, Any]) -> float:
    """Between implicit and weighted matching in one stage, over problems and budgets."""
    return max(
        abs(left(a) - left(b))
        for name in TITLES
        for a in rows_of(numbers, name, loss="implicit", stages=1)
        for b in rows_of(numbers, name, loss="weighted", stages=1, steps=a["steps"])
    )


def one_ahead_of_four(numbers: Mapping[str, Any]) -> tuple[int, int]:
    """(budgets in which implicit matching in one stage is nearer than in four, all of them),
    the far tail aside."""
    gaps = [
        left(four) - left(one)
        for name in TITLES
        if name != "linear_2d"
        for four in rows_of(numbers, name, loss="implicit", stages=4)
        for one in rows_of(numbers, name, loss="implicit", stages=1, steps=four["steps"])
    ]
    return sum(gap > 0 for gap in gaps), len(gaps)


def spread_of(row: Mapping[str, Any]) -> float:
    return max(row["shares"]) - min(row["shares"])


def exact_table(numbers: Mapping[str, Any]) -> str:
    found = {
        (name, r["loss"], r["stages"]): r["share"]
        for name, p in numbers["problems"].items()
        for r in p["exact"]
    }
    shown = ("note_1d", "bump_2d", "wide_64d")
    lines = [f"| | {' | '.join(place(numbers, n) for n in shown)} |", "|---|---|---|---|"]
    for loss in ("nft", "explicit"):
        for k in sorted({k for _, own, k in found if own == loss}):
            cells = [percent(found[n, loss, k]) if (n, loss, k) in found else "" for n in shown]
            lines.append(f"| {scheme({'loss': loss, 'stages': k})} | {' | '.join(cells)} |")
    return "\n".join(lines)


def place(numbers: Mapping[str, Any], name: str) -> str:
    own = numbers["problems"][name]
    return f"{TITLES[name]}, `{name}`, a = {own['total']:g} ({own['stds']:.1f} std)"


def effective_table(numbers: Mapping[str, Any]) -> str:
    lines = ["| | " + " | ".join(f"K = {k}" for k in ESS_STAGES) + " |", "|---" * 6 + "|"]
    for name in TITLES:
        cells = [f"{100 * v:.2g} %" for v in effective(numbers, name).values()]
        lines.append(f"| {place(numbers, name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def schemes(numbers: Mapping[str, Any], name: str) -> list[tuple[str, int]]:
    return list(dict.fromkeys((r["loss"], r["stages"]) for r in rows_of(numbers, name)))


def trained_table(numbers: Mapping[str, Any]) -> str:
    blocks = []
    for name in TITLES:
        levels = {r["steps"]: r["rewards"] for r in rows_of(numbers, name)}
        head = " | ".join(f"{s:,} steps, {n:,} rewards" for s, n in sorted(levels.items()))
        lines = [f"| {place(numbers, name)} | {head} | CPU-s |", "|---" * (len(levels) + 2) + "|"]
        for loss, k in schemes(numbers, name):
            rows = {r["steps"]: r for r in rows_of(numbers, name, loss=loss, stages=k)}
            cells = [percent(left(rows[s])) if s in rows else "" for s in sorted(levels)]
            last = rows[max(rows)]
            lines.append(f"| {scheme(last)} | {' | '.join(cells)} | {last['cpu_seconds']:.1f} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def goal_table(numbers: Mapping[str, Any]) -> str:
    goals = " | ".join(f"{100 * g:g} %" for g in GOALS)
    lines = [f"| | {goals} |", "|---" * (len(GOALS) + 1) + "|"]
    for name in TITLES:
        cells = [
            f"{scheme(row)}: {row['steps']:,} steps, {row['rewards']:,} rewards"
            if row is not None
            else "not reached"
            for row in (cheapest(numbers, name, goal) for goal in GOALS)
        ]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)
