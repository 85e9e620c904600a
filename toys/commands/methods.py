"""`python -m toys methods`: the methods, their options and their rewards."""

from __future__ import annotations

import argparse
from typing import Any

from toys.commands.output import show, show_json, table


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """Exit status 0."""
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
    shown = (
        (
            name, row["what"], ", ".join(f"{k}={v}" for k, v in row["options"].items()),
            row["rewards"], row["source"],
        )
        for name, row in rows.items()
    )  # fmt: skip
    show(table("", "method; what; options; rewards; source", shown, words=5))
    return 0
