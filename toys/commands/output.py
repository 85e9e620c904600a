"""What the commands print."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from theory.common.console import console


def table(title: str, columns: str, rows: Iterable[Sequence[str]], words: int = 1) -> Table:
    """columns: their heads, "; " between; the first `words` hold text, the others numbers."""
    shown = Table(title=title or None, title_justify="left", highlight=False)
    for i, head in enumerate(columns.split("; ")):
        shown.add_column(head, justify="left" if i < words else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def show(*tables: Any, width: int = 140) -> None:
    """Tables, as wide as the terminal; `width` characters elsewhere."""
    out = console(width)
    for table in tables:
        out.print(table)


def show_json(data: Any) -> None:
    """Plain data."""
    print(json.dumps(data, indent=1))
