"""Training one scheme: stages, each on a pool of samples of the model that it started from.

Models are the exact base velocity plus a perceptron whose last layer starts at 0, so that nothing
is left of a base's own training error, in any d.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from theory.common.processes import keep_heap
from theory.methods.contract import Draws, ProblemTask
from theory.methods.contract.task import heun
from theory.problems.problem import load_problem
from toys.experiments.exact_tilt.plan import Trial
from toys.networks.corrected import Corrected
from toys.networks.mlp import StackedMLP
from toys.training.loop import Loop

SAMPLING_STEPS = 20


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
