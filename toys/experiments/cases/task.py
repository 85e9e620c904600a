"""Named control problems as a task, and the adjoint family's regression on it.

Trajectories of the Euler chain under the network's own control u, their adjoint a by the method,
both held fixed; an update follows the gradient of

    1/2 E sum_k dt |u(X_k, t_k) + g a|^2.

Beside `theory.methods.adjoint`, whose models are velocities of one path and whose cost is a reward
at the end: here a control drives any drift, and a trajectory has a running cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from theory.control import adjoints
from theory.control.adjoints import Field, Process, rollout
from theory.control.processes import OptimalChain, case_process, case_starts
from theory.fields.mixture import VelocityModel
from theory.methods import Batch, Draws, Info, Method, Policy, Task

# (process, times, states) -> the adjoint (n, T, d) that belongs to X_0 .. X_{T-1}
Adjoint = Callable[[Process, Tensor, Tensor], Tensor]
ADJOINTS: dict[str, Adjoint] = {
    "adjoint_matching": lambda p, t, x: adjoints.lean_adjoint(p, t, x)[:, 1:],
    "discrete_adjoint": lambda p, t, x: adjoints.full_adjoint(p, t, x)[:, 1:],
    "continuous_adjoint": lambda p, t, x: adjoints.full_adjoint(p, t, x, "heun")[:, :-1],
}


class ControlTask(Task):
    """The Euler chain of a named control problem; a row is a trajectory.

    grid (T + 1,): the chain's times. The model is a control u(x, t), the reward minus the final
    cost; base samples are the ends of trajectories without a control.
    """

    times: Tensor

    def __init__(self, chain: OptimalChain) -> None:
        self.case, self.grid = chain.case, chain.times.float()
        self.times, self.event_shape = self.grid[:-1], (chain.case.dim,)
        process = self.process(idle)
        self.noise = torch.tensor([process.noise(float(t)) for t in self.times])[:, None]

    def process(self, control: Field) -> Process:
        """The problem under a control."""
        return case_process(self.case, control)

    def simulate(self, process: Process, noise: Tensor) -> Tensor:
        """Trajectories (rows, T + 1, d), from noise N(0, 1) of that shape, the first of X_0."""
        return rollout(process, self.grid, case_starts(self.case, noise[:, 0]), noise[:, 1:])

    def draw(self, n: int, draws: Draws) -> Tensor:
        """The noise of n trajectories a network."""
        return draws.normal(n, len(self.grid), *self.event_shape)

    def reward(self, x1: Tensor, cond: Any = None) -> Tensor:
        return -self.process(idle).final(x1)

    def base_samples(self, n: int, draws: Draws) -> tuple[Tensor, Any, None]:
        return self.simulate(self.process(idle), self.draw(n, draws))[:, -1], None, None


@dataclass(frozen=True)
class ControlMatching(Method):
    """The regression of a control on an adjoint, a key of ADJOINTS; of a ControlTask.

    Raises:
        ValueError: an adjoint that is not finite.
    """

    name: ClassVar[str] = "control_matching"
    adjoint: str = "adjoint_matching"

    def setup(self, student: VelocityModel, task: Task, draws: Draws) -> Policy:
        return Policy(student)

    def collect(self, policy: Policy, task: Task, n: int, draws: Draws) -> Batch:
        assert isinstance(task, ControlTask)
        process = task.process(as_field(policy.student))
        states = task.simulate(process, task.draw(n, draws))
        return {"states": states, "adjoint": ADJOINTS[self.adjoint](process, task.grid, states)}

    def loss(self, policy: Policy, task: Task, batch: Batch) -> tuple[Tensor, Info]:
        assert isinstance(task, ControlTask)
        u = along(policy.student, task.times, batch["states"][:, :-1])
        gap = u + task.noise * batch["adjoint"]
        return 0.5 * gap.square().sum(-1).mean(-1), {}


def as_field(model: VelocityModel) -> Field:
    """A model as a control (x, t) of one time t for all rows."""
    return lambda x, t: model(x, x.new_full((len(x),), t))


def idle(x: Tensor, t: float) -> Tensor:
    """No control."""
    return torch.zeros_like(x)


def along(model: VelocityModel, times: Tensor, states: Tensor) -> Tensor:
    """A model at states (n, T, d) and their times (T,): one product for all."""
    n, steps, dim = states.shape
    clock = times.to(states).expand(n, steps).reshape(-1)
    return model(states.reshape(-1, dim), clock).reshape(n, steps, dim)
