"""`python -m theory`: the exact side of Plumbline from the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from theory.common import signals
from theory.common.console import Command, run_command

COMMANDS = {
    "law": Command(
        "theory.evaluation.command",
        "what a field samples, measured against every candidate target",
        one_thread=True,
    ),
    "problems": Command("theory.evaluation.problems", "the named problems, or one of them in full"),
    "verify": Command(
        "theory.ledger.command",
        "measure the ledger of claims; fails where a verdict is not the recorded one",
        one_thread=True,
    ),
    "recipe": Command(
        "theory.released.command",
        "forecast training with the released NFT code: tilt, reward, diversity",
        one_thread=True,
    ),
    "optima": Command(
        "theory.methods.optima",
        "what methods' exact optima on a chain sample, by its number of steps",
        one_thread=True,
    ),
    "control": Command(
        "theory.control.command",
        "what the optimal control samples under a schedule; named control problems",
        one_thread=True,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status (2 for bad input)."""
    return run_command("theory", __doc__, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(signals.run_main(main))
