"""`python -m benchmarks size --against COMMIT`: statements of the product and its benches.

A statement is a node of Python's syntax tree that is one, docstrings apart: neither layout nor
comments count. Files as git keeps them: what is not committed does not count.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

from theory.common.console import print_rows

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("theory", "toys", "scaleup", "figures", "benchmarks")
FLOOR = 0.95  # of the commit's


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `size`."""
    command.add_argument("--against", required=True, metavar="COMMIT", help="as git names it")
    command.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where the floor is missed.

    Raises:
        ValueError: git knows no such commit.
    """
    here, there = of_commit("HEAD"), of_commit(options.against)
    rows = [
        {"package": name, "HEAD": here[name], "of the commit": there[name]}
        for name in (*PACKAGES, "all")
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print_rows(rows)
    return 0 if here["all"] <= FLOOR * there["all"] else 1


def of_commit(commit: str) -> Counter[str]:
    """{package: statements}, and of all.

    Raises:
        ValueError: git knows no such commit.
    """
    made = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True)
    if made.returncode:
        said = made.stderr.decode(errors="replace").strip()
        raise ValueError(f"--against must be a commit of {ROOT}, got {commit!r}: {said}")
    found = Counter[str]()
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
        for member in archive:
            package = member.name.partition("/")[0]
            if package in PACKAGES and member.name.endswith(".py"):
                file = archive.extractfile(member)
                assert file is not None
                found[package] += statements(file.read())
    found["all"] = found.total()
    return found


def statements(source: str | bytes) -> int:
    """Of one file, docstrings (and other texts alone) apart."""
    nodes = ast.walk(ast.parse(source))
    return sum(isinstance(node, ast.stmt) and not _is_text(node) for node in nodes)


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
