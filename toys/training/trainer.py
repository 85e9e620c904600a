"""The one training loop: many small networks of one method at once. It knows no method's name.

Every step: collect (no gradient) -> loss -> mean over each network's rows, summed over networks ->
backward -> fused Adam. Networks are independent: parameters are stacked, Adam is elementwise, and
random numbers come from a generator a network. The state after a step (parameters of everything
that trains, optimiser, generators, metrics) goes into one checkpoint, from which a killed run
goes on to the same bits. A network that diverges leaves its neighbours alone: they are finished,
and then it is named.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.common import signals
from theory.common.checks import check_positive
from theory.common.processes import keep_heap
from theory.methods import Draws, Info, Policy, ProblemTask, returned
from theory.methods.chain.finite import NonFiniteAdjointError
from toys.networks.mlp import StackedMLP
from toys.training.runs import Group, Run, device_name

WARM_UP = 0.05
LOGS = 100
CHECKPOINT_SECONDS = 10.0
# Relative error of a float32 product that "medium" precision may have here.
GEMM_TOLERANCE = 1e-5
BASE_SEED, TRAIN_SEED = 2**40, 2**41

Report = Callable[[int, int, float], None]


def use_fast_kernels(fast_products: bool = False) -> float:
    """One thread, the fastest float32 products that are accurate here, a heap that keeps memory.

    fast_products: take "medium" precision as it comes. Where the CPU has bfloat16 units that is
        bfloat16, two to three times faster, with relative errors near 1e-3 a product; elsewhere it
        is float32 by another library, and used anyway.
    Returns the largest relative error of a product.
    """
    torch.set_num_threads(1)
    keep_heap()
    torch.set_float32_matmul_precision("medium")
    error = product_error()
    if error > GEMM_TOLERANCE and not fast_products:
        torch.set_float32_matmul_precision("highest")
        error = product_error()
    return error


def product_error() -> float:
    """Largest relative error of a float32 product as precision is set now."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(64, 64, generator=generator)
    return float(((a @ a).double() / (a.double() @ a.double()) - 1).abs().max())


