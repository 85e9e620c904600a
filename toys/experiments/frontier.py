"""Reaching exp(a r) with networks: error of the law against compute, `python -m toys frontier`.

A recipe is a loss and a number of stages K. Every stage draws a pool of samples of the model as it
stands (Heun's method), rewards them once, and trains on that pool with the model of the stage's
start as reference: the loss at tilt a/K. With K = 1 that is offline training, with K > 1 NFT online
with a hard copy, or Tilt Matching annealed. Recipes at one level have the same gradient steps,
reward evaluations and samples in all, spread evenly over the stages.

Models are the exact base velocity plus a perceptron whose last layer starts at 0, so that nothing
is left of a base's own training error, in any d. Their divergence has a closed form (two hidden
layers), so TV = E_p(1 - target/p)_+ over shifted Sobol starts is exact but for the draws.

A finished trial is one file, written whole; the same trial is not trained again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from theory.common.checks import check_choice, check_order, check_positive
from theory.common.identity import digest_of, plumbline_code
from theory.common.processes import Update, keep_heap, side_by_side
from theory.common.progress import Progress
from theory.methods.contract import Draws, Method, ProblemTask
from theory.methods.contract.task import heun
from theory.methods.registry import methods, parse_method
from theory.problems.problem import load_problem
from theory.recursion.stages import total_variation
from theory.tilts.wrappers import Exponential
from toys.networks.corrected import Corrected, push, starts
from toys.networks.mlp import StackedMLP
from toys.training.config import problem_text
from toys.training.files import read_json, write_json
from toys.training.trainer import rate

FOLDER = "frontier"
SUMMARY = Path("docs/data/frontier.json")
LOSSES = {
    "nft": "nft:nft_beta={beta:.12g}",
    "explicit": "tilt_matching:kind=explicit,scale={scale:.12g}",
    "implicit": "tilt_matching:kind=implicit,scale={scale:.12g}",
    "weighted": "weighted_flow_matching:scale={scale:.12g}",
}
# Total tilts: two standard deviations of the reward under the base; in linear_2d 5.4 of them.
TOTALS = {"note_1d": 6.0, "bump_2d": 8.0, "wide_64d": 16.0, "linear_2d": 8.0}
LEVELS = {
    "note_1d": (128, 512, 2048), "bump_2d": (128, 512, 2048), "wide_64d": (256, 1024),
    "linear_2d": (512, 2048),
}  # fmt: skip
# What is trained on a problem, as (loss, stages); NFT takes no unbounded reward (linear_2d).
RECIPES = {
    "note_1d": (
        ("nft", 1), ("nft", 4), ("nft", 16), ("explicit", 1), ("implicit", 1), ("implicit", 4),
        ("implicit", 16), ("weighted", 1),
    ),
    "bump_2d": (
        ("nft", 1), ("nft", 4), ("nft", 16), ("implicit", 1), ("implicit", 4), ("weighted", 1),
    ),
    "wide_64d": (("nft", 1), ("nft", 16), ("implicit", 1), ("implicit", 4)),
    "linear_2d": (("implicit", 1), ("implicit", 4)),
}  # fmt: skip
# One level more, for what goes on falling.
LONGEST = {("note_1d", "implicit", 1): 8192, ("note_1d", "nft", 16): 8192}
REWARDS_A_STEP = {"note_1d": 16, "bump_2d": 16, "wide_64d": 8, "linear_2d": 16}
# The best of 3e-3, 6e-3 and 1.5e-2 for NFT in 16 stages and implicit matching, d = 1 and 2.
RATES = {"note_1d": 1.5e-2, "bump_2d": 1.5e-2, "wide_64d": 4e-3, "linear_2d": 1.5e-2}
SEEDS, WIDTH, BATCH, SAMPLING_STEPS = 2, 64, 256, 20
DRAWS = {1: 2048, 2: 2048}
MANY_DRAWS = 1024
TRUTH_DRAWS, LEVELS_OF_REWARD = 40_000, 4000


@dataclass(frozen=True)
class Trial:
    """One recipe on one problem at one level, over `seeds` networks side by side.

    loss: one of LOSSES; total: a; stages: K; steps, rewards: gradient steps and reward evaluations
    of one network in all stages together.

    Raises:
        ValueError: unknown loss, numbers out of range, or stages that do not divide the others.
    """

    problem: str
    loss: str
    total: float
    stages: int
    steps: int
    rewards: int
    seeds: int = SEEDS
    width: int = WIDTH
    batch: int = BATCH
    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        check_choice("loss", self.loss, LOSSES)
        check_positive("total", self.total)
        check_positive("learning_rate", self.learning_rate)
        for name in ("stages", "steps", "rewards", "seeds", "width", "batch"):
            check_order(name, getattr(self, name), 1)
        for name in ("steps", "rewards"):
            if getattr(self, name) % self.stages:
                raise ValueError(
                    f"{name} = {getattr(self, name)} in stages = {self.stages}: allowed are "
                    "multiples of stages"
                )

    @cached_property
    def method(self) -> Method:
        """The loss of one stage, at tilt total/stages."""
        scale = self.total / self.stages
        return parse_method(LOSSES[self.loss].format(scale=scale, beta=2 / scale))

    @property
    def label(self) -> str:
        return f"{self.loss}, {self.stages} stages, {self.steps} steps @ {self.problem}"

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the numbers, the problem and the code."""
        return digest_of([asdict(self), problem_text(self.problem), code_key()])[:12]


