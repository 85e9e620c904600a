"""`python -m scaleup train`: fine-tune, with an option for every field of TrainConfig."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from scaleup.training.config import TrainConfig, load_config
from theory.common.console import Options, add_all

# Beside the fields of TrainConfig.
MORE_OPTIONS: Options = {
    "--out": {
        "type": Path,
        "default": Path("results/scaleup"),
        "help": "folder of the runs (%(default)s)",
    },
    "--no-tensorboard": {"action": "store_true"},
    "--peer-timeout": {
        "type": float,
        "default": 15.0,
        "metavar": "SECONDS",
        "help": "in which all processes must have started (%(default)g)",
    },
}


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `train`."""
    command.add_argument("--config", help="a .toml file, or a recipe's name (list recipes)")
    hints = get_type_hints(TrainConfig)
    for field in fields(TrainConfig):
        hint, flag = hints[field.name], f"--{field.name.replace('_', '-')}"
        text = f"{field.metadata['help']} ({str(field.default) or 'none'})".replace("%", "%%")
        if hint is bool:
            command.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        elif get_origin(hint) is not None:
            command.add_argument(flag, choices=get_args(hint), help=text)
        else:
            command.add_argument(flag, type=hint, metavar=hint.__name__.upper(), help=text)
    add_all(command, MORE_OPTIONS)


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError, OSError: bad input, and what training raises.
    """
    from scaleup.training.run import run

    given = {f.name: getattr(options, f.name) for f in fields(TrainConfig)}
    config = load_config(options.config, {k: v for k, v in given.items() if v is not None})
    run(
        config,
        options.out,
        tensorboard=not options.no_tensorboard,
        peer_timeout=options.peer_timeout,
    )
    return 0
