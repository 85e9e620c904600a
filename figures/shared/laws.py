"""Exact laws on a grid, shared by the figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from scipy.interpolate import CubicSpline

from figures.shared.trained import Shown
from theory.evaluation.draw import BLACK, SKY
from theory.evaluation.grids import flow_on_grid, make_grid, tilt_on_grid
from theory.fields.mixture import ExactField
from theory.laws.distances import Array, GridLaw, grid_distances
from theory.problems.problem import Problem
from theory.tilts.wrappers import Exponential, TruncatedExponential, Wrapper

BINS = 60
PLACES = np.linspace(-4.0, 5.0, 37)


@dataclass(frozen=True)
class Comparison:
    """A field's law, three targets at one scale, and the distances between them."""

    axis: Array
    law: GridLaw
    targets: dict[str, GridLaw]
    distances: dict[str, dict[str, float]]


def note_wrappers(scale: float) -> dict[str, Wrapper]:
    """exp(a r), 1 + a r, 1 + a r + (a r)^2/2: the note's three."""
    return {
        "exp": Exponential(scale),
        "order 1": TruncatedExponential(scale, 1),
        "order 2": TruncatedExponential(scale, 2),
    }


def compare(problem: Problem, field: ExactField, scale: float) -> Comparison:
    """The law of the field's ODE against the note's three targets, d = 1."""
    tilts = {name: problem.tilt(w) for name, w in note_wrappers(scale).items()}
    axes = make_grid(problem, field, tilts)
    law = flow_on_grid(field, axes)
    targets = {name: tilt_on_grid(t, axes) for name, t in tilts.items()}
    return Comparison(
        axes[0],
        law,
        targets,
        {
            name: {k: d.value for k, d in grid_distances(law, goal).items()}
            for name, goal in targets.items()
        },
    )


def window(axis: Array, densities: list[Array], least: float = 2e-4) -> tuple[float, float]:
    """Where any of the densities is worth showing."""
    keep = np.max(densities, axis=0) > least
    return float(axis[keep][0]), float(axis[keep][-1])


def sampled(axis: Array, values: Array) -> list[float]:
    """A curve at PLACES, for the numbers file (the grid itself depends on the last digits)."""
    return [float(v) for v in CubicSpline(axis, values)(PLACES)]


def overlay(axes: Axes, axis: Array, law: Array, network: Shown | None, what: str) -> None:
    """Draws of a trained network as a histogram under the exact law of its optimum."""
    if network is None:
        axes.fill_between(axis, law, color=SKY, alpha=0.5, lw=0, label=f"{what}: exact law")
    else:
        axes.hist(
            np.asarray(network.curves["samples"])[:, 0],
            np.linspace(*window(axis, [law]), BINS + 1).tolist(),
            density=True,
            color=SKY,
            alpha=0.55,
            label=f"{what}: trained network",
        )
        axes.plot(axis, law, color=BLACK, lw=1.3, label="exact law of its optimum")
