"""Reaching exp(a r) with networks: error of the law against compute, `python -m toys exact-tilt`.

A scheme is a loss and a number of stages K. Every stage draws a pool of samples of the model as it
stands (Heun's method), rewards them once, and trains on that pool with the model of the stage's
start as reference: the loss at tilt a/K. With K = 1 that is offline training, with K > 1 NFT online
with a hard copy, or Tilt Matching annealed. Schemes at one level have the same gradient steps,
reward evaluations and samples in all, spread evenly over the stages.

Models are the exact base velocity plus a perceptron whose last layer starts at 0, so that nothing
is left of a base's own training error, in any d.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from theory.common.checks import check_choice, check_order, check_positive
from theory.common.identity import digest_of, plumbline_code
from theory.common.processes import keep_heap
from theory.methods import Draws, Endpoints, Method, ProblemTask
from theory.methods.contract.task import heun
from theory.methods.registry import methods, parse_method
from theory.problems.problem import load_problem
from toys.networks.corrected import Corrected
from toys.networks.mlp import StackedMLP
from toys.training.config import problem_text
from toys.training.loop import Loop

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
SCHEMES = {
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
LONGEST = {("note_1d", "implicit", 1): (8192,), ("note_1d", "nft", 16): (8192,)}
REWARDS_A_STEP = {"note_1d": 16, "bump_2d": 16, "wide_64d": 8, "linear_2d": 16}
# The best of 3e-3, 6e-3 and 1.5e-2 for NFT in 16 stages and implicit matching, d = 1 and 2.
RATES = {"note_1d": 1.5e-2, "bump_2d": 1.5e-2, "wide_64d": 4e-3, "linear_2d": 1.5e-2}
SEEDS, WIDTH, BATCH = 2, 64, 256
# What trains and measures, beside the methods.
CODE = "toys.experiments.exact_tilt.runs"


@dataclass(frozen=True)
class Trial:
    """One scheme on one problem at one level, over `seeds` networks side by side.

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
                    f"{name} must be a multiple of stages = {self.stages}, got "
                    f"{getattr(self, name)}"
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
    return plumbline_code(CODE, *sorted(losses))[:16]


def trials() -> list[Trial]:
    """All schemes at all levels on all problems."""
    return [
        Trial(
            problem, loss, total, stages, steps, REWARDS_A_STEP[problem] * steps,
            learning_rate=RATES[problem],
        )
        for problem, total in TOTALS.items()
        for loss, stages in SCHEMES[problem]
        for steps in (*LEVELS[problem], *LONGEST.get((problem, loss, stages), ()))
    ]  # fmt: skip


SAMPLING_STEPS = 20


class PooledTask(ProblemTask):
    """A problem whose x_1 come from a pool of samples (blocks * size, d) of the current model.

    The reward is a function of x_1, so a pool costs `size` reward evaluations a network, however
    often its samples are drawn.
    """

    pool: Tensor

    def fill(self, model: nn.Module, size: int, draws: Draws) -> None:
        """`size` new samples of the model a network."""
        self.pool = heun(model, self.path, draws.normal(size, *self.event_shape), SAMPLING_STEPS)

    def endpoints(self, n: int, draws: Draws) -> Endpoints:
        x1 = self.pool[draws.among(n, len(self.pool) // self.blocks)]
        return Endpoints(draws.normal(n, *self.event_shape), x1, self.draw_times(n, draws), None)


class Staged(Loop):
    """A trial's networks in training; it takes seconds, and its state is not kept."""

    task: PooledTask

    def __init__(self, trial: Trial) -> None:
        self.trial, self.label, self.method = trial, trial.label, trial.method
        self.steps, self.cycle = trial.steps, trial.steps // trial.stages
        self.rows, self.learning_rate = trial.batch, trial.learning_rate
        self.problem = load_problem(trial.problem)
        self.task = PooledTask([self.problem] * trial.seeds)
        self.draws = Draws.seeded([2**43 + seed for seed in range(trial.seeds)])
        dim = self.problem.dim
        self.network = StackedMLP(dim, dim, trial.width, 2, self.draws)
        self.network.zero_last()
        self.student = Corrected(self.problem.to(torch.float32), self.network)
        self.optimiser = torch.optim.Adam(
            self.student.parameters(), lr=trial.learning_rate, fused=True, betas=(0.9, 0.99)
        )

    def before_step(self) -> None:
        if self.step % self.cycle == 0:
            self.task.fill(self.student, self.trial.rewards // self.trial.stages, self.draws)
            self.policy = self.method.setup(self.student, self.task, self.draws)


def fine_tune(trial: Trial) -> tuple[Corrected, float]:
    """(the trained model in float64, CPU-seconds of sampling and training a network).

    Raises:
        ValueError: a loss that is not finite.
    """
    torch.set_num_threads(1)
    keep_heap()
    loop = Staged(trial)
    loop.train()
    trained = Corrected(loop.problem, loop.network.to(torch.float64)).requires_grad_(False)
    return trained, loop.cpu_seconds / trial.seeds
