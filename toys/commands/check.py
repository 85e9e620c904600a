"""`python -m toys check`: the contract's sweep of a method."""

from __future__ import annotations

import argparse

from toys.commands.output import show, table

MOST_ROWS = 2**16


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--method", required=True, help="name[:option=value,...] or file.py[:...]")
    parser.add_argument("--problem", default="note_1d", help="a name or a .toml file (%(default)s)")
    parser.add_argument(
        "--rows", type=int, default=256,
        help="draws in each of 48 blocks (%(default)s): four times as many see half the error",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where a check fails.

    Raises:
        ValueError, FileNotFoundError: an option that is not allowed, or no such method or problem.
    """
    from theory.common.checks import check_count
    from theory.methods.contract.probe import sweep
    from theory.methods.registry import parse_method
    from theory.problems.problem import load_problem

    method, problem = parse_method(options.method), load_problem(options.problem)
    check_count("--rows", options.rows, 2, MOST_ROWS)
    checks = sweep(method, problem, n=options.rows)
    rows = ((c.name, "ok" if c.passed else "FAILED", c.seen) for c in checks)
    show(table(f"{method.label} @ {problem.name}", "check; ; seen", rows, words=3))
    return 0 if all(check.passed for check in checks) else 1
