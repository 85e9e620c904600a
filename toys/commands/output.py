"""What the commands print, and run with."""

from __future__ import annotations

import json
import sys
from typing import Any


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
