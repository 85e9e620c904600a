"""How a pretrained network's own clock and scaling relate to the rectified-flow path.

The rest of scaleup/ knows x_t = t x_1 + (1 - t) x_0, t = 0 noise, t = 1 data. A network of
diffusers knows integer steps (noise last) or sigma = 1 - t (noise first), and another scaling of x.
A clock holds that difference, and nothing outside this package does.

VPClock    Stable Diffusion 1.5: z = sqrt(abar) x_1 + sqrt(1 - abar) x_0. With
           b = sqrt(abar) + sqrt(1 - abar): x = z/b lies on the rectified flow at t = sqrt(abar)/b,
           hence abar = (b t)^2, 1 - abar = (b (1 - t))^2 and b = 1/sqrt(t^2 + (1 - t)^2).
FlowClock  Stable Diffusion 3: x is the network's own; its output is dx/dsigma, so
           v(x, t) = -output(x, sigma = 1 - t), and its time step is 1000 sigma.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from theory.common.checks import check_choice, check_positive
from theory.fields.paths import RECTIFIED_FLOW

# Times this many units of rounding apart are one time: at a knot, and at the ends of the span.
ROUNDING_UNITS = 8
# The last abar of an eps-prediction: below, x_1 = (z - s eps) / a makes a thousand times the
# network's error and more. Zero terminal SNR (Lin et al. 2023) has 0 there, or what a scheduler
# puts in its place (2^-24); Stable Diffusion 1.5 has 5e-3, 15 times.
LEAST_ABAR = 1e-6


class Clock(ABC):
    """One network's time and scaling.

    times: covered times, float64, increasing, (N,); None where all of [0, 1] is covered.
    span: the first and the last of them.  start_std: the state's standard deviation at the first,
    from where the network's own sampler starts (N(0, I) in its scaling).
    sample_name: what the network's forward calls x.
    """

    times: Tensor | None
    span: tuple[float, float]
    start_std: float
    sample_name: ClassVar[str]

    @abstractmethod
    def inputs(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(the network's x, its time step (rows,)) at x (rows, *event), t (rows,) in `span`."""

    @abstractmethod
    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """E[X_1 - X_0 | X_t = x] from the network's output at (x, t), all of one dtype."""

    def check(self, t: Tensor) -> Tensor:
        """Times (any shape) moved into `span` where rounding put them outside.

        One synchronisation with the device.

        Raises:
            TypeError: t is held in half precision, which cannot tell neighbouring steps apart.
            ValueError: a time is not finite or outside the span by more than rounding.
        """
        if t.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"t must be torch.float32 or torch.float64, got {t.dtype}")
        low, high = (float(end) for end in torch.aminmax(t.detach()))
        first, last = self.span
        slack = ROUNDING_UNITS * torch.finfo(t.dtype).eps
        if not (first - slack <= low and high <= last + slack):  # so that nan is refused too
            raise ValueError(
                f"t must lie in [{first:g}, {last:g}], the times that the model's schedule covers, "
                f"got [{low:g}, {high:g}]"
            )
        return t.clamp(first, last)


class VPClock(Clock):
    """A variance-preserving schedule with N integer steps, data first.

    abar: cumulative products of alpha, decreasing, (N,), in [LEAST_ABAR, 1) (from 0 on where v is
    predicted).  prediction: "eps", or "v" (v = sqrt(abar) eps - sqrt(1-abar) x_1).

    Between the integer steps a step is a piecewise linear function of t: strictly monotone, and
    exact at the integer ones, where t is within rounding of a knot also in float32.

    Raises:
        ValueError: abar or prediction is none of these.
    """

    sample_name = "sample"

    def __init__(self, abar: Tensor, prediction: Literal["eps", "v"]) -> None:
        check_choice("prediction", prediction, ("eps", "v"))
        a = abar.detach().to("cpu", torch.float64)
        low = 0.0 if prediction == "v" else LEAST_ABAR
        steep = a.ndim == 1 and len(a) > 1 and bool((a[1:] < a[:-1]).all())
        if not (steep and a[-1] >= low and a[0] < 1):
            shown = [f"{v:g}" for v in a.flatten()[[0, -1]].tolist()] if a.numel() else []
            raise ValueError(
                f"abar must be at least two strictly decreasing numbers in [{low:g}, 1), "
                f"{prediction} being predicted, got shape {tuple(a.shape)} and ends {shown} (eps "
                "does not determine the velocity where abar = 0, nor well where it is nearly 0: a "
                "schedule of zero terminal SNR needs prediction_type = 'v_prediction')"
            )
        signal, noise = a.sqrt(), (1 - a).sqrt()
        self.prediction = prediction
        self.times = self._knots = (signal / (signal + noise)).flip(0)
        self.span = float(self._knots[0]), float(self._knots[-1])
        self.start_std = float(1 / (signal[-1] + noise[-1]))

    def step(self, t: Tensor) -> Tensor:
        """The network's fractional step at t (any shape) in `span`, float64, from 0 to N - 1."""
        knots = self._knots = self._knots.to(t.device)
        place, last = t.detach().to(torch.float64).contiguous(), len(knots) - 1
        left = (torch.searchsorted(knots, place, right=True) - 1).clamp(0, last - 1)
        before, after = knots[left], knots[left + 1]
        step = (last - left) - (place - before) / (after - before)
        # A time within rounding of a knot means the knot: a float32 time's rounding, divided by
        # the spacing of the knots, would move the step by 1e-4.
        whole = step.round().clamp(0, last)
        gap = (place - knots[last - whole.long()]).abs()
        close = gap <= ROUNDING_UNITS * torch.finfo(t.dtype).eps * place
        return torch.where(close, whole, step)

    def inputs(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return _column(self.total(t), x) * x, self.step(t).to(x.dtype)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        # On the rectified flow "v" means t eps - (1 - t) x_1: the network's v divided by b.
        value = output if self.prediction == "eps" else output / _column(self.total(t), x)
        flat = (value.flatten(1), x.flatten(1), t)
        return RECTIFIED_FLOW.convert(*flat, self.prediction, "velocity").reshape(x.shape)

    @staticmethod
    def total(t: Tensor) -> Tensor:
        """b = 1/sqrt(t^2 + (1 - t)^2)."""
        return (t.square() + (1 - t).square()).rsqrt()


class FlowClock(Clock):
    """A rectified flow with time reversed: its step is train_steps (1 - t), its output -v."""

    sample_name = "hidden_states"

    def __init__(self, train_steps: float = 1000.0) -> None:
        check_positive("train_steps", train_steps)
        self.times, self.span, self.start_std = None, (0.0, 1.0), 1.0
        self.train_steps = train_steps

    def inputs(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.train_steps * (1 - t)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return -output


def _column(value: Tensor, like: Tensor) -> Tensor:
    """(rows,) as (rows, 1, ...), so that it multiplies rows of events."""
    return value.reshape(-1, *[1] * (like.ndim - 1))
