"""Named cases and chains with a schedule: composed kernels, roots, Euler's rule."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache, partial
from types import ModuleType

import numpy as np
import torch
from scipy.optimize import brentq

from tests.helpers import tensor
from tests.mutants.theory.control.shared import (
    LOOSE,
    MEMORYLESS,
    STEP,
    Checks,
    refused,
)
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.control.equation import solve
from theory.fields.diffusion import Diffusion
from theory.fields.paths import PATHS
from theory.ledger.oracle.control.line import line_expectation, uniform_clock
from theory.ledger.oracle.instants import instant
from theory.problems.problem import load_problem

KAPPA, NU, G = (2.0, 0.6), (1.5, 0.5), 0.9
WELLS = np.array([[-1.1, 0.4], [0.5, -0.7]])


@cache
def composed() -> np.ndarray:
    """V of both coordinates at WELLS and at WELLS +- 2 h, +- h: (5, rows, 2)."""
    moves = 5e-3 * np.array([0, -2, -1, 1, 2])
    axis = np.linspace(-2.4, 2.4, 601)
    found = []
    for i, (kappa, nu) in enumerate(zip(KAPPA, NU, strict=True)):
        x = (WELLS[:, i] + moves[:, None]).ravel()
        expected = line_expectation(
            lambda z, t, k=kappa: -4 * k * z * (z**2 - 1),
            lambda t: G,
            lambda z, n=nu: np.exp(-n * (z - 1) ** 2),
            x,
            axis,
            uniform_clock(0.0),
            steps=80,
            levels=3,
        ).value
        found.append(-np.log(expected).reshape(5, -1))
    return np.stack(found, -1)


def two_steps(kappa: float, nu: float, x: float, dt: tuple[float, float]) -> tuple[float, ...]:
    """(V_0, u_0, u_1) of a chain of two steps at x: the second kernel by hand, the first a root."""
    z, w = np.polynomial.hermite_e.hermegauss(40)
    w = w / w.sum()
    s0, s1 = (G * math.sqrt(step) for step in dt)
    keep = nu / (1 + 2 * nu * s1**2)

    def moved(y, step):
        return y - step * 4 * kappa * y * (y**2 - 1)

    def slope(m):
        y = m + s0 * z
        rise = 1 - dt[1] * 4 * kappa * (3 * y**2 - 1)
        return (m - moved(x, dt[0])) / s0**2 + w @ (2 * keep * (moved(y, dt[1]) - 1) * rise)

    m = brentq(slope, -1.5, 1.5, xtol=1e-14)
    cost = keep * (w @ (moved(m + s0 * z, dt[1]) - 1) ** 2) + nu * s1**2
    first = (m - moved(x, dt[0])) / (G * dt[0])
    second = -2 * keep * (moved(x, dt[1]) - 1) * G
    return cost + 0.5 * dt[0] * first**2, first, second


def check_cases(module: ModuleType) -> Checks:
    module.POINTS, module.TIMES = 121, 3
    module.solve = partial(solve, tolerances=LOOSE)
    well = module.DoubleWell(KAPPA, NU, WELLS[0], g=G)
    V = composed()
    slope = (V[1] - 8 * V[2] + 8 * V[3] - V[4]) / 0.06
    module.POINTS, module.CHAIN_REACH = 401, 3.5
    easy, dt = module.DoubleWell([0.1, 0.15], [0.8, 0.4], [-1, -1], g=G), (0.1, 0.9)
    chain = easy.discrete([0.0, 0.1, 1.0])
    x = np.array([[-0.9, 0.3]])
    rows = np.array([two_steps(0.1, 0.8, -0.9, dt), two_steps(0.15, 0.4, 0.3, dt)])
    moved = [((WELLS + s) ** 2 - 1) ** 2 * np.array(KAPPA) for s in (-STEP, STEP)]
    named = module.control_case("double_well_10d")
    linear = {name: module.control_case(name) for name in module.CASES if name[:2] == "ou"}
    turns = {name: case.matrix(0.2) for name, case in linear.items()}
    return {
        "value": QUADRATURE.holds(well.value(WELLS, 0.0), V[0].sum(-1), 1.0),
        "gradient": QUADRATURE.holds(well.gradient(WELLS, 0.0), slope, 1.0),
        "control": QUADRATURE.holds(well.control(WELLS, 0.0), -G * slope, 1.0),
        "expected": QUADRATURE.holds(well.expected_value(), V[0].sum(-1)[0], 1.0),
        "end": QUADRATURE.holds(well.value(WELLS, 1.0), well.terminal(WELLS), 1.0),
        "drift": QUADRATURE.holds(well.drift(WELLS), (moved[0] - moved[1]) / (2 * STEP), 1.0),
        "terminal": ALGEBRA.holds(well.terminal(WELLS), (WELLS - 1) ** 2 @ NU),
        "chain's value": QUADRATURE.holds(chain.value(x)[0], rows[:, 0].sum(), 1.0),
        "chain's first": QUADRATURE.holds(chain.control(x, 0)[0], rows[:, 1], 1.0),
        "chain's second": QUADRATURE.holds(chain.control(x, 1)[0], rows[:, 2], 1.0),
        "named": named.kappa.tolist() == [5.0] * 3 + [1.0] * 7
        and named.nu.tolist() == [3.0] * 3 + [1.0] * 7
        and named.begin.tolist() == [-1.0] * 10,
        "unstable": bool(np.linalg.eigvals(turns["ou_unstable"]).real.max() > 0),
        "rotation": all(np.abs(np.linalg.eigvals(A).imag).max() > 0.1 for A in turns.values()),
        "linear": not linear["ou_linear"].final_matrix.any()
        and not linear["ou_linear"].running_matrix.any(),
        "costs": all(
            np.linalg.eigvalsh(linear[name].final_matrix).min() > 0
            for name in ("ou_quadratic", "ou_unstable")
        ),
    }


def check_chains(module: ModuleType) -> Checks:
    """Kernels with a schedule by Euler's rule."""
    found: Checks = {}
    for path, begin in (("rectified_flow", 0.1), ("trigonometric", 0.0)):
        problem = replace(load_problem("bump_2d"), path=PATHS[path]())
        schedule = Diffusion.of_offset(0.3, 0.8)
        chain = module.Chain(4, path=problem.path, first_time=begin, schedule=schedule)
        dt, x = (1 - begin) / 4, tensor(np.random.default_rng(2).normal(size=(5, 2)))
        noise = tensor(np.random.default_rng(3).normal(size=(5, 5, 2)))
        state = noise[:, 0] * instant(path, begin).sigma
        states = [state]
        for k in range(4):
            t = begin + k * dt
            # The score of the chain's velocity, which with the base's is the base's score.
            field = problem.base_field
            a, s, da, ds = instant(path, (t + 0.3) / 1.6)
            g2 = 0.8 * 2 * s * (s * da / a - ds)
            mean = [y + dt * (field(y, t) + 0.5 * g2 * field.score(y, t)) for y in (x, state)]
            found[f"{path}: mean {k}"] = ALGEBRA.holds(chain.mean(field, k, x), mean[0], 1.0)
            found[f"{path}: std {k}"] = ALGEBRA.holds(
                chain.coefficients(x)[2][k], math.sqrt(g2 * dt)
            )
            state = mean[1] + math.sqrt(g2 * dt) * noise[:, k + 1]
            states.append(state)
        paths = chain.rollout(problem.base_field, noise)
        found[f"{path}: states"] = ALGEBRA.holds(paths, torch.stack(states, 1), 1.0)
    silent = Diffusion.of_function("silent", lambda path, t: 0 * t)
    return found | {
        "silent": refused(lambda: module.Chain(4, schedule=silent)),
        "infinite": refused(lambda: module.Chain(4, schedule=MEMORYLESS)),
    }


