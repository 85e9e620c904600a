"""The velocity that fine-tuning under any schedule leaves, to be sampled with any other.

The implicit parameterisation of the control (slides): with b = v + g^2/(2 eta) (v - (a'/a) x),

    b_base + g u = b_finetuned   <=>   v_finetuned = v + k/g u,   k = 1/(1/g^2 + 1/(2 eta)),

(g/2) u at g^2 = 2 eta. Only then is it the velocity of a law of its own (D8): with another schedule
v_finetuned sampled by its own SDE gives the optimum's law, by others something else again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from theory.common.checks import check_time
from theory.control.grid import GridOptimum
from theory.fields.mixture import MixtureField, MovedField


@dataclass(frozen=True, eq=False)
class SteeredField(MovedField):
    """v_finetuned of a grid's optimal control, d = 1 and 2, times of its schedule; t a scalar.

    share: of the control that is taken; 1 all of it.
    """

    time_by_row: ClassVar[bool] = False
    optimum: GridOptimum
    share: float = 1.0

    @property
    def base(self) -> MixtureField:  # type: ignore[override]
        return self.optimum.problem.base_field

    def __call__(self, x: Tensor, t: Tensor | float, cond: object = None) -> Tensor:
        return self.base(x, t) + self.path.gain(check_time(t, x)) * self._displacement(x, t)

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        alpha = self.path.alpha(check_time(t, x))
        return self.base.score(x, t) + alpha * self._displacement(x, t)

    def posterior_mean(self, x: Tensor, t: Tensor | float) -> Tensor:
        sigma = self.path.sigma(check_time(t, x))
        return self.base.posterior_mean(x, t) + sigma**2 * self._displacement(x, t)

    def with_divergence(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        gain, own = self.path.gain(check_time(t, x)), self._factor(x, t)
        lap = torch.as_tensor(self.optimum.laplacian(x.numpy(), float(t)))
        velocity, divergence = self.base.with_divergence(x, t)
        return velocity + gain * self._displacement(x, t), divergence - gain * own * lap

    def _displacement(self, x: Tensor, t: Tensor | float) -> Tensor:
        """e = -grad V k/gain, finite at both ends."""
        gradient = torch.as_tensor(self.optimum.gradient(x.detach().numpy(), float(t)))
        return -self._factor(x, t) * gradient

    def _factor(self, x: Tensor, t: Tensor | float) -> Tensor:
        """share k/gain = share/(gain/g^2 + alpha/2)."""
        time = check_time(t, x)
        ratio = self.optimum.schedule.gain_ratio(self.path, time)
        return self.share / (ratio + 0.5 * self.path.alpha(time))
