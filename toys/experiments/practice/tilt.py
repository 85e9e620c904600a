"""The effective tilt of an epoch (N1): online NFT with the released reward mapping, 20 epochs.

After every epoch the a at which q_before exp(a R)/Z has the mean reward of q_after (the
maximum-likelihood fit of the exponential family), in standard deviations of R under q_before.
Predicted three ways: 0.2/nft_beta; the exact optimum of that epoch, started at the network it was
started at, rewards mapped by the statistics of what its sampler draws; and a recursion without
networks. Laws (d = 1) are exact: those of the trained velocities, not of draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from theory.common.checks import check_order, check_positive
from theory.common.tolerances import TRAINED_SHARE
from theory.fields.mixture import ModelField
from theory.methods import Task
from theory.recursion.mapped import Line
from theory.released.times import Sampler, laws, uniform_times
from toys.evaluation.online import log_densities
from toys.networks.mlp import single
from toys.training.config import RunConfig
from toys.training.runs import Run

FLOOR = TRAINED_SHARE  # how near predicted and trained tilt are to be


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


def measure_tilt(run: Run, largest_tilt: float, plan: TiltPlan) -> dict[str, Any]:
    """A finished run against its predictions, a row an epoch.

    Tilts are in standard deviations of R under the law that the epoch started at.
    """
    problem = run.config.parsed_problem
    members = [run.base.weights(), *run.snapshots()]
    line = Line.of(problem, largest_tilt, plan.nodes)
    logs = list(log_densities(members, line.axis, run.config.label).numpy())
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
    return {
        "problem": run.config.problem_label, "nft_beta": plan.nft_beta, "epochs": rows,
        "total tilt": line.tilt(logs[0], logs[-1]),
        "total tilt of the recursion": line.tilt(alone[0], alone[-1]),
        "worst": {
            name: max(abs(row[f"error of {name}"]) for row in rows) for name in predicted
        },
        "within floor": {
            name: sum(abs(row[f"error of {name}"]) <= FLOOR for row in rows) for name in predicted
        },
        "cpu_seconds": run.manifest()["cpu_seconds"],
    }  # fmt: skip


def failures(found: dict[str, Any]) -> list[str]:
    """Where a trained epoch's tilt is further than FLOOR from the exact optimum's."""
    return [
        f"{result['problem']}: epoch {row['epoch']}: {100 * row['error of exact epoch']:+.1f} %"
        for name, result in found.items()
        if name.startswith("tilt")
        for row in result["epochs"]
        if abs(row["error of exact epoch"]) > FLOOR
    ]
