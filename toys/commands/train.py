"""`python -m toys train`: train networks."""

from __future__ import annotations

import argparse

from toys.commands.selection import add_selection, configs


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_selection(parser)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError, OSError: an option that is not allowed, and what training raises.
    """
    from toys.training.config import check_device
    from toys.training.runs import Run
    from toys.training.schedule import train

    check_device(options.device)
    asked = configs(options)
    count = train(options.out, asked, processes=options.processes, device=options.device)
    for config in asked:
        found = Run(options.out, config)
        print(f"{config.label}: {found.folder}, {found.manifest()['cpu_seconds']:.1f} CPU-s")
    print(f"{count} networks trained (bases included), the others were finished before")
    return 0
