"""`python -m toys methods`: the methods, their options and their rewards."""

from __future__ import annotations

import argparse

from toys.commands.output import show, show_json, table

SHOWN = ("what", "options", "rewards", "source")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """Exit status 0."""
    from theory.methods.registry import METHODS

    rows = METHODS.rows()
    if options.json:
        show_json({row["method"]: {name: row[name] for name in SHOWN} for row in rows})
    else:
        shown = (
            (
                row["method"],
                row["what"],
                ", ".join(f"{k}={v}" for k, v in row["options"].items()),
                row["rewards"],
                row["source"],
            )
            for row in rows
        )
        methods = table("", "method; what; options; rewards; source", shown, words=5)
        methods.columns[0].no_wrap = True  # names are to be copied
        show(methods)
    return 0
