"""`python -m toys control`: train, measure, print, and write OUT/control.json."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console

from theory.common.checks import check_order
from theory.common.files import check_folder
from toys.experiments import control as control_runs
from toys.experiments import schedules as control_schedules


def command(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where a floor is missed and --check asks.

    Raises:
        ValueError: a problem or method that is not allowed, and what training raises.
    """
    check_order("--jobs", options.jobs, 1)
    check_folder("--out", options.out)
    problems = options.problem or list(control_runs.PROBLEMS)
    rows = control_runs.control_runs(options.out, problems, options.only, processes=options.jobs)
    more: dict[str, Any] = {}
    wrong = control_runs.failures(rows)
    if options.schedules:
        more["schedules"] = control_schedules.schedules(options.out, processes=options.jobs)
        wrong += control_schedules.failures(more["schedules"])
    path = control_runs.write(options.out, rows, **more)
    if options.json:
        print(json.dumps({"rows": rows, **more}, indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else 170)
        console.print(control_runs.table(rows))
        for table in control_schedules.tables(more["schedules"]) if more else ():
            console.print(table)
        print(f"written: {path}")
    for line in wrong:
        print(f"over the floor: {line}", file=sys.stderr)
    return 1 if options.check and wrong else 0
