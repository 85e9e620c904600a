"""What a method runs on: a path, a reward, and where endpoint samples come from.

A Task is all that a loss may know of the world. A ProblemTask is one whose base law is a Gaussian
mixture: exact answers exist for it. Shapes: rows = blocks * n, x (rows, *event), t (rows,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

from theory.common.checks import check_order
from theory.fields.mixture import VelocityModel
from theory.fields.paths import Path
from theory.laws.gaussians import GaussianSum
from theory.methods.contract.auxiliary import AuxiliaryMaker, Outputs, StartsAtZero
from theory.methods.contract.draws import Draws
from theory.problems.problem import Problem


@dataclass(frozen=True)
class Execution:
    """How machines share a task's work; it changes rounding alone of what is computed.

    rank, shards: this process among those that train together, each on its own rows of one batch.
    gather: this process's rows -> those of all, in the order of one process that draws them all.
    rows_at_once: rows that a method may differentiate through at once while it collects; None: all.
    recompute: a loss that holds many calls of a model should rather make them again.
    scaled_gradients: a scaler multiplies the loss, and looks after gradients that overflow.
    """

    rank: int = 0
    shards: int = 1
    gather: Callable[[Tensor], Tensor] = lambda rows: rows
    rows_at_once: int | None = None
    recompute: bool = False
    scaled_gradients: bool = False

    def slices(self, rows: int) -> list[slice]:
        """Rows in pieces of rows_at_once."""
        size = self.rows_at_once or max(1, rows)
        return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


class Endpoints(NamedTuple):
    """Both ends of paths and times between: x_0, x_1 (rows, *event), t (rows,), conditions; r, the
    rewards of x_1 (rows,) where they are known."""

    x0: Tensor
    x1: Tensor
    t: Tensor
    cond: Any
    r: Tensor | None = None


class Task(ABC):
    """A path, a reward, base samples; for `blocks` networks trained as one.

    times: where the model is defined, increasing, or None for all of [0, 1].
    first_time, start_std: where sampling starts, at N(0, start_std^2 I); the path's own noise at
        t = 0 unless the model is not defined there.
    conditions: what a row's event is conditioned on (a prompt, say) is `condition_numbers` whole
        numbers a row, (rows, condition_numbers); 0: nothing, and cond is None.
    sampling_steps: of the ODE, where a method samples a model of its own.
    rewards_checked: every answer of `reward` is held to its bounds; methods need not look again.
    execution: what the machine asks of methods.
    """

    path: Path
    event_shape: tuple[int, ...]
    blocks: int = 1
    times: Tensor | None = None
    first_time: float = 0.0
    start_std: float | None = None
    condition_numbers: int = 0
    sampling_steps: int = 20
    rewards_checked: bool = False
    execution: Execution = Execution()

    @abstractmethod
    def reward(self, x1: Tensor, cond: Any = None) -> Tensor:
        """r(x_1), (rows,); differentiable in x_1 where the reward is."""

    @abstractmethod
    def base_samples(self, n: int, draws: Draws) -> tuple[Tensor, Any, Tensor | None]:
        """(x_1 (rows, *event), cond, r): n samples a network of what the pretrained model samples;
        r, their rewards (rows,), where they are known without asking `reward`."""

    def auxiliary(self, outputs: Outputs, draws: Draws, near_zero: bool = False) -> nn.Module:
        """A fresh network (x, t, cond) -> (rows, outputs), or (rows, *event) for "event", of a
        method's own; near_zero: its last layer starts at 0, or close to it.

        Raises:
            NotImplementedError: this task makes none.
        """
        raise NotImplementedError(
            f"{type(self).__name__} makes no auxiliary networks (outputs = {outputs}); methods "
            "that need one cannot run on it"
        )

    def base_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """E[alpha' X_1 + sigma' X_0 | X_t = x] under the base law, where it is known.

        Raises:
            NotImplementedError: the base law is not known.
        """
        raise NotImplementedError(f"{type(self).__name__} does not know its base's exact velocity")

    def guided_velocity(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The pretrained model's velocity under classifier-free guidance.

        Raises:
            NotImplementedError: this task has no guidance.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no guided velocity; methods that anchor to one cannot run "
            "on it"
        )

    # --- draws that most methods need

    def conditions(self, n: int, draws: Draws) -> Any:
        """What n new rows a network are conditioned on: (rows, condition_numbers), or None.

        Raises:
            NotImplementedError: the task has conditions and does not say how to draw them.
        """
        if self.condition_numbers:
            raise NotImplementedError(f"{type(self).__name__} draws no conditions for new rows")
        return None

    def draw_times(self, n: int, draws: Draws) -> Tensor:
        """t uniform on [0, 1), or on `times`; (rows,)."""
        return self._times_from(draws.uniform(n))

    def _times_from(self, u: Tensor) -> Tensor:
        """Times from u uniform on [0, 1)."""
        if self.times is None:
            return u
        return self.times.to(u)[(u * len(self.times)).long().clamp_max(len(self.times) - 1)]

    def endpoints(self, n: int, draws: Draws) -> Endpoints:
        """Noise, independent base samples, times."""
        x1, cond, r = self.base_samples(n, draws)
        return Endpoints(draws.normal(n, *self.event_shape), x1, self.draw_times(n, draws), cond, r)

    def endpoints_of(self, model: VelocityModel, n: int, draws: Draws, steps: int) -> Endpoints:
        """The same with x_1 sampled by a model in `steps` steps of its ODE."""
        cond = self.conditions(n, draws)
        x1 = self.sampled(model, draws.normal(n, *self.event_shape), cond, steps)
        return Endpoints(draws.normal(n, *self.event_shape), x1, self.draw_times(n, draws), cond)

    def sampled(self, model: VelocityModel, noise: Tensor, cond: Any, steps: int) -> Tensor:
        """x_1 from noise N(0, I) (rows, *event), here by Heun's method."""
        return heun(model, self.path, noise, steps, cond)

    # --- statistics over rows

    def per_network(self, values: Tensor) -> Tensor:
        """Rows (rows, ...) as (blocks, n, ...): a method's means run over axis 1."""
        return values.reshape(self.blocks, -1, *values.shape[1:])

    def reward_statistics(self, raw: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """(mean over a row's prompt, standard deviation over the batch) of raw rewards (rows,),
        both (rows,); without prompts the mean is over one network's rows."""
        rows = self.per_network(raw)
        std, mean = torch.std_mean(rows, 1, keepdim=True, correction=0)
        return mean.expand_as(rows).reshape(raw.shape), std.expand_as(rows).reshape(raw.shape)

    def base_statistics(self, raw: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """The same of base samples: where it is known, of all that they are drawn from."""
        return self.reward_statistics(raw, cond)


def column(values: Tensor, like: Tensor) -> Tensor:
    """(rows,) as (rows, 1, ...), so that it multiplies rows of events."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def square(x: Tensor) -> Tensor:
    """|x|^2 of every row: the sum, not the mean, over the event's numbers; (rows,)."""
    return x.square().flatten(1).sum(1)


def interpolate(path: Path, x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """(x_t, its time derivative): alpha x_1 + sigma x_0 and alpha' x_1 + sigma' x_0."""
    alpha, sigma = column(path.alpha(t), x1), column(path.sigma(t), x1)
    dalpha, dsigma = column(path.dalpha(t), x1), column(path.dsigma(t), x1)
    return alpha * x1 + sigma * x0, dalpha * x1 + dsigma * x0


def endpoint_batch(task: Task, ends: Endpoints) -> dict[str, Any]:
    """x, t, the path's derivative y there, reward r, cond: the batch of every matching loss."""
    x0, x1, t, cond, r = ends
    x, y = interpolate(task.path, x0, x1, t)
    r = task.reward(x1, cond) if r is None else r
    return {"x": x, "t": t, "y": y, "r": r, "cond": cond}


def heun(model: VelocityModel, path: Path, noise: Tensor, steps: int, cond: Any = None) -> Tensor:
    """x_1 from noise N(0, I) by Heun's second-order method in equal time steps."""
    check_order("steps", steps, 1)
    times = torch.linspace(0, 1, steps + 1, dtype=noise.dtype, device=noise.device)
    x = noise * path.sigma(times[0])
    with torch.no_grad():
        for start, stop in pairwise(times):
            h = stop - start
            first = model(x, start.expand(len(x)), cond)
            second = model(x + h * first, stop.expand(len(x)), cond)
            x = x + 0.5 * h * (first + second)
    return x


# --- problems with exact answers


@dataclass(frozen=True, eq=False)
class _Block:
    """Neighbouring networks on one problem: their rows are evaluated together."""

    problem: Problem
    start: int
    count: int


class ProblemTask(Task):
    """One problem a network, all in d dimensions on one path, in one dtype.

    low_discrepancy: endpoints and times are randomly shifted Sobol points (a shift a network and
    a step): the same expectation, less noise.  auxiliary_maker: builds auxiliary networks.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        low_discrepancy: bool = False,
        auxiliary_maker: AuxiliaryMaker | None = None,
    ) -> None:
        if not problems:
            raise ValueError("problems must be at least one, got []")
        dims, paths = {p.dim for p in problems}, {p.path for p in problems}
        if len(dims) > 1 or len(paths) > 1:
            raise ValueError(
                "problems must have one dimension and one path for networks that train together, "
                f"got d = {sorted(dims)} on {len(paths)} paths"
            )
        starts = {p.first_time for p in problems}
        if len(starts) > 1:
            raise ValueError(f"problems must have one first_time, got {sorted(starts)}")
        self.path, self.event_shape, self.blocks = problems[0].path, (dims.pop(),), len(problems)
        self.first_time = starts.pop()
        self.dtype, self.device = dtype, torch.device(device)
        self.low_discrepancy, self._auxiliary_maker = low_discrepancy, auxiliary_maker
        self.blocks_of_problems: list[_Block] = []
        start = 0
        for _, same in groupby(problems, key=id):
            run = list(same)
            self.blocks_of_problems.append(_Block(run[0].to(dtype, device), start, len(run)))
            start += len(run)

    def _by_problem(self, rows: Tensor, answer: Callable[[Problem, Tensor], Tensor]) -> Tensor:
        if len(self.blocks_of_problems) == 1:
            return answer(self.blocks_of_problems[0].problem, rows)
        n = len(rows) // self.blocks
        return torch.cat(
            [
                answer(b.problem, rows[b.start * n : (b.start + b.count) * n])
                for b in self.blocks_of_problems
            ]
        )

    def reward(self, x1: Tensor, cond: Any = None) -> Tensor:
        return self._by_problem(x1, lambda problem, x: problem.reward(x))

    def base_velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self._by_problem(
            torch.cat([x, t[:, None]], -1),
            lambda problem, rows: problem.base_field.evaluate(rows[:, :-1], rows[:, -1]),
        )

    def guided_velocity(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self._by_problem(
            torch.cat([x, t[:, None]], -1),
            lambda problem, rows: problem.guided_field(rows[:, :-1].contiguous(), rows[:, -1]),
        )

    def base_samples(self, n: int, draws: Draws) -> tuple[Tensor, Any, Tensor | None]:
        return self._from_noise(draws.uniform(n), draws.normal(n, *self.event_shape)), None, None

    def endpoints(self, n: int, draws: Draws) -> Endpoints:
        (d,) = self.event_shape
        if not self.low_discrepancy:
            noise, u = draws.normal(n, 2 * d), draws.uniform(n, 2)
            return self._endpoints_from(u, noise[:, :d], noise[:, d:])
        points = sobol_points(n, 2 * d + 2, self.dtype, self.device)
        u = (points + draws.uniform(1, 2 * d + 2)[:, None]).remainder_(1.0).flatten(0, 1)
        eps = torch.finfo(self.dtype).eps
        noise = torch.special.ndtri(u[:, 2:].clamp(0.5 * eps, 1 - eps))
        return self._endpoints_from(u, noise[:, :d], noise[:, d:])

    def _endpoints_from(self, u: Tensor, x0: Tensor, noise: Tensor) -> Endpoints:
        """Component and time from u (rows, 2 or more), the place in the component from noise."""
        return Endpoints(x0, self._from_noise(u[:, 0], noise), self._times_from(u[:, 1]), None)

    def _from_noise(self, u: Tensor, noise: Tensor) -> Tensor:
        """Mixture samples: the component from u (rows,), the place in it from noise (rows, d)."""
        return self._by_problem(
            torch.cat([u[:, None], noise], -1),
            lambda problem, rows: _mixture_samples(problem.base, rows[:, 0], rows[:, 1:]),
        )

    def auxiliary(self, outputs: Outputs, draws: Draws, near_zero: bool = False) -> nn.Module:
        if self._auxiliary_maker is None:
            return super().auxiliary(outputs, draws, near_zero)
        network = self._auxiliary_maker(
            self.event_shape[0] if outputs == "event" else outputs, draws
        )
        if near_zero and isinstance(network, StartsAtZero):
            network.zero_last()
        return network


def _mixture_samples(law: GaussianSum, u: Tensor, noise: Tensor) -> Tensor:
    which = (u[:, None] >= law.log_abs.exp().cumsum(-1)[:-1]).sum(-1)
    factor = law.spectrum.factor()
    if law.dim == 1:
        return law.mean[which] + factor[which, 0] * noise
    return law.mean[which] + (factor[which] @ noise[..., None])[..., 0]


_SOBOL: dict[tuple[int, int, torch.dtype, str], Tensor] = {}


def sobol_points(n: int, dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The first n Sobol points in [0, 1)^dim, (n, dim); kept, since every step shifts the same."""
    key = (n, dim, dtype, str(device))
    if key not in _SOBOL:
        _SOBOL[key] = SobolEngine(dim).draw(n, dtype=torch.float64).to(device, dtype)
    return _SOBOL[key]
