"""`python -m toys practice`: what users of the released DiffusionNFT code get, on networks."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from rich.table import Table

from toys.commands.output import add_place, check_place, show, show_json, table
from toys.commands.selection import OUT


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--only", help="tilt or times")
    add_place(parser, OUT)
    parser.add_argument("--json", action="store_true", help="print data instead of tables")
    parser.add_argument(
        "--check", action="store_true", help="exit 1 where a tilt is over 5 %% off its prediction"
    )


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where --check asks and a tilt is off its prediction.

    Raises:
        ValueError, OSError: an option that is not allowed, and what training raises.
    """
    from toys.experiments.practice.runs import practice
    from toys.experiments.practice.tilt import failures

    check_place(options)
    found = practice(options.out, options.only, processes=options.processes)
    if options.json:
        show_json(found)
    else:
        show(*tables(found))
        print(f"written: {options.out / 'practice.json'}")
    wrong = failures(found)
    for line in wrong:
        print(f"over 5 %: {line}", file=sys.stderr)
    return 1 if options.check and wrong else 0


def tables(found: dict[str, Any]) -> list[Table]:
    """What was measured, for people."""
    return [
        table_of_times(result) if name == "times" else table_of_tilts(result)
        for name, result in found.items()
    ]


def table_of_tilts(result: dict[str, Any]) -> Table:
    """A row an epoch."""
    from toys.experiments.practice.tilt import FLOOR

    within = ", ".join(
        f"{name} {result['within floor'][name]}/{len(result['epochs'])} (worst {100 * value:.1f} %)"
        for name, value in result["worst"].items()
    )
    keys = ("mean reward", "std before", "tilt", "rule", "exact epoch")
    return table(
        f"{result['problem']}, nft_beta = {result['nft_beta']:g}: tilt an epoch in standard "
        f"deviations of R; within {100 * FLOOR:.0f} %: {within}",
        "epoch; mean reward; std before; tilt; 0.2/nft_beta; exact epoch; error; recursion; error",
        (
            (
                str(row["epoch"]), *(f"{row[key]:.4f}" for key in keys),
                f"{100 * row['error of exact epoch']:+.1f} %", f"{row['recursion']:.4f}",
                f"{100 * row['error of recursion']:+.1f} %",
            )
            for row in result["epochs"]
        ),
        words=0,
        caption=f"total tilt (units of 1/R) {result['total tilt']:.3f}, of the recursion without "
        f"networks {result['total tilt of the recursion']:.3f}",
    )  # fmt: skip


def table_of_times(result: dict[str, Any]) -> Table:
    """A row a sampler and a network."""
    return table(
        f"{result['problem']}, nft_beta = {result['nft_beta']:g}: networks trained at some times, "
        "against all times and against the exact optimum, same sampler",
        "sampler; trained at; mean reward; change of the gain; TV to all times; TV to the optimum",
        (
            (
                row["sampler"], row["trained at"], f"{row['mean reward']:.4f}",
                f"{100 * row['change of the gain']:+.2f} %", f"{row['TV to all times']:.4f}",
                f"{row['TV to the optimum']:.4f}",
            )
            for row in result["rows"]
        ),
        words=2,
    )  # fmt: skip
