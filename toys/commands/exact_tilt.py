"""`python -m toys exact-tilt`: train what is missing, print it, write docs/data/exact_tilt.json."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from toys.commands.output import show_json
from toys.commands.selection import OUT


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--out", type=Path, default=OUT, help="folder of results (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="side by side (%(default)s)")
    parser.add_argument(
        "--write", action="store_true", help="write docs/data/exact_tilt.json, which the page reads"
    )
    parser.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError, OSError: an option that is not allowed, and what training raises.
    """
    from theory.common.checks import check_order
    from theory.common.files import check_folder, write_json
    from toys.experiments.exact_tilt import runs, trial

    check_order("--processes", options.processes, 1)
    check_folder("--out", options.out)
    found = runs.summary(runs.run(options.out, trial.trials(), options.processes))
    if options.write:
        write_json(runs.SUMMARY, found)
    if options.json:
        show_json(found)
        return 0
    for row in found["rows"]:
        print(
            f"{row['problem']:9s} {row['loss']:8s} {row['stages']:3d} stages, {row['steps']:5d} "
            f"steps, {row['rewards']:6d} rewards: TV {_percent(row['shares'])} (floor "
            f"{100 * row['floor']:.1f} %), reward's W1 {_percent(row['reward_shares'])}, "
            f"{row['cpu_seconds']:.1f} CPU-s"
        )
    written = f"; written: {runs.SUMMARY}" if options.write else ""
    print(f"{found['cpu_seconds']} CPU-s of training{written}")
    return 0


def _percent(shares: Sequence[float]) -> str:
    return " / ".join(f"{100 * s:.1f}" for s in shares) + " %"
