"""Which runs: the options that `train` and `compare` share, and what they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from toys.commands.output import add_place, check_place
from toys.training.defaults import DEPTH, WIDTH

if TYPE_CHECKING:
    from toys.training.config import RunConfig

OUT = Path("results/toys")
# Every seed is planned before the first trains: minutes for the most that are allowed.
MOST_SEEDS, MOST_LAYERS, MOST = 10_000, 1000, 2**31 - 1
COUNTS = (
    ("seeds", 1, MOST_SEEDS), ("steps", 0, MOST), ("batch", 0, MOST), ("width", 1, MOST),
    ("depth", 1, MOST_LAYERS),
)  # fmt: skip
OF_RUNS = (
    "seeds", "width", "depth", "steps", "batch", "learning_rate", "pseudo_random", "fast_products",
)  # fmt: skip


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument(
        "--method", action="append", help="name[:option=value,...] or file.py[:...]; repeatable"
    )
    parser.add_argument("--problem", action="append", help="a name or a .toml file; repeatable")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0 .. SEEDS-1 (%(default)s)")
    parser.add_argument(
        "--preset",
        help="figures, online (NFT over epochs), or toys: every method on the named problems",
    )
    parser.add_argument("--width", type=int, default=WIDTH, help="hidden units (%(default)s)")
    parser.add_argument("--depth", type=int, default=DEPTH, help="hidden layers (%(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps (the method's)")
    parser.add_argument("--batch", type=int, default=0, help="rows a step (the method's)")
    parser.add_argument("--learning-rate", type=float, default=0.0, help="peak (the method's)")
    parser.add_argument(
        "--pseudo-random", action="store_true", help="independent draws, not shifted Sobol points"
    )
    parser.add_argument(
        "--fast-products",
        action="store_true",
        help="bfloat16 products where the CPU has them: 1.5 times faster, errors near 1e-3",
    )
    add_place(parser, OUT)


def configs(options: argparse.Namespace) -> list[RunConfig]:
    """The runs that were asked for.

    Raises:
        ValueError, FileNotFoundError: an option is not allowed, or a run's parts are not.
    """
    from theory.common.checks import check_choice, check_count
    from theory.methods.registry import methods
    from toys.experiments.presets import PRESETS
    from toys.training.config import RunConfig

    for name, least, most in COUNTS:
        check_count(f"--{name}", getattr(options, name), least, most)
    if options.learning_rate < 0:
        raise ValueError(f"--learning-rate must be a number > 0, got {options.learning_rate!r}")
    check_place(options)
    if options.preset is not None:
        check_choice("--preset", options.preset, PRESETS)
        if options.method or options.problem:
            raise ValueError("need --preset, or --method and --problem, got both")
        _refuse_beside_preset(options)
        return PRESETS[options.preset]()
    if not options.method or not options.problem:
        raise ValueError(
            f"need --method, one of {', '.join(methods())} or a .py file, and --problem, a named "
            "one or a .toml file (or --preset)"
        )
    return [
        RunConfig.checked(
            method=method,
            problem=problem,
            seed=seed,
            width=options.width,
            depth=options.depth,
            steps=options.steps,
            batch=options.batch,
            learning_rate=options.learning_rate,
            low_discrepancy=not options.pseudo_random,
            fast_products=options.fast_products,
        )
        for problem in options.problem
        for method in options.method
        for seed in range(options.seeds)
    ]


def _refuse_beside_preset(options: argparse.Namespace) -> None:
    """A preset has budgets and seeds of its own: nothing that was asked for is passed over."""
    bare = argparse.ArgumentParser()
    add_selection(bare)
    defaults = bare.parse_args([])
    for name in OF_RUNS:
        if getattr(options, name) != getattr(defaults, name):
            raise ValueError(
                f"--{name.replace('_', '-')} must be left to --preset, beside which --out, "
                f"--processes and --device may stand, got {getattr(options, name)!r}"
            )
