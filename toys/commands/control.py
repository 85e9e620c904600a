"""`python -m toys control`: train, measure, print, and write OUT/control.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from toys.commands.output import one_thread, show, show_json

OUT = Path("results/control")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--problem", action="append", help="repeatable (seven, d = 1 and 2)")
    parser.add_argument("--only", action="append", help="a method of the comparison; repeatable")
    parser.add_argument(
        "--schedules", action="store_true",
        help="also fine-tuning under other schedules, and the matrix train x sample",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT, help="folder of runs (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print data instead of tables")
    parser.add_argument(
        "--check", action="store_true",
        help="exit 1 where Adjoint Matching's control is over 2 %% off, or its law over 5 %%",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where a floor is missed and --check asks.

    Raises:
        ValueError: a problem or method that is not allowed, and what training raises.
    """
    from theory.common.checks import check_order
    from theory.common.files import check_folder
    from toys.experiments import control as control_runs
    from toys.experiments import schedules as control_schedules

    check_order("--jobs", options.jobs, 1)
    check_folder("--out", options.out)
    one_thread()
    problems = options.problem or list(control_runs.PROBLEMS)
    rows = control_runs.control_runs(options.out, problems, options.only, processes=options.jobs)
    more: dict[str, Any] = {}
    wrong = control_runs.failures(rows)
    if options.schedules:
        more["schedules"] = control_schedules.schedules(options.out, processes=options.jobs)
        wrong += control_schedules.failures(more["schedules"])
    path = control_runs.write(options.out, rows, **more)
    if options.json:
        show_json({"rows": rows, **more})
    else:
        under = control_schedules.tables(more["schedules"]) if more else ()
        show(control_runs.table(rows), *under, width=170)
        print(f"written: {path}")
    for line in wrong:
        print(f"over the floor: {line}", file=sys.stderr)
    return 1 if options.check and wrong else 0
