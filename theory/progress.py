"""A bar with the time left on a terminal; plain lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

LINE_SECONDS = 10.0
# Work that tells how long the rest takes.
TELLING_SECONDS = 1.0


class Progress:
    """Progress of several parts that run side by side, on stderr.

    total: units of work of all parts together. Parts report how much of themselves is done.
    quiet: say nothing (one of several processes speaks for all).
    """

    def __init__(self, total: int, what: str, quiet: bool = False) -> None:
        self.total, self.what, self.quiet = total, what, quiet
        self.parts: dict[str, int] = {}
        self.first: dict[str, int] = {}
        self.start = self.last = time.monotonic()
        self.terminal = sys.stderr.isatty() and not quiet

    def __enter__(self) -> Self:
        if self.terminal and self.total:
            columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self.bar = Bar(
                TextColumn("{task.description}"),
                *columns,
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self.task = self.bar.add_task(self.what, total=self.total)
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.terminal and self.total:
            self.bar.stop()

    def note(self, text: str) -> None:
        """A line that stays."""
        if self.terminal and self.total:
            self.bar.console.print(text, highlight=False)
        elif not self.quiet:
            print(text, file=sys.stderr)

    def update(self, part: str, done: int, text: str) -> None:
        """`part` has done so many units by now; `text` says where it is."""
        now = time.monotonic()
        if not self.first:
            self.start = (
                now  # what came before (imports, other processes) says nothing of the speed
            )
        self.first.setdefault(part, done)  # parts begin by saying what was done before
        self.parts[part] = done
        total = sum(self.parts.values())
        if self.terminal:
            self.bar.update(self.task, completed=total, description=text)
            return
        if self.quiet:
            return
        if now - self.last >= LINE_SECONDS or total >= self.total:
            self.last = now
            fresh = total - sum(self.first.values())
            spent, left = now - self.start, "time left unknown"
            if total >= self.total or (fresh > 0 and spent >= TELLING_SECONDS):
                left = f"{spent * (self.total - total) / max(fresh, 1):.0f} s left"
            share = 100 * total / self.total
            print(f"{self.what}: {share:3.0f} %, {left}; {text}", file=sys.stderr)
