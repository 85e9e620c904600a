"""`python -m scaleup`: fine-tune text-to-image pipelines with LoRA on rewards of pictures."""

from __future__ import annotations

from theory.common import signals

if __name__ == "__main__":
    signals.catch()  # the imports below take seconds

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.table import Table

# Threads that spin while they wait slow a busy machine down a hundredfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

OUT = Path("results/scaleup")
# What comes with the extra `scaleup`, by the names that are imported.
EXTRA = {"accelerate", "diffusers", "peft", "PIL", "pyarrow", "tensorboard", "transformers"}


def parser(command: str = "train") -> argparse.ArgumentParser:
    """The command line; `train` has an option for every field of TrainConfig. command: the one
    that is asked for: an audit does without the seconds that the trainer's imports take."""
    main = argparse.ArgumentParser(prog="python -m scaleup", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)

    train = commands.add_parser(
        "train",
        help="fine-tune (without options the built-in model, on brightness), or go on with it",
    )
    if command != "audit":
        _config_options(train)
    train.add_argument("--out", type=Path, default=OUT, help="folder of the runs (%(default)s)")
    train.add_argument("--no-tensorboard", action="store_true")
    train.add_argument(
        "--peer-timeout",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="in which all processes must have started (%(default)g)",
    )

    listing = commands.add_parser("list", help="rewards, methods, recipes")
    listing.add_argument("what", choices=("rewards", "methods", "recipes"))
    listing.add_argument("--json", action="store_true")

    builtin = commands.add_parser("builtin", help="train the built-in model from nothing")
    builtin.add_argument("--out", type=Path, required=True, help="a folder that is not there yet")
    builtin.add_argument("--seed", type=int, default=0)
    builtin.add_argument("--steps", type=int, help="of the optimiser (the recipe's)")

    bench = commands.add_parser("bench", help="measure the floors of scale-up")
    bench.add_argument("--only", help="audit, resume, signals, processes, sd15, ddpo or gpu")
    bench.add_argument("--json", action="store_true")

    _audit_options(commands.add_parser("audit", help="say what a fine-tuned model samples"))

    loop = commands.add_parser(
        "loop", help="train towards known tilts and audit them (minutes on a GPU, hours without)"
    )
    loop.add_argument("--only", nargs="+", metavar="NAME", help="some of the runs")
    loop.add_argument("--out", type=Path, default=Path("results/loop"), help="(%(default)s)")
    loop.add_argument("--write", action="store_true", help="write docs/data/audit_loop.json")
    for name in ("steps", "batch", "bank", "pictures"):
        loop.add_argument(f"--{name}", type=int, help="of every run (its budget's)")
    loop.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    return main


def _config_options(command: argparse.ArgumentParser) -> None:
    from scaleup.training.config import TrainConfig, config_fields

    command.add_argument("--config", help="a .toml file, or a recipe's name (list recipes)")
    hints = get_type_hints(TrainConfig)
    for field in config_fields():
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 where a check failed, 2 for bad input.

    Raises:
        Stopped: SIGINT or SIGTERM, where `signals.run_main` calls.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    commands = {"train": _train, "list": _list, "builtin": _builtin, "bench": _bench,
                "audit": _audit, "loop": _loop}  # fmt: skip
    try:
        options = parser(*words[:1]).parse_args(words)
        return commands[options.command](options)
    except (ValueError, OSError, MemoryError, NotImplementedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in EXTRA:
            raise
        print(
            f"error: {name} is not installed, and this command needs it: allowed is `pip install "
            "'plumbline[scaleup]'` (in a checkout `make env`)",
            file=sys.stderr,
        )
        return 2


def _train(options: argparse.Namespace) -> int:
    from scaleup.training.config import config_fields, load_config
    from scaleup.training.run import run

    given = {f.name: getattr(options, f.name) for f in config_fields()}
    config = load_config(options.config, {k: v for k, v in given.items() if v is not None})
    run(
        config,
        options.out,
        tensorboard=not options.no_tensorboard,
        peer_timeout=options.peer_timeout,
    )
    return 0


def _list(options: argparse.Namespace) -> int:
    rows = {"rewards": _reward_rows, "methods": _method_rows, "recipes": _recipe_rows}
    found = rows[options.what]()
    if options.json:
        print(json.dumps(found, indent=1))
        return 0
    table = Table(*(found[0] if found else ()), highlight=False)
    for row in found:
        table.add_row(*(str(v) for v in row.values()))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0


def _reward_rows() -> list[dict[str, Any]]:
    from scaleup.rewards.contract import rewards

    found: list[dict[str, Any]] = []
    for name, kind in rewards().items():
        # What needs an instance's options is a property of the class, and not shown.
        what, bounds, gradient = (getattr(kind, k) for k in ("summary", "bounds", "differentiable"))
        found.append(
            {
                "reward": name,
                "what": what if isinstance(what, str) else "",
                "values in": str(bounds) if isinstance(bounds, tuple) else "any",
                "gradient": "yes" if gradient is True else "no",
                "options": _options_of(kind),
            }
        )
    return found


def _method_rows() -> list[dict[str, Any]]:
    from theory.methods.registry import methods

    return [
        {
            "method": name,
            "what": kind.summary,
            "rewards": str(kind().rewards),
            "options": _options_of(kind),
        }
        for name, kind in methods().items()
        if kind.starts_from == "base"
    ]


def _options_of(kind: Any) -> str:
    """Options with their defaults, as the command line takes them."""
    missing = dataclasses.MISSING
    found = [
        f"{f.name}={'...' if f.default is missing else f.default}"
        for f in dataclasses.fields(kind)
        if f.init
    ]
    return ", ".join(found) or "none"


def _recipe_rows() -> list[dict[str, Any]]:
    from scaleup.training.config import RECIPES, recipe_names

    heads = {name: (RECIPES / f"{name}.toml").read_text("utf-8") for name in recipe_names()}
    return [{"recipe": name, "what": _comment(text)} for name, text in heads.items()]


def _comment(text: str) -> str:
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    return " ".join(lines)


def _builtin(options: argparse.Namespace) -> int:
    from scaleup.builtin.train import train_builtin

    train_builtin(options.out, options.seed, options.steps)
    return 0


def _bench(options: argparse.Namespace) -> int:
    from theory.common.checkout import benchmark

    return int(benchmark("scaleup").run(options.only, options.json))


def _audit_options(command: argparse.ArgumentParser) -> None:
    from scaleup.audit.command import add_options

    add_options(command)


def _audit(options: argparse.Namespace) -> int:
    from scaleup.audit.command import run as run_audit

    return run_audit(options)


def _loop(options: argparse.Namespace) -> int:
    from scaleup.audit import loop
    from theory.common.checks import check_choice

    names = options.only or list(loop.CASES)
    for name in names:
        check_choice("--only", name, loop.CASES)
    given = {k: getattr(options, k) for k in ("steps", "batch", "bank", "pictures")}
    budget = loop.Budget(**{k: v for k, v in given.items() if v is not None})
    for name in names:
        row = loop.close(name, options.out, budget, options.device)
        print(json.dumps(row, indent=1))
        if options.write:
            loop.write([row])
    return 0


if __name__ == "__main__":
    sys.exit(signals.run_main(main))
