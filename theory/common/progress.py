"""A bar with the time left on a terminal; plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
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
TELLING_SECONDS = 1.0  # of work that tells how long the rest takes


class Progress:
    """Progress of several parts, on stderr.

    total: units of work of all parts together, which run side by side at one pace; or the units of
    each, by name and in order: they follow each other, each at a pace of its own, and what is
    left is said of the part that runs. Parts report how much of themselves is done.
    quiet: say nothing (one of several processes speaks for all).
    """

    def __init__(self, total: int | Mapping[str, int], what: str, quiet: bool = False) -> None:
        self.phases = {} if isinstance(total, int) else dict(total)
        self.total = total if isinstance(total, int) else sum(total.values())
        self.what, self.quiet = what, quiet
        self.parts: dict[str, int] = {}
        self.first: dict[str, int] = {}
        self.begun: dict[str, float] = {}
        self.start = time.monotonic()
        self.next = self.start + FIRST_SECONDS
        self.terminal = sys.stderr.isatty() and not quiet

    def __enter__(self) -> Self:
        if self.terminal and self.total:
            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
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
            self.start = now  # what came before (imports, other processes) was no such work
        self.first.setdefault(part, done)  # parts begin by saying what was done before
        self.begun.setdefault(part, now)
        self.parts[part] = done
        if self.phases:
            start, fresh, total = self.begun[part], done - self.first[part], self.phases[part]
            last = part == list(self.phases)[-1]
        else:
            done, start, total, last = sum(self.parts.values()), self.start, self.total, True
            fresh = done - sum(self.first.values())
        if self.terminal:
            self.bar.update(self.task, completed=done, total=total, description=text)
            return
        if self.quiet:
            return
        if now >= self.next or (last and done >= total):
            self.next = now + LINE_SECONDS
            spent, left = now - start, "time left unknown"
            if done >= total or (fresh > 0 and spent >= TELLING_SECONDS):
                left = f"{spent * (total - done) / max(fresh, 1):.0f} s left"
                left += "" if last else f" of {part}"
            print(f"{self.what}: {100 * done / total:3.0f} %, {left}; {text}", file=sys.stderr)
