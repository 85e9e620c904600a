"""Epochs of online NFT with the released code's reward mapping, without networks, on the line (N1).

A law is log q on a grid. An epoch maps its rewards as the code does (one prompt, a batch without
end), and ends at the law of the exact optimum (theory/recursion). It may start from any velocity:
the optimum of the epoch before, or a trained network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from theory.fields.mixture import ExactField
from theory.laws.distances import Array
from theory.methods.matching.reward_mapping import CLIP, SPREAD, STD_FLOOR
from theory.problems.problem import Problem
from theory.recursion.axes import default_axes
from theory.recursion.flow import Velocity, optimum, transport
from theory.recursion.grid import CUT, Clock
from theory.recursion.moments import Tables
from theory.recursion.online import tabulate
from theory.recursion.spec import Recursion
from theory.tilts.rewards import Reward

MOST_LOST = 1e-3  # mass that an epoch may gain or lose
CLOCK_STEPS = 10  # of a trajectory from data to noise; errors of the tilt below 1e-4 of it

# --- an epoch without networks


@dataclass(frozen=True)
class Mapped(Reward):
    """clip((R - mean)/(std + 1e-4), -5, 5)/10 + 1/2, one prompt and a batch without end."""

    raw: Reward
    mean: float
    std: float

    def __call__(self, x: Tensor) -> Tensor:
        advantage = (self.raw(x) - self.mean) / (self.std + STD_FLOOR)
        return (0.5 + advantage.clamp(-CLIP, CLIP) / SPREAD).clamp(0.0, 1.0)

    @property
    def dim(self) -> int:  # type: ignore[override]
        return self.raw.dim

    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0


@dataclass(frozen=True, eq=False)
class Line:
    """A problem's grid on the line: data nodes y (n,), R there, and what epochs are made with."""

    problem: Problem
    axis: Array

    @classmethod
    def of(cls, problem: Problem, tilt: float, nodes: int) -> Line:
        """A grid that holds the base and its tilts up to exp(tilt R)."""
        return cls(problem, default_axes(problem, Recursion(nft_beta=2.0 / tilt), 1, nodes)[0])

    @cached_property
    def rewards(self) -> Array:
        return self.problem.reward(self.points).numpy()

    @cached_property
    def points(self) -> torch.Tensor:
        return torch.as_tensor(self.axis)[:, None]

    @property
    def log_base(self) -> Array:
        return self.problem.base.log_density(self.points).numpy()

    # --- statistics of a law

    def moments(self, log_q: Array) -> tuple[float, float]:
        """(mean, standard deviation) of R."""
        weight = np.exp(log_q - log_q.max())
        weight /= weight.sum()
        mean = float(weight @ self.rewards)
        return mean, float(np.sqrt(weight @ (self.rewards - mean) ** 2))

    def tilt(self, before: Array, after: Array) -> float:
        """The a at which `before` exp(a R)/Z has the mean reward of `after`: Newton's method, on a
        function that only rises."""
        goal, a = self.moments(after)[0], 0.0
        for _ in range(60):
            mean, std = self.moments(before + a * self.rewards)
            step = (goal - mean) / std**2
            a += float(np.clip(step, -2 / std, 2 / std))
            if abs(step) * std < 1e-12:
                break
        return a

    # --- epochs

    def epoch(
        self,
        log_q: Array,
        old: Velocity | ExactField | None,
        nft_beta: float,
        statistics: tuple[float, float] | None = None,
    ) -> tuple[Array, Velocity]:
        """(log-density, velocity) of the exact optimum of an epoch that starts at the law log q,
        which `old` samples: a velocity on the grid, a field (a trained network), or None for the
        law's own velocity. statistics: mean and standard deviation of the rewards that are
        mapped, where they are not the law's own (a sampler in few steps draws them).

        Raises:
            ValueError: the grid does not hold the new law.
        """
        mapped = Mapped(self.problem.reward, *(statistics or self.moments(log_q)))
        tables = Tables((self.axis,), Clock.even(CLOCK_STEPS), mapped)
        fields = tables.fields(log_q)
        if old is None:
            old = Velocity(fields.u, fields.div_u)
        start = old if isinstance(old, Velocity) else tabulate(old, tables)
        new = optimum(start, fields, 2 / nft_beta)
        carried = np.flatnonzero(log_q > log_q.max() - CUT)
        change, _, lost = transport(tables, new, fields, self.axis[carried][:, None])
        good = ~lost & np.isfinite(change)
        # Where no trajectory tells, the nearest one's change goes on by the idealised tilt.
        places, change = carried[good], change[good]
        if not len(places):
            raise ValueError(self._refusal("no trajectory stays on it"))
        near = np.searchsorted(0.5 * (places[1:] + places[:-1]), np.arange(len(log_q)))
        tilt = 2 / nft_beta / (SPREAD * (mapped.std + STD_FLOOR))
        found = log_q + change[near] + tilt * (self.rewards - self.rewards[places[near]])
        masses = [float(np.trapezoid(np.exp(q), self.axis)) for q in (log_q, found)]
        if not abs(masses[1] - masses[0]) <= MOST_LOST:
            raise ValueError(
                self._refusal(f"its mass goes from {masses[0]:.5f} to {masses[1]:.5f}")
            )
        return found, new

    def _refusal(self, why: str) -> str:
        return (
            f"grid of {len(self.axis)} nodes on [{self.axis[0]:g}, {self.axis[-1]:g}] does not "
            f"hold an epoch's law ({why}): must be laws that it resolves; take a larger "
            "nft_beta, fewer epochs, more nodes or a larger tilt"
        )

    def recursion(self, nft_beta: float, epochs: int) -> list[Array]:
        """Log-densities after 0, 1, ... epochs, each started from the optimum before."""
        found: list[Array] = [self.log_base]
        old: Velocity | None = None
        for _ in range(epochs):
            law, old = self.epoch(found[-1], old, nft_beta)
            found.append(law)
        return found
