"""`python -m figures gflownets`: draw what was trained, write the page, or check it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib as mpl

from figures.gflownets.page import PAGE, RESULTS, read_results
from figures.shared.pages import DOCS


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `gflownets`."""
    command.add_argument(
        "--results", type=Path, default=RESULTS, help="of `python -m toys gflownets` (%(default)s)"
    )
    command.add_argument(
        "--out", type=Path, default=DOCS, help="folder of the documentation (%(default)s)"
    )
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
        lines = PAGE.stale(options.out)
        for line in lines:
            print(line, file=sys.stderr)
        return 1 if lines else 0
    for path in PAGE.write(options.out, read_results(options.results)):
        print(path)
    return 0
