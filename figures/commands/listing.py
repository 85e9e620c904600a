"""`python -m figures list`: the figures."""

from __future__ import annotations

import argparse
import json

from figures.note import FIGURES
from theory.common.console import print_rows


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `list`."""
    command.add_argument("--json", action="store_true")


def run(options: argparse.Namespace) -> int:
    """Exit status 0."""
    if options.json:
        print(json.dumps(FIGURES, indent=2))
    else:
        print_rows([{"figure": k, "what it shows": v} for k, v in FIGURES.items()], 120)
    return 0
