"""What a bench measured, as rows of one table."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 140


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

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: "not measured"}[self.met]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def table(rows: Sequence[Row]) -> str:
    """What, floor, measured, met: as text."""
    shown = Table("what", "floor", "measured", "", highlight=False)
    for row in rows:
        shown.add_row(row.what, row.floor, row.measured, row.verdict)
    out = io.StringIO()
    width = None if sys.stdout.isatty() else WIDTH
    Console(file=out, width=width, highlight=False, markup=False).print(shown)
    return out.getvalue().rstrip()
