"""What a field samples, measured against every candidate target: the table of `theory law`.

Each distance carries a floor: what the same pipeline measures between the base's exact field and
the base itself (zero in truth, but for the start law of VP and VE paths), the change on a grid of
half the resolution, the mass that the grid does not see, or what starting points that are pushed
and pulled back miss their log-density by, whichever is largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.common.checks import check_dim
from theory.evaluation.choices import FieldChoice, candidates
from theory.evaluation.grids import (
    LOOK_EVALUATIONS,
    RoundTrip,
    flow_and_back,
    flow_on_grid,
    make_grid,
    mixture_on_grid,
    push_starts,
    tilt_on_grid,
    uniform_line,
)
from theory.fields.diffusion import Diffusion
from theory.fields.mixture import ExactField
from theory.laws.distances import Array, Distance, GridLaw, grid_distances, sample_distances
from theory.problems.problem import Problem
from theory.samplers.chain import grid_points
from theory.samplers.flow import FlowLaw
from theory.samplers.sde import sde_law
from theory.tilts.tilt import Tilt

MOST_LOST_MASS = 1e-2
MOST_ROUND_TRIP = 1e-3
MOST_THIN = 0.25
ROUND_TRIPS = 100  # draws that are pulled back again, d > 2
LOOK_POINTS = 12  # an axis of the plane, at which trajectories are looked at first

# Told which part of the work (one of PARTS) is at which share of itself.
Watch = Callable[[str, float], None]
PARTS = {"there": "starting points pushed", "back": "the law", "base": "the floor: the base's law"}


@dataclass(frozen=True)
class LawReport:
    """A law, its candidate targets and the distances between them."""

    problem: str
    field: str
    sampler: str
    dim: int
    distances: dict[str, dict[str, Distance]]
    refused: dict[str, str]
    mean: list[float]
    std: list[float]
    mean_reward: float
    reward_of_target: dict[str, float]
    mass: float | None
    curves: dict[str, GridLaw] = dataclass_field(default_factory=dict, repr=False)
    samples: dict[str, Array] = dataclass_field(default_factory=dict, repr=False)

    @property
    def nearest(self) -> str:
        """The target at the smallest TV."""
        return min(self.distances, key=lambda name: self.distances[name]["TV"].value)

    @property
    def tied(self) -> list[str]:
        """Other targets whose TV is not told from the smallest, given both floors."""
        best = self.distances[self.nearest]["TV"]
        return [
            name
            for name, row in self.distances.items()
            if name != self.nearest and row["TV"].value - best.value <= row["TV"].floor + best.floor
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain data, without curves and samples."""
        return {
            "problem": self.problem,
            "field": self.field,
            "sampler": self.sampler,
            "dim": self.dim,
            "mass": self.mass,
            "mean": self.mean,
            "std": self.std,
            "mean_reward": self.mean_reward,
            "nearest": self.nearest,
            "tied_with_nearest": self.tied,
            "distances": {
                target: {k: {"value": _finite(d.value), "floor": d.floor} for k, d in row.items()}
                for target, row in self.distances.items()
            },
            "mean_reward_of_target": self.reward_of_target,
            "refused": self.refused,
        }


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if np.isfinite(value) else None


def law_report(
    problem: Problem,
    choice: FieldChoice,
    *,
    diffusion: Diffusion | None = None,
    samples: int = 20_000,
    seed: int = 0,
    watch: Watch = lambda part, share: None,
) -> LawReport:
    """The law of the field's ODE (or, d = 1, of its SDE) against every candidate target.

    A round trip (starting points pushed and pulled back) is part of it: what it is off by in log q,
    on average over the law, is in the floors.

    samples, seed: for d > 2, where distances are Monte Carlo.

    Raises:
        ValueError: the law cannot be had: what the grid, the trajectories or 64-bit numbers lack.
    """
    if problem.base.dtype != torch.float64:
        raise ValueError(f"problem must have dtype torch.float64 here, got {problem.base.dtype}")
    targets, refused = candidates(problem, choice.scale)
    if diffusion is not None:
        check_dim("diffusion", problem.dim)
    if problem.dim == 2 and problem.route == "quadrature":
        raise ValueError(
            "route = 'quadrature' for a law needs d = 1, got d = 2 (thousands of nodes a point at "
            "every step of the ODE are out of reach); fields by quadrature work in d = 2"
        )
    if problem.dim > 2:
        return _sampled_report(problem, choice, targets, refused, samples, seed, watch)
    return _grid_report(problem, choice, targets, refused, diffusion, watch)


