"""`python -m toys`: train small networks by any method and compare them with the truth."""

from __future__ import annotations

from theory.common import signals

if __name__ == "__main__":
    signals.catch()  # the imports below take seconds

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from theory.common.checkout import benchmark
from theory.common.checks import check_choice, check_count, check_order
from theory.common.files import check_folder
from theory.methods.registry import methods, parse_method
from toys.commands import cases as cases_command
from toys.training.config import DEPTH, WIDTH, RunConfig, check_device

OUT = Path("results/toys")
# Every seed is planned before the first trains: minutes for the most that are allowed.
MOST_SEEDS, MOST_ROWS, MOST_LAYERS, MOST = 10_000, 2**16, 1000, 2**31 - 1
# Commands that find again what an earlier call had done.
GOES_ON = ("train", "compare", "practice", "control", "cases", "frontier")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(prog="python -m toys", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)

    train = commands.add_parser(
        "train", help="train networks; finished ones are left, interrupted ones go on"
    )
    _selection(train)
    train.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")

    compare = commands.add_parser(
        "compare", help="trained networks against the truth: the parts of the error, pictures"
    )
    _selection(compare)
    compare.add_argument("--sampling-steps", type=int, default=20, help="Heun steps (%(default)s)")
    compare.add_argument("--samples", type=int, default=20_000, help="draws (%(default)s)")
    compare.add_argument("--no-picture", action="store_true")
    compare.add_argument("--json", action="store_true", help="print data instead of a table")
    compare.add_argument(
        "--check",
        action="store_true",
        help="exit 1 where a learning error is over 5 %% of the way, or a run has no truth",
    )

    listing = commands.add_parser("methods", help="the methods, their options and their rewards")
    listing.add_argument("--json", action="store_true")

    check = commands.add_parser(
        "check", help="the contract's sweep: gradients at the optimum and the reference, and more"
    )
    check.add_argument("--method", required=True, help="name[:option=value,...] or file.py[:...]")
    check.add_argument("--problem", default="note_1d", help="a name or a .toml file (%(default)s)")
    check.add_argument(
        "--rows", type=int, default=256,
        help="draws in each of 48 blocks (%(default)s): four times as many see half the error",
    )  # fmt: skip

    practice = commands.add_parser(
        "practice",
        help="the released DiffusionNFT code's tilt an epoch and its training times, on networks",
    )
    practice.add_argument("--only", help="tilt or times")
    practice.add_argument("--out", type=Path, default=OUT, help="folder of the runs (%(default)s)")
    practice.add_argument("--processes", type=int, default=2, help="side by side (%(default)s)")
    practice.add_argument("--json", action="store_true", help="print data instead of tables")
    practice.add_argument(
        "--check", action="store_true", help="exit 1 where a tilt is over 5 %% off its prediction"
    )

    control = commands.add_parser(
        "control", help="the adjoint family and DDPO at one budget, against the exact optimum"
    )
    control.add_argument("--problem", action="append", help="repeatable (seven, d = 1 and 2)")
    control.add_argument("--only", action="append", help="a method of the comparison; repeatable")
    control.add_argument(
        "--schedules", action="store_true",
        help="also fine-tuning under other schedules, and the matrix train x sample",
    )  # fmt: skip
    control.add_argument(
        "--out", type=Path, default=Path("results/control"), help="folder of runs (%(default)s)"
    )
    control.add_argument("--jobs", type=int, default=2, help="processes side by side (%(default)s)")
    control.add_argument("--json", action="store_true", help="print data instead of tables")
    control.add_argument(
        "--check", action="store_true",
        help="exit 1 where Adjoint Matching's control is over 2 %% off, or its law over 5 %%",
    )  # fmt: skip

    cases_command.add_options(
        commands.add_parser(
            "cases", help="the adjoint family on Ornstein-Uhlenbeck and double-well problems"
        )
    )

    frontier = commands.add_parser(
        "frontier", help="what exp(a r) costs: one NFT epoch, many small ones, Tilt Matching, ..."
    )
    frontier.add_argument("--out", type=Path, default=OUT, help="folder of results (%(default)s)")
    frontier.add_argument("--processes", type=int, default=2, help="side by side (%(default)s)")
    frontier.add_argument(
        "--write", action="store_true", help="write docs/data/frontier.json, which the page reads"
    )
    frontier.add_argument("--json", action="store_true", help="print data instead of a table")

    bench = commands.add_parser(
        "bench", help="measure speed, and that killed and stopped runs go on exactly"
    )
    bench.add_argument("--only", help="throughput, resume or signals")
    bench.add_argument("--json", action="store_true")
    return main