def code_key() -> str:
    """Names the code that trains and measures."""
    losses = {methods()[text.partition(":")[0]].__module__ for text in LOSSES.values()}
    code = plumbline_code("toys.experiments.frontier", *sorted(losses))
    return code[:16]


def trials() -> list[Trial]:
    """All recipes at all levels on all problems."""
    found = []
    for problem, total in TOTALS.items():
        for loss, stages in RECIPES[problem]:
            longest = LONGEST.get((problem, loss, stages))
            for steps in (*LEVELS[problem], *([longest] if longest else [])):
                rewards = REWARDS_A_STEP[problem] * steps
                trial = Trial(problem, loss, total, stages, steps, rewards)
                found.append(replace(trial, learning_rate=RATES[problem]))
    return found


# --- where a stage draws from


class PooledTask(ProblemTask):
    """A problem whose x_1 come from a pool of samples (blocks * size, d) of the current model.

    The reward is a function of x_1, so a pool costs `size` reward evaluations a network, however
    often its samples are drawn.
    """

    pool: Tensor

    def fill(self, model: nn.Module, size: int, draws: Draws) -> None:
        """`size` new samples of the model a network."""
        noise = draws.normal(size, *self.event_shape)
        self.pool = heun(model, self.path, noise, SAMPLING_STEPS)

    def endpoints(self, n: int, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Any]:
        size = len(self.pool) // self.blocks
        which = (draws.uniform(n) * size).long().clamp_max(size - 1)
        start = torch.arange(self.blocks).repeat_interleave(n) * size
        noise = draws.normal(n, *self.event_shape)
        return noise, self.pool[start + which], self.draw_times(n, draws), None


