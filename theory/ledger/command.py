"""`python -m theory verify`: measure the ledger, print it, write it, compare it with the record."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from theory.common.checks import check_order
from theory.common.console import console
from theory.common.files import check_folder
from theory.common.progress import Progress
from theory.ledger.core import Claim, Identity
from theory.ledger.core.claim import PAPERS, PROFILES, Profile, Result
from theory.ledger.core.search import search
from theory.ledger.core.worst import write
from theory.ledger.report.docs import stale, write_docs, write_pages, write_text
from theory.ledger.report.render import as_json, headline, mutants, page
from theory.ledger.run import all_claims, measure_all, select

ROOT = Path(__file__).resolve().parents[2]


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `verify`."""
    command.add_argument("--only", nargs="+", default=[], metavar="ID", help="rows, e.g. Z4 L8")
    command.add_argument("--source", choices=PAPERS, help="the rows of one paper")
    command.add_argument("--profile", choices=list(PROFILES), default="default")
    command.add_argument("--out", type=Path, default=Path("results/verify"))
    command.add_argument("--processes", type=int, default=2)
    command.add_argument("--json", action="store_true", help="print data instead of a table")
    command.add_argument(
        "--check-docs", action="store_true", help="fail where docs/ledger is stale"
    )
    command.add_argument("--write-docs", action="store_true", help="write docs/ledger anew")


def run(options: argparse.Namespace) -> int:
    """0 if every verdict is the recorded one (and, if asked, the docs are fresh), else 1."""
    check_order("--processes", options.processes, 1, 64)
    claims = select(options.only, options.source)
    if (options.check_docs or options.write_docs) and (options.only or options.source):
        raise ValueError(
            "--check-docs and --write-docs need the whole ledger: neither --only nor --source must "
            "be given with them"
        )
    check_folder("--out", options.out)
    profile = PROFILES[options.profile]
    if profile.starts:
        _search(claims, profile)
    results = _measure(claims, profile, options.processes)
    ledger = as_json(results, profile.name)
    if options.json:
        print(json.dumps(ledger), flush=True)
    else:
        _print(ledger)
    _write(ledger, results, options.out)
    if not options.json:
        print(options.out / "ledger.html")
    failed = [r for r in results if not r.agrees]
    for result in failed:
        print(
            f"{result.claim.id}: measured {result.verdict}, recorded {result.claim.recorded}",
            file=sys.stderr,
        )
    if failed:
        return 1
    if options.write_docs:
        for path in write_docs(ledger, ROOT):
            print(f"wrote {path}", file=sys.stderr)
    if options.check_docs:
        found = stale(all_claims(), ROOT, ledger)
        for line in found:
            print(f"stale: {line}", file=sys.stderr)
        if found:
            print("run `make ledger` and commit what it writes", file=sys.stderr)
            return 1
    return 0


def _measure(claims: Sequence[Claim], profile: Profile, processes: int) -> list[Result]:
    measured: list[Result] = []
    with Progress(len(claims), f"ledger ({profile.name})") as progress:

        def done(result: Result) -> None:
            measured.append(result)
            mark = "" if result.agrees else f", RECORDED {result.claim.recorded}"
            progress.note(f"{result.claim.id}: {result.verdict}{mark} ({result.seconds:.1f} CPU-s)")
            progress.update("rows", len(measured), result.claim.id)

        try:
            return measure_all(claims, profile, processes, done)
        except KeyboardInterrupt as stop:
            stop.add_note(
                f"{len(measured)} of {len(claims)} rows were measured, none is kept: a ledger is "
                "written whole or not at all"
            )
            raise


def _search(claims: Sequence[Claim], profile: Profile) -> None:
    """Worst problems of every exact row (of its first part), put on record row by row."""
    todo = [
        (claim, next(p for p in claim.parts if isinstance(p, Identity)))
        for claim in claims
        if claim.recorded == "exact" and any(isinstance(p, Identity) for p in claim.parts)
    ]
    with Progress(len(todo), "search for the worst problems") as progress:
        for done, (claim, part) in enumerate(todo, start=1):
            found = search(part, profile)
            write(claim.id, found)
            progress.note(
                f"{claim.id}, {part.name}: worst {max(found.errors, default=float('nan')):.2g} "
                f"after {found.starts} starts, {found.evaluations} problems, quadrature gave up on "
                f"{found.gave_up}"
            )
            progress.update("rows", done, claim.id)


def _write(ledger: dict[str, Any], results: Sequence[Result], out: Path) -> None:
    write_text(out / "ledger.json", json.dumps(ledger, indent=1) + "\n")
    write_pages(ledger, out / "ledger")
    write_text(out / "ledger.html", page(ledger, results))
    for result in results:
        if result.region is not None:
            from theory.evaluation.draw import (
                save,  # brings matplotlib along: only where there is a map
            )

            save(result.region.draw(), out, result.claim.id)


def _print(ledger: dict[str, Any]) -> None:
    table = Table("id", "source", "verdict", "measured", show_lines=False)
    for row in ledger["rows"]:
        verdict = row["verdict"]
        if verdict != row["recorded"]:
            verdict += f" (recorded {row['recorded']})"
        table.add_row(row["id"], row["source"], verdict, headline(row))
    out = console()
    out.print(table, highlight=False, markup=False)
    killed, total = mutants(ledger["rows"])
    out.print(
        f"{len(ledger['rows'])} rows, {killed} of {total} wrong versions rejected",
        highlight=False,
    )
