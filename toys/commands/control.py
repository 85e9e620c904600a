"""`python -m toys control`: train, measure, print, and write OUT/control.json."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from toys.commands.output import add_place, check_place, show, show_json, table

OUT = Path("results/control")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--problem", action="append", help="repeatable (seven, d = 1 and 2)")
    parser.add_argument("--only", action="append", help="a method of the comparison; repeatable")
    parser.add_argument(
        "--schedules", action="store_true",
        help="also fine-tuning under other schedules, and the matrix train x sample",
    )  # fmt: skip
    add_place(parser, OUT, "--jobs")
    parser.add_argument("--json", action="store_true", help="print data instead of tables")
    parser.add_argument(
        "--check", action="store_true",
        help="exit 1 where Adjoint Matching's control is over 2 %% off, or its law over 5 %%",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where a floor is missed and --check asks.

    Raises:
        ValueError: a problem or method that is not allowed, and what training raises.
    """
    from toys.experiments import control as control_runs
    from toys.experiments import schedules as control_schedules

    check_place(options, "--jobs")
    problems, processes = options.problem or list(control_runs.PROBLEMS), options.processes
    rows = control_runs.control_runs(options.out, problems, options.only, processes=processes)
    more: dict[str, Any] = {}
    wrong = control_runs.failures(rows)
    if options.schedules:
        more["schedules"] = control_schedules.schedules(options.out, processes=processes)
        wrong += control_schedules.failures(more["schedules"])
    path = control_runs.write(options.out, rows, **more)
    if options.json:
        show_json({"rows": rows, **more})
    else:
        show(table_of_runs(rows), width=170)
        if more:
            show(table_of_laws(more["schedules"]), table_of_matrix(more["schedules"]), width=170)
        print(f"written: {path}")
    for line in wrong:
        print(f"over the floor: {line}", file=sys.stderr)
    return 1 if options.check and wrong else 0


def table_of_runs(rows: Sequence[dict[str, Any]]) -> Table:
    """A row a run."""
    from toys.experiments.control import LEARNED_BY, failures

    kernels = {row["name"]: row["kernels"] for row in rows}
    return table(
        "trained chains against their exact optimum; shares of E|u*|^2, of the distance base to "
        "target, of the optimum's gain in reward; diversity: variance over the target's",
        "problem; method; control; ±; total; law; optimum's bias; reward; diversity; steps; "
        "M evaluations; CPU-s",
        (
            (
                r["problem"], r["name"],
                f"{100 * r['control_error']:.2f} %"
                + (" !" if r["name"] in LEARNED_BY and failures([r]) else ""),
                f"{100 * r['control_error_se']:.2f}", f"{100 * r['total_control_error']:.2f} %",
                f"{100 * r['law_share']:.2f} %", f"{100 * r['optimum_to_target_share']:.1f} %",
                f"{100 * r['reward_share']:.1f} %", f"{r['diversity']['trained']:.3f}",
                str(r["steps"]), " + ".join(f"{r['evaluations'][k] / 1e6:.2f}"
                                            for k in ("forward", "vjp")),
                f"{r['cpu_seconds']:.1f}",
            )
            for r in rows
        ),
        words=2,
        caption="kernels: " + "; ".join(f"{k}: {v}" for k, v in kernels.items()),
    )  # fmt: skip


def table_of_laws(found: dict[str, Any]) -> Table:
    """Fine-tuning under each schedule, with its own kernels."""
    pairs = ("continuous_to_tilt", "chain_to_tilt", "trained_to_tilt", "trained_to_chain")
    return table(
        f"{found['problem']}: TV of laws; base to tilt {found['tv_base_to_tilt']:.4f}",
        "schedule; control error; exact to tilt; chain to tilt; trained to tilt; trained to chain; "
        "CPU-s",
        (
            (
                row["schedule"], f"{100 * row['control_error']:.2f} %",
                *(f"{row[f'tv_{pair}']:.4f}" for pair in pairs), f"{row['cpu_seconds']:.1f}",
            )
            for row in found["laws"]
        ),
    )  # fmt: skip


def table_of_matrix(found: dict[str, Any]) -> Table:
    """What each schedule left, sampled with each."""
    cells = {
        (row["trained with"], row["sampled with"]): f"{row['exact']:.4f} / {row['trained']:.4f}"
        for row in found["matrix"]
    }
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    return table(
        "TV to the tilt, exact / trained; rows: trained with, columns: sampled with",
        "; ".join(["", *columns]),
        ((row, *(cells[row, column] for column in columns)) for row in rows),
    )