def fine_tune(trial: Trial) -> tuple[Corrected, float]:
    """(the trained model in float64, CPU-seconds of sampling and training a network).

    Raises:
        ValueError: a loss that is not finite.
    """
    torch.set_num_threads(1)
    keep_heap()
    start = time.process_time()
    draws = Draws.seeded([2**43 + seed for seed in range(trial.seeds)])
    problem = load_problem(trial.problem)
    task = PooledTask([problem] * trial.seeds)
    network = StackedMLP(problem.dim, problem.dim, trial.width, 2, draws)
    with torch.no_grad():
        network.weight[-1].zero_()
        network.bias[-1].zero_()
    student = Corrected(problem.to(torch.float32), network)
    optimiser = torch.optim.Adam(
        student.parameters(), lr=trial.learning_rate, fused=True, betas=(0.9, 0.99)
    )
    steps = trial.steps // trial.stages
    for _ in range(trial.stages):
        task.fill(student, trial.rewards // trial.stages, draws)
        policy = trial.method.setup(student, task, draws)
        for step in range(steps):
            for row in optimiser.param_groups:
                row["lr"] = trial.learning_rate * rate(step, steps)
            batch = trial.method.collect(policy, task, trial.batch, draws)
            losses, _ = trial.method.loss(policy, task, batch)
            optimiser.zero_grad()
            task.per_network(losses).mean(1).sum().backward()
            optimiser.step()
        if not bool(torch.isfinite(losses).all()):
            raise ValueError(
                f"{trial.label}: the loss is not finite: allowed are settings whose loss stays "
                "finite, try a smaller learning_rate"
            )
    seconds = (time.process_time() - start) / trial.seeds
    trained = Corrected(problem, network.to(torch.float64)).requires_grad_(False)
    return trained, seconds


# --- what it samples


def measure(trial: Trial, model: Corrected, seconds: float) -> dict[str, Any]:
    """The trial's numbers: TV to base exp(a r)/Z of every network and W1 of the reward's law, as
    shares of the base's, each with its floor (four standard errors, or what exact draws show)."""
    problem, target = model.problem, model.problem.tilt(Exponential(trial.total))
    truth = truth_of(trial.problem, trial.total)
    n = DRAWS.get(problem.dim, MANY_DRAWS)
    x0 = starts(n, problem.dim).repeat(trial.seeds, 1)
    x, log_p = push(model.with_divergence, x0)
    if not bool(torch.isfinite(log_p).all()):
        raise ValueError(
            f"{trial.label}: trajectories leave float range: allowed are networks whose samples "
            "stay finite, try a smaller learning_rate"
        )
    log_q, reward = target.log_density(x), problem.reward(x)
    found = [
        total_variation(p, q) for p, q in zip(log_p.split(n), log_q.split(n), strict=True)
    ]  # fmt: skip
    reward_w1 = [truth.distance(r) / truth.reward_to_go for r in reward.split(n)]
    return {
        **asdict(trial),
        "digest": trial.digest,
        "to_go": truth.to_go,
        "shares": [d.value / truth.to_go for d in found],
        "floor": max(d.floor for d in found) / truth.to_go,
        "reward_shares": reward_w1,
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
        generator = torch.Generator().manual_seed(5)
        picks = torch.randint(len(self.rewards), (trials, n), generator=generator)
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
    truth = Truth(
        total_variation(torch.zeros_like(ratio), ratio).value, rewards[places], math.nan
    )  # fmt: skip
    return replace(truth, reward_to_go=truth.distance(rewards))


# --- many of them


def run(out: Path, wanted: Sequence[Trial], processes: int = 1) -> list[dict[str, Any]]:
    """The results of all trials, in their order; trained where OUT does not hold them yet."""
    found = {trial.digest: kept(out, trial) for trial in wanted}
    work = [(out, trial) for trial in wanted if found[trial.digest] is None]
    with Progress(len(work), "training") as progress:
        fresh = side_by_side(_run_one, work, processes, progress.update)
    found |= {row["digest"]: row for row in fresh}
    return [row for trial in wanted if (row := found[trial.digest]) is not None]


def _run_one(job: tuple[Path, Trial], update: Update) -> dict[str, Any]:
    out, trial = job
    update(trial.digest, 0, trial.label)
    row = measure(trial, *fine_tune(trial))
    write_json(file_of(out, trial), row)
    update(trial.digest, 1, trial.label)
    return row


def file_of(out: Path, trial: Trial) -> Path:
    """Where a finished trial is kept."""
    return out / FOLDER / f"{trial.problem}-{trial.loss}-{trial.stages}-{trial.digest}.json"


def kept(out: Path, trial: Trial) -> dict[str, Any] | None:
    """The trial's result, if it is there and whole."""
    path = file_of(out, trial)
    if not path.exists():
        return None
    try:
        row = dict(read_json(path))
    except (ValueError, TypeError):
        return None  # damaged: it is trained again
    return row if row.get("digest") == trial.digest else None


KEPT = (
    "problem", "loss", "total", "stages", "steps", "rewards", "shares", "floor", "reward_shares",
    "reward_floor", "cpu_seconds",
)  # fmt: skip


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What docs/data/frontier.json holds: the trials' numbers, rounded, and how they were made."""
    return {
        "command": "python -m toys frontier --write",
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


def command(out: Path, processes: int, write: bool, as_json: bool) -> int:
    """`python -m toys frontier`: train what is missing, print it, write docs/data/frontier.json."""
    check_order("--processes", processes, 1)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out = {str(out)!r} is a file: allowed are folders, new or not")
    found = summary(run(out, trials(), processes))
    if write:
        write_json(SUMMARY, found)
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    for row in found["rows"]:
        print(
            f"{row['problem']:9s} {row['loss']:8s} {row['stages']:3d} stages, {row['steps']:5d} "
            f"steps, {row['rewards']:6d} rewards: TV {_percent(row['shares'])} (floor "
            f"{100 * row['floor']:.1f} %), reward's W1 {_percent(row['reward_shares'])}, "
            f"{row['cpu_seconds']:.1f} CPU-s"
        )
    print(f"{found['cpu_seconds']} CPU-s of training" + (f"; written: {SUMMARY}" if write else ""))
    return 0


def _percent(shares: Sequence[float]) -> str:
    return " / ".join(f"{100 * s:.1f}" for s in shares) + " %"
