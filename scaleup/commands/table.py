"""`python -m scaleup table`: finished runs side by side, from their comparisons with the base."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from theory.common.console import print_rows
from theory.common.files import read_json

Row = dict[str, Any]
# What is told of a run, of the rows of its comparison.json.
MEASURES = {
    "reward_measured": "reward ",
    "diversity": "diversity within prompts",
    "frechet": "Frechet distance to the base",
    "accuracy": "prompt accuracy",
}


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `table`."""
    command.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a finished run's folder"
    )
    command.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError: a folder is no finished run.
    """
    rows = rows_of(options.runs)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print_rows(shown(rows), 200)
    return 0


def rows_of(folders: Sequence[Path]) -> list[Row]:
    """A row a run: its settings, and base, tuned and change of MEASURES as `comparison.json` has
    them (the run's own reward; None where it was not measured).

    Raises:
        ValueError: a folder is no finished run of this version.
    """
    return [_row(folder) for folder in folders]


def _row(folder: Path) -> Row:
    from scaleup.training.runfolder import read_content

    content = read_content(folder)
    done, found = (
        read_json(folder / name, "finish the run with the command that began it")
        for name in ("done.json", "comparison.json")
    )
    measured: dict[str, Any] = dict.fromkeys(MEASURES)
    for row in found["rows"]:
        for name, start in MEASURES.items():
            # The run's own reward comes first, before those that were recorded beside it.
            if measured[name] is None and row["name"].startswith(start):
                measured[name] = {key: row[key] for key in ("base", "tuned", "change")}
    settings = {key: content[key] for key in ("method", "reward", "steps", "batch", "seed")}
    return {
        "run": folder.name,
        **settings,
        "pictures": found["n"],
        "prompts": found["prompts"],
        **measured,
        "cpu_seconds": done["cpu_seconds"],
    }


def shown(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The same for people: estimates with their intervals."""
    return [
        {
            "method": row["method"],
            "reward": row["reward"],
            "steps": f"{row['steps']} x {row['batch']}",
            "seed": str(row["seed"]),
            "mean reward": _from_to(row["reward_measured"]),
            "gain (base sd)": _estimate(row["reward_measured"], "change"),
            "diversity within prompts": _from_to(row["diversity"]),
            "Frechet to base": _estimate(row["frechet"], "tuned", "corrected"),
            "CPU-s": f"{row['cpu_seconds']:.0f}",
        }
        for row in rows
    ]


def _from_to(measure: Mapping[str, Any] | None) -> str:
    if measure is None:
        return ""
    return f"{measure['base']['value']:.3g} -> {_estimate(measure, 'tuned')}"


def _estimate(measure: Mapping[str, Any] | None, which: str, value: str = "value") -> str:
    found = None if measure is None else measure[which]
    if found is None:
        return ""
    return f"{found[value]:.3g} [{found['low']:.3g}, {found['high']:.3g}]"
