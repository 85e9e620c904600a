"""`python -m scaleup loop`: train towards known tilts and audit them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scaleup.audit import loop
from theory.common.checks import check_choice


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `loop`."""
    command.add_argument("--only", nargs="+", metavar="NAME", help="some of the runs")
    command.add_argument("--out", type=Path, default=Path("results/loop"), help="(%(default)s)")
    command.add_argument("--write", action="store_true", help="write docs/data/audit_loop.json")
    for name in ("steps", "batch", "bank", "pictures"):
        command.add_argument(f"--{name}", type=int, help="of every run (its budget's)")
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError: no run of that name, and what training raises.
    """
    names = options.only or list(loop.CASES)
    for name in names:
        check_choice("--only", name, loop.CASES)
    given = {k: getattr(options, k) for k in ("steps", "batch", "bank", "pictures")}
    budget = loop.Budget(**{k: v for k, v in given.items() if v is not None})
    for name in names:
        row = loop.close(name, options.out, budget, options.device)
        print(json.dumps(row, indent=1))
        if options.write:
            loop.write([row])
    return 0
