"""`python -m toys`: train small networks by any method and compare them with the truth."""

from __future__ import annotations

from theory.common import signals

if __name__ == "__main__":
    signals.catch()  # the imports of a command take seconds

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

# The module of every command, which is imported where it is called, and what it is for.
COMMANDS = {
    "train": (
        "toys.commands.train",
        "train networks; finished ones are left, interrupted ones go on",
    ),
    "compare": (
        "toys.commands.compare",
        "trained networks against the truth: the parts of the error, pictures",
    ),
    "methods": (
        "toys.commands.methods",
        "the methods, their options and their rewards",
    ),
    "check": (
        "toys.commands.check",
        "the contract's sweep: gradients at the optimum and the reference, and more",
    ),
    "practice": (
        "toys.commands.practice",
        "the released DiffusionNFT code's tilt an epoch and its training times, on networks",
    ),
    "control": (
        "toys.commands.control",
        "the adjoint family and DDPO at one budget, against the exact optimum",
    ),
    "cases": (
        "toys.commands.cases",
        "the adjoint family on Ornstein-Uhlenbeck and double-well problems",
    ),
    "exact-tilt": (
        "toys.commands.exact_tilt",
        "what exp(a r) costs: one NFT epoch, many small ones, Tilt Matching, ...",
    ),
    "bench": (
        "toys.commands.bench",
        "measure speed, and that killed and stopped runs go on exactly",
    ),
}
# Commands that find again what an earlier call had done.
GOES_ON = ("train", "compare", "practice", "control", "cases", "exact-tilt")


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, ModuleType]:
    """(options, the command's module)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    main = argparse.ArgumentParser(prog="python -m toys", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)
    for name, (module, help_text) in COMMANDS.items():
        command = commands.add_parser(name, help=help_text)
        if name in words[:1]:
            import_module(module).add_options(command)
    options = main.parse_args(words)
    return options, import_module(COMMANDS[options.command][0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 where a check failed, 2 for bad input.

    Raises:
        signals.Stopped: SIGINT or SIGTERM, under `signals.run_main`.
    """
    options, module = parse(arguments)
    try:
        return int(module.run(options))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"error: memory is out ({str(error) or type(error).__name__}): allowed are fewer rows, "
            "states or hidden units at once",
            file=sys.stderr,
        )
        return 2
    except signals.Stopped as stop:
        if options.command in GOES_ON:
            stop.add_note("the same command goes on")
        raise
    except KeyboardInterrupt:  # called as a function
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def is_out_of_memory(error: Exception) -> bool:
    """Whether it is what Python, or torch, says where memory is out."""
    return isinstance(error, MemoryError) or "memory" in str(error).lower()


if __name__ == "__main__":
    sys.exit(signals.run_main(main))
