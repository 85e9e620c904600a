"""The exact law of what a velocity field samples by its ODE, from N(0, sigma_0^2 I) at t = 0.

log q(y) = log N(x_0; 0, sigma_0^2 I) - int_0^1 div v(X_t, t) dt along the path that ends at y
(instantaneous change of variables). Densities are wanted at given points, so paths run backwards
from them; nothing is interpolated. torchdiffeq's dopri8 with the largest error over the batch in
control, so that the worst point meets the tolerance too.

On paths with alpha_0 > 0 (VP, VE) that start is not X_0's law under the base: the small bias that
it leaves is part of what such a model samples, and of the law found here.

In d = 1 the flow is monotone: cdf and quantiles follow from where points come from.
Shapes: points (*b, n, d). All in the field's dtype; use float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchdiffeq import odeint

from theory.checks import check_order, check_points, check_positive
from theory.fields import ExactField

RTOL = 1e-9
ATOL = 1e-11


def _largest(error: Tensor) -> Tensor:
    return error.abs().max()


@dataclass(frozen=True, eq=False)
class FlowLaw:
    """The law at t = 1 of dX = v(X, t) dt, X_0 ~ N(0, sigma_0^2 I).

    rtol, atol: the integrator's tolerances on positions and log-densities.
    """

    field: ExactField
    rtol: float = RTOL
    atol: float = ATOL
    method: str = "dopri8"

    def __post_init__(self) -> None:
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)

    @property
    def dim(self) -> int:
        return self.field.dim

    def _integrate(self, x: Tensor, start: float, stop: float, density: bool) -> tuple:
        check_points(x, self.field.dim, self.field.dtype)

        def rate(t: Tensor, state: Tensor) -> Tensor:
            point = state[..., : x.shape[-1]]
            if not bool(torch.isfinite(t)):
                raise ValueError(
                    f"the velocity is not finite between t = {start:g} and t = {stop:g}: allowed "
                    "are fields whose trajectories stay finite"
                )
            t = t.clamp(0.0, 1.0)  # stages at an end may miss it by one rounding
            if not density:
                return self.field(point, t)
            velocity, divergence = self.field.with_divergence(point, t)
            return torch.cat([velocity, divergence[..., None]], dim=-1)

        state = torch.cat([x, torch.zeros_like(x[..., :1])], -1) if density else x
        times = torch.tensor([start, stop], dtype=x.dtype, device=x.device)
        with torch.no_grad():
            end = odeint(
                rate,
                state,
                times,
                rtol=self.rtol,
                atol=self.atol,
                method=self.method,
                # step_t: end on the end time, rather than past it and interpolated back.
                options={"norm": _largest, "step_t": times},
            )[-1]
        if not bool(torch.isfinite(end).all()):
            raise ValueError(
                f"the flow left float range between t = {start:g} and t = {stop:g}: allowed are "
                "fields whose trajectories stay finite"
            )
        return (end[..., :-1], end[..., -1]) if density else (end, None)

    def _log_start(self, x0: Tensor) -> Tensor:
        sigma = self._start_std(x0)
        return (-0.5 * (x0 / sigma) ** 2 - torch.log(sigma)).sum(-1) - 0.5 * self.dim * math.log(
            2 * math.pi
        )

    def _start_std(self, x: Tensor) -> Tensor:
        return self.field.path.sigma(torch.zeros((), dtype=x.dtype, device=x.device))

    # --- along given points

    def log_density(self, y: Tensor) -> Tensor:
        """log q at y (*b, n, d), as (*b, n)."""
        return self.pull_back(y)[1]

    def pull_back(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, log q(y)): where y comes from at t = 0, and its log-density."""
        x0, log_jacobian = self._integrate(y, 1.0, 0.0, density=True)
        return x0, self._log_start(x0) + log_jacobian

    def push(self, x0: Tensor) -> Tensor:
        """Where the flow takes starting points x_0 (*b, n, d)."""
        return self._integrate(x0, 0.0, 1.0, density=False)[0]

    def push_with_log_density(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """(x_1, log q(x_1)) of starting points x_0."""
        x1, log_jacobian = self._integrate(x0, 0.0, 1.0, density=True)
        return x1, self._log_start(x0) - log_jacobian

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws from the law, (n, d)."""
        return self.push(self.start(n, generator))

    def start(self, n: int, generator: torch.Generator) -> Tensor:
        """n starting points, (n, d)."""
        check_order("n", n, 1)
        noise = torch.randn(
            n, self.dim, dtype=self.field.dtype, device=generator.device, generator=generator
        )
        return noise * self._start_std(noise)

    # --- d = 1

    def cdf(self, y: Tensor) -> Tensor:
        """P(X_1 <= y) in d = 1; y: (*b, n, 1) -> (*b, n)."""
        self._check_line("cdf")
        x0 = self._integrate(y, 1.0, 0.0, density=False)[0]
        return torch.special.ndtr(x0[..., 0] / self._start_std(x0))

    def quantile(self, u: Tensor) -> Tensor:
        """The quantiles at levels u (*b, n) in (0, 1), d = 1 -> (*b, n)."""
        self._check_line("quantile")
        if not bool(((u > 0) & (u < 1)).all()):
            raise ValueError(
                f"u lies in [{u.min().item():g}, {u.max().item():g}]: allowed is (0, 1)"
            )
        z = torch.special.ndtri(u)[..., None]
        return self.push(z * self._start_std(z))[..., 0]

    def _check_line(self, what: str) -> None:
        if self.dim != 1:
            raise ValueError(f"{what} of a law in d = {self.dim}: allowed is d = 1")
