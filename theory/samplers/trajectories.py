"""Ordinary differential equations row by row: every row has its own steps.

Rows of one batch meet their hard stretches at different times (a ridge between far modes is crossed
at a moment of their own), so one step for all would be at every moment as short as the worst row's.
Dormand and Prince's method of order 8 with Hairer's two estimates of its error (DOP853; Hairer,
Norsett and Wanner, Solving Ordinary Differential Equations I, sections II.4 and II.5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.integrate import DOP853
from torch import Tensor

# (state (*b, n, m), times (*b, n)) -> the state's derivative (*b, n, m)
Rate = Callable[[Tensor, Tensor], Tensor]

STAGES: int = DOP853.n_stages
SOON, SOON_SHARE = 100, 1e-3
SAFETY, LEAST_FACTOR, MOST_FACTOR = 0.9, 0.2, 10.0
EXPONENT = -1 / 8


class TooManyStepsError(ValueError):
    """A row is not at its end after so many steps: where it is, and how short its steps are."""

    def __init__(self, state: Tensor, time: float, step: float, steps: int) -> None:
        super().__init__(f"at t = {time:g} after {steps} steps, the next one of {step:.1e}")
        self.state, self.time, self.step, self.steps = state, time, step, steps


@dataclass(frozen=True)
class Precision:
    """What a step may be off in each of the state's m numbers: atol + rtol min(|number|, unit).

    units: (m,); the number's size counts up to there only, so that what happens far from the origin
        is resolved as finely as at the origin, down to a few roundings.
    """

    rtol: float
    atol: float
    units: Tensor

    def ratio(self, error: Tensor, state: Tensor) -> Tensor:
        """The largest error of each row over what is allowed, (*b, n)."""
        size = state.abs()
        rounding = 4 * torch.finfo(state.dtype).eps * size
        allowed = self.atol + self.rtol * torch.minimum(size, self.units) + rounding
        return (error.abs() / allowed).amax(-1)


def integrate(
    rate: Rate,
    state: Tensor,
    start: float,
    stop: float,
    precision: Precision,
    *,
    most_steps: int,
    is_done: Callable[[Tensor], Tensor] | None = None,
    watch: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """The state at `stop`, (*b, n, m), from the one at `start`.

    is_done: of states (*b, n, m), as (*b, n): rows that end where they are, before `stop`.
    watch: told the share of the work that is done, from time to time.

    Raises:
        TooManyStepsError: a row is not at its end after `most_steps` steps, or has less than
            SOON_SHARE of its way behind it after SOON.
    """
    result = state.clone()
    columns = torch.arange(state.shape[-2], device=state.device)
    a, b, c, e3, e5 = (
        torch.as_tensor(x, dtype=state.dtype, device=state.device)
        for x in (DOP853.A, DOP853.B, DOP853.C, DOP853.E3, DOP853.E5)
    )
    ends = state.new_tensor(stop)
    low, high, length = min(start, stop), max(start, stop), abs(stop - start)
    whole = length * state[..., 0].numel()
    time = state.new_full(state.shape[:-1], start)
    slope = rate(state, time)
    step = _first_step(rate, state, slope, time, ends, precision)
    rejected = torch.zeros_like(time, dtype=torch.bool)
    for steps in range(1, most_steps + 1):
        last = (ends - time).abs() <= step.abs() * (1 + 1e-9)
        step = torch.where(last, ends - time, step)
        h = step[..., None]
        stages = torch.empty((STAGES + 1, *state.shape), dtype=state.dtype, device=state.device)
        stages[0] = slope
        for s in range(1, STAGES):
            point = state + h * torch.tensordot(a[s, :s], stages[:s], 1)
            stages[s] = rate(point, (time + c[s] * step).clamp(low, high))
        new = state + h * torch.tensordot(b, stages[:STAGES], 1)
        later = torch.where(last, ends, time + step)
        stages[STAGES] = new_slope = rate(new, later)
        fifth, third = (h * torch.tensordot(e, stages, 1) for e in (e5, e3))
        size = torch.maximum(state.abs(), new.abs())
        error = fifth**2 / torch.sqrt(fifth**2 + 0.01 * third**2).clamp_min(1e-300)
        ratio = precision.ratio(error, size).nan_to_num(torch.inf, torch.inf)
        factor = (SAFETY * ratio**EXPONENT).clamp(LEAST_FACTOR, MOST_FACTOR)
        accepted = ratio <= 1
        factor = torch.where(rejected | ~accepted, factor.clamp_max(1.0), factor)
        state = torch.where(accepted[..., None], new, state)
        slope = torch.where(accepted[..., None], new_slope, slope)
        time = torch.where(accepted, later, time)
        step, rejected = step * factor, ~accepted
        ended = time == ends
        if is_done is not None:
            ended |= is_done(state)
        going = ~ended.reshape(-1, ended.shape[-1]).all(0)
        if not bool(going.all()):
            result[..., columns, :] = state
            if not bool(going.any()):
                return result
            columns, rejected = columns[going], rejected[..., going]
            time, step = time[..., going], step[..., going]
            state, slope = state[..., going, :], slope[..., going, :]
        left = (ends - time).abs()
        watch(1 - float(left.sum()) / whole)
        if steps == most_steps or (steps == SOON and left.max() > (1 - SOON_SHARE) * length):
            break
    worst = left.flatten().argmax()
    at = float(time.flatten()[worst]), float(step.flatten()[worst])
    raise TooManyStepsError(state.flatten(0, -2)[worst], *at, steps)


def _first_step(
    rate: Rate, state: Tensor, slope: Tensor, time: Tensor, ends: Tensor, precision: Precision
) -> Tensor:
    """A step whose error should do, by the sizes of first and second derivative, (*b, n)."""
    length = ends - time
    size, speed = precision.ratio(state, state), precision.ratio(slope, state)
    small = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
    small = torch.minimum(small, length.abs()) * length.sign()
    ahead = rate(state + small[..., None] * slope, time + small)
    bend = precision.ratio(ahead - slope, state) / small.abs()
    most = torch.maximum(speed, bend)
    good = torch.where(most <= 1e-15, (1e-3 * small).abs(), (0.01 / most) ** -EXPONENT)
    return torch.minimum(torch.minimum(100 * small.abs(), good), length.abs()) * length.sign()
