"""`python -m benchmarks scaleup`: the floors of scale-up, measured; one module a bench.

processes  two processes against one, the same global batch: losses; wrong numbers refused
resume     runs killed (SIGKILL) at 20 moments and started again, against one left alone, bit by bit
signals    runs ended by SIGINT and SIGTERM at 10 random moments, and started again, the same way
sd15       one step of two methods at the full size of Stable Diffusion 1.5, on the CPU: memory
ddpo       DDPO's steps/s and peak memory against trl 0.23.1, in an environment of its own
audit      CPU-seconds and memory of an audit of a million rewards a side
gpu        samples/s, steps/s, memory and share of the matrix peak at full size, where a GPU is
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from benchmarks.scaleup.rows import Row, table
from theory.common.checks import check_choice

PARTS = ("audit", "processes", "resume", "signals", "sd15", "ddpo", "gpu")


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of a bench."""
    command.add_argument("--only", help=", ".join(PARTS))
    command.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """Measure all, or one; exit status 1 where a floor is missed, 2 where one that was asked for
    by name cannot be measured here.

    Raises:
        ValueError: no bench of that name.
    """
    only = options.only
    if only is not None:
        check_choice("--only", only, PARTS)
    rows: list[Row] = []
    for name in PARTS if only is None else (only,):
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += importlib.import_module(f"benchmarks.scaleup.{name}").measure()
    print(json.dumps([row.as_json() for row in rows], indent=2) if options.json else table(rows))
    if only is not None and any(row.met is None for row in rows):
        return 2
    return 1 if any(row.met is False for row in rows) else 0
