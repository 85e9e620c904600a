"""Your own method in one file: accept base samples with probability r(x), train on those.

    python -m toys check --method examples/my_method.py
    python -m toys train --method examples/my_method.py:label_noise=0.1 --problem note_1d
    python -m toys compare --method examples/my_method.py:label_noise=0.1 --problem note_1d

The kept samples follow base r / Z (with label_noise e: base ((1 - e) r + e) / Z), so that is what
the fine-tuned model samples. It is said to sample base r / Z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from theory import Power, Problem, Tilt, TruncatedExponential
from theory.methods import (
    UNIT_INTERVAL,
    Batch,
    Draws,
    Info,
    Method,
    Optimum,
    Policy,
    RewardDomain,
    Task,
    endpoint_batch,
    square,
)


@dataclass(frozen=True)
class RejectionFineTuning(Method):
    """min E[accepted |v(X_t, t) - Y|^2], accepted = 1 with probability (1 - e) r + e.

    label_noise: e, the share of samples that are kept whatever their reward.
    """

    label_noise: float = 0.0

    name: ClassVar[str] = "rejection"
    summary: ClassVar[str] = "flow matching on base samples accepted with probability r"

    def __post_init__(self) -> None:
        if not 0 <= self.label_noise < 1:
            raise ValueError(f"label_noise must be a number in [0, 1), got {self.label_noise!r}")

    @property
    def rewards(self) -> RewardDomain:
        return UNIT_INTERVAL

    # All randomness is drawn here ...
    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        batch = endpoint_batch(task, task.endpoints(n, draws))
        self.rewards.check_values(batch["r"], self.label)
        chance = (1 - self.label_noise) * batch["r"] + self.label_noise
        batch["accepted"] = (draws.uniform(n) < chance).to(chance)
        return batch

    # ... and none here: one value a row.
    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        error = policy.student(batch["x"], batch["t"], batch["cond"]) - batch["y"]
        return batch["accepted"] * square(error), {"accepted": batch["accepted"]}

    # What it samples, exactly: (1 - e) r + e is e (1 + a r) with a = (1 - e)/e ...
    def optimum(self, problem: Problem) -> Optimum:
        if self.label_noise == 0:
            return Optimum(problem.reward_weighted_field())
        ratio = (1 - self.label_noise) / self.label_noise
        return Optimum(problem.tilted_field(TruncatedExponential(ratio, 1)))

    # ... and what it is said to sample.
    def target(self, problem: Problem) -> Tilt:
        return problem.tilt(Power(1))
