"""docs/results/gflownets.md and its pictures, from numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figures.gflownets import NAMES
from figures.shared.pages import Page, rounded
from theory.common.files import read_json
from theory.common.tolerances import TRAINED_SHARE
from toys.experiments.gflownets import posterior
from toys.experiments.gflownets.comparison import LONGER
from toys.experiments.gflownets.runs import measuring_key

RESULTS = Path("results/gflownets/gflownets.json")
ADVICE = "make it with `python -m toys gflownets`"
TOLD = ("nabla_printed", "nabla_bidirectional")  # in short, of the first problem


def read_results(path: Path) -> dict[str, Any]:
    """The numbers of the page, from what `python -m toys gflownets` wrote.

    Raises:
        ValueError: the file is missing, damaged, of other code, or holds a part only.
    """
    found = read_json(path, ADVICE)
    missing = [key for key in PAGE.parts if not found.get(key)]
    if missing:
        raise ValueError(f"{path}: has no {', '.join(missing)}; {ADVICE}")
    if found.get("key") != measuring_key():
        raise ValueError(f"{path}: holds runs of other code than today's; {ADVICE}")
    first = [r["name"] for r in found["rows"] if r["problem"] == found["rows"][0]["problem"]]
    if without := [name for name in TOLD if name not in first]:
        raise ValueError(f"{path}: has no runs of {', '.join(without)}; {ADVICE}")
    keys = (part for _, part in PAGE.sections.values())
    own = {key: found[key] for key in keys if found.get(key)}
    return dict(rounded(json.loads(json.dumps(own, allow_nan=False))))


def short(numbers: Mapping[str, Any]) -> str:
    """The answer in short."""
    rows = numbers["rows"]
    known = [r for r in rows if r["law_share"] is not None]
    good = [r for r in known if r["law_share"] <= TRAINED_SHARE]
    first = rows[0]["problem"]
    alike = {r["name"]: r for r in rows if r["problem"] == first}
    once = [r["cpu_seconds"] for name, r in alike.items() if name not in LONGER]
    seconds = sum(once) + rows[0]["base_cpu_seconds"]
    printed, free = (alike[name] for name in TOLD)
    left = f"{100 * printed['to_target_share']:.0f} %" + "".join(
        f" ({100 * alike[name]['to_target_share']:.0f} % where it trains {times:g} times as long)"
        for name, times in LONGER.items()
        if name in alike
    )
    trained = [r for r in numbers["posterior"]["rows"] if r["name"] not in posterior.UNTRAINED]
    whole = [NAMES[r["name"]] for r in trained if not posterior.misses(r)]
    part = [NAMES[r["name"]] for r in trained if posterior.misses(r)]
    verdict = f"Within every floor on the nine modes: {', '.join(whole) or 'none'}"
    verdict += f"; not: {', '.join(part)}." if part else "."
    return f"""
Of {len(known)} trained laws whose optimum is known, {len(good)} are within
{100 * TRAINED_SHARE:g} % of it. Residual nabla-DB as printed falls short of its target: on {first}
its exact fixed point leaves {100 * printed["optimum_to_target_share"]:.0f} % of the way from the
base to it, and the network {left}; without a flow (bidirectional) they are
{100 * free["optimum_to_target_share"]:.0f} % and {100 * free["to_target_share"]:.0f} %, which are
the finite steps' and no fault of the loss.
{verdict} The {len(once)} methods on {first} take {seconds / 60:.1f} CPU-minutes at one budget, with
the base.
"""


PAGE = Page(
    package="figures.gflownets",
    path="results/gflownets.md",
    folder="images/gflownets",
    numbers="data/gflownets.json",
    title="GFlowNets on the denoising chain: trained against what they sample",
    sections={
        "methods": ("All methods at one budget", "rows"),
        "posterior": ("A posterior of nine modes", "posterior"),
        "ablations": ("Six ablations", "ablations"),
    },
    parts=("rows", "posterior"),
    command="python -m figures gflownets",
    made="Made by `python -m toys gflownets`, then `python -m figures gflownets`",
    short=short,
)
