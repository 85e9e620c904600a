"""`python -m toys cases`: train on named control problems, and print."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from toys.commands.output import add_place, check_place, show, show_json, table
from toys.experiments.cases import BATCH, BUDGET, STARTS, STEPS

OUT = Path("results/control/cases")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--case", action="append", help="a named problem; repeatable (all)")
    parser.add_argument("--only", action="append", help="a method; repeatable (all)")
    parser.add_argument(
        "--budget", type=float, default=BUDGET,
        help="network evaluations a run, forward and vector-Jacobian (%(default)g)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=STEPS, help="of the Euler chain (%(default)s)")
    parser.add_argument(
        "--batch", type=int, default=BATCH, help="trajectories an update (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of network and draws (%(default)s)")
    parser.add_argument(
        "--start", default="none", help=f"of the control: {' or '.join(STARTS)} (%(default)s)"
    )
    add_place(parser, OUT, "--jobs")
    parser.add_argument("--json", action="store_true", help="print data instead of tables")


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError: an option that is not allowed, and what training raises.
    """
    from theory.common.checks import check_choice
    from theory.control.cases import CASES
    from toys.experiments.cases.config import METHODS, CaseConfig
    from toys.experiments.cases.runs import train_cases

    check_place(options, "--jobs")
    for option, given, allowed in (("--case", options.case, CASES),
                                   ("--only", options.only, METHODS),
                                   ("--start", [options.start], STARTS)):  # fmt: skip
        for name in given or ():
            check_choice(option, name, allowed)
    configs = [
        CaseConfig(
            case, method, options.budget, options.batch, options.steps, options.seed, options.start
        )
        for case in dict.fromkeys(options.case or CASES)
        for method in dict.fromkeys(options.only or METHODS)
    ]
    rows = train_cases(options.out, configs, options.processes)
    if options.json:
        show_json({"rows": rows})
    else:
        show(table_of(rows), width=150)
        print(f"kept in {options.out}: networks and numbers of every run")
    return 0


def percent(share: float) -> str:
    """Two digits, whole numbers from 10 on."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """A row a run."""
    return table(
        "control errors along the chain's optimum, shares of E|u*|² (± of the trajectories, one "
        "network); floor: a perfect control of this chain against the diffusion's u*; noise: the "
        "lean adjoint's, at the optimum, over E|u*|²",
        "case; method; error; against the diffusion's u*; floor; noise; cost; least; uncontrolled; "
        "updates; CPU-s",
        (
            (
                row["case"], row["method"],
                f"{percent(row['control_error'])} ± {100 * row['control_error_se']:.1g}",
                percent(row["error_to_continuous"]), percent(row["floor"]),
                f"{row['adjoint_noise']:.2g}",
                f"{row['cost']:.2f} ± {row['cost_se']:.2f}", f"{row['least_cost']:.2f}",
                f"{row['uncontrolled_cost']:.1f}", str(row["updates"]), f"{row['cpu_seconds']:.0f}",
            )
            for row in rows
        ),
        words=2,
    )  # fmt: skip