def _selection(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--method", action="append", help="name[:option=value,...] or file.py[:...]; repeatable"
    )
    command.add_argument("--problem", action="append", help="a name or a .toml file; repeatable")
    command.add_argument("--seeds", type=int, default=1, help="seeds 0 .. SEEDS-1 (%(default)s)")
    command.add_argument(
        "--preset",
        help="figures, online (NFT over epochs), or toys: every method on the named problems",
    )
    command.add_argument("--width", type=int, default=WIDTH, help="hidden units (%(default)s)")
    command.add_argument("--depth", type=int, default=DEPTH, help="hidden layers (%(default)s)")
    command.add_argument("--steps", type=int, default=0, help="optimiser steps (the method's)")
    command.add_argument("--batch", type=int, default=0, help="rows a step (the method's)")
    command.add_argument("--learning-rate", type=float, default=0.0, help="peak (the method's)")
    command.add_argument(
        "--pseudo-random", action="store_true", help="independent draws, not shifted Sobol points"
    )
    command.add_argument(
        "--fast-products",
        action="store_true",
        help="bfloat16 products where the CPU has them: 1.5 times faster, errors near 1e-3",
    )
    command.add_argument("--out", type=Path, default=OUT, help="folder of the runs (%(default)s)")
    command.add_argument("--processes", type=int, default=2, help="side by side (%(default)s)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 where a check failed, 2 for bad input.

    Raises:
        signals.Stopped: SIGINT or SIGTERM, under `signals.run_main`.
    """
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    run = {"train": _train, "compare": _compare, "methods": _methods, "check": _check,
           "practice": _practice, "cases": cases_command.run}  # fmt: skip
    try:
        if options.command == "frontier":
            from toys.experiments.frontier import command

            return command(options.out, options.processes, options.write, options.json)
        if options.command == "control":
            from toys.commands.control import command as control_command

            return control_command(options)
        if options.command == "bench":
            return int(benchmark("toys").run(options.only, options.json))
        return run[options.command](options)
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


def _configs(options: argparse.Namespace) -> list[RunConfig]:
    from toys.experiments.presets import PRESETS

    check_count("--seeds", options.seeds, 1, MOST_SEEDS)
    check_order("--processes", options.processes, 1)
    for name in ("steps", "batch"):
        check_count(f"--{name}", getattr(options, name), 0, MOST)
    check_count("--width", options.width, 1, MOST)
    check_count("--depth", options.depth, 1, MOST_LAYERS)
    if options.learning_rate < 0:
        raise ValueError(f"--learning-rate = {options.learning_rate!r}: allowed are numbers > 0")
    check_folder("--out", options.out)
    if options.preset is not None:
        check_choice("--preset", options.preset, PRESETS)
        if options.method or options.problem:
            raise ValueError(
                "--preset beside --method or --problem: allowed is a preset or a selection"
            )
        _refuse_beside_preset(options)
        return PRESETS[options.preset]()
    if not options.method or not options.problem:
        raise ValueError(
            "--method and --problem are needed: allowed are "
            f"{', '.join(methods())} or a .py file, and a named problem or a .toml file "
            "(or --preset)"
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
    defaults = parser().parse_args(["train"])
    for name in (
        "seeds",
        "width",
        "depth",
        "steps",
        "batch",
        "learning_rate",
        "pseudo_random",
        "fast_products",
    ):
        if getattr(options, name) != getattr(defaults, name):
            raise ValueError(
                f"--{name.replace('_', '-')} = {getattr(options, name)!r} beside --preset: "
                "allowed beside a preset are --out, --processes and --device"
            )


def _train(options: argparse.Namespace) -> int:
    from toys.training.runs import Run
    from toys.training.schedule import train

    check_device(options.device)
    configs = _configs(options)
    count = train(options.out, configs, processes=options.processes, device=options.device)
    for config in configs:
        run = Run(options.out, config)
        print(f"{config.label}: {run.folder}, {run.manifest()['cpu_seconds']:.1f} CPU-s")
    print(f"{count} networks trained (bases included), the others were finished before")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from toys.evaluation.compare import compare, finished, pictures, table, worst
    from toys.evaluation.evaluate import Sampling, is_good

    sampling = Sampling(options.sampling_steps, options.samples)
    stale: list[str] = []
    skipped: list[str] = []
    asked = bool(options.preset or options.method or options.problem)
    if asked:
        configs = _configs(options)
    else:
        configs, stale = finished(options.out)
        configs = [c for c in configs if c.method != "flow_matching:target_velocity=exact"]
        if not configs:
            raise ValueError(
                f"--out = {str(options.out)!r} holds no finished runs of this code: allowed is a "
                "folder that `python -m toys train` filled"
            )
    results = compare(options.out, configs, sampling, processes=options.processes, skip=skipped)
    kept = {r["digest"] for r in results}
    configs = [c for c in configs if c.digest in kept]
    if not configs:
        raise ValueError(f"nothing to compare: {'; '.join(skipped)}")
    drawn = [] if options.no_picture else pictures(options.out, configs, results)
    if options.json:
        print(json.dumps({"runs": results, "pictures": [str(p) for p in drawn]}, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 140).print(table(results))
        print(worst(results))
        for path in drawn:
            print(f"drawn: {path}")
        for why in skipped:
            print(f"left out: {why}")
        for name in stale:
            print(f"left out (made by other code, or moved): {name}")
    wrong = [r for r in results if not is_good(r)]
    # What was asked for and could not be compared has not passed.
    return 1 if options.check and (wrong or (asked and skipped)) else 0


def _methods(options: argparse.Namespace) -> int:
    rows: dict[str, dict[str, Any]] = {
        name: {
            "what": kind.summary,
            "options": kind().options,
            "rewards": str(kind().rewards),
            "source": kind.source,
        }
        for name, kind in methods().items()
    }
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    table = Table("method", "what", "options", "rewards", "source", highlight=False)
    for name, row in rows.items():
        shown = ", ".join(f"{k}={v}" for k, v in row["options"].items())
        table.add_row(name, row["what"], shown, row["rewards"], row["source"])
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0


def _practice(options: argparse.Namespace) -> int:
    from toys.experiments.practice import failures, practice, tables

    check_order("--processes", options.processes, 1)
    check_folder("--out", options.out)
    found = practice(options.out, options.only, processes=options.processes)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else 140)
        for table in tables(found):
            console.print(table)
        print(f"written: {options.out / 'practice.json'}")
    wrong = failures(found)
    for line in wrong:
        print(f"over 5 %: {line}", file=sys.stderr)
    return 1 if options.check and wrong else 0


def _check(options: argparse.Namespace) -> int:
    from theory.methods.contract.probe import sweep
    from theory.problems.problem import load_problem

    method, problem = parse_method(options.method), load_problem(options.problem)
    check_count("--rows", options.rows, 2, MOST_ROWS)
    checks = sweep(method, problem, n=options.rows)
    table = Table("check", "", "seen", highlight=False,
                  title=f"{method.label} @ {problem.name}", title_justify="left")  # fmt: skip
    for check in checks:
        table.add_row(check.name, "ok" if check.passed else "FAILED", check.seen)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0 if all(check.passed for check in checks) else 1


if __name__ == "__main__":
    sys.exit(signals.run_main(main))
