"""`python -m figures control`: draw what was trained, write the page, or check it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib as mpl

from figures.control.page import DOCS, PAGE, RESULTS, read_results, stale, write
from toys.commands.cases import OUT as CASES


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `control`."""
    command.add_argument(
        "--results", type=Path, default=RESULTS, help="of `python -m toys control` (%(default)s)"
    )
    command.add_argument(
        "--cases", type=Path, default=CASES, help="folder of `python -m toys cases` (%(default)s)"
    )
    command.add_argument(
        "--out", type=Path, default=DOCS, help="folder of the documentation (%(default)s)"
    )  # fmt: skip
    command.add_argument(
        "--check", action="store_true", help="compare the page with its numbers, write nothing"
    )


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where a check found something.

    Raises:
        ValueError: no results, or no numbers to check with.
    """
    mpl.use("Agg")
    if options.check:
        lines = stale(options.out)
        for line in lines:
            print(line, file=sys.stderr)
        return 1 if lines else 0
    for path in write(options.out, read_results(options.results, options.cases)):
        print(path)
    print(f"{options.out / PAGE}: written from {options.results}")
    return 0
