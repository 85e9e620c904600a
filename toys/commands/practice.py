"""`python -m toys practice`: what users of the released DiffusionNFT code get, on networks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from toys.commands.output import one_thread, show, show_json
from toys.commands.selection import OUT


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--only", help="tilt or times")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the runs (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="side by side (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print data instead of tables")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 where a tilt is over 5 %% off its prediction"
    )


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where --check asks and a tilt is off its prediction.

    Raises:
        ValueError, OSError: an option that is not allowed, and what training raises.
    """
    from theory.common.checks import check_order
    from theory.common.files import check_folder
    from toys.experiments.practice.runs import practice, tables
    from toys.experiments.practice.tilt import failures

    check_order("--processes", options.processes, 1)
    check_folder("--out", options.out)
    one_thread()
    found = practice(options.out, options.only, processes=options.processes)
    if options.json:
        show_json(found)
    else:
        show(*tables(found))
        print(f"written: {options.out / 'practice.json'}")
    wrong = failures(found)
    for line in wrong:
        print(f"over 5 %: {line}", file=sys.stderr)
    return 1 if options.check and wrong else 0
