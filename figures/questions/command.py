"""`python -m figures questions`: measure, write the pages, or check them."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import matplotlib as mpl

from figures.questions import PAGES
from figures.questions.pages import (
    FOLDER,
    changed,
    module_of,
    plain,
    read_numbers,
    stale,
    write_pages,
)
from theory.common.progress import Progress


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `questions`."""
    command.add_argument("--only", nargs="+", metavar="NAME", help=f"some of: {', '.join(PAGES)}")
    command.add_argument(
        "--out", type=Path, default=FOLDER, help="folder of the pages (%(default)s)"
    )
    command.add_argument(
        "--check", action="store_true", help="compare the pages with their numbers, write nothing"
    )
    command.add_argument(
        "--measure", action="store_true", help="with --check: the numbers are measured anew too"
    )


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where a check found something.

    Raises:
        ValueError: an unknown question, options that do not go together.
    """
    mpl.use("Agg")
    if options.measure and not options.check:
        raise ValueError("--measure needs --check (writing always measures)")
    names = list(dict.fromkeys(options.only or PAGES))
    for name in names:
        module_of(name)  # refuses what is no question, before anything is measured
    lines: list[str] = []
    if options.check:
        lines = stale(options.out)
    if options.measure or not options.check:
        numbers = read_numbers(options.out)
        with Progress(len(names), "questions") as progress:
            for done, name in enumerate(names):
                progress.update("questions", done, module_of(name).QUESTION)
                start = time.process_time()
                found = plain(module_of(name).measure())
                if options.check:
                    lines += changed(found, numbers.get(name, {}), name)
                else:
                    numbers[name] = found
                    write_pages(options.out, numbers, [name])
                progress.note(f"{name}: {time.process_time() - start:.1f} CPU-s")
    for line in lines:
        print(line, file=sys.stderr)
    if not options.check:
        print(f"{options.out / 'README.md'}: {len(names)} questions answered")
    return 1 if lines else 0
