"""The one training loop of scale-up. It knows no method's name, no network and no scheduler.

Every step: collect a process's share of the batch (no gradient); for each micro-batch of it loss ->
mean over rows -> backward; then gradients averaged over processes, clipped, AdamW, the method's own
after_step. So what a step draws does not depend on micro_batch. What a step leaves
(student, old copy, auxiliary networks, the method's state, optimiser, scaler, generator, metrics)
goes into one checkpoint, from which a killed run goes on to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from traceback import clear_frames
from typing import Any, cast

import torch
from torch import Tensor, nn

from scaleup.adapter.sampling import NonFiniteError
from scaleup.training.checkpoints import State, newest_state, save_state
from scaleup.training.session import Session
from theory.common.signals import Stopped, held, waiting
from theory.methods import Batch
from theory.methods.chain.finite import NonFiniteAdjointError
from theory.methods.contract import returned
from theory.methods.contract.states import load_optimiser, optimiser_tensors, prefixed, under

WARM_UP = 0.05


class Trainer:
    """A run's loop and its state: `step` steps are done, `metrics` has a row for each.

    report(step, text): called as work goes on.  after(step, row): called after every step, for
    sample grids and trackers.
    """

    def __init__(
        self,
        session: Session,
        report: Callable[[int, str], None] = lambda step, text: None,
        after: Callable[[int, dict[str, float]], None] = lambda step, row: None,
    ) -> None:
        self.session, self.config = session, session.config
        self.method, self.policy, self.task = session.method, session.policy, session.task
        self.optimiser = session.optimiser
        self.report, self.after = report, after
        self.step = 0
        self.metrics: list[dict[str, float]] = []
        self._mark()

    # --- the loop

    def train(self) -> None:
        """From the newest checkpoint, if there is one, to the last step.

        Raises:
            ValueError: loss or gradient are not finite, or the method returns something else than
                its contract says (`theory.methods.contract.returned`); what is on disk stays.
            NonFiniteAdjointError, Stopped: a step met one, or a signal arrived; the last finished
                step is the newest checkpoint.
        """
        self.resume()
        self._mark()
        steps, every = self.config.steps, self.config.checkpoint_every
        if self.step == 0:
            self.save()  # a run that is killed before its first checkpoint starts the same
        try:
            while self.step < steps:
                with self._together():
                    row = self.one_step()
                    reward = f", reward {row['reward']:.4g}" if "reward" in row else ""
                    text = f"step {self.step}/{steps}: loss {row['loss']:.4g}{reward}"
                    self.report(self.step, text)
                    self.after(self.step, row)
                    if self.step % every == 0 or self.step == steps:
                        self.save()
        except (NonFiniteAdjointError, Stopped):
            self._keep()
            raise

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Around a step: of several processes none stops alone, for the others would wait for it.
        All stop after the step in which a signal came to any."""
        if self.session.world == 1:
            yield
            return
        with held():
            yield
            number = self.session.largest(waiting())
            if number and not waiting():
                raise Stopped(number)

    def one_step(self) -> dict[str, float]:
        """One step of the optimiser; returns its row of metrics."""
        rate = self.config.learning_rate * self._rate()
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        sums: dict[str, Tensor] = {}
        own = self.config.rows * self.config.accumulate
        batch = returned.collect(self.method, self.policy, self.task, own, self.session.draws)
        for start in range(0, own, self.config.rows):
            losses, info = self._losses(batch, start, self.config.rows)
            self.session.accelerator.backward(losses.mean() / self.config.accumulate)
            for name, values in {"loss": losses, **info}.items():
                share = values.detach().double().mean() / self.config.accumulate
                sums[name] = sums[name] + share if name in sums else share
        shares = self.session.mean(torch.stack(list(sums.values()))).tolist()
        means = dict(zip(sums, shares, strict=True))
        self._check_finite("loss", means["loss"])
        with held():  # a step is taken whole, or not at all
            norm = self._update()
            self.step += 1
            returned.after_step(self.method, self.policy, self.step)
            row = {"step": float(self.step), **means, "gradient_norm": norm, "rate": rate}
            self.metrics.append(row)
            self._mark()
        return row

    def _losses(self, batch: Batch, start: int, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses (rows,) of a batch's rows from `start` on, and what to log."""
        own = {k: None if v is None else v[start : start + rows] for k, v in batch.items()}
        return returned.loss(self.method, self.policy, self.task, cast(Batch, own))

    def _update(self) -> float:
        """Average, clip, step; the norm of the gradient before clipping."""
        accelerator, parameters = self.session.accelerator, self.policy.parameters()
        returned.check_gradients(self.method, self.policy)
        self.session.average(parameters)
        accelerator.unscale_gradients(self.optimiser)
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))
        if accelerator.scaler is None:  # which skips a step that overflowed
            self._check_finite("gradient", norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return norm

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(
                f"the {what} must stay finite, got {value} at step {self.step + 1} (learning_rate "
                f"= {self.config.learning_rate:g}; take a smaller one, say); the newest checkpoint "
                "is untouched"
            )

    @contextmanager
    def named(self) -> Iterator[None]:
        """What a model samples and is not finite, with the step and the learning rate.

        Raises:
            NonFiniteError: something is not.
        """
        try:
            yield
        except NonFiniteError as error:
            raise NonFiniteError(
                f"after {self.step} steps (learning_rate = {self.config.learning_rate:g}): {error}"
            ) from error

    def _rate(self) -> float:
        """The learning rate's share: warm-up, then constant where the objective moves in cycles,
        else a cosine to a tenth."""
        steps = self.config.steps
        warm = max(1, round(WARM_UP * steps))
        if self.step < warm:
            return (self.step + 1) / warm
        if self.method.cycle:
            return 1.0
        share = (self.step - warm) / max(1, steps - warm)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * share))

    def fitting_rows(self) -> int:
        """The largest micro_batch below this run's for which a forward and a backward pass stay
        within memory; 0: none. The run cannot go on afterwards."""
        own, group = self.config.batch // self.config.processes, self.config.group
        allowed = [r for r in range(group, self.config.rows, group) if own % r == 0]
        return next((rows for rows in reversed(allowed) if self._fits(rows)), 0)

    def _fits(self, rows: int) -> bool:
        self.optimiser.zero_grad()
        if self.session.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            self.task.execution = replace(self.task.execution, rows_at_once=rows)
            batch = returned.collect(self.method, self.policy, self.task, rows, self.session.draws)
            self._losses(batch, 0, rows)[0].mean().backward()
        except RuntimeError as error:
            clear_frames(error.__traceback__)  # they hold what was allocated
            return False
        return True

    # --- state

    def save(self) -> None:
        """The whole state, atomically, by the first process; the others wait."""
        self._write()
        self.session.accelerator.wait_for_everyone()

    def _write(self) -> None:
        if self.session.is_main:
            folder = self.session.folder
            with held():
                folder.write_metrics(self.metrics)
                save_state(folder.checkpoints, self.state(), folder.content)

    def _mark(self) -> None:
        """Remember what a step changes before it is taken: random numbers, the method's state."""
        state = {name: value.clone() for name, value in self.policy.state.items()}
        self._marked = self.session.draws.states(), state

    def _keep(self) -> None:
        """Save the last finished step, from within one that is not; the first process, alone."""
        drawn, state = self._marked
        self.session.draws.restore(drawn)
        for name, value in state.items():
            self.policy.state[name].copy_(value)
        self._write()

    def state(self) -> State:
        """Everything that changes from step to step."""
        tensors = prefixed("policy.", self.policy.tensors())
        tensors |= prefixed("adamw.", optimiser_tensors(self.policy, self._inner))
        tensors["generator"] = self.session.draws.states()[0]
        data: dict[str, Any] = {"metrics": self.metrics}
        if self.session.accelerator.scaler is not None:
            data["scaler"] = self.session.accelerator.scaler.state_dict()
        return State(self.step, {k: v.detach().clone() for k, v in tensors.items()}, data)

    def resume(self) -> None:
        """Go on from the newest checkpoint that can be read; says which could not, in the log too.

        Raises:
            ValueError: none can be read, or it is another run's.
        """
        folder = self.session.folder
        found = newest_state(folder.checkpoints, folder.content)
        if found is None:
            return
        for text in found.damaged:
            line = f"{text}; going on from step {found.step} instead"
            self.report(found.step, line)
            if self.session.is_main:
                folder.note(line)
        self.load(found)

    def load(self, state: State) -> None:
        """Put back what `state` gave.

        Raises:
            ValueError: names or shapes differ from this run's.
        """
        self.step, self.metrics = state.step, list(state.data["metrics"])
        self.policy.load(under("policy.", state.tensors))
        load_optimiser(self.policy, self._inner, under("adamw.", state.tensors))
        self.session.draws.restore([state.tensors["generator"].cpu()])
        if "scaler" in state.data:
            self.session.accelerator.scaler.load_state_dict(state.data["scaler"])

    @property
    def _inner(self) -> torch.optim.Optimizer:
        """The optimiser that accelerate wraps."""
        return getattr(self.optimiser, "optimizer", self.optimiser)
