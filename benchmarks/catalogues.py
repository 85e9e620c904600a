"""`python -m benchmarks catalogues`: what lists show of methods, rewards and problems, made anew.

The lists show it from files, so that they need no torch (theory/common/registry.py); where a file
is older than what it is about, they make it themselves, which takes seconds.
"""

from __future__ import annotations

import argparse

from scaleup.rewards.contract.registry import REWARDS
from theory.evaluation.problems import PROBLEMS
from theory.methods.registry import METHODS

CATALOGUES = (METHODS, PROBLEMS, REWARDS)


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `catalogues`."""
    command.add_argument("--check", action="store_true", help="say what is old, write nothing")


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where a check found something."""
    old = [catalogue for catalogue in CATALOGUES if not catalogue.is_fresh]
    for catalogue in old:
        if not options.check:
            catalogue.write()
        print(f"{'old' if options.check else 'written'}: {catalogue.file}")
    return 1 if old and options.check else 0
