"""What users of the released DiffusionNFT code get, on toy networks: `python -m toys practice`.

tilt    Online NFT with the released reward mapping over 20 epochs (N1). After every epoch the
        effective tilt: the a at which q_before exp(a R)/Z has the mean reward of q_after (the
        maximum-likelihood fit of the exponential family), in standard deviations of R under
        q_before. Predicted three ways: 0.2/nft_beta; the exact optimum of that epoch, started at
        the network it was started at, rewards mapped by the statistics of what its sampler draws;
        and a recursion without networks.
times   NFT trained at some times of a 10-step grid only (N6) against one trained at all times, each
        sampled in several ways, and against the same samplers' laws of the exact optimum.

Laws (d = 1) are exact: those of the trained velocities, not of draws. Runs, and what was measured
on them, are kept: the same command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from theory.common.checks import check_choice, check_order, check_positive
from theory.common.identity import digest_of, plumbline_code
from theory.common.progress import Progress
from theory.common.tolerances import TRAINED_SHARE
from theory.fields.mixture import ModelField
from theory.laws.distances import Array
from theory.methods import Draws, Task
from theory.recursion.mapped import MOST_LOST, Line
from theory.released.times import (
    MapLaw,
    Sampler,
    laws,
    shifted_times,
    total_variation,
    uniform_times,
)
from theory.samplers.flow import FlowLaw
from toys.networks.mlp import StackedMLP, single
from toys.training.config import RunConfig
from toys.training.files import read_json, write_json
from toys.training.runs import Run
from toys.training.schedule import train

PARTS = ("tilt", "times")
RTOL, ATOL = 1e-6, 1e-8
FLOOR = TRAINED_SHARE  # how near predicted and trained tilt are to be

# --- the tilt of an epoch


@dataclass(frozen=True)
class TiltPlan:
    """Problems, each with the largest tilt that its grid has to hold; and a budget.

    What scatters a trained epoch's tilt is the finite pool and the draws of its steps; where R's
    spread has fallen to half, steps are also learned a little short.
    """

    problems: tuple[tuple[str, float], ...] = (
        ("note_1d", 12.0), ("bumps_1d", 12.0), ("linear_1d", 6.0),
    )  # fmt: skip
    nft_beta: float = 2.0
    epochs: int = 20
    epoch_steps: int = 400
    pool: int = 65536
    batch: int = 2048
    learning_rate: float = 1.5e-3
    nodes: int = 256
    width: int = 64

    def __post_init__(self) -> None:
        check_positive("nft_beta", self.nft_beta)
        for name in ("epochs", "epoch_steps", "pool", "batch", "nodes", "width"):
            check_order(name, getattr(self, name), 1)

    def config(self, problem: str) -> RunConfig:
        """The run of one problem, a network kept after every epoch."""
        method = (
            f"nft:nft_beta={self.nft_beta:g},reward_mapping=released,"
            f"refresh_every={self.epoch_steps},pool={self.pool}"
        )
        return RunConfig.checked(
            method=method, problem=problem, steps=self.epochs * self.epoch_steps,
            batch=self.batch, learning_rate=self.learning_rate, snapshots=self.epochs,
            width=self.width,
        )  # fmt: skip


def log_densities(members: Sequence[Any], axis: Array, label: str) -> list[Array]:
    """log q on the axis of what every network samples by its ODE; one stack, one solution.

    Raises:
        ValueError: the axis misses mass.
    """
    first = single(members[0])
    width, depth = first.weight[0].shape[-1], len(first.weight) - 1
    stack = StackedMLP(1, 1, width, depth, Draws.seeded([0] * len(members)))
    stack.load_members(members)
    field = ModelField(stack.to(torch.float64).requires_grad_(False), 1)
    points = torch.as_tensor(axis)[:, None].expand(len(members), len(axis), 1)
    logs = FlowLaw(field, rtol=RTOL, atol=ATOL, method="dopri5").log_density(points).numpy()
    lost = float(np.abs(1 - np.trapezoid(np.exp(logs), axis, axis=1)).max())
    if lost > MOST_LOST:
        raise ValueError(
            f"the grid of {label} on [{axis[0]:g}, {axis[-1]:g}] misses {lost:.1e} of a law: "
            f"allowed is {MOST_LOST:g}; plan a larger tilt, or more nodes"
        )
    return list(logs)


def measure_tilt(run: Run, largest_tilt: float, plan: TiltPlan) -> dict[str, Any]:
    """A finished run against its predictions, a row an epoch.

    Tilts are in standard deviations of R under the law that the epoch started at.
    """
    problem = run.config.parsed_problem
    base = run.config.base()
    assert base is not None
    members = [Run(run.out, base).weights(), *run.snapshots()]
    line = Line.of(problem, largest_tilt, plan.nodes)
    logs = log_densities(members, line.axis, run.config.label)
    alone = line.recursion(plan.nft_beta, plan.epochs)
    rows = []
    for k, (before, after) in enumerate(pairwise(logs)):
        std, std_alone = line.moments(before)[1], line.moments(alone[k])[1]
        start = ModelField(single(members[k]), 1)
        # Rewards are mapped by the statistics of what the task's sampler draws.
        drawn = laws(Sampler("heun", uniform_times(Task.sampling_steps)), start)[0]
        statistics = drawn.mean_reward(problem.reward), drawn.std_reward(problem.reward)
        exact = line.epoch(before, start, plan.nft_beta, statistics)[0]
        tilt = std * line.tilt(before, after)
        predicted = {
            "rule": 0.2 / plan.nft_beta,
            "exact epoch": std * line.tilt(before, exact),
            "recursion": std_alone * line.tilt(alone[k], alone[k + 1]),
        }
        rows.append(
            {
                "epoch": k + 1, "mean reward": line.moments(after)[0], "std before": std,
                "tilt": tilt, **predicted,
                **{f"error of {name}": tilt / value - 1 for name, value in predicted.items()},
            }
        )  # fmt: skip
    total = line.tilt(logs[0], logs[-1])
    total_alone = line.tilt(alone[0], alone[-1])
    return {
        "problem": run.config.problem_label, "nft_beta": plan.nft_beta, "epochs": rows,
        "total tilt": total, "total tilt of the recursion": total_alone,
        "worst": {
            name: max(abs(row[f"error of {name}"]) for row in rows) for name in predicted
        },
        "within floor": {
            name: sum(abs(row[f"error of {name}"]) <= FLOOR for row in rows) for name in predicted
        },
        "cpu_seconds": run.manifest()["cpu_seconds"],
    }  # fmt: skip


# --- times


@dataclass(frozen=True)
class TimesPlan:
    """NFT on the note's problem at nft_beta = 1; 0: the method's own budget."""

    problem: str = "note_1d"
    nft_beta: float = 1.0
    count: int = 10
    steps: int = 0
    batch: int = 0
    width: int = 64
    points: int = 401

    def __post_init__(self) -> None:
        check_positive("nft_beta", self.nft_beta)
        check_order("count", self.count, 3)
        check_order("points", self.points, 16)

    @property
    def grid(self) -> tuple[float, ...]:
        return uniform_times(self.count)

    def configs(self) -> dict[str, RunConfig]:
        """What is compared; "all times" is what the others are compared with, and its second seed
        tells by how much networks differ anyway."""
        asked: dict[str, tuple[int, tuple[float, ...]]] = {
            "all times": (0, ()), "all times, another seed": (1, ()),
            "the grid's": (0, self.grid),
            "without the one nearest to the data": (0, self.grid[:-1]),
            "without the one nearest to the noise": (0, self.grid[1:]),
        }  # fmt: skip
        return {
            name: RunConfig.checked(
                method=f"nft:nft_beta={self.nft_beta:g}", problem=self.problem, seed=seed,
                times=times, steps=self.steps, batch=self.batch, width=self.width,
            )
            for name, (seed, times) in asked.items()
        }  # fmt: skip

    def samplers(self) -> tuple[Sampler, ...]:
        """The grid's own first."""
        fine = 4 * self.count
        return (
            Sampler("euler", self.grid), Sampler("euler", uniform_times(fine)),
            Sampler("heun", self.grid), Sampler("dpm2", shifted_times(fine)),
            Sampler("ode", uniform_times(24)),
        )  # fmt: skip


