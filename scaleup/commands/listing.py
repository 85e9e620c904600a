"""`python -m scaleup list`: rewards, methods, recipes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scaleup.rewards.contract.registry import REWARDS
from theory.common.console import print_rows
from theory.common.registry import Rows
from theory.methods.registry import METHODS

RECIPES = Path(__file__).parents[1] / "recipes"


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `list`."""
    command.add_argument("what", choices=LISTS)
    command.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Exit status 0."""
    rows = LISTS[options.what]()
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print_rows(rows)
    return 0


def _methods() -> Rows:
    """Those that fine-tune, with their options as the command line takes them."""
    return [
        {
            "method": row["method"],
            "what": row["what"],
            "rewards": row["rewards"],
            "options": ", ".join(f"{k}={v}" for k, v in row["options"].items()) or "none",
        }
        for row in METHODS.rows()
        if row["starts_from"] == "base"
    ]


def _recipes() -> Rows:
    files = sorted(RECIPES.glob("*.toml"))
    return [{"recipe": file.stem, "what": _comment(file.read_text("utf-8"))} for file in files]


def _comment(text: str) -> str:
    return " ".join([line[1:].strip() for line in text.splitlines() if line.startswith("#")])


LISTS = {"rewards": REWARDS.rows, "methods": _methods, "recipes": _recipes}
