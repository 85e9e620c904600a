"""`python -m figures make`: draw figures, write their numbers, compare them."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib as mpl

from figures.note import FIGURES, ONLINE, TRAINED_ONLY, TRAINED_TOO
from figures.shared import reference
from figures.shared.fresh import ENDINGS, stamp, up_to_date, write_stamp
from figures.shared.result import SETTINGS, Result
from figures.shared.trained import load, load_online
from theory.common.checks import check_choice
from theory.common.files import check_folder, write_json
from theory.common.progress import Progress
from theory.evaluation.draw import save


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `make`."""
    command.add_argument("--only", nargs="+", metavar="NAME", help="some of them (see `list`)")
    command.add_argument("--setting", default="full", help="full, or small: coarser and quicker")
    command.add_argument("--out", type=Path, default=Path("results/figures"))
    command.add_argument(
        "--runs", type=Path, default=Path("results/toys"), help="trained networks (%(default)s)"
    )
    command.add_argument(
        "--exact", action="store_true", help="exact laws alone: no trained networks are shown"
    )
    command.add_argument("--force", action="store_true", help="also what is up to date")
    command.add_argument("--update", action="store_true", help="rewrite the committed reference")
    command.add_argument("--json", action="store_true", help="print a summary as data")


def run(options: argparse.Namespace) -> int:
    """Exit status: 0 where every number matches its reference, 1 where not.

    Raises:
        ValueError, OSError: bad input.
    """
    check_choice("--setting", options.setting, SETTINGS)
    names = options.only or list(FIGURES)
    for name in names:
        check_choice("--only", name, FIGURES)
    if options.exact:
        refused = sorted(TRAINED_ONLY & set(options.only or ()))
        if refused:
            raise ValueError(
                "--only must be figures of exact laws beside --exact, "
                f"{', '.join(n for n in FIGURES if n not in TRAINED_ONLY)}, got {refused[0]!r}"
            )
        names = [name for name in names if name not in TRAINED_ONLY]
    check_folder("--out", options.out)
    mpl.use("Agg")
    return _make(names, options)


def _make(names: Sequence[str], options: argparse.Namespace) -> int:
    asked = set() if options.exact else set(names)
    trained = load(options.runs) if (TRAINED_ONLY | TRAINED_TOO) & asked else None
    online = load_online(options.runs) if ONLINE & asked else None
    shown = {name: online if name in ONLINE else trained for name in names}
    stamps = {name: _stamp(name, options, shown[name]) for name in names}
    summary: list[dict[str, Any]] = []
    with Progress(len(names), "figures") as progress:
        for name in names:
            progress.update("figures", len(summary), name)
            start, anew = time.process_time(), options.force or options.update
            fresh = anew or not up_to_date(options.out, name, stamps[name])
            if fresh:
                result = _result(name, options, shown[name])
                save(result.figure, options.out, name)
                write_json(options.out / f"{name}.json", result.as_json())
                if options.update:
                    folder = Path(reference.__file__).parent / "reference" / options.setting
                    write_json(folder / f"{name}.json", result.numbers)
                write_stamp(options.out, name, stamps[name])
            summary.append(
                {
                    "figure": name,
                    "cpu_seconds": time.process_time() - start,
                    "fresh": fresh,
                    "files": [str(options.out / f"{name}.{ending}") for ending in ENDINGS],
                    "wrong": reference.check_files(options.out, options.setting, name),
                }
            )
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        for row in summary:
            print(_line(row))
    return 1 if any(row["wrong"] for row in summary) else 0


def _line(row: dict[str, Any]) -> str:
    made = f"{row['cpu_seconds']:.1f} CPU-s" if row["fresh"] else "up to date"
    wrong = row["wrong"]
    verdict = f"{len(wrong)} numbers differ" if wrong else "matches the reference"
    first = f"{row['figure']}: {made}, {verdict}; {', '.join(row['files'])}"
    return "\n  ".join([first, *wrong[:10]])


def _result(name: str, options: argparse.Namespace, trained: Any) -> Result:
    module = import_module(f"figures.note.{name}")
    shown = (trained,) if name in TRAINED_ONLY | TRAINED_TOO | ONLINE else ()
    return module.make(options.setting, *shown)


def _stamp(name: str, options: argparse.Namespace, trained: Any) -> str:
    """Everything that the figure's files depend on, as one digest."""
    shown = (trained or {}) if name in TRAINED_ONLY | TRAINED_TOO | ONLINE else {}
    runs = [
        hashlib.sha256(t.densities.tobytes()).hexdigest()
        if name in ONLINE
        else t.result["digest"] + t.result["key"]
        for t in shown.values()
    ]
    return stamp(name, options.setting, *runs)
