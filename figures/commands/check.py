"""`python -m figures check`: what `make` wrote is there, not blank, and as the reference."""

from __future__ import annotations

import argparse
from pathlib import Path

from figures.note import FIGURES
from figures.shared import reference
from figures.shared.result import SETTINGS
from theory.common.checks import check_choice


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `check`."""
    command.add_argument("--setting", default="full")
    command.add_argument("--out", type=Path, default=Path("results/figures"))


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where something is wrong."""
    check_choice("--setting", options.setting, SETTINGS)
    out, setting = options.out, options.setting
    wrong = [line for name in FIGURES for line in reference.check_files(out, setting, name)]
    for line in wrong:
        print(line)
    print(f"{out}: {len(FIGURES)} figures checked, {len(wrong)} faults")
    return 1 if wrong else 0