@dataclass
class Trainer:
    """The state of a group of networks in training."""

    group: Group
    device: str = "cpu"

    def __post_init__(self) -> None:
        use_fast_kernels(self.group.members[0].fast_products)
        configs = self.group.members
        first = configs[0]
        self.config, self.method = first, first.parsed
        self.problems = [c.parsed_problem for c in configs]
        self.task = ProblemTask(
            self.problems,
            device=self.device,
            low_discrepancy=first.low_discrepancy,
            auxiliary_maker=self._auxiliary,
        )
        self.draws = self._draws(TRAIN_SEED)
        self.policy = self._policy()
        if first.times:
            self.task.times = torch.tensor(first.times, dtype=torch.float64)
        self.optimiser = torch.optim.Adam(
            self.policy.parameters(), lr=first.learning_rate, fused=True, betas=(0.9, 0.99)
        )
        self.step = 0
        self.names: list[str] = []
        self.metrics: list[Tensor] = []
        self.snapshots: list[dict[str, Tensor]] = []
        self.cpu_seconds = 0.0

    def _draws(self, offset: int) -> Draws:
        return Draws.seeded([offset + c.seed for c in self.group.members], device=self.device)

    def _network(self, outputs: int, draws: Draws) -> StackedMLP:
        (dim,) = self.task.event_shape
        network = StackedMLP(dim, outputs, self.config.width, self.config.depth, draws)
        return network.to(self.device)

    def _auxiliary(self, outputs: int, draws: Draws) -> StackedMLP:
        return self._network(outputs, draws)

    def _policy(self) -> Policy:
        student = self._network(self.task.event_shape[0], self._draws(BASE_SEED))
        bases = [c.base() for c in self.group.members]
        if bases[0] is not None:
            runs = [Run(self.group.out, base) for base in bases if base is not None]
            student.load_members([run.weights() for run in runs])
        return returned.setup(self.method, student, self.task, self.draws)

    # --- the loop

    def train(self, report: Report | None = None) -> None:
        """From the checkpoint, if there is one, to the end; then write the members' folders.

        Raises:
            signals.Stopped: a signal; the last finished step is in the checkpoint.
            NonFiniteAdjointError: a step met one; the state before it is in the checkpoint.
            ValueError: a loss is not finite, or not one value a row.
        """
        with self.group.locked():
            self._train(report)

    def _train(self, report: Report | None) -> None:
        with signals.held():
            self.group.begin()
            self._resume()
        if report is not None:  # what was there before says nothing of this run's speed
            report(self.step, self.config.steps, math.nan)
        steps, saved, between = self.config.steps, time.monotonic(), checkpoint_seconds()
        start = time.process_time()
        try:
            while self.step < steps:
                with signals.held():
                    self._checked_step(report, start)
                    if time.monotonic() - saved > between and self.step < steps:
                        self.cpu_seconds += time.process_time() - start
                        start = time.process_time()
                        self.save()
                        saved = time.monotonic()
        except signals.Stopped as stop:
            self.cpu_seconds += time.process_time() - start
            self.save()
            stop.add_note(
                f"{self.group.label}: step {self.step} of {steps} is saved in {self.group.folder}"
            )
            raise
        with signals.held():
            self.cpu_seconds += time.process_time() - start
            self.save()
            self._finish()

    def _checked_step(self, report: Report | None, start: float) -> None:
        drawn = self.draws.states()
        try:
            self._one_step()
        except NonFiniteAdjointError:
            self._keep(drawn, time.process_time() - start)
            raise
        if self._is_logged:
            if len(self._diverged()) == len(self.group.members):
                self.group.end()
                self._refuse(self._diverged())
            if report is not None:
                report(self.step, self.config.steps, float(self.metrics[-1][:, 0].mean()))

    @property
    def _is_logged(self) -> bool:
        steps = self.config.steps
        return self.step % max(1, steps // LOGS) == 0 or self.step == steps

    def _one_step(self) -> None:
        for row in self.optimiser.param_groups:
            row["lr"] = self.config.learning_rate * self._rate()
        method, policy, rows = self.method, self.policy, self.config.batch
        batch = returned.collect(method, policy, self.task, rows, self.draws)
        losses, info = returned.loss(method, policy, self.task, batch)
        per_network = self.task.per_network(losses).mean(1)
        if self.step == 0:
            returned.check_finite(method, losses)
        self.optimiser.zero_grad()
        with returned.backward(method):
            per_network.sum().backward()
        returned.check_gradients(method, policy)
        self.optimiser.step()
        self.step += 1
        returned.after_step(method, policy, self.step)
        if self.config.snapshots and self.step % (self.config.steps // self.config.snapshots) == 0:
            self._keep_snapshot()
        if self._is_logged:
            self._log(per_network.detach(), info)

    def _rate(self) -> float:
        """The learning rate's share: over the run, or over every cycle of the method."""
        cycle = self.method.cycle
        if not cycle:
            return rate(self.step, self.config.steps)
        return rate(self.step % cycle, min(cycle, self.config.steps))

    def _snapshots_of(self, i: int) -> dict[str, Tensor]:
        """Member i's snapshots, NUMBER.PARAMETER; empty without any."""
        found: dict[str, Tensor] = {}
        shell = copy.deepcopy(self.policy.student)
        assert isinstance(shell, StackedMLP)
        for number, snapshot in enumerate(self.snapshots, start=1):
            shell.load_state_dict(snapshot)
            member = shell.member(i).items()
            found |= {f"{number:04d}.{k}": v.clone() for k, v in member}
        return found

    def _keep_snapshot(self) -> None:
        """What the method samples from now: the old copy where there is one, else the student."""
        model = self.policy.student if self.policy.old is None else self.policy.old
        assert isinstance(model, StackedMLP)
        self.snapshots.append({k: v.detach().clone() for k, v in model.state_dict().items()})

    def _log(self, losses: Tensor, info: Info) -> None:
        returned.check_names(self.method, info, self.names[1:])
        self.names = ["loss", *info]
        logged = (self.task.per_network(v.detach().double()).mean(1) for v in info.values())
        self.metrics.append(torch.stack([losses.double(), *logged], 1).cpu())

    def _diverged(self) -> list[str]:
        """The members whose loss has been infinite or nan."""
        rows = torch.stack(self.metrics)
        finite = torch.isfinite(rows).all(-1).all(0).tolist()
        return [c.label for c, good in zip(self.group.members, finite, strict=True) if not good]

    def _refuse(self, labels: list[str]) -> None:
        if labels:
            raise ValueError(
                f"{'; '.join(labels)}: the loss is not finite (learning_rate = "
                f"{self.config.learning_rate:g}): allowed are settings whose loss stays finite, "
                "try a smaller learning rate; what trained beside is finished and kept"
            )

    # --- checkpoints

    def save(self) -> None:
        """The whole state, atomically."""
        names = ",".join(self.names)
        metrics = torch.stack(self.metrics) if self.metrics else torch.zeros(0, 0, 0)
        self.group.save(self.step, self._tensors(), metrics, names)

    def _keep(self, drawn: list[Tensor], seconds: float) -> None:
        """The state before a step that could not be taken, drawn being its random numbers'."""
        self.draws.restore(drawn)
        self.cpu_seconds += seconds
        self.save()

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"policy.{k}": v for k, v in self.policy.tensors().items()}
        for i, parameter in enumerate(self.policy.parameters()):
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"adam.{i}.{key}"] = torch.as_tensor(value)
        tensors |= {f"generator.{i}": state for i, state in enumerate(self.draws.states())}
        for i, snapshot in enumerate(self.snapshots):
            tensors |= {f"snapshot.{i}.{k}": v for k, v in snapshot.items()}
        tensors["cpu_seconds"] = torch.tensor(self.cpu_seconds, dtype=torch.float64)
        return {k: v.detach().clone() for k, v in tensors.items()}

    def _resume(self) -> None:
        found = self.group.load()
        if found is None:
            return
        self.step, tensors, metrics, self.names = found
        self.policy.load(_under("policy.", tensors))
        for i, parameter in enumerate(self.policy.parameters()):
            state = _under(f"adam.{i}.", tensors)
            self.optimiser.state[parameter] = {
                k: v if k == "step" else v.to(self.device) for k, v in state.items()
            }
        generators = _under("generator.", tensors)
        self.draws.restore([generators[str(i)] for i in range(len(generators))])
        kept = sorted({int(k.split(".")[1]) for k in tensors if k.startswith("snapshot.")})
        self.snapshots = [
            {k: v.to(self.device) for k, v in _under(f"snapshot.{i}.", tensors).items()}
            for i in kept
        ]
        self.metrics = list(metrics)
        self.cpu_seconds = float(tensors["cpu_seconds"])

    def _finish(self) -> None:
        student = self.policy.student
        assert isinstance(student, StackedMLP)
        every = max(1, self.config.steps // LOGS)
        marks = [*range(every, self.config.steps + 1, every)]
        if not marks or marks[-1] != self.config.steps:
            marks.append(self.config.steps)
        diverged = self._diverged()
        for i, run in enumerate(self.group.runs):
            if run.config.label in diverged:
                continue
            rows = [
                {"step": float(step), **dict(zip(self.names, row[i].tolist(), strict=True))}
                for step, row in zip(marks, self.metrics, strict=True)
            ]
            run.finish(
                student.member(i),
                rows,
                self._snapshots_of(i),
                device=device_name(self.device),
                cpu_seconds=round(self.cpu_seconds / len(self.group.members), 3),
                trained_beside=[c.digest for c in self.group.members],
            )
        self.group.end()
        self._refuse(diverged)


def checkpoint_seconds() -> float:
    """Seconds between checkpoints: CHECKPOINT_SECONDS, or PLUMBLINE_CHECKPOINT_SECONDS where set.

    Raises:
        ValueError: that is not a number > 0.
    """
    text = os.environ.get("PLUMBLINE_CHECKPOINT_SECONDS")
    if text is None:
        return CHECKPOINT_SECONDS
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
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
