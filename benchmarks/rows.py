"""What benches measured, as rows of one table; and the command of a bench that has parts."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.table import Table

from theory.common.checks import check_choice

WIDTH = 150


@dataclass(frozen=True)
class Row:
    """One measured thing.

    met: whether the floor is met; None: it could not be measured here, `measured` says why.
    figures: the numbers behind it, for --json.
    """

    what: str
    floor: str
    measured: str
    met: bool | None
    figures: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def at_most(cls, what: str, measured: float, floor: float, note: str = "") -> Row:
        """Of a number that is to be no larger."""
        return cls._of_number(what, measured, floor, "≤", measured <= floor, note)

    @classmethod
    def at_least(cls, what: str, measured: float, floor: float, note: str = "") -> Row:
        """Of a number that is to be no smaller."""
        return cls._of_number(what, measured, floor, "≥", measured >= floor, note)

    @classmethod
    def _of_number(
        cls, what: str, measured: float, floor: float, sign: str, met: bool, note: str
    ) -> Row:
        shown = f"{measured:.3g}" + (f"; {note}" if note else "")
        return cls(what, f"{sign} {floor:g}", shown, bool(met), {"value": measured, "floor": floor})

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: "not measured"}[self.met]


def table(rows: Sequence[Row]) -> str:
    """What, floor, measured, met: as text."""
    shown = Table("what", "floor", "measured", "", highlight=False)
    for row in rows:
        shown.add_row(row.what, row.floor, row.measured, row.verdict)
    out = io.StringIO()
    width = None if sys.stdout.isatty() else WIDTH
    Console(file=out, width=width, highlight=False, markup=False).print(shown)
    return out.getvalue().rstrip()


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU-seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def child_usage(call: Sequence[str], **options: Any) -> tuple[float, float]:
    """(CPU-seconds, user's and system's; peak bytes) of a process that `subprocess.Popen` starts,
    and of those that it waited for; the peak is at least this process's own size."""
    with subprocess.Popen(call, **options) as child:
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, call)
    return used.ru_utime + used.ru_stime, 1024.0 * used.ru_maxrss


def part_of(module: str, name: str = "measure") -> Callable[[], list[Row]]:
    """A part in a module of its own, imported when it is measured."""
    return lambda: list(getattr(import_module(f"benchmarks.{module}"), name)())


def add_part_options(command: argparse.ArgumentParser, parts: Iterable[str]) -> None:
    """The options of a bench."""
    command.add_argument("--only", help=", ".join(parts))
    command.add_argument("--json", action="store_true", help="print data instead of a table")


def measure_parts(options: argparse.Namespace, parts: Mapping[str, Callable[[], list[Row]]]) -> int:
    """Measure all, or one; exit status 1 where a floor is missed, 2 where one that was asked for
    by name cannot be measured here.

    Raises:
        ValueError: no part of that name.
    """
    only = options.only
    if only is not None:
        check_choice("--only", only, parts)
    rows: list[Row] = []
    for name in parts if only is None else (only,):
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += parts[name]()
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else table(rows))
    if only is not None and any(row.met is None for row in rows):
        return 2
    return 1 if any(row.met is False for row in rows) else 0
