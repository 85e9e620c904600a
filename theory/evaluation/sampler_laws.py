"""The law that a velocity and a sampler give, exactly: by the ODE, or by a chain's kernels.

d = 1: quantile points and a density; distance W1 = mean |difference of quantiles|.
d = 2: a density on a grid; distance TV = 1/2 sum |p - q| cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from theory.evaluation.grids import make_grid, mixture_on_grid, tilt_on_grid
from theory.fields.mixture import ExactField, ModelField, VelocityModel
from theory.laws.distances import Array, GridLaw
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem
from theory.samplers.chain import Chain, chain_law, grid_points, span, state_axes
from theory.samplers.flow import FlowLaw
from theory.tilts.tilt import Tilt

LEVELS = 2000
PLANE_POINTS = 81
PLANE_STDS, PLANE_LIGHT = 6.0, 20.0  # of components that weigh more than exp(-PLANE_LIGHT)
CHAIN_SPACING = {1: 0.5, 2: 1.3}
# Tolerances of the ODE: errors of the law far below the floors of trained networks.
TOLERANCES = {1: (1e-7, 1e-9), 2: (1e-5, 1e-7)}

Sampler = Literal["ode"] | Chain


@dataclass(frozen=True, eq=False)
class Law:
    """A law on the evaluation's grid; in d = 1 with its quantile points."""

    grid: GridLaw
    quantiles: Array | None = None

    def distance(self, other: Law) -> float:
        """W1 (d = 1) or TV (d = 2)."""
        if self.quantiles is not None and other.quantiles is not None:
            return float(np.abs(self.quantiles - other.quantiles).mean())
        area = float(np.prod([a[1] - a[0] for a in self.grid.axes]))
        inside = float(np.abs(self.grid.density - other.grid.density).sum()) * area
        # Mass beyond the grid counts as if it were elsewhere.
        return 0.5 * (inside + abs(self.grid.mass() - other.grid.mass()))

    @property
    def lost(self) -> float:
        """Mass that the grid does not see."""
        return abs(1 - self.grid.mass())


@dataclass(frozen=True, eq=False)
class Bench:
    """Where the laws of one problem are compared: a grid, and the sampler."""

    problem: Problem
    sampler: Sampler
    axes: tuple[Array, ...]

    @classmethod
    def of(cls, problem: Problem, sampler: Sampler, targets: Sequence[Tilt]) -> Bench:
        """A grid that holds base, targets and what the sampler goes through."""
        laws = [problem.base, *(t.law for t in targets if t.law is not None)]
        if isinstance(sampler, Chain):
            axes = state_axes(sampler, laws, CHAIN_SPACING[problem.dim])
        elif problem.dim == 1:
            axes = make_grid(
                problem, problem.base_field, {str(i): t for i, t in enumerate(targets)}
            )
        else:
            corners = zip(*(v.tolist() for v in span(laws, PLANE_STDS, PLANE_LIGHT)), strict=True)
            axes = tuple(np.linspace(low, high, PLANE_POINTS) for low, high in corners)
        return cls(problem, sampler, axes)

    def of_velocity(self, model: VelocityModel) -> Law:
        """The law of the sampler with this velocity (float64)."""
        if isinstance(self.sampler, Chain):
            return self._with_quantiles(chain_law(self.sampler, model, self.axes))
        field = (
            model
            if isinstance(model, ExactField)
            else ModelField(model, self.problem.dim, self.problem.path)
        )
        law = FlowLaw(field, *TOLERANCES[self.problem.dim])
        log_density = law.log_density(grid_points(self.axes)).numpy()
        grid = GridLaw(self.axes, log_density.reshape([len(a) for a in self.axes]))
        exact = law.quantile(torch.as_tensor(levels())).numpy() if self.problem.dim == 1 else None
        return Law(grid, exact)

    def of_target(self, target: Tilt) -> Law:
        """A claimed target."""
        return self._with_quantiles(tilt_on_grid(target, self.axes))

    def of_base(self) -> Law:
        """The base law."""
        return self._with_quantiles(mixture_on_grid(self.problem.base, self.axes))

    def of_noise(self) -> Law:
        """N(0, I): where training from scratch stands."""
        normal = GaussianSum.mixture([1.0], [[0.0] * self.problem.dim], stds=[1.0])
        return self._with_quantiles(mixture_on_grid(normal, self.axes))

    def _with_quantiles(self, grid: GridLaw) -> Law:
        return Law(grid, grid.quantile(levels()) if self.problem.dim == 1 else None)


def levels() -> Array:
    """(i + 1/2)/LEVELS."""
    return (np.arange(LEVELS) + 0.5) / LEVELS


# --- what finite samples add


def sample_distance(samples: Array, law: Law) -> float:
    """Distance of draws (n, d) to a law: W1 of order statistics, or TV of a histogram (d = 2)."""
    if law.quantiles is not None:
        order = np.sort(samples[:, 0])
        # int |F_n^-1 - F^-1| du on the law's own levels.
        places = np.minimum((levels() * len(order)).astype(int), len(order) - 1)
        return float(np.abs(order[places] - law.quantiles).mean())
    edges, masses = _binned(law.grid)
    share = np.histogram2d(samples[:, 0], samples[:, 1], bins=edges)[0] / len(samples)
    # And what lies outside.
    return 0.5 * float(np.abs(share - masses).sum() + (1 - share.sum()))


def sampling_floor(law: Law, n: int, seed: int, draws: int = 20, level: float = 0.95) -> float:
    """What n exact draws of the law measure against it: the 95th percentile of `draws` trials."""
    rng = np.random.default_rng(seed)
    if law.quantiles is not None:
        trials = [
            sample_distance(np.interp(rng.random(n), levels(), law.quantiles)[:, None], law)
            for _ in range(draws)
        ]
    else:
        _, masses = _binned(law.grid)
        p = masses.ravel() / masses.sum()
        counts = rng.multinomial(n, p, size=draws)
        trials = [0.5 * float(np.abs(row / n - p).sum()) for row in counts]
    return float(np.quantile(trials, level))


BIN = 4  # grid cells a bin


def _binned(grid: GridLaw) -> tuple[list[Array], Array]:
    """Bins of BIN x BIN grid cells, and the law's mass in each."""
    sizes = [len(a) // BIN * BIN for a in grid.axes]
    steps = [a[1] - a[0] for a in grid.axes]
    cells = grid.density[: sizes[0], : sizes[1]] * steps[0] * steps[1]
    masses = cells.reshape(sizes[0] // BIN, BIN, sizes[1] // BIN, BIN).sum((1, 3))
    edges = [
        a[0] - h / 2 + h * BIN * np.arange(size // BIN + 1)
        for a, h, size in zip(grid.axes, steps, sizes, strict=True)
    ]
    return edges, masses
