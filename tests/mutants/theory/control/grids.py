"""Optima on grids: dense paths of one Gaussian's generative SDE."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial
from types import ModuleType

import numpy as np
import torch

from tests.helpers import tensor
from tests.mutants.harness import Checks, overridden, replaced
from tests.mutants.theory.control.shared import (
    LOOSE,
    SCALE,
    STEP,
    later,
    value_of,
)
from theory.common.tolerances import QUADRATURE
from theory.control.equation import solve
from theory.fields.diffusion import Diffusion
from theory.laws.gaussians import GaussianSum
from theory.ledger.oracle.control.limits import tilted_moments
from theory.ledger.oracle.control.linear import LinearNumbers
from theory.problems.problem import Problem, load_problem
from theory.tilts.quadratic import quadratic_reward

ONE = Problem(
    "one",
    GaussianSum.mixture([1.0], [[0.4]], stds=[0.8]),
    quadratic_reward([[-0.3]], [0.7], 0.1),
    1.5,
)
BEGIN, NOISE = 0.5, 0.7


def cost(x: np.ndarray, t: float) -> np.ndarray:
    return (0.4 + 0.3 * t) * x[:, 0] ** 2 + 0.5 * x[:, 0]


def generative(start: float) -> LinearNumbers:
    """ONE's generative SDE with g = NOISE and the costs above, on [start, 1] by [0, 1]."""

    def matrix(t: float) -> np.ndarray:
        spread = t**2 * 0.64 + (1 - t) ** 2
        return np.array([[(t * 0.64 - (1 - t) - 0.5 * NOISE**2) / spread]])

    numbers = LinearNumbers(
        matrix,
        lambda t: 0.4 - matrix(t)[0] * t * 0.4,
        lambda t: NOISE,
        lambda t: np.array([[0.8 + 0.6 * t]]),
        lambda t: np.array([0.5]),
        np.array([[SCALE * 0.3]]),
        np.array([-SCALE * 0.7]),
        np.array([0.4 * start]),
        np.array([[0.64 * start**2 + (1 - start) ** 2]]),
    )
    return later(numbers, start)


@cache
def generated_value(x: float, t: float) -> float:
    return value_of(generative(t), (x,)) - SCALE * 0.1


@cache
def generated_law() -> np.ndarray:
    return tilted_moments(generative(BEGIN))


def check_grid(module: ModuleType) -> Checks:
    module.solve = partial(solve, tolerances=LOOSE)
    module.MOST_LOST = math.inf  # a wrong mass is left to the checks
    schedule = Diffusion(constant=NOISE, start=BEGIN)
    grid = module.GridOptimum(ONE, SCALE, schedule, cost, points=33, count=4)
    t = float(grid.solution.times[2])
    x, h = np.array([[-0.8], [0.1], [1.3]]), 1e-3
    rows = np.array([[generated_value(p + s * h, t) for p in x[:, 0]] for s in (-1, 0, 1)])
    slope, bend = (rows[2] - rows[0]) / (2 * h), (rows[2] - 2 * rows[1] + rows[0]) / h**2
    edge = grid.solution.points(t)[-1:]
    out = edge + 0.7
    truth = generated_law()
    mean, cov = grid.law.moments()
    near = module.GridOptimum(
        replace(load_problem("quadratic_2d"), scale=1.0),
        SCALE,
        Diffusion(constant=NOISE, start=0.97),
        points=17,
        count=4,
    )
    points = np.random.default_rng(0).uniform(-1, 1, size=(4, 2))
    by_hand = tensor(points).requires_grad_(True)
    (c_slope,) = torch.autograd.grad(-SCALE * near.problem.reward(by_hand).sum(), by_hand)
    matrix = near.problem.reward.matrix.numpy()
    found = {
        "value": QUADRATURE.holds(grid.value(x, t), rows[1], 1.0),
        "gradient": QUADRATURE.holds(grid.gradient(x, t)[:, 0], slope, 1.0),
        "laplacian": QUADRATURE.holds(grid.laplacian(x, t), bend, 1.0),
        "control": QUADRATURE.holds(grid.control(x, t)[:, 0], -NOISE * slope, 1.0),
        "mass": QUADRATURE.holds(grid.mass, 1.0),
        "law": QUADRATURE.holds([mean[0], cov[0, 0]], [truth[1], truth[5]], 1.0),
        "beyond": QUADRATURE.holds(
            grid.value(out, t), grid.value(edge, t) + 0.7 * grid.gradient(edge, t)[:, 0], 1.0
        ),
        "straight beyond": grid.laplacian(out, t)[0] == 0,
        "plane": QUADRATURE.holds(near.gradient(points, 1.0), c_slope, 1.0),
        "plane's laplacian": QUADRATURE.holds(
            near.laplacian(points, 1.0), -SCALE * np.trace(matrix), 1.0
        ),
    }
    for backwards in (False, True):
        frame = module.law_frame(load_problem("note_1d"), 4.0, backwards)
        for what, part in (("centre", frame.centre), ("width", frame.width)):
            rate = (part(0.4 + STEP)[0] - part(0.4 - STEP)[0]) / (2 * STEP)
            found[f"{what} moves, {backwards}"] = QUADRATURE.holds(part(0.4)[1], rate, 1.0)
        # The outermost of both Gaussians at 4 standard deviations, from below by a smooth maximum.
        s = 0.6 if backwards else 0.4
        ends = [
            s * m + sign * 4 * math.hypot(s * d, 1 - s)
            for m, d in ((-1.2, 0.6), (1.1, 0.9))
            for sign in (-1, 1)
        ]
        centre, width = frame.centre(0.4)[0][0], frame.width(0.4)[0][0]
        soft = math.log(2) / module.SHARPNESS
        found[f"frame holds, {backwards}"] = bool(
            0 <= min(ends) - (centre - width) <= soft and 0 <= centre + width - max(ends) <= soft
        )
    return found


