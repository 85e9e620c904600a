"""Training runs: many small networks of one method at once, to their folders.

It knows no method's name. The state after a step (parameters of everything that trains, optimiser,
generators, metrics) goes into one checkpoint, from which a killed run goes on to the same bits. A
network that diverges leaves its neighbours alone: they are finished, and then it is named.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from theory.common.processes import keep_heap
from theory.methods import Draws, Info, Policy, ProblemTask
from theory.methods.contract import returned
from theory.methods.contract.states import prefixed, under
from toys.networks.mlp import StackedMLP
from toys.training.loop import Loop, Report
from toys.training.runs import Group, Run

LOGS = 100
# Relative error of a float32 product that "medium" precision may have here.
GEMM_TOLERANCE = 1e-5
BASE_SEED, TRAIN_SEED = 2**40, 2**41


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
    a = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    return float(((a @ a).double() / (a.double() @ a.double()) - 1).abs().max())


class Trainer(Loop):
    """The state of a group of networks in training."""

    def __init__(self, group: Group, device: str = "cpu") -> None:
        first = group.members[0]
        use_fast_kernels(first.fast_products)
        self.group, self.device, self.config = group, device, first
        self.label, self.place, self.method = group.label, group.folder, first.parsed
        self.steps, self.rows, self.cycle = first.steps, first.batch, first.parsed.cycle
        self.learning_rate = first.learning_rate
        self.task = ProblemTask(
            [c.parsed_problem for c in group.members],
            device=device,
            low_discrepancy=first.low_discrepancy,
            auxiliary_maker=self._network,
        )
        self.draws = self._draws(TRAIN_SEED)
        self.policy = self._policy()
        if first.times:
            self.task.times = torch.tensor(first.times, dtype=torch.float64)
        self.optimiser = torch.optim.Adam(
            self.policy.parameters(), lr=first.learning_rate, fused=True, betas=(0.9, 0.99)
        )
        self.names: list[str] = []
        self.metrics: list[Tensor] = []
        self.snapshots: list[dict[str, Tensor]] = []

    def _draws(self, offset: int) -> Draws:
        return Draws.seeded([offset + c.seed for c in self.group.members], device=self.device)

    def _network(self, outputs: int, draws: Draws) -> StackedMLP:
        (dim,) = self.task.event_shape
        return StackedMLP(dim, outputs, self.config.width, self.config.depth, draws).to(self.device)

    def _policy(self) -> Policy:
        student = self._network(self.task.event_shape[0], self._draws(BASE_SEED))
        bases = [base for c in self.group.members if (base := c.base()) is not None]
        if bases:
            student.load_members([Run(self.group.out, base).weights() for base in bases])
        return returned.setup(self.method, student, self.task, self.draws)

    # --- the loop

    def train(self, report: Report | None = None) -> None:
        """As every loop; one process at a time. At the end the members' folders are written.

        Raises:
            ValueError: as every loop; or another process is at it, or a network has diverged.
        """
        with self.group.locked():
            super().train(report)

    def begin(self) -> None:
        self.group.begin()
        found = self.group.load()
        if found is not None:
            step, tensors, metrics, self.names = found
            self.restore(step, tensors)
            self.metrics = list(metrics)

    def check_losses(self, losses: Tensor) -> None:
        """At the first step, where no learning rate is to blame; `after_step` looks at the rest."""
        if self.step == 0:
            returned.check_finite(self.method, losses)

    def after_step(self, losses: Tensor, info: Info) -> None:
        """Snapshots, and a row of the metrics.

        Raises:
            ValueError: all networks have diverged, or a method logs under other names.
        """
        steps, kept = self.steps, self.config.snapshots
        if kept and self.step % (steps // kept) == 0:
            self._keep_snapshot()
        if self.step % max(1, steps // LOGS) != 0 and self.step != steps:
            return
        self._log(losses, info)
        if len(self._diverged()) == len(self.group.members):
            self.group.end()
            self._refuse(self._diverged())
        if self._report is not None:
            self._report(self.step, steps, float(self.metrics[-1][:, 0].mean()))

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
        finite = torch.isfinite(torch.stack(self.metrics)).all(-1).all(0).tolist()
        return [c.label for c, good in zip(self.group.members, finite, strict=True) if not good]

    def _refuse(self, labels: list[str]) -> None:
        if labels:
            raise ValueError(
                f"{'; '.join(labels)}: the loss must stay finite, and is not (learning_rate = "
                f"{self.learning_rate:g}); try a smaller learning rate; what trained beside is "
                "finished and kept"
            )

    # --- checkpoints

    def keep(self) -> None:
        """The checkpoint of the group."""
        metrics = torch.stack(self.metrics) if self.metrics else torch.zeros(0, 0, 0)
        self.group.save(self.step, self.tensors(), metrics, ",".join(self.names))

    def tensors(self) -> dict[str, Tensor]:
        found = super().tensors()
        for i, snapshot in enumerate(self.snapshots):
            found |= prefixed(f"snapshot.{i}.", snapshot)
        return found

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        super().restore(step, tensors)
        kept = {k.split(".")[1] for k in tensors if k.startswith("snapshot.")}
        self.snapshots = [
            {k: v.to(self.device) for k, v in under(f"snapshot.{i}.", tensors).items()}
            for i in sorted(kept, key=int)
        ]

    def finish(self) -> None:
        """The members' folders.

        Raises:
            ValueError: a network has diverged; the others' folders are written.
        """
        student = self.policy.student
        assert isinstance(student, StackedMLP)
        every = max(1, self.steps // LOGS)
        marks = [*range(every, self.steps, every), self.steps]
        diverged = self._diverged()
        for i, config in enumerate(self.group.members):
            if config.label in diverged:
                continue
            rows = [
                {"step": float(step), **dict(zip(self.names, row[i].tolist(), strict=True))}
                for step, row in zip(marks, self.metrics, strict=True)
            ]
            Run(self.group.out, config).finish(
                student.member(i),
                rows,
                {
                    f"{number:04d}.{key}": value[i].cpu().clone()
                    for number, snapshot in enumerate(self.snapshots, start=1)
                    for key, value in snapshot.items()
                },
                device=torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
                cpu_seconds=round(self.cpu_seconds / len(self.group.members), 3),
                trained_beside=[c.digest for c in self.group.members],
            )
        self.group.end()
        self._refuse(diverged)
