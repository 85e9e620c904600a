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

FIRST_SECONDS, LINE_SECONDS = 1.5, 10.0  # to the first line of a log, and between lines


class Progress:
    """Progress of several parts that run side by side, on stderr.

    total: units of work of all parts together. Parts report how much of themselves is done.
    quiet: say nothing (one of several processes speaks for all).
    """

    def __init__(self, total: int, what: str, quiet: bool = False) -> None:
        self.total, self.what, self.quiet = total, what, quiet
        self.parts: dict[str, int] = {}
        self.first: dict[str, int] = {}
        self.start = time.monotonic()
        self.next = self.start + FIRST_SECONDS
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
        self.first.setdefault(part, done)  # parts begin by saying what was done before
        self.parts[part] = done
        total = sum(self.parts.values())
        if self.terminal:
            self.bar.update(self.task, completed=total, description=text)
            return
        now = time.monotonic()
        if self.quiet:
            return
        if now >= self.next or total >= self.total:
            self.next = now + LINE_SECONDS
            fresh = total - sum(self.first.values())
            left = "time left not known yet"
            if fresh > 0 or total >= self.total:
                left = f"{(now - self.start) * (self.total - total) / max(fresh, 1):.0f} s left"
            share = 100 * total / self.total
            print(f"{self.what}: {share:3.0f} %, {left}; {text}", file=sys.stderr)
