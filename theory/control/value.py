"""Value function, optimal control and optimal velocity in closed form, memoryless schedule.

With g^2 = 2 eta the pair (X_t, X_1) has the path's joint law, so that for f = 0 and the terminal
cost c = -scale r

    V(x, t) = -log E[exp(scale r(X_1)) | X_t = x],    u* = -g grad V = g alpha e,
    v*      = v + (g/2) u* = v + gain e,

with e the displacement of the tilt exp(scale r) (`theory.tilts.conditional`): v* is the velocity of
base exp(scale r)/Z (Domingo-Enrich et al. 2024; slides, "Value function", "Fine-tuning recipe").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from theory.common.checks import check_finite, check_time
from theory.fields.diffusion import Diffusion
from theory.fields.mixture import ExactField, tilted_field
from theory.fields.paths import column
from theory.laws.posterior import Posterior
from theory.problems.problem import Problem
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential


@dataclass(frozen=True, eq=False)
class MemorylessOptimum:
    """The optimum of a problem at an inverse temperature under g^2 = 2 eta, any path, any d.

    Where alpha_0 = 0 X_0 is forgotten and the optimum samples the tilt; on paths with alpha_0 > 0
    (VP: 0.0066 by default) V and u* are as stated, and the law is the tilt's only nearly.

    Points x (n, d), times t a scalar or (n,) in [0, 1]. V and u/g are finite at both ends of time;
    g is infinite where alpha = 0 and 0 at t = 1, and so is u.

    Raises:
        ValueError: scale is not finite, or the tilt exp(scale r) has no closed form (the message of
            `theory.tilts.tilt.tilt`).
    """

    problem: Problem
    scale: float

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)

    @cached_property
    def target(self) -> Tilt:
        """base exp(scale r)/Z."""
        return self.problem.tilt(Exponential(self.scale))

    def value(self, x: Tensor, t: Tensor | float) -> Tensor:
        """V(x, t), (n,)."""
        post = self.problem.base_field.posterior(x, t)
        if self.target.law is not None:
            return -(self.target.log_z + post.of(self.target.law).log_abs - post.log_abs)
        assert self.target.conditional is not None
        return -self.target.conditional.evaluate(post)[0]

    def gradient(self, x: Tensor, t: Tensor | float) -> Tensor:
        """grad V(x, t), (n, d)."""
        post = self.problem.base_field.posterior(x, t)
        return -column(self.problem.path.alpha(check_time(t, x))) * self._displacement(post)

    def _displacement(self, post: Posterior) -> Tensor:
        if self.target.law is not None:
            return post.of(self.target.law).displacement_from(post)
        assert self.target.conditional is not None
        return self.target.conditional.evaluate(post)[2]

    def control(self, x: Tensor, t: Tensor | float, schedule: Diffusion | None = None) -> Tensor:
        """u*(x, t) = -g grad V, (n, d).

        schedule: a memoryless one; its own when not given.

        Raises:
            ValueError: g is infinite at t, or the schedule is not the memoryless one (this closed
                form is wrong there: `theory.control.grid` serves).
        """
        schedule = Diffusion(memoryless=1.0) if schedule is None else schedule
        if schedule.memoryless != 1.0 or schedule.offset:
            raise ValueError(
                "schedule must be the memoryless g² = 2 eta, where the closed form holds, got "
                f"{schedule.label!r}; use theory.control.grid for others"
            )
        g = schedule.squared(self.problem.path, check_time(t, x)).sqrt()
        return -column(g) * self.gradient(x, t)

    @cached_property
    def velocity(self) -> ExactField:
        """v*, the velocity of the tilt."""
        return tilted_field(self.target, self.problem.path)


def value_at_noise(optimum: MemorylessOptimum) -> float:
    """V(x, 0) where alpha = 0, the same for all x: -log E[exp(scale r)]."""
    return -float(torch.as_tensor(optimum.target.log_z))
