"""`python -m benchmarks`: the floors, measured; one command a bench."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from theory.common import signals
from theory.common.console import Command, run_command

COMMANDS = {
    "theory": Command(
        "benchmarks.theory", "accuracy and speed of the exact theory", one_thread=True
    ),
    "toys": Command(
        "benchmarks.toys", "speed of the trainer; killed and stopped runs", one_thread=True
    ),
    "scaleup": Command("benchmarks.scaleup", "memory, speed, killed and stopped runs"),
    "catalogues": Command("benchmarks.catalogues", "make anew what lists are shown from"),
    "light": Command(
        "benchmarks.light", "cost of lists and --help, or of an audit, against a commit"
    ),
    "size": Command("benchmarks.size", "statements of the product and its benches, likewise"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The list, without arguments; exit status: 0, 1 where a floor is missed, 2 for bad input or
    what cannot be measured here."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run_command("benchmarks", __doc__, COMMANDS, words or ["--help"])


if __name__ == "__main__":
    sys.exit(signals.run_main(main))
