"""`python -m figures control`: draw what was trained, write the page, or check it."""

from __future__ import annotations

import argparse
from pathlib import Path

from figures.control.page import PAGE, RESULTS, read_results
from toys.commands.cases import OUT as CASES


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `control`."""
    PAGE.add_options(command, RESULTS, "python -m toys control")
    command.add_argument(
        "--cases", type=Path, default=CASES, help="folder of `python -m toys cases` (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Exit status, errors: as `Page.run`."""
    return PAGE.run(options, lambda: read_results(options.results, options.cases))
