"""`python -m toys bench`: the floors of the toys, measured; in a checkout."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--only", help="throughput, resume or signals")
    parser.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """The benchmark's exit status.

    Raises:
        ValueError: no such benchmark, or no checkout.
    """
    from theory.common.checkout import benchmark

    return int(benchmark("toys").run(options.only, options.json))
