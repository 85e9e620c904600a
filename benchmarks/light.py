"""`python -m benchmarks light --against COMMIT`: what `--help` and lists cost, against a commit.

CPU-seconds (user and system) of a process a command, in this tree and in the commit's, which is
checked out by `git worktree` into a temporary folder; by turns, medians of ROUNDS after one that
does not count. Ratios count, not seconds. The commit has to have the commands of today.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.rows import child_seconds
from theory.common.console import print_rows

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "theory --help",
    "theory problems",
    "toys --help",
    "toys methods",
    "scaleup --help",
    "scaleup list rewards",
    "scaleup list methods",
)
FLOOR = 0.35  # of the commit's CPU time
ROUNDS = 5


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `light`."""
    command.add_argument("--against", required=True, metavar="COMMIT", help="as git names it")
    command.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where the floor is missed.

    Raises:
        ValueError: git knows no such commit.
    """
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "commit"
        worktree = ["git", "-C", str(ROOT), "worktree"]
        made = subprocess.run(
            [*worktree, "add", "--detach", str(other), options.against],
            capture_output=True,
            text=True,
        )
        if made.returncode:
            raise ValueError(
                f"--against must be a commit of {ROOT}, got {options.against!r}: "
                f"{made.stderr.strip()}"
            )
        try:
            rows = [_row(command, other) for command in COMMANDS]
        finally:
            subprocess.run([*worktree, "remove", "--force", str(other)], check=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_rows(
            [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
        )
    return 0 if all(row["ratio"] <= FLOOR for row in rows) else 1


def _row(command: str, other: Path) -> dict[str, Any]:
    seconds: dict[Path, list[float]] = {ROOT: [], other: []}
    for _ in range(ROUNDS + 1):
        for tree, found in seconds.items():
            found.append(cpu_seconds(command, tree))
    here, there = (statistics.median(found[1:]) for found in seconds.values())
    return {"command": command, "CPU-s": here, "of the commit": there, "ratio": here / there}


def cpu_seconds(command: str, tree: Path) -> float:
    """User's and system's of `python -m COMMAND` in the tree."""
    return child_seconds(
        [sys.executable, "-m", *command.split()],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