# --- d = 1 and 2: densities on a grid


def _grid_report(
    problem: Problem,
    choice: FieldChoice,
    targets: dict[str, Tilt],
    refused: dict[str, str],
    diffusion: Diffusion | None,
    watch: Watch,
) -> LawReport:
    back, again = partial(watch, "back"), partial(watch, "base")
    trip = 0.0
    if diffusion is None:
        pushed = push_starts(choice.field, partial(watch, "there"))
        axes = make_grid(problem, choice.field, targets, pushed.end)
        base = mixture_on_grid(problem.base, axes)
        _check_mass(base, "base's", "wider components")
        _check_cells(pushed, axes, choice.gentler)
        if problem.dim == 2:
            few = tuple(axis[:: max(1, len(axis) // LOOK_POINTS)] for axis in axes)
            _look(choice.field, grid_points(few))
        law, trip = flow_and_back(choice.field, axes, pushed, back)
        null = flow_on_grid(problem.base_field, axes, again)
    else:
        (axis,) = make_grid(problem, choice.field, targets)
        axes = (uniform_line(problem, choice.field, axis),)
        base = mixture_on_grid(problem.base, axes)
        law = sde_law(choice.field, diffusion, axes[0], watch=back)
        null = sde_law(problem.base_field, diffusion, axes[0], watch=again)
    _check_mass(law, "law's", choice.gentler)
    _check_round_trip(trip, choice)
    floors = grid_distances(null, base)
    curves = {"base": base, **{name: tilt_on_grid(t, axes) for name, t in targets.items()}}
    distances = {
        label: {
            name: d.at_least(max(abs(floors[name].value), trip))
            for name, d in grid_distances(law, curve).items()
        }
        for label, curve in curves.items()
    }
    reward = problem.reward(grid_points(axes)).reshape(law.log_density.shape).numpy()
    mean, cov = law.moments()
    curves["law"] = law
    return LawReport(
        problem=problem.name,
        field=choice.label,
        sampler="ODE" if diffusion is None else f"SDE, {diffusion.label}",
        dim=problem.dim,
        distances=distances,
        refused=refused,
        mean=mean.tolist(),
        std=np.sqrt(np.diag(cov)).tolist(),
        mean_reward=_grid_mean(law, reward),
        reward_of_target={k: _grid_mean(c, reward) for k, c in curves.items() if k != "law"},
        mass=law.mass(),
        curves=curves,
    )


def _check_mass(law: GridLaw, whose: str, remedy: str) -> None:
    lost = abs(1 - law.mass())
    if not lost <= MOST_LOST_MASS:
        raise ValueError(
            f"the grid of {'x'.join(str(len(a)) for a in law.axes)} points must miss at most "
            f"{MOST_LOST_MASS:g} of the {whose} mass, got {lost:.1e}; it is too thin for this "
            f"grid, try {remedy}"
        )


def _check_cells(pushed: RoundTrip, axes: tuple[Array, ...], remedy: str) -> None:
    """Seen before the work is done: mass that is denser than one a cell.

    Sums over a grid of the plane see a peak of half a cell's width, density 0.64 a cell, to 1e-2,
    a thinner one worse.
    """
    if pushed.log_density is None:  # on the line: by how near to one another points end
        (axis,), end, shares = axes, pushed.end[:, 0].numpy(), pushed.shares.numpy()
        shares, middle = (shares[1:] + shares[:-1]) / 2, (end[1:] + end[:-1]) / 2
        cells = np.interp(middle, (axis[1:] + axis[:-1]) / 2, np.diff(axis))
        thin = float(shares[shares * cells > np.diff(end)].sum())
    else:
        cell = float(np.prod([a[1] - a[0] for a in axes]))
        thin = float(pushed.shares[pushed.log_density + math.log(cell) > 0].sum())
    if thin > MOST_THIN:
        raise ValueError(
            f"the grid of {'x'.join(str(len(a)) for a in axes)} points is too wide for the law: at "
            f"most {100 * MOST_THIN:.0f} % of its mass must be denser than one a cell, got "
            f"{100 * thin:.0f} %; try {remedy}"
        )


def _check_round_trip(off: float, choice: FieldChoice) -> None:
    if not off <= MOST_ROUND_TRIP:
        raise ValueError(
            "starting points that are pushed and pulled back must keep their log-density to "
            f"{MOST_ROUND_TRIP:g} on average, got {off:.1e}; the law is too thin for 64-bit "
            f"numbers, try {choice.gentler}"
        )


def _look(field: ExactField, points: Tensor) -> None:
    """A few trajectories first, d > 1: what would take minutes is refused in seconds.

    Raises:
        ValueError: they take more evaluations than LOOK_EVALUATIONS.
    """
    FlowLaw(field, rtol=1e-4, atol=1e-4, most_evaluations=LOOK_EVALUATIONS).pull_back(points)


def _grid_mean(law: GridLaw, values: Array) -> float:
    return law.integrate(values) / law.mass()


# --- any d: draws with their log-densities


def draw(target: Tilt, field: ExactField, n: int, generator: torch.Generator) -> Tensor:
    """Exact draws of a target: from its mixture, or through its exact field."""
    if target.law is not None and target.law.is_positive:
        return target.law.sample(n, generator)
    return FlowLaw(field, rtol=1e-6, atol=1e-8).sample(n, generator)


def _sampled_report(
    problem: Problem,
    choice: FieldChoice,
    targets: dict[str, Tilt],
    refused: dict[str, str],
    samples: int,
    seed: int,
    watch: Watch,
) -> LawReport:
    generator = torch.Generator().manual_seed(seed)
    law = FlowLaw(choice.field, rtol=1e-6, atol=1e-8, watch=partial(watch, "there"))
    start = law.start(samples, generator)
    few = replace(law, most_evaluations=LOOK_EVALUATIONS).push(start[:ROUND_TRIPS])
    _look(choice.field, few)
    x, log_p = law.push_with_log_density(start)
    law = replace(law, watch=partial(watch, "back"))
    off = law.log_density(x[:ROUND_TRIPS]) - log_p[:ROUND_TRIPS]
    trip = float(off.abs().clamp_max(1.0).mean())
    _check_round_trip(trip, choice)
    densities = {"base": problem.base.log_density(x)}
    pairs = {"base": [problem.base.sample(samples, generator) for _ in range(2)]}
    for label, target in targets.items():
        own = problem.tilted_field(target.wrapper)
        densities[label] = target.log_density(x)
        pairs[label] = [draw(target, own, samples, generator) for _ in range(2)]
    distances = {
        label: {
            name: d.at_least(trip)
            for name, d in sample_distances(x, log_p, densities[label], *pairs[label]).items()
        }
        for label in pairs
    }
    draws = {"law": x, **{label: pair[0] for label, pair in pairs.items()}}
    return LawReport(
        problem=problem.name,
        field=choice.label,
        sampler=f"ODE, {samples} draws, seed {seed}",
        dim=problem.dim,
        distances=distances,
        refused=refused,
        mean=x.mean(0).tolist(),
        std=x.std(0).tolist(),
        mean_reward=float(problem.reward(x).mean()),
        reward_of_target={
            k: float(problem.reward(v).mean()) for k, v in draws.items() if k != "law"
        },
        mass=None,
        samples={k: v.numpy() for k, v in draws.items()},
    )
