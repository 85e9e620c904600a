"""`python -m theory optima`: what methods' exact optima on a chain sample, by its number of steps.

A chain's Gaussian kernels cannot hold a tilt's own, which are mixtures: what a method's loss makes
of them is its optimum, and that is some way from the target. The KL-regularised one
(`theory.control.chain_optimum`) is the projection of the target's path law on the kernels, by
reverse KL; others are fixed points of a loss's own expected gradient, as their notes say.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from theory.common.checks import check_order
from theory.common.console import print_rows
from theory.common.progress import Progress
from theory.evaluation.sampler_laws import Bench
from theory.laws.distances import grid_distances
from theory.methods.contract import returned
from theory.methods.contract.method import Method
from theory.methods.registry import parse_method
from theory.problems.problem import Problem, load_problem

# The projection first, then what other losses make of the same kernels.
METHODS = (
    "residual_nabla_db:held=true",
    "residual_db",
    "residual_nabla_db",
    "residual_nabla_db:second_order=true,look_ahead=off",
)
STEPS, END = (10, 50), 0.4  # noise that the last state keeps, times the number of steps


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `optima`."""
    command.add_argument(
        "--problem", default="note_1d", help="named, or a .toml file (%(default)s)"
    )
    command.add_argument(
        "--method", action="append", metavar="NAME:OPTIONS",
        help="one that runs on a chain; several times (residual nabla-DB and detailed balance)",
    )  # fmt: skip
    command.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="(%(default)s)")
    command.add_argument("--json", action="store_true", help="print data instead of a table")


def run(options: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        ValueError: bad input.
    """
    problem = load_problem(options.problem)
    if problem.dim > 2:
        raise ValueError(f"--problem must have d = 1 or 2, got {problem.name!r}, d = {problem.dim}")
    for steps in options.steps:
        check_order("--steps", steps, 2)
    methods = [_on_chain(text) for text in options.method or METHODS]
    cases = [(method, steps) for steps in options.steps for method in methods]
    rows = []
    with Progress(len(cases), "optima") as progress:
        for done, (method, steps) in enumerate(cases):
            progress.update("all", done, f"{method.label}, {steps} steps")
            rows.append(measured(method, problem, steps))
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print_rows(
            [{k: f"{v:.4f}" if isinstance(v, float) else v for k, v in r.items()} for r in rows]
        )
    return 0


def _on_chain(text: str) -> Method:
    method = parse_method(text)
    if not hasattr(method, "steps") or not hasattr(method, "sigma_end"):
        raise ValueError(f"--method must run on a chain of kernels, got {method.label!r}")
    return method


def measured(method: Method, problem: Problem, steps: int) -> dict[str, Any]:
    """Distances of the optimum's law to the claimed target, W1 or sliced W2 and TV, and the former
    over the base chain's; the optimum None where none is stated.

    Raises:
        ValueError: the method does not allow the problem.
    """
    method.check_problem(problem)
    own: Any = method
    method = replace(own, steps=steps, sigma_end=END / steps)
    best, goal = returned.optimum(method, problem), returned.target(method, problem)
    row: dict[str, Any] = {"method": own.label, "steps": steps, "optimum": "none stated"}
    numbers: dict[str, float | None] = dict.fromkeys(("to the target", "of the base's", "TV"))
    if best is not None and goal is not None and best.exact:
        bench = Bench.of(problem, best.sampler, [goal])
        target = bench.of_target(goal).grid
        name = "W1" if problem.dim == 1 else "sliced W2"
        to, base = (
            grid_distances(bench.of_velocity(model).grid, target)
            for model in (best.velocity, problem.base_field)
        )
        row["optimum"] = "own fixed point" if best.note else "KL projection"
        values = (to[name].value, to[name].value / base[name].value, to["TV"].value)
        numbers = dict(zip(numbers, values, strict=True))
    return row | numbers
