"""`python -m scaleup loop`: train towards known tilts and audit them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scaleup.audit import loop
from theory.common.checks import check_choice
from theory.common.console import Options, add_all

BUDGET = ("steps", "batch", "bank", "pictures")
OPTIONS: Options = {
    "--only": {"nargs": "+", "metavar": "NAME", "help": "some of the runs"},
    "--out": {"type": Path, "default": Path("results/loop"), "help": "(%(default)s)"},
    "--write": {"action": "store_true", "help": "write docs/data/audit_loop.json"},
    **{f"--{name}": {"type": int, "help": "of every run (its budget's)"} for name in BUDGET},
    "--device": {"default": "auto", "choices": ("auto", "cpu", "cuda")},
}


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `loop`."""
    add_all(command, OPTIONS)


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError: no run of that name, and what training raises.
    """
    names = options.only or list(loop.CASES)
    for name in names:
        check_choice("--only", name, loop.CASES)
    given = {name: vars(options)[name] for name in BUDGET if vars(options)[name] is not None}
    budget = loop.Budget(**given)
    for name in names:
        row = loop.close(name, options.out, budget, options.device)
        print(json.dumps(row, indent=1))
        if options.write:
            loop.write([row])
    return 0
