"""docs/results/control.md and its pictures, from numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from figures.shared.pages import Page, rounded
from theory.common.files import read_json
from theory.control.cases import CASES as CONTROL_CASES
from theory.control.cases import DoubleWell, control_case
from toys.commands.cases import percent
from toys.experiments.cases import STARTS
from toys.experiments.cases.config import METHODS, CaseConfig
from toys.experiments.cases.runs import kept
from toys.experiments.control import measuring_key

RESULTS = Path("results/control/control.json")
ADVICE = "make it with `python -m toys control --schedules`"
CASES_ADVICE = "make it with `make control`"
# Of every run, what the page shows.
KEPT = ("name", "method", "problem", "dim", "kernels", "steps", "batch", "evaluations",
        "cpu_seconds", "base_cpu_seconds", "control_error", "control_error_se",
        "total_control_error", "base_control_error", "distance", "law_share",
        "optimum_to_target_share", "trained_to_target_share", "reward_share", "diversity",
        "modes")  # fmt: skip
KEPT_OF_CASES = ("case", "method", "start", "budget", "batch", "steps", "dim", "updates",
                 "control_error", "control_error_se", "error_to_continuous", "floor",
                 "error_of_coordinates",
                 "least_cost", "cost", "cost_se", "uncontrolled_cost", "evaluations",
                 "cpu_seconds", "crossed", "crossed_of_optimum",
                 "adjoint_noise", "adjoint_noise_median", "curve")  # fmt: skip


def read_results(path: Path, cases: Path) -> dict[str, Any]:
    """The numbers of the page, from what `python -m toys control --schedules` and `python -m toys
    cases` wrote.

    Raises:
        ValueError: a file is missing, damaged, of other code, or holds a part of the runs only.
    """
    found = read_json(path, ADVICE)
    missing = [key for key in ("rows", "schedules", "budget") if not found.get(key)]
    if missing:
        raise ValueError(f"{path}: has no {', '.join(missing)}; {ADVICE}")
    if found.get("key") != measuring_key():
        raise ValueError(f"{path}: holds runs of other code than today's; {ADVICE}")
    own = []
    for config in case_configs():
        row = kept(cases, config)
        if row is None:
            raise ValueError(f"{cases}: has no {config.label} of today's code; {CASES_ADVICE}")
        own.append(row)
    numbers = {
        "budget": found["budget"],
        "rows": [{key: row[key] for key in KEPT} for row in found["rows"]],
        "schedules": found["schedules"],
        "cases": [{key: row[key] for key in KEPT_OF_CASES if key in row} for row in own],
    }
    return dict(rounded(json.loads(json.dumps(numbers, allow_nan=False))))


def case_configs() -> list[CaseConfig]:
    """The runs on named problems: all from no control, the double wells from the optimum too."""
    return [
        CaseConfig(case, method, start=start)
        for start in STARTS
        for case in CONTROL_CASES
        for method in METHODS
        if start == "none" or isinstance(control_case(case), DoubleWell)
    ]


def short(numbers: Mapping[str, Any]) -> str:
    """The answer in short."""
    own = [r for r in numbers["rows"] if r["name"] == "adjoint_matching"]
    control = max(100 * r["control_error"] for r in own)
    law = max(100 * r["law_share"] for r in own)
    first = own[0]["problem"]
    alike = [r for r in numbers["rows"] if r["problem"] == first]
    seconds = sum(r["cpu_seconds"] for r in alike) + alike[0]["base_cpu_seconds"]
    laws = {law["schedule"]: law for law in numbers["schedules"]["laws"]}
    memoryless = laws["memoryless"]["tv_trained_to_tilt"]
    tried = [r for r in numbers["cases"] if "crossed" in r and r["start"] == "none"]
    wells = {
        case: min(r["control_error"] for r in tried if r["case"] == case)
        for case in dict.fromkeys(r["case"] for r in tried)
    }
    others = [v["tv_trained_to_tilt"] for k, v in laws.items() if k != "memoryless"]
    return f"""
Adjoint Matching learns the exact optimal control on {len(own)} problems in one and two dimensions:
control error at most {control:.2f} % (allowed 2 %), law at most {law:.1f} % of the way off its
chain's optimum (allowed 5 %). Trained with the memoryless schedule, networks end {memoryless:.3f}
from the tilt in total variation, with constant ones {min(others):.3f} to {max(others):.3f}, as the
exact laws say they must. All methods on {first} take {seconds / 60:.1f} CPU-minutes, its base
included. On {len(wells)} double wells in d = 10 and 20, trained from no control, the best method's
control error is {" and ".join(percent(e) for e in wells.values())}.
"""


PAGE = Page(
    package="figures.control",
    path="results/control.md",
    folder="images/control",
    numbers="data/control.json",
    title="Fine-tuning as control: trained against the exact optimum",
    sections={
        "schedules": ("Three schedules", "schedules"),
        "matrix": ("Trained with one schedule, sampled with another", "schedules"),
        "methods": ("All methods at one budget", "rows"),
        "cases": ("Named control problems, d = 10 and 20", "cases"),
    },
    parts=("rows", "schedules", "cases"),
    command="make control",
    made="Made by `make control` (`python -m toys control --schedules`, `python -m toys cases` "
    "without and with `--start optimum`, then `python -m figures control`)",
    short=short,
)
