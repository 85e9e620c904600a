"""`python -m toys`: train small networks by any method and compare them with the truth."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from theory.common import signals
from theory.common.console import Command, run_command

GOES_ON = "the same command goes on"  # what an earlier call had done is found again
COMMANDS = {
    "train": Command(
        "toys.commands.train",
        "train networks; finished ones are left, interrupted ones go on",
        stopped=GOES_ON,
        one_thread=True,
    ),
    "compare": Command(
        "toys.commands.compare",
        "trained networks against the truth: the parts of the error, pictures",
        stopped=GOES_ON,
        one_thread=True,
    ),
    "methods": Command("toys.commands.methods", "the methods, their options and their rewards"),
    "check": Command(
        "toys.commands.check",
        "the contract's sweep: gradients at the optimum and the reference, and more",
        one_thread=True,
    ),
    "practice": Command(
        "toys.commands.practice",
        "the released DiffusionNFT code's tilt an epoch and its training times, on networks",
        stopped=GOES_ON,
        one_thread=True,
    ),
    "control": Command(
        "toys.commands.control",
        "the adjoint family and DDPO at one budget, against the exact optimum",
        stopped=GOES_ON,
        one_thread=True,
    ),
    "cases": Command(
        "toys.commands.cases",
        "the adjoint family on Ornstein-Uhlenbeck and double-well problems",
        stopped=GOES_ON,
        one_thread=True,
    ),
    "gflownets": Command(
        "toys.commands.gflownets",
        "GFlowNets beside DDPO and Adjoint Matching, a posterior of nine modes, ablations",
        stopped=GOES_ON,
        one_thread=True,
    ),
    "exact-tilt": Command(
        "toys.commands.exact_tilt",
        "what exp(a r) costs: one NFT epoch, many small ones, Tilt Matching, ...",
        stopped=GOES_ON,
        one_thread=True,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 where a check failed, 2 for bad input.

    Raises:
        Stopped: SIGINT or SIGTERM, where `signals.run_main` calls.
    """
    return run_command("toys", __doc__, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(signals.run_main(main))