CHECKS = {"control.grid": check_grid}

# --- the mutants of a module, and the check that rejects each


def optimum_with(**parts):
    return overridden("GridOptimum", **parts)


def score_not_halved(whole, self, x, t):
    return 2 * whole(x, t) - self.problem.base_field(tensor(x), t).numpy()


def by_g(whole, self, x, t):
    return whole(x, t) * np.sqrt(self.squared(t))


def by_width(whole, self, x, t):
    return whole(x, t) * self.solution.frame.width(t)[0][0]


def bent_beyond(whole, self, x, t):
    """As it is just inside the grid's edge."""
    frame, most = self.solution.frame, 1 - 1e-9
    return whole(frame.place(np.clip(frame.find(x, t), -most, most), t), t)


def forgotten(whole, self):
    x, log_factor = whole()
    return x, 0 * log_factor


def twice_as_wide(whole):
    def law_frame(*given, **options):
        frame = whole(*given, **options)
        return replace(frame, width=lambda t: tuple(2 * part for part in frame.width(t)))

    return law_frame


def cost_at_wrong_time(whole):
    def shortened(equation, frame, start):
        cost = equation.state_cost
        return whole(replace(equation, state_cost=lambda x, s: cost(x, 1 - s)), frame, start)

    return shortened


def noise_not_slowed(whole):
    def shortened(equation, frame, start):
        slow, frame = whole(equation, frame, start)
        return replace(slow, squared=lambda t: slow.squared(t) / (1 - start)), frame

    return shortened


MUTANTS = {
    "control.grid": {
        "score not halved": (optimum_with(drift=score_not_halved), "value"),
        "g squared on the grid": (optimum_with(control=by_g), "control"),
        "chain rule once": (optimum_with(laplacian=by_width), "laplacian"),
        "bent beyond": (optimum_with(laplacian=bent_beyond), "straight beyond"),
        "diameter for radius": (replaced(law_frame=twice_as_wide), "frame holds"),
        "memory forgotten": (optimum_with(memory_factor=forgotten), "mass"),
        "memory by V's own equation": (
            replaced(Equation=lambda whole: lambda *given, kappa=1.0: whole(*given)),
            "mass",
        ),
        "running cost at the wrong time": (replaced(_shortened=cost_at_wrong_time), "mass"),
        "shortened drift alone": (replaced(_shortened=noise_not_slowed), "mass"),
    }
}
