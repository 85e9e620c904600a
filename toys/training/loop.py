"""The one training loop: collect -> loss -> backward -> Adam, for a method on a task.

Every step collects a batch (no gradient), takes the loss, its mean over each network's rows, summed
over networks, and moves Adam. Networks are independent: parameters are stacked, Adam is
elementwise, and random numbers come from a generator a network. A loop that is stopped keeps its
state, `tensors`, and goes on from it to the same bits.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from theory.common import signals
from theory.common.checks import check_positive
from theory.methods import Draws, Info, Method, Policy, Task
from theory.methods.chain.finite import NonFiniteAdjointError
from theory.methods.contract import returned
from theory.methods.contract.states import load_optimiser, optimiser_tensors, prefixed, under

WARM_UP = 0.05
CHECKPOINT_SECONDS = 10.0

Report = Callable[[int, int, float], None]  # steps done, of how many, the loss


class Loop:
    """What trains. A subclass says what is trained, and where its state is kept.

    label, place: what it is called, and the file or folder of its state, if it is kept.  method,
    task, draws, policy, optimiser: the models of `policy` are moved by `optimiser`.  steps; rows:
    of a batch, of one network.  learning_rate: its peak.  cycle: steps after which the rate starts
    again, 0: never.
    """

    label: str
    place: Path | None = None
    method: Method
    task: Task
    draws: Draws
    policy: Policy
    optimiser: torch.optim.Optimizer
    steps: int
    rows: int
    learning_rate: float
    cycle: int = 0
    step: int = 0
    cpu_seconds: float = 0.0
    _since: float
    _report: Report | None = None

    def train(self, report: Report | None = None) -> None:
        """From what is kept, if there is anything, to the end.

        Raises:
            signals.Stopped: a signal; the state after the last finished step is kept.
            NonFiniteAdjointError: a step could not be taken; the state before it is kept.
            ValueError: a loss is not finite, or not one value a row.
        """
        with signals.held():
            self.begin()
        if report is not None:  # what was there before says nothing of this run's speed
            report(self.step, self.steps, math.nan)
        self._report, saved, between = report, time.monotonic(), checkpoint_seconds()
        self._since, first = time.process_time(), self.step
        try:
            while self.step < self.steps:
                with signals.held():
                    self._checked_step()
                    if time.monotonic() - saved > between and self.step < self.steps:
                        self.save()
                        saved = time.monotonic()
        except signals.Stopped as stop:
            self.save()
            if self.place is not None:
                stop.add_note(
                    f"{self.label}: step {self.step} of {self.steps} is saved in {self.place}"
                )
            raise
        with signals.held():
            if self.step > first:
                self.save()
            self.finish()

    def _checked_step(self) -> None:
        drawn = self.draws.states()
        try:
            self._one_step()
        except NonFiniteAdjointError:
            self.draws.restore(drawn)
            self.save()
            raise

    def _one_step(self) -> None:
        self.before_step()
        for row in self.optimiser.param_groups:
            row["lr"] = self.learning_rate * self.rate()
        method, policy = self.method, self.policy
        batch = returned.collect(method, policy, self.task, self.rows, self.draws)
        losses, info = returned.loss(method, policy, self.task, batch)
        self.check_losses(losses)
        per_network = self.task.per_network(losses).mean(1)
        self.optimiser.zero_grad()
        with returned.backward(method):
            per_network.sum().backward()
        returned.check_gradients(method, policy)
        self.optimiser.step()
        self.step += 1
        returned.after_step(method, policy, self.step)
        self.after_step(per_network.detach(), info)

    def save(self) -> None:
        """Keep the state, and the CPU-seconds that it took."""
        now = time.process_time()
        self.cpu_seconds += now - self._since
        self._since = now
        self.keep()

    # --- what subclasses say

    def begin(self) -> None:
        """Before the first step: go on from what is kept."""

    def keep(self) -> None:
        """Write the state, atomically."""

    def before_step(self) -> None:
        """What a step needs first: new data, say."""

    def after_step(self, losses: Tensor, info: Info) -> None:
        """What follows a step; losses: of each network."""

    def finish(self) -> None:
        """What follows the last step, whose state is kept."""

    def check_losses(self, losses: Tensor) -> None:
        """Refuse a step, before it is taken, for the losses of its rows.

        Raises:
            ValueError: one is not finite.
        """
        if not bool(torch.isfinite(losses).all()):
            raise ValueError(
                f"{self.label}: the loss must stay finite, and is not (learning_rate = "
                f"{self.learning_rate:g}); try a smaller learning rate"
            )

    def rate(self) -> float:
        """The learning rate's share of its peak: over the run, or over every cycle."""
        cycle = min(self.cycle or self.steps, self.steps)
        return rate(self.step % cycle, cycle)

    # --- the state

    def tensors(self) -> dict[str, Tensor]:
        """The state but for the step's number, by name."""
        tensors = {
            **prefixed("policy.", self.policy.tensors()),
            **prefixed("adam.", optimiser_tensors(self.policy, self.optimiser)),
            **{f"generator.{i}": state for i, state in enumerate(self.draws.states())},
            "cpu_seconds": torch.tensor(self.cpu_seconds, dtype=torch.float64),
        }
        return {k: v.detach().clone() for k, v in tensors.items()}

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave after `step` steps."""
        self.step = step
        self.policy.load(under("policy.", tensors))
        load_optimiser(self.policy, self.optimiser, under("adam.", tensors))
        generators = under("generator.", tensors)
        self.draws.restore([generators[str(i)] for i in range(len(generators))])
        self.cpu_seconds = float(tensors["cpu_seconds"])


def checkpoint_seconds() -> float:
    """Seconds between checkpoints: CHECKPOINT_SECONDS, or PLUMBLINE_CHECKPOINT_SECONDS where set.

    Raises:
        ValueError: that is not a number > 0.
    """
    text = os.environ.get("PLUMBLINE_CHECKPOINT_SECONDS", str(CHECKPOINT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    check_positive(f"PLUMBLINE_CHECKPOINT_SECONDS (= {text!r})", seconds)
    return seconds


def rate(step: int, steps: int) -> float:
    """The learning rate at a step as a share of its peak: linear warm-up, then a cosine to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return cosine((step - warm) / max(1, steps - warm))


def cosine(share: float) -> float:
    """From 1 to 0 along half a period."""
    return 0.5 * (1 + math.cos(math.pi * share))
