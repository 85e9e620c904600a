"""The command line that the packages share: a table of commands, each in a module of its own.

    COMMANDS = {"law": Command("theory.evaluation.command", "what a field samples")}

    def main(arguments=None):
        return run_command("theory", __doc__, COMMANDS, arguments)

A command's module has `add_options(parser)` and `run(options)`, which returns the exit status. Only
the one that is called is imported, so that `--help` needs none of them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from theory.common import signals
from theory.common.checks import nearest
from theory.common.user_code import memory_is_out

if TYPE_CHECKING:
    from rich.console import Console

WRONG = 2  # exit status of bad input
# What comes with the extra `scaleup`, by the names that are imported.
EXTRA = {
    "accelerate",
    "diffusers",
    "jinja2",
    "peft",
    "PIL",
    "pyarrow",
    "tensorboard",
    "transformers",
}


class Command(NamedTuple):
    """module: holds it.  help: one line.  stopped: what to say where a signal ends it.
    one_thread: torch computes on one (two OpenMP threads on a busy machine can be a hundred times
    slower).
    """

    module: str
    help: str
    stopped: str = ""
    one_thread: bool = False


# Options by name, each with what argparse's add_argument takes.
Options = Mapping[str, Mapping[str, Any]]


class Parser(argparse.ArgumentParser):
    """Names the nearest known words on a typo."""

    def error(self, message: str) -> NoReturn:
        if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            message += nearest(wrong[1], re.findall(r"[^\s,']+", wrong[2]))
        super().error(message)


def add_all(parser: argparse.ArgumentParser, options: Options) -> None:
    """Each of the options, in this order."""
    for name, how in options.items():
        parser.add_argument(name, **how)


def parse(
    package: str, description: str | None, commands: Mapping[str, Command], words: Sequence[str]
) -> tuple[argparse.Namespace, Any]:
    """(options, the module that runs them) of `python -m PACKAGE WORDS`.

    Raises:
        SystemExit: an unknown command, options that are not allowed, or --help.
    """
    main = Parser(prog=f"python -m {package}", description=description)
    choices = main.add_subparsers(dest="command", required=True)
    module = None
    for known, command in commands.items():
        parser = choices.add_parser(known, help=command.help)
        if [known] == words[:1]:
            with signals.at_once():  # imports take seconds, and leave nothing to unwind
                module = import_module(command.module)
            module.add_options(parser)
            chosen = parser
    options, rest = main.parse_known_args(words)
    if rest:
        known_options = dict.fromkeys(re.findall(r"--[\w-]+", chosen.format_help()))
        near = nearest(rest[0].partition("=")[0], known_options)
        chosen.error(f"unrecognized arguments: {' '.join(rest)}{near}")
    return options, module


def run_command(
    package: str,
    description: str | None,
    commands: Mapping[str, Command],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run one command; its exit status, 2 for bad input, which is said in a line on stderr.

    Raises:
        SystemExit: an unknown command, options that are not allowed, or --help.
        Stopped: SIGINT or SIGTERM, where `signals.run_main` calls.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options, module = parse(package, description, commands, words)
        if commands[options.command].one_thread:
            import torch

            torch.set_num_threads(1)
        return int(module.run(options))
    except (ValueError, OSError, NotImplementedError) as error:
        return refuse(error)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRA:
            raise
        return refuse(
            f"{name} must be installed for this command: `pip install 'plumbline[scaleup]'` (in a "
            "checkout `make env`)"
        )
    except (RuntimeError, MemoryError) as error:
        if not memory_is_out(error):
            raise
        return refuse(
            f"memory is out ({str(error) or type(error).__name__}): there must be fewer rows, "
            "states or hidden units at once"
        )
    except KeyboardInterrupt as stop:
        if words[:1] and words[0] in commands and commands[words[0]].stopped:
            stop.add_note(commands[words[0]].stopped)
        raise


def refuse(what: object) -> int:
    """Say on stderr what was wrong; the exit status."""
    print(f"error: {what}", file=sys.stderr)
    return WRONG


def refuse_unused(unused: Iterable[tuple[str, object, bool, str]]) -> None:
    """An option that would change nothing is a misunderstanding.

    unused: (option, its value or None or False, whether it is used, what it must come with).

    Raises:
        ValueError: one was given and is not used.
    """
    for name, value, is_used, where in unused:
        if value is not None and value is not False and not is_used:
            raise ValueError(
                f"{name} must come with {where}, else it changes nothing, got {value!r}"
            )


def console(width: int = 120, stderr: bool = False) -> Console:
    """Where a command prints its tables: as wide as the terminal, else as `width` says."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else width)


def print_rows(rows: Sequence[Mapping[str, Any]], width: int = 140) -> None:
    """A table of rows that have the same keys."""
    from rich.table import Table

    table = Table(*(rows[0] if rows else ()), highlight=False)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console(width).print(table)
