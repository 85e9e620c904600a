"""What trials sample, each kept in a file; and docs/data/exact_tilt.json, which the page reads.

Networks of two hidden layers have a divergence in closed form, so log-densities are exact along
the flow, and TV = E_p(1 - target/p)_+ over shifted Sobol starts is exact but for the draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from theory.common.processes import Update, side_by_side
from theory.common.progress import Progress
from theory.problems.problem import load_problem
from theory.recursion.stages import total_variation
from theory.tilts.wrappers import Exponential
from toys.experiments.exact_tilt.trial import (
    BATCH,
    SAMPLING_STEPS,
    SEEDS,
    WIDTH,
    Trial,
    code_key,
    fine_tune,
)
from toys.networks.corrected import Corrected, push, starts
from toys.training.files import keep, kept

DRAWS = {1: 2048, 2: 2048}
MANY_DRAWS = 1024
TRUTH_DRAWS, LEVELS_OF_REWARD = 40_000, 4000


def measure(trial: Trial, model: Corrected, seconds: float) -> dict[str, Any]:
    """The trial's numbers: TV to base exp(a r)/Z of every network and W1 of the reward's law, as
    shares of the base's, each with its floor (four standard errors, or what exact draws show)."""
    problem, target = model.problem, model.problem.tilt(Exponential(trial.total))
    truth = truth_of(trial.problem, trial.total)
    n = DRAWS.get(problem.dim, MANY_DRAWS)
    x, log_p = push(model.with_divergence, starts(n, problem.dim).repeat(trial.seeds, 1))
    if not bool(torch.isfinite(log_p).all()):
        raise ValueError(
            f"{trial.label}: the networks' samples must stay finite, and trajectories leave float "
            "range; try a smaller learning_rate"
        )
    log_q, reward = target.log_density(x), problem.reward(x)
    found = [total_variation(p, q) for p, q in zip(log_p.split(n), log_q.split(n), strict=True)]
    return {
        **asdict(trial),
        "digest": trial.digest,
        "to_go": truth.to_go,
        "shares": [d.value / truth.to_go for d in found],
        "floor": max(d.floor for d in found) / truth.to_go,
        "reward_shares": [truth.distance(r) / truth.reward_to_go for r in reward.split(n)],
        "reward_floor": truth.floor(n) / truth.reward_to_go,
        "cpu_seconds": seconds,
    }


@dataclass(frozen=True, eq=False)
class Truth:
    """to_go = TV(base, target); quantiles of the reward under the target at equal levels, from
    weighted draws of the base; and W1 of the reward's law between base and target."""

    to_go: float
    rewards: Tensor
    reward_to_go: float

    def distance(self, rewards: Tensor) -> float:
        """W1 of draws (n,) of the reward to its law under the target."""
        places = (torch.arange(len(self.rewards)) + 0.5) / len(self.rewards) * len(rewards)
        return float((rewards.sort().values[places.long()] - self.rewards).abs().mean())

    def floor(self, n: int, trials: int = 20) -> float:
        """What n independent draws of the target measure: the largest of `trials`."""
        picks = torch.randint(
            len(self.rewards), (trials, n), generator=torch.Generator().manual_seed(5)
        )
        return max(self.distance(self.rewards[pick]) for pick in picks)


@cache
def truth_of(name: str, total: float) -> Truth:
    """What base exp(total r)/Z is on a named problem."""
    problem = load_problem(name)
    x = problem.base.sample(TRUTH_DRAWS, torch.Generator().manual_seed(3))
    rewards = problem.reward(x).sort().values
    ratio = total * rewards - problem.tilt(Exponential(total)).log_z
    share = ratio.exp().cumsum(0) / ratio.exp().sum()
    levels = (torch.arange(LEVELS_OF_REWARD, dtype=torch.float64) + 0.5) / LEVELS_OF_REWARD
    places = torch.searchsorted(share, levels).clamp_max(TRUTH_DRAWS - 1)
    truth = Truth(total_variation(torch.zeros_like(ratio), ratio).value, rewards[places], math.nan)
    return replace(truth, reward_to_go=truth.distance(rewards))


FOLDER = "exact_tilt"
SUMMARY = Path("docs/data/exact_tilt.json")
KEPT = (
    "problem", "loss", "total", "stages", "steps", "rewards", "shares", "floor", "reward_shares",
    "reward_floor", "cpu_seconds",
)  # fmt: skip


def run(out: Path, wanted: Sequence[Trial], processes: int = 1) -> list[dict[str, Any]]:
    """The results of all trials, in their order; trained where OUT does not hold them yet."""
    missing = [trial for trial in wanted if kept(file_of(out, trial), trial.digest) is None]
    with Progress(len(missing), "training") as progress:
        side_by_side(_run_one, [(out, trial) for trial in missing], processes, progress.update)
    return [kept(file_of(out, trial), trial.digest) for trial in wanted]


def _run_one(job: tuple[Path, Trial], update: Update) -> None:
    out, trial = job
    update(trial.digest, 0, trial.label)
    keep(file_of(out, trial), trial.digest, measure(trial, *fine_tune(trial)))
    update(trial.digest, 1, trial.label)


def file_of(out: Path, trial: Trial) -> Path:
    """Where a finished trial is kept."""
    return out / FOLDER / f"{trial.problem}-{trial.loss}-{trial.stages}-{trial.digest}.json"


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """docs/data/exact_tilt.json: the trials' numbers, rounded, and how they were made."""
    return {
        "command": "python -m toys exact-tilt --write",
        "code": code_key(),
        "seeds": SEEDS,
        "width": WIDTH,
        "batch": BATCH,
        "sampling_steps": SAMPLING_STEPS,
        "cpu_seconds": round(sum(r["cpu_seconds"] * r["seeds"] for r in rows), 1),
        "rows": [{key: _short(row[key]) for key in KEPT} for row in rows],
    }


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return [_short(v) for v in value] if isinstance(value, list) else value