CHAIN = "samplers.chain"
CHECKS = {"control.cases": check_cases, CHAIN: check_chains}

# module, text, replacement, and the check that rejects it
MUTANTS = {
    "half the drift": ("control.cases", "return -4 * kappa * x", "return -2 * kappa * x", "drift"),
    "g for its square": ("control.cases", "lambda t: self.g**2", "lambda t: self.g", "value"),
    "end at the other well": (
        "control.cases",
        "nu * (x - 1) ** 2",
        "nu * (x + 1) ** 2",
        "terminal",
    ),
    "control by g squared": (
        "control.cases",
        "-self.g * self.gradient",
        "-self.g**2 * self.gradient",
        "control",
    ),
    "kernel of dt": ("control.cases", "self.g * dt**0.5", "self.g * dt", "chain's value"),
    "move for control": (
        "control.cases",
        "(mean - start) / (self.g * dt)",
        "(mean - start) / (self.g * dt**0.5)",
        "chain's first",
    ),
    "even steps": (
        "control.cases",
        "float(grid[k + 1] - grid[k])",
        "1 / (len(grid) - 1)",
        "chain's second",
    ),
    "chain's reward for its cost": (
        "control.cases",
        "[-self._values[j]",
        "[self._values[j]",
        "chain's value",
    ),
    "kappa and nu exchanged": ("control.cases", "for i in (0, 1))", "for i in (1, 0))", "named"),
    "no rotation": ("control.cases", "0.6 * (turn - turn.T)", "0.6 * (turn + turn.T)", "rotation"),
    "P's sign": (CHAIN, "1 - dt * 0.5 * g2", "1 + dt * 0.5 * g2", "mean"),
    "score's half in Q": (CHAIN, "(1 + 0.5 * g2 *", "(1 + g2 *", "mean"),
    "eta for the gain in Q": (CHAIN, "g2 * path.alpha(t) / gain", "g2 / gain", "mean"),
    "noise of dt squared": (CHAIN, "P, Q, g2 * dt]", "P, Q, g2 * dt**2]", "std"),
    "noise at the step's end": (
        CHAIN,
        "squared(path, t)",
        "squared(path, t + 1 / self.steps)",
        "std",
    ),
    "steps from time zero": (
        CHAIN,
        "dt, gain = (1 - self.first_time) / self.steps,",
        "dt, gain = 1 / self.steps,",
        "rectified_flow: mean",
    ),
    "silent kernels": (CHAIN, "(self._rows[2] > 0)", "(self._rows[2] >= 0)", "silent"),
}
