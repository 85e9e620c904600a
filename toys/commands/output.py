"""What the commands print."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from theory.common.console import console


def add_place(parser: argparse.ArgumentParser, out: Path, processes: str = "--processes") -> None:
    """Options of commands that train: where runs are, and how many processes."""
    parser.add_argument("--out", type=Path, default=out, help="folder of runs (%(default)s)")
    parser.add_argument(
        processes, dest="processes", type=int, default=2, help="side by side (%(default)s)"
    )


def check_place(options: argparse.Namespace, processes: str = "--processes") -> None:
    """They can be used.

    Raises:
        ValueError: not so.
    """
    from theory.common.checks import check_order
    from theory.common.files import check_folder

    check_order(processes, options.processes, 1)
    check_folder("--out", options.out)


def table(
    title: str,
    columns: str,
    rows: Iterable[Sequence[str]],
    words: int = 1,
    caption: str | None = None,
) -> Table:
    """columns: their heads, "; " between; the first `words` hold text, the others numbers."""
    shown = Table(title=title or None, title_justify="left", caption=caption, highlight=False)
    for i, head in enumerate(columns.split("; ")):
        shown.add_column(head, justify="left" if i < words else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    return shown


def show(*tables: Any, width: int = 140) -> None:
    """Tables, as wide as the terminal; `width` characters elsewhere."""
    console(width).print(*tables)


def show_json(data: Any) -> None:
    """Plain data."""
    print(json.dumps(data, indent=1))
