"""`python -m benchmarks light --against COMMIT`: what commands cost, against a commit.

CPU-seconds (user and system) of a process a command, in this tree and in the commit's, which is
checked out by `git worktree` into a temporary folder; by turns, medians of ROUNDS after one that
does not count. Ratios count, not seconds. The commit has to have the commands of today. Lists and
`--help`; with `--audit` the audit of a million rows a side, and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.rows import child_usage
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
FLOOR, AUDIT_FLOOR = 0.35, 1.1  # of the commit's CPU time; of an audit's memory too
ROUNDS, AUDIT_ROUNDS = 5, 3
RATIOS = ("ratio", "of memory")


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `light`."""
    command.add_argument("--against", required=True, metavar="COMMIT", help="as git names it")
    command.add_argument(
        "--audit", action="store_true", help="a million rows' audit instead of lists and --help"
    )
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
            if options.audit:
                bench = import_module("benchmarks.scaleup.audit")
                bench.write_rows(Path(folder))
                words = bench.command_of(Path(folder))
                rows, floor = [_row(words, other, AUDIT_ROUNDS)], AUDIT_FLOOR
            else:
                rows, floor = [_row(c.split(), other, ROUNDS) for c in COMMANDS], FLOOR
        finally:
            subprocess.run([*worktree, "remove", "--force", str(other)], check=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_rows(
            [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
        )
    ratios = [row[name] for row in rows for name in (RATIOS if options.audit else RATIOS[:1])]
    return 0 if max(ratios) <= floor else 1


def _row(words: Sequence[str], other: Path, rounds: int) -> dict[str, Any]:
    used: dict[Path, list[tuple[float, float]]] = {ROOT: [], other: []}
    for _ in range(rounds + 1):
        for tree, found in used.items():
            found.append(usage(words, tree))
    (here, peak), (there, other_peak) = (
        (statistics.median(values) for values in zip(*found[1:], strict=True))
        for found in used.values()
    )
    ratios = dict(zip(RATIOS, (here / there, peak / other_peak), strict=True))
    command = " ".join(word for word in words if "/" not in word)
    return {"command": command, "CPU-s": here, "of the commit": there, **ratios}


def usage(words: Sequence[str], tree: Path) -> tuple[float, float]:
    """(CPU-seconds, peak bytes) of `python -m WORDS` in the tree."""
    return child_usage(
        [sys.executable, "-m", *words],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
