"""25 Gaussians of which the tilt keeps nine, of unequal weight, log Z = 1.3: `grid25`.

Relative trajectory balance and residual nabla-DB are trained on it. Both are known to go to the
KL-regularised optimum of the chain (`theory.methods.gflownet.truth`), so one truth serves both.
Asked for are the learnt log Z (of the method that learns one), the lower bound E[log w] along the
policy's own trajectories against the optimum's, and the weight of each of the nine modes against
the optimum's. The base's own chain and the untrained network are measured the same way, and must
miss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from theory.common.identity import digest_of, plumbline_code
from toys.evaluation.policies import PolicyTruth, measure_policy
from toys.experiments.gflownets.runs import measuring_key, row_of
from toys.training.config import RunConfig
from toys.training.files import keep, kept
from toys.training.runs import Run
from toys.training.schedule import train

PROBLEM, MODES = "grid25", 9
LOG_Z_FLOOR = BOUND_FLOOR = 0.05
MODE_FLOOR, LIGHT_FLOOR, LIGHT = 0.10, 0.15, 0.05  # light modes, under LIGHT, may be off by more
METHODS = {
    "rtb": "relative_trajectory_balance",
    "nabla_bidirectional": "residual_nabla_db:bidirectional=true",
}
STEPS = {"rtb": 4000, "nabla_bidirectional": 3000}
UNTRAINED = ("base", "untrained")


@dataclass(frozen=True)
class Plan:
    """Steps, rows a step, the peak learning rate and the networks' width."""

    steps: Mapping[str, int] = field(default_factory=lambda: dict(STEPS))
    batch: int = 256
    learning_rate: float = 2e-3
    width: int = 128
    problem: str = PROBLEM

    def configs(self) -> dict[str, RunConfig]:
        """The runs by method."""
        return {
            name: RunConfig.checked(
                method=method,
                problem=self.problem,
                steps=self.steps[name],
                batch=self.batch,
                learning_rate=self.learning_rate,
                width=self.width,
            )
            for name, method in METHODS.items()
        }


def posterior(out: Path, *, processes: int = 2, plan: Plan | None = None) -> dict[str, Any]:
    """Train what is missing, measure what has not been; a row a policy."""
    configs = (plan or Plan()).configs()
    train(out, list(configs.values()), processes=processes)
    key = digest_of(
        [measuring_key(), plumbline_code(__name__), *(c.digest for c in configs.values())]
    )[:16]
    path = out / "measured" / f"posterior-{key}.json"
    found = kept(path, key)
    if found is None:
        runs = {name: Run(out, config) for name, config in configs.items()}
        found = _measured(runs)
        keep(path, key, found)
    return dict(found)


def _measured(runs: Mapping[str, Run]) -> dict[str, Any]:
    first = runs["rtb"]
    problem = first.config.parsed_problem
    truth = PolicyTruth.of(first.config.parsed, problem)
    none = {"log_z_learnt": 0.0, "method": ""}  # log Z before training
    rows = [
        {"name": "base", **measure_policy(truth, problem.base_field), **none},
        {"name": "untrained", **measure_policy(truth, first.base.network()), **none},
        *({"name": name, **row_of(truth, run)} for name, run in runs.items()),
    ]
    return {"places": problem.base.mean.tolist(), "rows": rows}


def kept_modes(row: Mapping[str, Any]) -> list[int]:
    """The target's heaviest modes, lightest last."""
    return [int(i) for i in np.argsort(row["modes"]["target"])[::-1][:MODES]]


def mode_errors(row: Mapping[str, Any]) -> list[tuple[int, float, float]]:
    """(mode, relative error of its weight against the optimum's, what is allowed)."""
    trained, best = row["modes"]["trained"], row["modes"]["optimum"]
    return [
        (i, abs(trained[i] / best[i] - 1), LIGHT_FLOOR if best[i] < LIGHT else MODE_FLOOR)
        for i in kept_modes(row)
    ]


def misses(row: Mapping[str, Any]) -> list[str]:
    """Which floors a policy misses, in words."""
    lines = []
    learnt = row["log_z_learnt"]
    if learnt is not None and not abs(learnt - row["log_z"]) <= LOG_Z_FLOOR:
        lines.append(f"log Z {learnt:.3f}, to be within {LOG_Z_FLOOR:g} of {row['log_z']:.3f}")
    if not abs(row["bound"] - row["bound_of_optimum"]) <= BOUND_FLOOR:
        lines.append(
            f"E[log w] {row['bound']:.3f}, to be within {BOUND_FLOOR:g} of "
            f"{row['bound_of_optimum']:.3f}"
        )
    worst = max(mode_errors(row), key=lambda one: one[1] / one[2])
    if not worst[1] <= worst[2]:
        lines.append(f"mode {worst[0]} off by {100 * worst[1]:.1f} %, allowed {100 * worst[2]:g} %")
    return lines


def failures(found: Mapping[str, Any]) -> list[str]:
    """Floors that trained policies miss, and that the base or the untrained network does not."""
    lines = []
    for row in found["rows"]:
        own = misses(row)
        if row["name"] not in UNTRAINED:
            lines += [f"{row['name']} @ {row['problem']}: {line}" for line in own]
        elif len(own) < len(("log Z", "E[log w]", "modes")):
            lines.append(f"{row['name']} @ {row['problem']}: meets a floor without training")
    return lines
