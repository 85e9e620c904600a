"""Online training: epochs, the lagging copy that data come from, and its pool of samples.

A method that trains on endpoint samples takes part by being an `Online` and asking for `batch`.
Methods that follow their student's own rollouts (policy gradients, adjoints) see new data at every
step, and have none of these options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from theory.common.checks import check_order, check_share
from theory.fields.mixture import VelocityModel
from theory.methods.contract.draws import Draws
from theory.methods.contract.method import Method, Policy, frozen_copy
from theory.methods.contract.task import Endpoints, Task, endpoint_batch


@dataclass(frozen=True, kw_only=True)
class Online(Method):
    """Options of methods that may train on samples of a lagging copy of their student.

    refresh_every: every so many steps (an epoch) the old copy follows the student,
        old <- old_decay old + (1 - old_decay) student, and data come from the old copy; 0: never,
        data come from the base. The learning rate starts again with every epoch.
    old_decay: what the old copy keeps of itself, in [0, 1).
    pool: samples a network drawn from the old copy once an epoch, and data drawn from them; 0:
        fresh ones at every step.

    Raises:
        ValueError: an option is out of range, or changes nothing; the method trains from scratch.
    """

    refresh_every: int = 0
    old_decay: float = 0.0
    pool: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order("refresh_every", self.refresh_every, 0)
        check_share("old_decay", self.old_decay)
        check_order("pool", self.pool, 0)
        if self.pool and not self.refresh_every:
            raise ValueError(
                f"pool must come with refresh_every > 0, else it changes nothing, got {self.pool!r}"
            )
        if self.refresh_every and self.starts_from == "scratch":
            raise ValueError(
                f"refresh_every must be 0 for {self.name}, which trains from scratch and has no "
                f"old copy to draw from, got {self.refresh_every!r}"
            )

    @property
    def cycle(self) -> int:
        return self.refresh_every

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        policy = super().setup(student, task, draws)
        if self.refresh_every:
            policy.old = frozen_copy(student, "old")
        if self.pool:
            # Drawn for its dtype and device: every process advances its generator by one pool.
            like = draws.normal(self._share(task), *task.event_shape)
            rows = len(like) * task.execution.shards
            policy.state = {
                "pool": like.new_zeros(rows, *task.event_shape),
                "rewards": like.new_zeros(rows),
                "conditions": like.new_zeros(rows, task.condition_numbers, dtype=torch.long),
                "fresh": torch.zeros(()),
            }
        return policy

    def after_step(self, policy: Policy, step: int) -> None:
        if self.refresh_every and step % self.refresh_every == 0:
            follow(policy.old, policy.student, self.old_decay)
            if self.pool:
                policy.state["fresh"].zero_()

    def batch(self, policy: Policy, task: Task, n: int, draws: Draws) -> dict[str, Any]:
        """`endpoint_batch` of n rows a network: of base samples, or of what the old copy samples;
        r as the loss takes it."""
        if self.pool:
            return endpoint_batch(task, self._from_pool(policy, task, n, draws))
        if policy.old is None:
            ends = task.endpoints(n, draws)
        else:
            ends = task.endpoints_of(policy.old, n, draws, task.sampling_steps)
        batch = endpoint_batch(task, ends)
        batch["r"] = self.mapped(task, batch["r"], batch["cond"], base=policy.old is None)
        return batch

    def _from_pool(self, policy: Policy, task: Task, n: int, draws: Draws) -> Endpoints:
        """Endpoints with x_1 from this epoch's samples of the old copy, each with its reward."""
        state = policy.state
        if not bool(state["fresh"]):
            self._fill_pool(policy, task, draws)
        row = draws.among(n, self.pool)
        x0, t = draws.normal(n, *task.event_shape), task.draw_times(n, draws)
        cond = state["conditions"][row] if task.condition_numbers else None
        return Endpoints(x0, state["pool"][row], t, cond, state["rewards"][row])

    def _fill_pool(self, policy: Policy, task: Task, draws: Draws) -> None:
        """Sample the old copy; every process its share, and all keep the whole pool."""
        assert policy.old is not None
        ends = task.endpoints_of(policy.old, self._share(task), draws, task.sampling_steps)
        found: dict[str, Tensor] = {
            "pool": ends.x1,
            "rewards": self.mapped(task, task.reward(ends.x1, ends.cond), ends.cond),
        }
        if ends.cond is not None:
            found["conditions"] = ends.cond
        for name, rows in found.items():
            policy.state[name].copy_(task.execution.gather(rows))
        policy.state["fresh"].fill_(1.0)

    def _share(self, task: Task) -> int:
        """The part of the pool that one process samples."""
        own, rest = divmod(self.pool, task.execution.shards)
        if rest:
            raise ValueError(
                f"pool must be a multiple of the {task.execution.shards} processes, got {self.pool}"
            )
        return own


def follow(old: object, student: object, decay: float) -> None:
    """old <- decay old + (1 - decay) student, parameter by parameter.

    Raises:
        TypeError: either is no torch module, so has no parameters to average.
    """
    if not isinstance(old, nn.Module) or not isinstance(student, nn.Module):
        raise TypeError(
            f"old and student must be torch modules, got old = {old!r} and student = {student!r}"
        )
    with torch.no_grad():
        for lag, lead in zip(old.parameters(), student.parameters(), strict=True):
            lag.lerp_(lead, 1 - decay)
