"""The options of `python -m theory verify`, apart from what runs it: other commands start fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from theory.ledger.core.claim import PAPERS, PROFILES


def add_parser(commands: Any) -> None:
    """The subcommand's options."""
    verify = commands.add_parser(
        "verify", help="measure the ledger of claims; fails where a verdict is not the recorded one"
    )
    verify.add_argument("--only", nargs="+", default=[], metavar="ID", help="rows, e.g. Z4 L8")
    verify.add_argument("--source", choices=PAPERS, help="the rows of one paper")
    verify.add_argument("--profile", choices=list(PROFILES), default="default")
    verify.add_argument("--out", type=Path, default=Path("results/verify"))
    verify.add_argument("--processes", type=int, default=2)
    verify.add_argument("--json", action="store_true", help="print data instead of a table")
    verify.add_argument("--check-docs", action="store_true", help="fail where docs/ledger is stale")
    verify.add_argument("--write-docs", action="store_true", help="write docs/ledger anew")
