"""`python -m theory law`: what a field samples, measured against every candidate target."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from theory.common.checks import check_order
from theory.common.console import console, refuse_unused
from theory.common.files import check_folder
from theory.common.progress import Progress
from theory.evaluation.choices import FIELDS, FieldChoice, choose_field
from theory.evaluation.report import PARTS, LawReport, law_report
from theory.fields.diffusion import START, Diffusion
from theory.problems.problem import Problem, load_problem
from theory.tilts.wrappers import (
    ClippedExponential,
    Exponential,
    Power,
    TruncatedExponential,
    Wrapper,
)

ORDER = 2
WRAPPERS = ("exp", "truncated", "power", "clipped")
SHARES = {"there": 15, "back": 60, "base": 25}  # of a law's time, in percent


def add_options(law: argparse.ArgumentParser) -> None:
    """The options of `law`."""
    law.add_argument("--problem", required=True, help="a named problem, or a path to a .toml file")
    law.add_argument("--field", required=True, choices=FIELDS)
    law.add_argument("--nft-beta", type=float, help="NFT's mixing strength, of --field nft (1)")
    law.add_argument("--scale", type=float, help="inverse temperature (the problem's)")
    law.add_argument("--order", type=int, help="of --field cumulant and --wrapper truncated (2)")
    law.add_argument("--wrapper", choices=WRAPPERS, help="for --field tilt (exp)")
    law.add_argument("--exponent", type=int, help="of --wrapper power (1)")
    law.add_argument("--max-weight", type=float, help="of --wrapper clipped (10)")
    law.add_argument(
        "--sde",
        metavar="G",
        help="sample by the SDE instead, d = 1: a number g, 'memoryless' or 'offset:h'",
    )
    law.add_argument("--route", choices=("closed", "quadrature"), default="closed")
    law.add_argument("--samples", type=int, default=20_000, help="draws where d > 2 (%(default)s)")
    law.add_argument("--seed", type=int, default=0)
    law.add_argument("--out", type=Path, default=Path("results/law"), help="folder of the picture")
    law.add_argument("--no-picture", action="store_true")
    law.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError: bad input.
    """
    check_order("--seed", options.seed, 0, 2**63 - 1)
    _refuse_unused(options)
    if not options.no_picture:
        check_folder("--out", options.out)
    sde = options.sde
    diffusion = None if sde is None else Diffusion.parse(sde, start=START, name="--sde")
    problem = replace(load_problem(options.problem), route=options.route)
    if options.samples < 100:
        raise ValueError(f"--samples must be a whole number >= 100, got {options.samples}")
    choice = choose_field(
        problem,
        options.field,
        nft_beta=options.nft_beta,
        scale=options.scale,
        order=_or(options.order, ORDER),
        wrapper=_wrapper(options, _or(options.scale, problem.scale)),
    )
    pictures = []
    if not options.no_picture:
        named = ("nft_beta", "scale", "wrapper", "order", "exponent", "max_weight", "sde")
        given = [f"{k}_{v}" for k in named if (v := getattr(options, k)) is not None]
        name = "-".join([problem.name, options.field, *given]).replace(":", "_")
        pictures = [options.out / f"{name}.{ending}" for ending in ("png", "pdf")]
    report = _measured(problem, choice, diffusion, options)
    if options.json:
        data = report.as_json() | {"pictures": [str(p) for p in pictures]}
        print(json.dumps(data, indent=2), flush=True)
    else:
        _print_report(report)
    if pictures:
        from theory.evaluation.draw import draw_report, save

        try:
            save(draw_report(report), options.out, name)
        except KeyboardInterrupt as stop:
            stop.add_note("what was found is printed, not every picture is drawn")
            raise
    if not options.json:
        for path in pictures:
            print(f"drawn: {path}")
    return 0


def _wrapper(options: argparse.Namespace, scale: float) -> Wrapper:
    makers: dict[str, Callable[[], Wrapper]] = {
        "exp": lambda: Exponential(scale),
        "truncated": lambda: TruncatedExponential(scale, _or(options.order, ORDER)),
        "power": lambda: Power(_or(options.exponent, 1)),
        "clipped": lambda: ClippedExponential(scale, _or(options.max_weight, 10.0)),
    }
    return makers[options.wrapper or "exp"]()


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _refuse_unused(options: argparse.Namespace) -> None:
    kind = options.wrapper if options.field == "tilt" else None
    refuse_unused(
        (f"--{name.replace('_', '-')}", getattr(options, name), is_used, where)
        for name, is_used, where in (
            ("wrapper", options.field == "tilt", "--field tilt"),
            (
                "order",
                options.field == "cumulant" or kind == "truncated",
                "--field cumulant or --wrapper truncated",
            ),
            ("exponent", kind == "power", "--field tilt --wrapper power"),
            ("max_weight", kind == "clipped", "--field tilt --wrapper clipped"),
        )
    )


def _measured(
    problem: Problem,
    choice: FieldChoice,
    diffusion: Diffusion | None,
    options: argparse.Namespace,
) -> LawReport:
    """The report; says where it is if it takes long."""
    with Progress(sum(SHARES.values()) + 1, f"law of {choice.label}") as progress:

        def watch(part: str, share: float) -> None:
            progress.update(part, int(share * SHARES[part]), PARTS[part])

        try:
            return law_report(
                problem,
                choice,
                diffusion=diffusion,
                samples=options.samples,
                seed=options.seed,
                watch=watch,
            )
        except KeyboardInterrupt as stop:
            stop.add_note("the law is not found yet, nothing was written")
            raise


def _print_report(report: LawReport) -> None:
    out = console()
    names = list(next(iter(report.distances.values())))
    headings = [
        *(f"{'sliced W2' if name == 'SW2' else name} ± floor" for name in names),
        "its E(r)",
    ]
    table = Table(
        Column("target", no_wrap=True),
        *(Column(heading, justify="right", no_wrap=True) for heading in headings),
        title=f"{report.problem}, d = {report.dim}: {report.field}, by {report.sampler}",
        title_justify="left",
        highlight=False,
    )
    for target, row in report.distances.items():
        style = "bold" if target == report.nearest else None
        cells = [f"{row[n].value:.5f} ± {row[n].floor:.0e}" for n in names]
        table.add_row(target, *cells, f"{report.reward_of_target[target]:.4f}", style=style)
    out.print(table)
    mass = "" if report.mass is None else f"; mass on the grid 1 {report.mass - 1:+.0e}"
    out.print(
        f"law: E(r) = {report.mean_reward:.4f}, mean {_row(report.mean)}, "
        f"std {_row(report.std)}{mass}",
        highlight=False,
    )
    tied = f"; not told from it: {', '.join(report.tied)}" if report.tied else ""
    out.print(f"nearest in TV: {report.nearest}{tied}", highlight=False)
    for target, reason in report.refused.items():
        out.print(f"not a target: {target}: {reason}", highlight=False, markup=False, style="dim")


def _row(values: Sequence[float]) -> str:
    shown = ", ".join(f"{v:.4f}" for v in values[:5])
    return f"({shown}{', ...' if len(values) > 5 else ''})"
