"""What the commands print, and run with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table


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
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else width)
    for table in tables:
        console.print(table)


def show_json(data: Any) -> None:
    """Plain data."""
    print(json.dumps(data, indent=1))


def one_thread() -> None:
    """Of torch: two on a busy machine can be 30-100 times slower."""
    import torch

    torch.set_num_threads(1)