def measure_times(out: Path, plan: TimesPlan) -> dict[str, Any]:
    """Every network under every sampler: TV to the network trained at all times and to the exact
    optimum, each under the same sampler, and the change of mean reward as a share of what
    fine-tuning gains."""
    configs = plan.configs()
    problem = configs["all times"].parsed_problem
    optimum = problem.nft_field(plan.nft_beta)
    rows = []
    for sampler in plan.samplers():

        def law(field: Any, sampler: Sampler = sampler) -> MapLaw:
            return laws(sampler, field, points=plan.points)[0]

        base, exact = law(problem.base_field), law(optimum)
        trained = {
            name: law(ModelField(single(Run(out, c).weights()), 1)) for name, c in configs.items()
        }
        whole = trained["all times"]
        gain = whole.mean_reward(problem.reward) - base.mean_reward(problem.reward)
        rows += [
            {
                "sampler": sampler.label, "trained at": name,
                "mean reward": found.mean_reward(problem.reward),
                "change of the gain": (
                    found.mean_reward(problem.reward) - whole.mean_reward(problem.reward)
                ) / gain,
                "TV to all times": total_variation(whole, found),
                "TV to the optimum": total_variation(exact, found),
            }
            for name, found in trained.items()
        ]  # fmt: skip
    return {"problem": plan.problem, "nft_beta": plan.nft_beta, "rows": rows}


