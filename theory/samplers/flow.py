"""The exact law of what a velocity field samples by its ODE, from N(0, sigma_0^2 I) at t = 0.

log q(y) = log N(x_0; 0, sigma_0^2 I) - int_0^1 div v(X_t, t) dt along the path that ends at y
(instantaneous change of variables). Densities are wanted at given points, so paths run backwards
from them; nothing is interpolated. torchdiffeq's dopri8 with the largest error over the batch in
control, so that the worst point meets the tolerance too; on the line, where that takes very many
steps (modes far apart, steep rewards), row by row instead, each with steps of its own.

Where the flow contracts by a factor e^c, its way back magnifies errors by e^c: paths on which that
may be seen are run again at finer tolerances until two runs agree, and refused if they never do.

On paths with alpha_0 > 0 (VP, VE) that start is not X_0's law under the base: the small bias that
it leaves is part of what such a model samples, and of the law found here.

In d = 1 the flow is monotone: cdf and quantiles follow from where points come from.
Shapes: points (*b, n, d). All in the field's dtype; use float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchdiffeq import odeint

from theory.common.checks import check_dim, check_order, check_points, check_positive
from theory.fields.mixture import ExactField
from theory.samplers.trajectories import Precision, TooManyStepsError, integrate

RTOL = 1e-9
ATOL = 1e-11
# Evaluations of the velocity after which steps for all rows at once are given up.
MOST_TOGETHER = 1000  # on the line, where rows then go by themselves,
ROWS_RTOL = 1e-10  # as they do at once where the tolerance is finer than that
MOST_EVALUATIONS = 20_000
SOON = 200  # after so many, what would take twice the most at this pace is given up
MOST_STEPS = 300  # of a row by itself, 12 evaluations each
# A flow that contracts by more than this is looked at twice, and x_0 and log q may then be off by
# so many tolerances; the finest tolerance that 64-bit numbers carry.
MAGNIFIED = 1e3
FINEST = 1e-13


class _TooSlowError(Exception):
    """Steps for all rows at once take too many evaluations."""


def _shown(point: Tensor) -> str:
    return f"({', '.join(f'{v:g}' for v in point[:5].tolist())}{', ...' * (len(point) > 5)})"


def _largest(error: Tensor) -> Tensor:
    return error.abs().max()


@dataclass(frozen=True, eq=False)
class FlowLaw:
    """The law at t = 1 of dX = v(X, t) dt, X_0 ~ N(0, sigma_0^2 I).

    rtol, atol: the integrator's tolerances on positions and log-densities.
    most_evaluations: of the velocity, where rows are not followed one by one (d > 1).
    massless: log-density that counts as none, d = 1: where trajectories are followed row by row,
        those that contract by more than that, on their way back, end there.
    watch: told the share of a solve that is done, now and then.
    """

    field: ExactField
    rtol: float = RTOL
    atol: float = ATOL
    method: str = "dopri8"
    most_evaluations: int = MOST_EVALUATIONS
    massless: float = -math.inf
    watch: Callable[[float], None] = lambda share: None

    def __post_init__(self) -> None:
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)

    @property
    def dim(self) -> int:
        return self.field.dim

    @property
    def _by_row(self) -> bool:
        """Whether rows can be followed one by one: on the line, where t may differ."""
        return self.dim == 1 and self.field.time_by_row

    def _integrate(self, x: Tensor, start: float, stop: float, density: bool) -> tuple:
        check_points(x, self.field.dim, self.field.dtype)
        state = torch.cat([x, torch.zeros_like(x[..., :1])], -1) if density else x
        with torch.no_grad():
            try:
                if self._by_row and self.rtol < ROWS_RTOL:
                    raise _TooSlowError
                end = self._together(state, start, stop)
            except _TooSlowError as error:
                if not self._by_row:
                    raise ValueError(str(error)) from error
                end = self._row_by_row(state, start, stop)
        if not bool(torch.isfinite(end).all()):
            raise ValueError(
                f"the flow left float range between t = {start:g} and t = {stop:g}: must be a "
                "field whose trajectories stay finite"
            )
        return (end[..., :-1], end[..., -1]) if density else (end, None)

    def _rate(self, state: Tensor, t: Tensor) -> Tensor:
        """The velocity, and its divergence where the state has a number for it."""
        if state.shape[-1] == self.dim:
            return self.field(state, t)
        velocity, divergence = self.field.with_divergence(state[..., :-1], t)
        return torch.cat([velocity, divergence[..., None]], dim=-1)

    def _together(self, state: Tensor, start: float, stop: float) -> Tensor:
        """One step for all rows."""
        most = MOST_TOGETHER if self._by_row else self.most_evaluations
        evaluations = 0

        def rate(t: Tensor, state: Tensor) -> Tensor:
            nonlocal evaluations
            evaluations += 1
            if not bool(torch.isfinite(t)):
                raise ValueError(
                    f"the velocity is not finite between t = {start:g} and t = {stop:g}: must be a "
                    "field whose trajectories stay finite"
                )
            share = abs(float(t) - start)
            slow = evaluations > SOON and 2 * most * share < evaluations
            if slow or evaluations > most:
                raise _TooSlowError(
                    f"the trajectories are at t = {float(t):g} after {evaluations} evaluations of "
                    f"the velocity, from t = {start:g}: must be a velocity that changes less fast "
                    f"in d = {self.dim} (modes less far apart for their width, weaker tilts)"
                )
            self.watch(share)
            return self._rate(state, t.clamp(0.0, 1.0))  # stages may miss an end by one rounding

        times = torch.tensor([start, stop], dtype=state.dtype, device=state.device)
        return odeint(
            rate,
            state,
            times,
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            # step_t: end on the end time, rather than past it and interpolated back.
            options={"norm": _largest, "step_t": times},
        )[-1]

    def _row_by_row(self, state: Tensor, start: float, stop: float) -> Tensor:
        """Steps of its own for every row, d = 1."""
        units = state.new_full((state.shape[-1],), math.inf)
        units[0] = self._start_std(state)
        precision = Precision(self.rtol, self.atol, units)
        density = state.shape[-1] > 1
        try:
            return integrate(
                self._rate,
                state,
                start,
                stop,
                precision,
                most_steps=MOST_STEPS,
                is_done=(lambda s: s[..., -1] < self.massless) if density else None,
                watch=self.watch,
            )
        except TooManyStepsError as stuck:
            x = stuck.state[None, :1]
            slope = float(self.field.divergence(x, stuck.time))
            raise ValueError(
                f"the trajectory from t = {start:g} is only at t = {stuck.time:g}, x = "
                f"{float(x):g} after {stuck.steps} steps: the velocity changes too fast there, or "
                f"too roughly for its digits (slope {slope:.1e}, step {abs(stuck.step):.1e}); "
                "modes must be less far apart for their width, or tilts weaker"
            ) from stuck

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
        """(x_0, log q(y)): where y comes from at t = 0, and its log-density.

        Raises:
            ValueError: a trajectory cannot be followed, or not be inverted in 64-bit numbers.
        """
        x0, log_jacobian = self._with_jacobian(y, 1.0, 0.0)
        log_q = self._log_start(x0) + log_jacobian
        if bool((none := log_jacobian < self.massless).any()):
            x0[none], log_q[none] = math.nan, -math.inf
        return x0, log_q

    def push(self, x0: Tensor) -> Tensor:
        """Where the flow takes starting points x_0 (*b, n, d)."""
        return self._integrate(x0, 0.0, 1.0, density=False)[0]

    def push_with_log_density(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """(x_1, log q(x_1)) of starting points x_0; raises as `pull_back` does."""
        x1, log_jacobian = self._with_jacobian(x0, 0.0, 1.0)
        return x1, self._log_start(x0) + log_jacobian

    def _with_jacobian(self, x: Tensor, start: float, stop: float) -> tuple[Tensor, Tensor]:
        """Where x gets, and log|det dx_0/dx_1| on the way, which is as right as `_settled` says.

        For d > 1 the factor by which errors grow is taken to be the d-th root of the determinant:
        the largest is no smaller. Where one direction alone is thin, a round trip shows it.
        """
        end, change = self._integrate(x, start, stop, density=True)
        log_jacobian = change if stop < start else -change
        magnified = log_jacobian / self.dim > math.log(MAGNIFIED)
        if bool(magnified.any()):
            columns = magnified.reshape(-1, magnified.shape[-1]).any(0)
            found = end[..., columns, :], log_jacobian[..., columns]
            settled = self._settled(x[..., columns, :], start, stop, *found)
            end[..., columns, :], log_jacobian[..., columns] = settled
        return end, log_jacobian

    def _settled(
        self, x: Tensor, start: float, stop: float, end: Tensor, log_jacobian: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same at tolerances that allow for what the contraction makes of errors at t = 1.

        An error of size e there is one of e |dx_0/dx_1| in x_0, whichever way a path is followed.
        """
        back = stop < start
        std, factor = float(self._start_std(x)), float((log_jacobian.max() / self.dim).exp())
        allowed, coarse = MAGNIFIED * (self.rtol + self.atol), self.rtol + self.atol
        fine = allowed / factor
        finer = replace(self, rtol=fine / 2, atol=fine / 2)
        if fine >= FINEST:
            again, change = finer._integrate(x, start, stop, density=True)
            log_again = change if back else -change
            growth = (log_again / self.dim).exp()
            unit = again.abs().clamp_min(std) if back else (std / growth)[..., None]
            off = ((again - end).abs() / unit).amax(-1)
            off = torch.maximum(off, (log_again - log_jacobian).abs()) * fine / coarse
            rounding = torch.finfo(x.dtype).eps * (x if back else again).abs().amax(-1)
            off = torch.maximum(off, rounding * growth / std)
            if bool((off <= allowed).all()):
                return again, log_again
        worst = int(log_jacobian.flatten().argmax())
        y = (x if back else end).reshape(-1, self.dim)[worst]
        raise ValueError(
            f"the flow contracts by e^{math.log(factor):.1f} towards y = {_shown(y)}: so thin a "
            f"law has no log-density to {allowed:.0e} in 64-bit numbers; must be contractions by "
            f"up to about e^{math.log(allowed / FINEST):.0f} (weaker tilts, wider components)"
        )

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
        check_dim("cdf", self.dim)
        x0 = self.pull_back(y)[0]
        return torch.special.ndtr(x0[..., 0] / self._start_std(x0))

    def quantile(self, u: Tensor) -> Tensor:
        """The quantiles at levels u (*b, n) in (0, 1), d = 1 -> (*b, n)."""
        check_dim("quantile", self.dim)
        if not bool(((u > 0) & (u < 1)).all()):
            raise ValueError(
                f"u must lie in (0, 1), got values in [{u.min().item():g}, {u.max().item():g}]"
            )
        z = torch.special.ndtri(u)[..., None]
        return self.push(z * self._start_std(z))[..., 0]
