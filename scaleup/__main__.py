"""`python -m scaleup`: fine-tune text-to-image pipelines with LoRA on rewards of pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from theory.common import signals
from theory.common.console import Command, run_command

# Threads that spin while they wait slow a busy machine down a hundredfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

COMMANDS = {
    "train": Command(
        "scaleup.commands.train",
        "fine-tune (without options the built-in model, on brightness), or go on with it",
    ),
    "list": Command("scaleup.commands.listing", "rewards, methods, recipes"),
    "table": Command(
        "scaleup.commands.table", "finished runs side by side: reward, diversity, distance, cost"
    ),
    "builtin": Command("scaleup.commands.builtin", "train the built-in model from nothing"),
    "audit": Command("scaleup.audit.command", "say what a fine-tuned model samples"),
    "loop": Command(
        "scaleup.commands.loop",
        "train towards known tilts and audit them (minutes on a GPU, hours without)",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 where a check failed, 2 for bad input.

    Raises:
        Stopped: SIGINT or SIGTERM, where `signals.run_main` calls.
    """
    return run_command("scaleup", __doc__, COMMANDS, arguments)


if __name__ == "__main__":
    sys.exit(signals.run_main(main))
