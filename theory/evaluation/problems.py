"""`python -m theory problems`: the named problems, or one of them in full."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path

from rich.table import Column, Table

from theory.common.console import console
from theory.common.registry import Catalogue, Rows

FOLDER = Path(__file__).parents[1] / "problems"
DESCRIPTION = "description"


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `problems`."""
    command.add_argument("name", nargs="?", help="a name, or a path to a .toml file")
    command.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError, FileNotFoundError: no such problem.
    """
    name, rows = options.name, PROBLEMS.rows()
    if name is not None:
        rows = [row for row in rows if row["name"] == name] or _measured(name)
    if options.json:
        more = {} if name is None else {"toml": tomllib.loads(_text(name))}
        print(json.dumps([row | more for row in rows], indent=2))
        return 0
    table = Table(*(Column(key, no_wrap=True) for key in rows[0] if key != DESCRIPTION))
    for row in rows:
        cells = [value for key, value in row.items() if key != DESCRIPTION]
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in cells))
    out = console()
    out.print(table, highlight=False)
    for row in rows:
        out.print(f"{row['name']}: {row[DESCRIPTION]}", highlight=False, markup=False)
    if name is not None:
        print(f"\n{_text(name).strip()}")
    return 0


def _text(name: str) -> str:
    """The TOML of a problem that has been loaded."""
    file = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    return file.read_text(encoding="utf-8").removeprefix("\ufeff")


def _measured(*names: str) -> Rows:
    """Of the problems named, or of all that have a name."""
    from theory.evaluation.triviality import nontriviality
    from theory.problems.problem import load_problem, problem_names

    measured = [(p, nontriviality(p)) for p in map(load_problem, names or problem_names())]
    return [
        {
            "name": problem.name,
            "d": problem.dim,
            "K": problem.base.n_components,
            "scale": problem.scale,
            "W1/std": found.shift,
            "TV(exp, Taylor)": found.first_order_gap,
            "Taylor": found.polynomial,
            DESCRIPTION: problem.description,
        }
        for problem, found in measured
    ]


# Of every named problem: its size, and how far its target lies from the base.
PROBLEMS = Catalogue(FOLDER, _measured)
