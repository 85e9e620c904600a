"""`python -m figures`: make the figures, their numbers, and compare with the reference."""

from __future__ import annotations

from theory.common import signals

if __name__ == "__main__":
    signals.catch()  # the imports below take seconds

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from theory.common import signals

if __name__ == "__main__":
    signals.catch()

import matplotlib as mpl
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from figures.control import command as control
from figures.questions import command as questions
from figures.shared import reference
from figures.shared.fresh import ENDINGS, stamp, up_to_date, write_stamp
from figures.shared.result import SETTINGS, Result
from figures.shared.trained import load, load_online
from theory.common.checks import check_choice
from theory.evaluation.draw import save

FIGURES = {
    "figure1": "Figure 1 a-c of the note (liu): base, reward, what NFT samples and three targets",
    "figure2": "Figure 2 a-c of the note (liu): what Phi-weighted losses sample",
    "order_of_error": "error of field and law against a, with slopes, orders 1 (NFT) to 4",
    "nearest_target": "the target nearest to NFT's law, as a map over two parameters",
    "trained_vs_exact": "every method, trained: draws over the exact law of its optimum",
    "reward_hacking": "online NFT over epochs: hard copy, EMA, anchored; exact and trained",
    "error_budget": "the parts of every trained network's error: bias, learning, sampling",
}
# Figures that show trained networks: all of it, or over exact laws that stand by themselves.
TRAINED_ONLY = {"trained_vs_exact", "error_budget"}
TRAINED_TOO = {"figure1", "figure2"}
ONLINE = {"reward_hacking"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(prog="python -m figures", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="draw figures, write their numbers, compare them")
    make.add_argument("--only", nargs="+", metavar="NAME", help="some of them (see `list`)")
    make.add_argument("--setting", default="full", help="full, or small: coarser and quicker")
    make.add_argument("--out", type=Path, default=Path("results/figures"))
    make.add_argument(
        "--runs", type=Path, default=Path("results/toys"), help="trained networks (%(default)s)"
    )
    make.add_argument(
        "--exact", action="store_true", help="exact laws alone: no trained networks are shown"
    )
    make.add_argument("--force", action="store_true", help="also what is up to date")
    make.add_argument("--update", action="store_true", help="rewrite the committed reference")
    make.add_argument("--json", action="store_true", help="print a summary as data")
    checking = commands.add_parser(
        "check", help="check files that `make` wrote: there, not blank, numbers as the reference"
    )
    checking.add_argument("--setting", default="full")
    checking.add_argument("--out", type=Path, default=Path("results/figures"))
    asking = commands.add_parser("questions", help="answer what users ask: docs/questions/")
    questions.add_options(asking)
    steering = commands.add_parser(
        "control", help="the adjoint family against the exact optimum: docs/results/control.md"
    )
    control.add_options(steering)
    listing = commands.add_parser("list", help="the figures")
    listing.add_argument("--json", action="store_true")
    return main


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 where every number matches its reference, 1 where not, 2 for bad input."""
    options = parser().parse_args(arguments)
    if options.command == "list":
        return _list(options.json)
    try:
        if options.command == "questions":
            mpl.use("Agg")
            torch.set_num_threads(1)
            return questions.run(options)
        if options.command == "control":
            mpl.use("Agg")
            torch.set_num_threads(1)
            return control.run(options)
        check_choice("--setting", options.setting, SETTINGS)
        if options.command == "check":
            return _check(options.out, options.setting)
        names = options.only or list(FIGURES)
        for name in names:
            check_choice("--only", name, FIGURES)
        if options.exact:
            refused = sorted(TRAINED_ONLY & set(options.only or ()))
            if refused:
                raise ValueError(
                    f"--only = {refused[0]!r} beside --exact: allowed are figures of exact laws, "
                    f"{', '.join(n for n in FIGURES if n not in TRAINED_ONLY)}"
                )
            names = [name for name in names if name not in TRAINED_ONLY]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    mpl.use("Agg")
    torch.set_num_threads(1)
    try:
        return _make(names, options)
    except signals.Stopped as stop:
        stop.add_note("finished figures are kept; the same command makes the others")
        raise
    except OSError as error:
        print(f"error: --out = {str(options.out)!r}: {error}", file=sys.stderr)
        return 2


def _list(as_json: bool) -> int:
    if as_json:
        print(json.dumps(FIGURES, indent=2))
        return 0
    table = Table("figure", "what it shows", highlight=False)
    for name, text in FIGURES.items():
        table.add_row(name, text)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


def _check(out: Path, setting: str) -> int:
    wrong = [line for name in FIGURES for line in reference.check_files(out, setting, name)]
    for line in wrong:
        print(line)
    print(f"{out}: {len(FIGURES)} figures checked, {len(wrong)} faults")
    return 1 if wrong else 0


def _make(names: Sequence[str], options: argparse.Namespace) -> int:
    console = Console(stderr=options.json, width=None if sys.stderr.isatty() else 120)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shows_trained = bool((TRAINED_ONLY | TRAINED_TOO) & set(names)) and not options.exact
    try:
        trained = load(options.runs) if shows_trained else None
        shows_online = bool(ONLINE & set(names)) and not options.exact
        online = load_online(options.runs) if shows_online else None
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shown = {name: online if name in ONLINE else trained for name in names}
    stamps = {name: _stamp(name, options, shown[name]) for name in names}
    summary = []
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True,
                  disable=not console.is_terminal) as progress:  # fmt: skip
        task = progress.add_task("figures", total=len(names))
        for name in names:
            progress.update(task, description=name)
            start, fresh = time.process_time(), True
            if not options.force and not options.update:
                fresh = not up_to_date(options.out, name, stamps[name])
            if fresh:
                result = _result(name, options, shown[name])
                save(result.figure, options.out, name)
                reference.write(options.out, name, result.as_json())
                if options.update:
                    folder = Path(reference.__file__).parent / "reference" / options.setting
                    reference.write(folder, name, result.numbers)
                write_stamp(options.out, name, stamps[name])
            wrong = reference.check_files(options.out, options.setting, name)
            seconds = time.process_time() - start
            files = [str(options.out / f"{name}.{ending}") for ending in ENDINGS]
            summary.append(
                {"figure": name, "cpu_seconds": seconds, "fresh": fresh, "files": files,
                 "wrong": wrong}
            )  # fmt: skip
            verdict = "matches the reference" if not wrong else f"{len(wrong)} numbers differ"
            made = f"{seconds:.1f} CPU-s" if fresh else "up to date"
            console.print(
                f"{name}: {made}, {verdict}; {', '.join(files)}", highlight=False, soft_wrap=True
            )
            for line in wrong[:10]:
                console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
            progress.advance(task)
    if options.json:
        print(json.dumps(summary, indent=2))
    return 1 if any(row["wrong"] for row in summary) else 0


def _result(name: str, options: argparse.Namespace, trained: Any) -> Result:
    module = import_module(f"figures.note.{name}")
    if name in TRAINED_ONLY | TRAINED_TOO | ONLINE:
        return module.make(options.setting, trained)
    return module.make(options.setting)


def _stamp(name: str, options: argparse.Namespace, trained: Any) -> str:
    """Everything that the figure's files depend on, as one digest."""
    if name in ONLINE:
        laws = [hashlib.sha256(t.densities.tobytes()).hexdigest() for t in (trained or {}).values()]
        return stamp(name, options.setting, *laws)
    shown = (trained or {}) if name in TRAINED_ONLY | TRAINED_TOO else {}
    runs = [t.result["digest"] + t.result["key"] for t in shown.values()]
    return stamp(name, options.setting, *runs)


if __name__ == "__main__":
    sys.exit(signals.run_main(main))
