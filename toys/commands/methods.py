"""`python -m toys methods`: the methods, their options and their rewards."""

from __future__ import annotations

import argparse
from typing import Any

from toys.commands.output import show, show_json


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """Exit status 0."""
    from rich.table import Table

    from theory.methods.registry import methods

    rows: dict[str, dict[str, Any]] = {
        name: {
            "what": kind.summary,
            "options": kind().options,
            "rewards": str(kind().rewards),
            "source": kind.source,
        }
        for name, kind in methods().items()
    }
    if options.json:
        show_json(rows)
        return 0
    table = Table("method", "what", "options", "rewards", "source", highlight=False)
    for name, row in rows.items():
        shown = ", ".join(f"{k}={v}" for k, v in row["options"].items())
        table.add_row(name, row["what"], shown, row["rewards"], row["source"])
    show(table)
    return 0
