"""An epoch of residual nabla-DB against one of DDPO on the built-in model, in turns in one process.

An epoch is 64 trajectories of 50 steps, collected with the policy as it is, and two updates, 32
each, on the same one transition in ten, the last always among them. Nabla-DB has the paper's
settings: the flow network beside, the reward's gradient from three draws, the output held to the
last update's. DDPO as it is here, its value network beside, but for the transitions left out.
CPU-seconds of one thread, medians of ratios in one round; the first round warms up.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.rows import Row, cpu_seconds
from scaleup.training.config import TrainConfig
from scaleup.training.runfolder import RunFolder
from scaleup.training.session import Session
from scaleup.training.trainer import Trainer
from theory.methods import Batch, Draws, Info, Policy, Task
from theory.methods.chain.rollouts import every_state, kernel_means, trajectories
from theory.methods.chain.transforms import drawn, drawn_coefficient, squares
from theory.methods.gflownet.transitions import draw_strata, strata
from theory.methods.policy_gradient.ddpo import DDPO

STEPS, SUBSET, SIGMA_END = 50, 5, 0.015
BATCH, UPDATES, ROUNDS = 32, 2, 3
CHAIN = f"steps={STEPS},sigma_end={SIGMA_END}"
SETTINGS = f"{CHAIN},subset={SUBSET},anchor_weight=1,smoothing=0.002,smoothing_draws=3"
NABLA = {weight: f"residual_nabla_db:{SETTINGS},w_backward={weight}" for weight in (0, 1)}
FLOORS = {0: 1.5, 1: 2.0}


@dataclass(frozen=True)
class SubsetDDPO(DDPO):
    """DDPO without a KL whose loss sees the transitions that nabla-DB's does, weighted the same."""

    name: ClassVar[str] = "subset_ddpo"

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        batch: dict[str, Any] = dict(super().collect(policy, task, n, draws))
        return batch | {"index": draw_strata(n, self.steps, SUBSET, draws)}

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        chain, x, cond, index = self.chain(task), batch["x"], batch["cond"], batch["index"]
        means = kernel_means(chain, policy.student, x, cond, index)
        times = chain.times.to(x).expand(len(x), -1).gather(1, index)
        here = drawn(x, index).flatten(0, 1)
        value = policy.networks["value"](here, times.flatten(), every_state(cond, SUBSET))
        value = value.reshape(index.shape)
        s = drawn_coefficient(chain.coefficients(x)[2], index, x.ndim - 2)
        log_prob = -0.5 * squares((drawn(x, index + 1) - means) / s)
        returns = batch["r"][:, None]
        terms = -(returns - value.detach()) * log_prob + (value - returns).square()
        sizes = strata(self.steps, SUBSET).to(x)
        return (terms * sizes).sum(1), {"reward": batch["r"]}


def measure(rounds: int = ROUNDS, batch: int = BATCH) -> list[Row]:
    """A row for each weight of the reverse loss, and one for a transition alone."""
    with tempfile.TemporaryDirectory() as place:
        methods = {"ddpo": f"ddpo:{CHAIN}", **{f"nabla {w}": m for w, m in NABLA.items()}}
        trainers = {name: _trainer(m, Path(place), batch) for name, m in methods.items()}
        trainers["ddpo"].method = SubsetDDPO(steps=STEPS, sigma_end=SIGMA_END)
        found: dict[str, list[float]] = {name: [] for name in (*trainers, "trajectories")}
        for _ in range(rounds + 1):
            for name, trainer in trainers.items():
                found[name].append(cpu_seconds(partial(_epoch, trainer)))
            found["trajectories"].append(cpu_seconds(lambda: _trajectories(trainers["ddpo"])))
    kept = {name: seconds[1:] for name, seconds in found.items()}
    return [*(_epochs(weight, kept) for weight in NABLA), _transitions(kept, batch)]


def _epochs(weight: int, seconds: dict[str, list[float]]) -> Row:
    pairs = list(zip(seconds[f"nabla {weight}"], seconds["ddpo"], strict=True))
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    row = Row.at_most(
        f"an epoch of residual nabla-DB against one of DDPO, w_backward = {weight}, first order, "
        f"{STEPS} steps, {SUBSET} transitions a trajectory: CPU time",
        ratio, FLOORS[weight],
        f"{ours:.3g} against {theirs:.3g} CPU-s, trajectories alone "
        f"{statistics.median(seconds['trajectories']):.3g}",
    )  # fmt: skip
    row.figures["cpu_seconds"] = pairs
    return row


def _transitions(seconds: dict[str, list[float]], batch: int) -> Row:
    """An epoch less its trajectories, per transition: stated, without a floor."""
    alone = statistics.median(seconds["trajectories"])
    count = UPDATES * batch * SUBSET
    each = {
        name: 1e3 * (statistics.median(values) - alone) / count
        for name, values in seconds.items() if name != "trajectories"
    }  # fmt: skip
    told = ", ".join(f"{name} {value:.3g}" for name, value in each.items())
    ratios = [each[f"nabla {weight}"] / each["ddpo"] for weight in NABLA]
    return Row(
        "a transition alone, CPU-ms: all of an epoch but its trajectories",
        "stated",
        f"{told}; {ratios[0]:.2f}x and {ratios[1]:.2f}x",
        True,
        {"cpu_ms": each, "trajectories_cpu_seconds": alone},
    )


def _trainer(method: str, place: Path, batch: int) -> Trainer:
    config = TrainConfig(
        method=method, reward="brightness", steps=1000, batch=batch, learning_rate=1e-4,
        chunk=batch, device="cpu",
    )  # fmt: skip
    trainer = Trainer(Session(config, RunFolder(place / method.split(":")[0], config)))
    torch.set_num_threads(1)
    return trainer


def _epoch(trainer: Trainer) -> None:
    for _ in range(UPDATES):
        trainer.one_step()


def _trajectories(trainer: Trainer) -> None:
    """An epoch's, and their rewards."""
    session, method = trainer.session, trainer.method
    assert isinstance(method, DDPO)
    chain = method.chain(session.task)
    for _ in range(UPDATES):
        trajectories(chain, session.student, session.task, session.config.batch, session.draws)
