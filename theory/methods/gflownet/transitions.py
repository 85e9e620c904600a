"""The transitions X_k -> X_{k+1} of trajectories that a loss looks at, and Gaussian kernels there.

Shapes: x (rows, T + 1, *event); k (rows, m), the transitions; values (rows, m, ...), one for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from theory.fields.mixture import VelocityModel
from theory.methods.chain.rollouts import every_state
from theory.methods.chain.transforms import drawn, drawn_coefficient, squares
from theory.methods.contract.draws import Draws
from theory.samplers.chain import Chain


class Scores(NamedTuple):
    """Gradients of log N(X_{k+1}; m(X_k), s_k^2 I): `after` in X_{k+1}, `before` in X_k (zeros
    where it is not asked for); velocity: the model's, that makes m."""

    after: Tensor
    before: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Transitions:
    """Transitions k of trajectories x with conditions cond; all of them, or those of `subset`."""

    chain: Chain
    x: Tensor
    cond: Any
    k: Tensor
    every: bool

    @classmethod
    def of(cls, chain: Chain, x: Tensor, cond: Any, index: Tensor | None = None) -> Transitions:
        """Those that index (rows, m) names, increasing and with the last transition; None: all."""
        if index is None:
            return cls(chain, x, cond, torch.arange(chain.steps, device=x.device)[None], True)
        return cls(chain, x, cond, index, False)

    def states(self, k: Tensor) -> Tensor:
        """X_k for k (rows, p), or (1, p) for all rows; (rows, p, *event)."""
        return drawn(self.x, k.expand(len(self.x), -1))

    @property
    def here(self) -> Tensor:
        """X_k."""
        return self.states(self.k)

    @property
    def after(self) -> Tensor:
        """X_{k+1}."""
        return self.states(self.k + 1)

    def coefficient(self, values: Tensor) -> Tensor:
        """Of numbers (T,), one a kernel, those of the transitions, to multiply events with."""
        return drawn_coefficient(values.to(self.x), self.k, self.x.ndim - 2)

    @property
    def variance(self) -> Tensor:
        """s_k^2, to multiply events with."""
        return self.coefficient(self.chain.coefficients(self.x)[2].square())

    def at(self, model: Callable[..., Tensor], states: Tensor, k: Tensor) -> Tensor:
        """model(x, t, cond) at states (rows, p, *event) of times k (rows or 1, p): (rows, p, ...);
        the last state's time is 1."""
        times = torch.cat([self.chain.times, self.chain.times.new_ones(1)]).to(states)
        t = times[k].expand(states.shape[:2])
        values = model(states.flatten(0, 1), t.flatten(), every_state(self.cond, states.shape[1]))
        return values.reshape(*states.shape[:2], *values.shape[1:])

    def means(self, model: VelocityModel, here: Tensor) -> tuple[Tensor, Tensor]:
        """The kernels' means at states `here`, and the velocity."""
        P, Q, _ = self.chain.coefficients(here)
        velocity = self.at(model, here, self.k)
        return self.coefficient(P) * here + self.coefficient(Q) * velocity, velocity

    def scores(self, model: VelocityModel, *, before: bool, graph: bool = False) -> Scores:
        """A kernel's scores; graph: that in X_k is differentiable, else it is held fixed."""
        here = self.here.detach()
        with torch.set_grad_enabled(before or torch.is_grad_enabled()):
            here.requires_grad_(before)
            mean, velocity = self.means(model, here)
            after = (mean - self.after) / self.variance
            if not before:
                return Scores(after, torch.zeros_like(after), velocity)
            pull = -after if graph else -after.detach()
            (back,) = torch.autograd.grad(mean, here, pull, retain_graph=True, create_graph=graph)
        return Scores(after, back, velocity)

    def log_density(self, gap: Tensor, variance: Tensor) -> Tensor:
        """log N(gap; 0, variance I), (rows, m), of gaps (rows, m, *event)."""
        numbers = gap[0, 0].numel()
        normaliser = numbers * torch.log(2 * math.pi * variance).flatten(2)[..., 0]
        return -0.5 * (squares(gap / variance.sqrt()) + normaliser)

    def at_both_ends(
        self, function: Callable[[Tensor], Tensor], last: Tensor, behind: bool = True
    ) -> tuple[Tensor, Tensor]:
        """function(k) at X_k and at X_{k+1} of every transition, `last` (rows, ...) at X_T; zeros
        at X_k where nothing is asked of what lies behind."""
        count = self.k.shape[1]
        if not behind:
            after = torch.cat([function(self.k[:, :-1] + 1), last[:, None]], 1)
            return torch.zeros_like(after), after
        if self.every:
            here = function(self.k)
            later = here[:, 1:]
        else:
            both = function(torch.cat([self.k, self.k[:, :-1] + 1], 1))
            here, later = both.split([count, count - 1], 1)
        return here, torch.cat([later, last[:, None]], 1)


def strata(steps: int, subset: int) -> Tensor:
    """Sizes (subset,) of what one transition each is drawn from: 0 .. T - 2 in subset - 1 pieces as
    equal as they can be, and the last transition alone."""
    edges = [(steps - 1) * i // (subset - 1) for i in range(subset)]
    return torch.tensor([b - a for a, b in pairwise(edges)] + [1])


def draw_strata(n: int, steps: int, subset: int, draws: Draws) -> Tensor:
    """(rows, subset): one transition of each of `strata`, uniformly."""
    u = draws.uniform(n, subset)
    sizes = strata(steps, subset).to(u.device)
    offset = (u * sizes).long().minimum(sizes - 1)
    return offset + sizes.cumsum(0) - sizes
