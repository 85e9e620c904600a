"""Reaching exp(a r) with networks: error of the law against compute, `python -m toys exact-tilt`.

A scheme is a loss and a number of stages K. Every stage draws a pool of samples of the model as it
stands (Heun's method), rewards them once, and trains on that pool with the model of the stage's
start as reference: the loss at tilt a/K. With K = 1 that is offline training, with K > 1 NFT online
with a hard copy, or Tilt Matching annealed. Schemes at one level have the same gradient steps,
reward evaluations and samples in all, spread evenly over the stages.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property

from theory.common.checks import check_choice, check_order, check_positive
from theory.common.identity import digest_of, plumbline_code
from theory.methods.contract import Method
from theory.methods.registry import methods, parse_method
from toys.training.config import problem_text

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
LONGEST = {("note_1d", "implicit", 1): 8192, ("note_1d", "nft", 16): 8192}
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
    return plumbline_code(CODE, *sorted(losses))[:16]


def trials() -> list[Trial]:
    """All schemes at all levels on all problems."""
    found = []
    for problem, total in TOTALS.items():
        for loss, stages in SCHEMES[problem]:
            longest = LONGEST.get((problem, loss, stages))
            for steps in (*LEVELS[problem], *([longest] if longest else [])):
                rewards = REWARDS_A_STEP[problem] * steps
                trial = Trial(problem, loss, total, stages, steps, rewards)
                found.append(replace(trial, learning_rate=RATES[problem]))
    return found