# --- the whole


def practice(
    out: Path,
    only: str | None = None,
    *,
    processes: int = 2,
    tilt: TiltPlan | None = None,
    times: TimesPlan | None = None,
) -> dict[str, Any]:
    """Train what is missing, measure what has not been, and write OUT/practice.json.

    only: one of PARTS, or both. Raises ValueError for another one, and what training raises.
    """
    if only is not None:
        check_choice("only", only, PARTS)
    tilt, times = tilt or TiltPlan(), times or TimesPlan()
    configs: list[RunConfig] = []
    work: list[tuple[str, list[RunConfig], Callable[[], dict[str, Any]]]] = []
    if only in (None, "tilt"):
        for name, largest in tilt.problems:
            config = tilt.config(name)
            configs.append(config)
            work.append(
                (
                    f"tilt {name}", [config],
                    lambda c=config, t=largest: measure_tilt(Run(out, c), t, tilt),  # type: ignore[misc]
                )
            )  # fmt: skip
    if only in (None, "times"):
        some = list(times.configs().values())
        configs += some
        work.append(("times", some, lambda: measure_times(out, times)))
    train(out, configs, processes=processes)
    found: dict[str, Any] = {}
    plans = repr((tilt, times))
    with Progress(len(work), "measuring") as progress:
        for i, (name, used, measure) in enumerate(work):
            progress.update(name, 0, name)
            found[name] = _kept_or(out, name, used, plans, measure)
            progress.update(name, 1, f"{i + 1} of {len(work)}")
    write_json(out / "practice.json", found)
    return found


def _kept_or(
    out: Path,
    name: str,
    used: Sequence[RunConfig],
    plans: str,
    measure: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """What was measured before by this code on these runs, else measured now and kept."""
    key = digest_of([plans, plumbline_code("toys.experiments.practice"), *(c.digest for c in used)])
    path = out / "practice" / f"{name.replace(' ', '-')}.json"
    try:
        kept = read_json(path)
        if kept["key"] == key:
            return dict(kept["result"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or damaged: it is measured again
    result = measure()
    write_json(path, {"key": key, "result": result})
    return result


def failures(found: dict[str, Any]) -> list[str]:
    """Where a trained epoch's tilt is further than FLOOR from the exact optimum's."""
    return [
        f"{result['problem']}: epoch {row['epoch']}: {100 * row['error of exact epoch']:+.1f} %"
        for name, result in found.items()
        if name.startswith("tilt")
        for row in result["epochs"]
        if abs(row["error of exact epoch"]) > FLOOR
    ]


def tables(found: dict[str, Any]) -> list[Table]:
    """What was measured, for people."""
    return [
        _times_table(result) if name == "times" else _tilt_table(result)
        for name, result in found.items()
    ]


def _tilt_table(result: dict[str, Any]) -> Table:
    epochs, worst = len(result["epochs"]), result["worst"]
    shown = ", ".join(
        f"{name} {result['within floor'][name]}/{epochs} (worst {100 * value:.1f} %)"
        for name, value in worst.items()
    )
    table = Table(
        title=f"{result['problem']}, nft_beta = {result['nft_beta']:g}: tilt an epoch in standard "
        f"deviations of R; within {100 * FLOOR:.0f} %: {shown}",
        title_justify="left", highlight=False,
    )  # fmt: skip
    for name in ("epoch", "mean reward", "std before", "tilt", "0.2/nft_beta", "exact epoch",
                 "error", "recursion", "error"):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["epochs"]:
        values = [row[k] for k in ("mean reward", "std before", "tilt", "rule", "exact epoch")]
        table.add_row(
            str(row["epoch"]), *(f"{v:.4f}" for v in values),
            f"{100 * row['error of exact epoch']:+.1f} %", f"{row['recursion']:.4f}",
            f"{100 * row['error of recursion']:+.1f} %",
        )  # fmt: skip
    table.caption = (
        f"total tilt (units of 1/R) {result['total tilt']:.3f}, of the recursion without networks "
        f"{result['total tilt of the recursion']:.3f}"
    )
    return table


def _times_table(result: dict[str, Any]) -> Table:
    table = Table(
        title=f"{result['problem']}, nft_beta = {result['nft_beta']:g}: networks trained at some "
        "times, against all times and against the exact optimum, same sampler",
        title_justify="left", highlight=False,
    )  # fmt: skip
    table.add_column("sampler", no_wrap=True)
    table.add_column("trained at")
    for name in ("mean reward", "change of the gain", "TV to all times", "TV to the optimum"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(
            row["sampler"], row["trained at"], f"{row['mean reward']:.4f}",
            f"{100 * row['change of the gain']:+.2f} %", f"{row['TV to all times']:.4f}",
            f"{row['TV to the optimum']:.4f}",
        )  # fmt: skip
    return table
