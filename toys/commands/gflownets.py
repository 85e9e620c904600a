"""`python -m toys gflownets`: train, measure, print, and write OUT/gflownets.json."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from toys.commands.output import add_place, check_place, show, show_json, table

OUT = Path("results/gflownets")
PARTS = ("methods", "posterior", "ablations")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--only", action="append", help=f"{', '.join(PARTS)}; repeatable (all)")
    parser.add_argument("--problem", action="append", help="of the methods; repeatable (three)")
    parser.add_argument("--method", action="append", help="of the comparison; repeatable (all)")
    parser.add_argument("--ablation", action="append", help="one of the six; repeatable (all)")
    add_place(parser, OUT, "--jobs")
    parser.add_argument("--json", action="store_true", help="print data instead of tables")
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 1 where a law is over 5 %% off its own optimum, or the posterior misses a floor",
    )


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where a floor is missed and --check asks.

    Raises:
        ValueError: a part, problem or method that is not allowed, and what training raises.
    """
    from theory.common.checks import check_choice
    from toys.experiments.gflownets import ablations, comparison, posterior, runs

    check_place(options, "--jobs")
    parts = options.only or PARTS
    for part in parts:
        check_choice("--only", part, PARTS)
    found: dict[str, Any] = {}
    wrong: list[str] = []
    if "methods" in parts:
        rows = comparison.compare(
            options.out,
            options.problem or comparison.PROBLEMS,
            options.method,
            processes=options.processes,
        )
        found["rows"], wrong = rows, comparison.failures(rows)
    if "posterior" in parts:
        found["posterior"] = posterior.posterior(options.out, processes=options.processes)
        wrong += posterior.failures(found["posterior"])
    if "ablations" in parts:
        found["ablations"] = ablations.ablations(
            options.out, options.ablation, processes=options.processes
        )
    path = runs.write(options.out, found)
    if options.json:
        show_json(found)
    else:
        show(*tables(found), width=170)
        print(f"written: {path}")
    for line in wrong:
        print(f"over the floor: {line}", file=sys.stderr)
    return 1 if options.check and wrong else 0


def tables(found: Mapping[str, Any]) -> list[Table]:
    """What was measured, for people."""
    shown = []
    if "rows" in found:
        shown.append(table_of_runs(found["rows"]))
    if "posterior" in found:
        shown += [table_of_bounds(found["posterior"]), table_of_modes(found["posterior"])]
    if "ablations" in found:
        shown.append(table_of_ablations(found["ablations"]))
    return shown


def share(value: float | None) -> str:
    """Per cent, or nothing."""
    return "" if value is None else f"{100 * value:.1f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A number, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"


def table_of_runs(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row a run."""
    return table(
        "law: distance to the method's own optimum, share of the shift base to optimum; to target: "
        "share of base to target; KL to the base, over paths",
        "problem; method; law; to target; optimum's; reward; std; KL to base; E log w; log Z "
        "learnt; optimum's; true; steps; M evaluations; CPU-s",
        (
            (
                r["problem"],
                r["name"],
                share(r["law_share"]),
                share(r["to_target_share"]),
                share(r["optimum_to_target_share"]),
                number(r["reward"]["trained"]),
                number(r["std"]["trained"]),
                number(r["path_kl"]),
                number(r["bound"]),
                number(r["log_z_learnt"]),
                number(r["bound_of_optimum"]),
                number(r["log_z"]),
                str(r["steps"]),
                f"{r['evaluations']['total'] / 1e6:.1f}",
                f"{r['cpu_seconds']:.1f}",
            )
            for r in rows
        ),
        words=2,
    )


def table_of_bounds(found: Mapping[str, Any]) -> Table:
    """log Z and the lower bound of every policy."""
    return table(
        f"{found['rows'][0]['problem']}: log Z and the lower bound E log w",
        "policy; log Z learnt; true; E log w; ±; optimum's; law; to target; KL to base; CPU-s",
        (
            (
                r["name"],
                number(r["log_z_learnt"]),
                number(r["log_z"]),
                number(r["bound"]),
                number(r["bound_se"], 4),
                number(r["bound_of_optimum"]),
                share(r["law_share"]),
                share(r["to_target_share"]),
                number(r["path_kl"]),
                number(r.get("cpu_seconds"), 0),
            )
            for r in found["rows"]
        ),
    )


def table_of_modes(found: Mapping[str, Any]) -> Table:
    """The weights of the modes that the target keeps."""
    from toys.experiments.gflownets.posterior import kept_modes

    rows = found["rows"]
    first = rows[0]["modes"]
    return table(
        "weights of the modes",
        "; ".join(["mode at", "target", "optimum", *(r["name"] for r in rows)]),
        (
            (
                f"({', '.join(format(x, 'g') for x in found['places'][i])})",
                number(first["target"][i], 4),
                number(first["optimum"][i], 4),
                *(
                    f"{r['modes']['trained'][i]:.4f} "
                    f"({100 * (r['modes']['trained'][i] / first['optimum'][i] - 1):+.0f} %)"
                    for r in rows
                ),
            )
            for i in kept_modes(rows[0])
        ),
    )


def table_of_ablations(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """A row a value."""
    return table(
        "ablations: exact fixed points, and trained runs at one budget; shares of base to target",
        "ablation; value; loss; fixed point to target; to R^beta base^eta; trained to target; law; "
        "reward; std",
        (
            (
                name,
                row["value"],
                row["loss"],
                share(row["optimum_to_target_share"]),
                share(row.get("optimum_to_claimed_share")),
                share(row.get("to_target_share")),
                share(row.get("law_share")),
                number(row["reward"].get("trained", row["reward"].get("optimum"))),
                number(row["std"].get("trained", row["std"].get("optimum"))),
            )
            for name, rows in found.items()
            for row in rows
        ),
        words=3,
    )
