"""`python -m figures gflownets`: draw what was trained, write the page, or check it."""

from __future__ import annotations

import argparse

from figures.gflownets.page import PAGE, RESULTS, read_results


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `gflownets`."""
    PAGE.add_options(command, RESULTS, "python -m toys gflownets")


def run(options: argparse.Namespace) -> int:
    """Exit status, errors: as `Page.run`."""
    return PAGE.run(options, lambda: read_results(options.results))
