"""`python -m benchmarks theory`: the floors of the exact theory, measured.

    agreement  closed forms against quadrature over random problems, with coverage
    push       log-density of N(0, I) pushed through exact fields, d = 1 and 2
    law        CPU-seconds of NFT's exact law in 1-D with all distances, and with modes far apart
    digits     every closed form against mpmath, scales up to 1e6 apart (thirty CPU-minutes)
    recursion  CPU-seconds of 200 epochs of online NFT in 1-D, and the mass they keep
    audit      coverage, false alarms and power of the audit (`audit_estimators`; ten CPU-minutes)
    coverage   the audit's intervals, whatever the spread of rows over prompts (40 CPU-minutes)
    control    V and u* against the Hamilton-Jacobi-Bellman equation (`control`)
    speed      closed-form velocity against MixtureSameFamily + autograd, in one run

Times are CPU-seconds of one thread, medians of interleaved repeats; ratios, not absolutes, count.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from benchmarks.rows import Row, add_part_options, cpu_seconds, measure_parts, part_of
from theory.common.console import console
from theory.common.tolerances import QUADRATURE, QUADRATURE_TIGHT
from theory.evaluation.choices import choose_field
from theory.evaluation.report import law_report
from theory.fields.mixture import MixtureField
from theory.laws.gaussians import GaussianSum
from theory.ledger.oracle import QuadratureError
from theory.ledger.oracle.instants import instant
from theory.ledger.settings.plane import disagreement
from theory.ledger.settings.random import (
    KINDS,
    SPREADS,
    Shape,
    most_components,
    random_case,
    random_point,
)
from theory.problems.problem import Problem, load_problem
from theory.recursion import Mode, Recursion, carry
from theory.samplers.flow import FlowLaw
from theory.tilts.bump_rewards import bump_reward
from theory.tilts.wrappers import Exponential

LAW_SECONDS = 2.0
FAR_SECONDS, FAR_FLOOR = 10.0, 1e-6
RECURSION_EPOCHS, RECURSION_SECONDS = 200, 10.0
SPEED_CASES = {(1, 2): 3.0, (2, 8): 5.0, (64, 8): 40.0, (64, 50): 150.0}
# As many as MixtureSameFamily has memory for; a million where it does.
SPEED_POINTS = {(1, 2): 1_000_000, (2, 8): 1_000_000, (64, 8): 200_000, (64, 50): 60_000}
REPEATS = 5


# --- agreement


def agreement() -> list[Row]:
    """Every quantity by both routes on 120 random problems; what they covered is in the note."""
    rng = np.random.default_rng(0)
    worst: dict[str, float] = {}
    seen: list[tuple[Shape, float]] = []
    refused = 0
    for seed in track(range(120), "agreement", console=console(stderr=True), transient=True):
        dim = int(rng.choice([1, 1, 2, 3, 4, 5]))
        condition = float(np.exp(rng.uniform(0, math.log(1e4))))
        shape = Shape(
            dim=dim,
            components=int(rng.integers(1, most_components(dim, condition) + 1)),
            condition=condition,
            kind=str(rng.choice(KINDS)),
            spread=float(np.exp(rng.uniform(*np.log(SPREADS)))),
            bumps=int(rng.integers(1, 3)),
        )
        t = float(rng.choice([0.0, rng.uniform(0, 0.99), 0.99]))
        case = random_case(shape, seed)
        at, own = instant("rectified_flow", t), np.random.default_rng(seed)
        x = random_point(case, at, own, tail=float(rng.choice([1.0, 3.0])))
        try:
            errors = disagreement(case, x, t)
        except QuadratureError:
            refused += 1
            continue
        seen.append((shape, t))
        for name, error in errors.items():
            worst[name] = max(worst.get(name, 0.0), error)
    print(_coverage(seen, refused), file=sys.stderr)
    return [
        Row.at_most(f"closed form against quadrature: {name}", error, QUADRATURE_TIGHT.rtol)
        for name, error in worst.items()
    ]


def _coverage(seen: list[tuple[Shape, float]], refused: int) -> str:
    shapes = [s for s, _ in seen]

    def counts(values: list[Any]) -> str:
        return ", ".join(f"{v}: {values.count(v)}" for v in sorted(set(values)))

    conditions, spreads = [s.condition for s in shapes], [s.spread for s in shapes]
    return (
        f"coverage: {len(seen)} problems compared, {refused} where quadrature gave up\n"
        f"  d         {counts([s.dim for s in shapes])}\n"
        f"  K         {counts([s.components for s in shapes])}\n"
        f"  reward    {counts([s.kind for s in shapes])}\n"
        f"  condition {min(conditions):.1f} to {max(conditions):.0f}, median "
        f"{statistics.median(conditions):.0f}\n"
        f"  spread r  {min(spreads):.3f} to {max(spreads):.2f}\n"
        f"  t         0: {sum(t == 0 for _, t in seen)}, inside: "
        f"{sum(0 < t < 0.99 for _, t in seen)}, 0.99: {sum(t == 0.99 for _, t in seen)}"
    )


# --- laws


def push() -> list[Row]:
    """Largest error of log q over the draws that hold 99.9 % of the mass."""
    rows = []
    for name in ("note_1d", "bumps_1d", "linear_1d", "quadratic_1d", "linear_2d", "bump_2d"):
        problem = load_problem(name)
        tilted = problem.tilt(Exponential(problem.scale)).law
        assert tilted is not None
        for label, law in (("base", problem.base), ("exp tilt", tilted)):
            x = law.sample(1000, torch.Generator().manual_seed(0))
            x = x[law.log_density(x).argsort(descending=True)[:999]]
            gap = FlowLaw(MixtureField(law)).log_density(x) - law.log_density(x)
            what = f"log-density through the field: {name}, {label}"
            rows.append(Row.at_most(what, float(gap.abs().max()), QUADRATURE.rtol))
    return rows


def law() -> list[Row]:
    """CPU-seconds of the whole report (law, five targets, distances, floors), d = 1."""
    rows = []
    for name in ("note_1d", "bumps_1d", "linear_1d", "quadratic_1d"):
        problem = load_problem(name)
        choice = choose_field(problem, "nft", nft_beta=2 / problem.scale)
        seconds = statistics.median(
            cpu_seconds(partial(law_report, problem, choice)) for _ in range(3)
        )
        rows.append(Row.at_most(f"NFT's exact law, {name}, CPU-s", seconds, LAW_SECONDS))
    base = GaussianSum.mixture([0.7, 0.3], [[-60.0], [60.0]], stds=[0.6, 0.6])
    far = Problem("far", base, bump_reward(1.0, [60.0], width=1.0))
    found = []
    spent = cpu_seconds(lambda: found.append(law_report(far, choose_field(far, "nft"))))
    floor = max(row["TV"].floor for row in found[0].distances.values())
    return [
        *rows,
        Row.at_most("NFT's exact law, modes at +-60, CPU-s", spent, FAR_SECONDS),
        Row.at_most("NFT's exact law, modes at +-60, floor of TV", floor, FAR_FLOOR),
    ]


def recursion() -> list[Row]:
    """200 epochs of online NFT in d = 1 on the default grid: CPU-seconds, and the mass kept."""
    rows, problem = [], load_problem("note_1d")
    modes: tuple[Mode, ...] = ("refit", "student")
    for mode in modes:
        start = time.process_time()
        run = carry(problem, Recursion(nft_beta=20.0, mode=mode), RECURSION_EPOCHS)
        seconds = time.process_time() - start
        what = f"online NFT, {RECURSION_EPOCHS} epochs, {mode}"
        rows += [
            Row.at_most(f"{what}, CPU-s", seconds, RECURSION_SECONDS),
            Row.at_most(f"{what}: error of the mass", run.mass_error, QUADRATURE_TIGHT.rtol),
        ]
    return rows


# --- digits


def digits() -> list[Row]:
    """Worst error and share refused of every closed form; beyond the condition number, what is
    returned all the same. Needs mpmath (the `dev` extra)."""
    from benchmarks.theory_digits import CONDITION, REFUSED, measure, worst

    rows = []
    for (dim, name), tally in measure().items():
        what, tier = f"digits: {name}, d = {dim}", QUADRATURE_TIGHT.rtol
        rows += [
            Row.at_most(what, worst(tally.errors), tier, str(tally)),
            Row.at_most(f"{what}: share refused", tally.share_refused, REFUSED),
        ]
        if len(tally.hard_errors) > tally.hard_errors.count(None):
            hard = f"{what}: condition above {CONDITION:g}"
            rows.append(Row.at_most(hard, worst(tally.hard_errors), tier))
    return rows


# --- speed


def speed() -> list[Row]:
    """Velocity at one time t = 0.6, isotropic components, float32, eager (nothing compiled)."""
    rows = []
    for (dim, k), floor in SPEED_CASES.items():
        n = SPEED_POINTS[dim, k]
        ours, theirs, x = _contestants(dim, k, n, torch.float32)
        error = float((ours(x[:1000]) - theirs(x[:1000])).abs().max())
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(REPEATS):
            times["theirs"].append(cpu_seconds(lambda: theirs(x)))  # noqa: B023
            times["ours"].append(cpu_seconds(lambda: ours(x)))  # noqa: B023
        fast, slow = (statistics.median(times[key]) for key in ("ours", "theirs"))
        note = f"{1e3 * slow:.0f} ms against {1e3 * fast:.1f} ms, n = {n}, largest gap {error:.0e}"
        what = f"velocity, d = {dim}, K = {k}, float32, eager: times faster"
        rows.append(Row.at_least(what, slow / fast, floor, note))
    return rows


def _contestants(
    dim: int, k: int, n: int, dtype: torch.dtype
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]:
    """Ours, MixtureSameFamily + autograd, and points of X_t."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.softmax(torch.randn(k, generator=generator, dtype=torch.float64), 0)
    means = 1.5 * torch.randn(k, dim, generator=generator, dtype=torch.float64)
    stds = 0.4 + 0.8 * torch.rand(k, generator=generator, dtype=torch.float64)
    exact = GaussianSum.mixture(weights, means, stds=stds)
    t = 0.6
    x = exact.convolved(t, 1 - t).sample(n, generator).to(dtype)
    field = MixtureField(exact.to(dtype))
    scale = (t**2 * stds**2 + (1 - t) ** 2).sqrt().to(dtype)
    parts = Independent(Normal((t * means).to(dtype), scale[:, None].expand(k, dim)), 1)
    mixture = MixtureSameFamily(Categorical(weights.to(dtype)), parts, validate_args=False)

    def by_autograd(points: Tensor) -> Tensor:
        points = points.detach().requires_grad_(True)
        (score,) = torch.autograd.grad(mixture.log_prob(points).sum(), points)
        return points.detach() / t + (1 - t) / t * score

    return (lambda points: field(points, t)), by_autograd, x


# --- command


PARTS: dict[str, Callable[[], list[Row]]] = {
    "agreement": agreement,
    "push": push,
    "law": law,
    "digits": digits,
    "recursion": recursion,
    "audit": part_of("audit_estimators"),
    "coverage": part_of("audit_estimators", "measure_coverage"),
    "control": part_of("control"),
    "speed": speed,
}


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of a bench."""
    add_part_options(command, PARTS)


def run(options: argparse.Namespace) -> int:
    """Exit status, errors: as `measure_parts`."""
    return measure_parts(options, PARTS)
