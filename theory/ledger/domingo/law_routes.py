"""domingo, laws: the two routes to them, kernels composed on a grid and Fokker-Planck."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from scipy.interpolate import CubicSpline

from theory import Diffusion, GridLaw, GridOptimum, load_problem
from theory.ledger.core import Array
from theory.ledger.liu.laws import plain_numbers
from theory.ledger.oracle.control.line import Field, line_expectation, line_law, uniform_clock
from theory.ledger.oracle.flow import LineField
from theory.ledger.oracle.integrals.plane import PlaneNumbers

NAMES = ("note_1d", "linear_1d", "bumps_1d", "quadratic_1d")


AXIS = np.linspace(-8.0, 9.0, 851)  # of composed kernels, steps of 0.02


GRID = np.linspace(-8.0, 8.0, 481)  # of Fokker-Planck


SPOTS = np.linspace(-2.5, 2.5, 21)


# Problems with a constant g; a fast profile takes the first, the default the first two.
CASES = (
    ("note_1d", 1.0),
    ("note_1d", 0.2),
    ("linear_1d", 1.0),
    ("bumps_1d", 1.0),
    ("quadratic_1d", 1.0),
)


# Points and times of the value function: the less noise, the sharper it is.
GRIDS = {0.2: (501, 121), 1.0: (361, 61)}


# Steps and levels of extrapolation: narrow kernels (small g) need a finer axis for more steps.
KERNELS = {0.2: (16, 3), 1.0: (10, 4)}


LAST = 1 - 1e-9  # a score at t = 1 is its limit


MEMORYLESS_START = 4e-4


def plain_drift(field: LineField, g: float) -> Field:
    """v + (g^2/2) s."""
    return lambda x, t: field(x, min(t, LAST)) + 0.5 * g**2 * field.score(x, min(t, LAST))


def constant(g: float) -> Callable[[float], float]:
    """A schedule."""
    return lambda t: g


def tilt_weight(plain: PlaneNumbers, x: Array) -> Array:
    """exp(a r) at points (n,)."""
    return np.asarray(np.exp(plain.scale * plain.reward(x[:, None])))


def normal(x: Array) -> Array:
    """N(0, 1)."""
    return np.asarray(np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi))


@lru_cache(maxsize=16)
def tilted_path_law(name: str, g: float) -> Array:
    """X_1 under P exp(a r(X_1))/Z(X_0), X_0 ~ N(0, 1), on AXIS: exp(a r) times the base process's
    law from the start N(0, 1)/Z, with Z(x) = E[exp(a r(X_1)) | X_0 = x]."""
    plain = plain_numbers(load_problem(name))
    drift = plain_drift(LineField(plain), g)

    steps, levels = KERNELS[g]
    Z = line_expectation(
        drift,
        constant(g),
        partial(tilt_weight, plain),
        AXIS,
        AXIS,
        uniform_clock(0.0),
        steps=steps,
        levels=levels,
    ).value
    start = np.where(np.abs(AXIS) < 7.0, normal(AXIS) / Z, 0.0)
    moved = line_law(
        drift, constant(g), start, AXIS, uniform_clock(0.0), steps=steps, levels=levels
    ).value
    return np.asarray(moved * tilt_weight(plain, AXIS))


@lru_cache(maxsize=16)
def grid_optimum(name: str, g: float) -> GridOptimum:
    """The problem's optimum at its own scale under a constant g."""
    problem = load_problem(name)
    points, count = GRIDS[g]
    return GridOptimum(problem, problem.scale, Diffusion.of_constant(g), points=points, count=count)


def on_axis(law: GridLaw, axis: Array = AXIS) -> Array:
    """A law's density at points of another axis, 0 beyond its own."""
    (own,) = law.axes
    inside = (axis >= own[0]) & (axis <= own[-1])
    return np.where(inside, CubicSpline(own, law.density)(np.clip(axis, own[0], own[-1])), 0.0)
