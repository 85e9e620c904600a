"""`python -m toys exact-tilt`: train what is missing, print it, write docs/data/exact_tilt.json."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from toys.commands.output import add_place, check_place, show_json
from toys.commands.selection import OUT


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_place(parser, OUT)
    parser.add_argument("--json", action="store_true", help="print data instead of tables")
    parser.add_argument(
        "--write", action="store_true", help="write docs/data/exact_tilt.json, which the page reads"
    )


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError, OSError: an option that is not allowed, and what training raises.
    """
    from theory.common.files import write_json
    from toys.experiments.exact_tilt import runs, trial

    check_place(options)
    found = runs.summary(runs.run(options.out, trial.trials(), options.processes))
    if options.write:
        write_json(runs.SUMMARY, found)
    if options.json:
        show_json(found)
    else:
        for row in found["rows"]:
            print(
                f"{row['problem']:9s} {row['loss']:8s} {row['stages']:3d} stages, "
                f"{row['steps']:5d} steps, {row['rewards']:6d} rewards: TV "
                f"{_percent(row['shares'])} (floor {100 * row['floor']:.1f} %), reward's W1 "
                f"{_percent(row['reward_shares'])}, {row['cpu_seconds']:.1f} CPU-s"
            )
        written = f"; written: {runs.SUMMARY}" if options.write else ""
        print(f"{found['cpu_seconds']} CPU-s of training{written}")
    return 0


def _percent(shares: Sequence[float]) -> str:
    return " / ".join(f"{100 * s:.1f}" for s in shares) + " %"
