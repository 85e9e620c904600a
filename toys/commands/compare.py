"""`python -m toys compare`: trained networks against the truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from toys.commands.output import show, show_json, table
from toys.commands.selection import add_selection, configs


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_selection(parser)
    parser.add_argument("--sampling-steps", type=int, default=20, help="Heun steps (%(default)s)")
    parser.add_argument("--samples", type=int, default=20_000, help="draws (%(default)s)")
    parser.add_argument("--no-picture", action="store_true")
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 1 where a learning error is over 5 %% of the way, or a run has no truth",
    )


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where --check asks and a learning error is too large or unknown.

    Raises:
        ValueError: an option that is not allowed, runs that are missing, and what measuring raises.
    """
    from toys.evaluation.compare import compare, finished, pictures
    from toys.evaluation.evaluate import Sampling, is_good

    sampling = Sampling(options.sampling_steps, options.samples)
    stale: list[str] = []
    skipped: list[str] = []
    asked = bool(options.preset or options.method or options.problem)
    if asked:
        chosen = configs(options)
    else:
        chosen, stale = finished(options.out)
        chosen = [c for c in chosen if c.method != "flow_matching:target_velocity=exact"]
        if not chosen:
            there = f", but {'; '.join(stale)}" if stale else ""
            raise ValueError(
                f"--out must be a folder that `python -m toys train` filled, got "
                f"{str(options.out)!r}, which holds no finished runs of this code{there}"
            )
    results = compare(options.out, chosen, sampling, processes=options.processes, skip=skipped)
    kept = {r["digest"] for r in results}
    chosen = [c for c in chosen if c.digest in kept]
    if not chosen:
        raise ValueError(f"nothing to compare: {'; '.join(skipped)}")
    drawn = [] if options.no_picture else pictures(options.out, chosen, results)
    if options.json:
        show_json({"runs": results, "pictures": [str(p) for p in drawn]})
    else:
        show(table_of(results))
        print(worst(results))
        for path in drawn:
            print(f"drawn: {path}")
        for why in skipped:
            print(f"left out: {why}")
        for name in stale:
            print(f"left out (made by other code, or moved): {name}")
    wrong = [r for r in results if not is_good(r)]
    # What was asked for and could not be compared has not passed.
    return 1 if options.check and (wrong or (asked and skipped)) else 0


def table_of(results: Sequence[dict[str, Any]]) -> Table:
    """A row a run: what it is measured against, its target, and the parts of its error."""
    from toys.evaluation.evaluate import is_good

    return table(
        "p: the base; shares are of the distance from start to claimed target",
        "problem; method; target; seed; ; to go; bias; learning; share; sampling ± floor; total",
        (
            (
                r["problem"], r["method"], r["target"], str(r["seed"]), r["distance"],
                f"{r['to_go']:.4f}", f"{r['method_bias']:.4f}", f"{r['learning_error']:.4f}",
                f"{100 * r['learning_share']:.2f} %" + ("" if is_good(r) else " !"),
                f"{r['sampling_error']:.4f} ± {r['sampling_floor']:.4f}", f"{r['total']:.4f}",
            )
            for r in results
        ),
        words=3,
    )  # fmt: skip


def worst(results: Sequence[dict[str, Any]]) -> str:
    """The largest learning error, in words."""
    most = max(results, key=lambda r: r["learning_share"])
    return (
        f"largest learning error: {100 * most['learning_share']:.2f} % of the way "
        f"({most['method']} @ {most['problem']}, seed {most['seed']}); allowed 5 %"
    )
