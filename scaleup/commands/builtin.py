"""`python -m scaleup builtin`: train the built-in model from nothing."""

from __future__ import annotations

import argparse
from pathlib import Path

from theory.common.console import Options, add_all

OPTIONS: Options = {
    "--out": {"type": Path, "required": True, "help": "a folder that is not there yet"},
    "--seed": {"type": int, "default": 0},
    "--steps": {"type": int, "help": "of the optimiser (those of the shipped weights)"},
}


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `builtin`."""
    add_all(command, OPTIONS)


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError, OSError: as `train_builtin`.
    """
    from scaleup.builtin.train import train_builtin

    train_builtin(options.out, options.seed, options.steps)
    return 0
