"""The ODE of a model on the times that its schedule covers, from noise to data."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from scaleup.adapter.clocks import Clock
from scaleup.adapter.model import ImageModel
from theory.common.checks import check_choice, check_order
from theory.fields.mixture import VelocityModel

Solver = Literal["euler", "heun"]


class NonFiniteError(ValueError):
    """What a model samples, or what is made of it, is infinite or nan."""


class NonFiniteStateError(NonFiniteError):
    """A state of the ODE is; `row` is the first row, `where` says at which step."""

    def __init__(self, row: int, where: str) -> None:
        super().__init__(f"samples must be finite; row {row} is not, first {where}")
        self.row, self.where = row, where


def sampling_times(span: tuple[float, float], steps: int) -> Tensor:
    """steps + 1 times, float64: equal spacing over the span, then 1 where the span ends before it.

    So `steps` is the number of Euler steps, and of the network's evaluations, for every model.

    Raises:
        ValueError: steps is no whole number >= 1.
    """
    check_order("steps", steps, 1)
    first, last = span
    if last == 1:
        return torch.linspace(first, 1.0, steps + 1, dtype=torch.float64)
    inside = torch.linspace(first, last, steps, dtype=torch.float64)
    return torch.cat([inside, torch.ones(1, dtype=torch.float64)])


@torch.no_grad()
def sample(
    model: VelocityModel,
    start_noise: Tensor,
    image_model: ImageModel | Clock,
    steps: int,
    cond: Tensor | None = None,
    method: Solver = "euler",
) -> Tensor:
    """x_1 (n, *event) by `steps` steps of dx/dt = v(x, t, cond) from x = start_std * start_noise.

    In these coordinates an Euler step is a DDIM step (Song et al. 2021, (12) with eta = 0): it
    keeps x_1 and eps fixed. A step that ends at 1, where a model whose span ends earlier is not
    defined, is Euler's: x_1 = x + (1 - t_last) v, the model's own estimate of x_1. Heun's method
    otherwise takes two evaluations a step. Rows are not split: chunks are the caller's.

    start_noise: N(0, I), (n, *event).  image_model: for its `span` and `start_std`.

    Raises:
        ValueError: steps no whole number >= 1, unknown method.
        NonFiniteStateError: a state is not finite (one synchronisation with the device).
    """
    check_choice("method", method, get_args(Solver))
    last = image_model.span[1]
    x = start_noise * image_model.start_std
    times = sampling_times(image_model.span, steps).tolist()
    finite = []
    for start, stop in pairwise(times):
        h = stop - start
        first = model(x, _times(start, x), cond)
        ahead = x + h * first
        if method == "heun" and stop <= last:
            x = x + 0.5 * h * (first + model(ahead, _times(stop, x), cond))
        else:
            x = ahead
        finite.append(torch.isfinite(x).flatten(1).all(1))
    if len(x) and not bool(finite[-1].all()):  # what is not finite stays so
        bad = ~torch.stack(finite)
        k = int(bad.any(1).nonzero()[0])
        where = f"after step {k + 1} of {len(times) - 1} (from t = {times[k]:.3g})"
        raise NonFiniteStateError(int(bad[k].nonzero()[0]), where)
    return x


def _times(t: float, x: Tensor) -> Tensor:
    """(n,) times, in float32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.full((len(x),), t, dtype=dtype, device=x.device)
