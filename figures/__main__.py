"""`python -m figures`: make the figures, their numbers, and compare with the reference."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from theory.common import signals
from theory.common.console import Command, run_command

COMMANDS = {
    "make": Command(
        "figures.commands.make",
        "draw figures, write their numbers, compare them",
        "finished figures are kept; the same command makes the others",
        one_thread=True,
    ),
    "check": Command(
        "figures.commands.check",
        "check files that `make` wrote: there, not blank, numbers as the reference",
    ),
    "questions": Command(
        "figures.questions.command", "answer what users ask: docs/questions/", one_thread=True
    ),
    "control": Command(
        "figures.control.command",
        "the adjoint family against the exact optimum: docs/results/control.md",
        one_thread=True,
    ),
    "gflownets": Command(
        "figures.gflownets.command",
        "GFlowNets against what they sample: docs/results/gflownets.md",
        one_thread=True,
    ),
    "list": Command("figures.commands.listing", "the figures"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 where every number matches its reference, 1 where not, 2 for bad input."""
    return run_command("figures", __doc__, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(signals.run_main(main))
