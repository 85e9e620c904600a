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
from tests.mutants.harness import Checks, edited, overridden, replaced
from tests.mutants.theory.control.shared import (
    LOOSE,
    MEMORYLESS,
    STEP,
    refused,
    scaled,
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

# --- the mutants of a module, and the check that rejects each


def well_with(**parts):
    return overridden("DoubleWell", **parts)


def of_g(whole, self, *kind):
    return replace(whole(*kind), squared=lambda t: self.g)


def moved_by(whole, self, x, k):
    return whole(x, k) * np.diff(self.times)[k] ** 0.5


def kernel_of_dt(whole):
    return lambda later, start, std, scale, k: whole(later, start, std**2 / G, scale, k)


def exchanged(whole):
    return lambda counts, kinds, name: whole(counts, [kind[::-1] for kind in kinds], name)


def without_rotation(whole):
    def ou(*given):
        case = whole(*given)
        A = case.matrix(0.0)
        return replace(case, matrix=lambda t: (A + A.T) / 2)

    return ou


def rows(of):
    """Other P, Q and s^2 of the kernels: of(chain, dt, P, Q, s2)."""

    def wrong(whole, self):
        dt = (1 - self.first_time) / self.steps
        return torch.stack(of(self, dt, *whole()))

    return overridden("Chain", _rows=wrong)


def with_bare_gain(chain, dt, P, Q, s2):
    return P, dt + 0.5 * s2 / chain.path.gain(chain.times), s2


def later_noise(chain, dt, P, Q, s2):
    return P, Q, dt * chain.schedule.squared(chain.path, chain.times + dt)


def from_time_zero(chain, dt, P, Q, s2):
    longer = 1 / (1 - chain.first_time)
    return 1 + longer * (P - 1), longer * Q, longer * s2


MUTANTS = {
    "control.cases": {
        "half the drift": (
            replaced(well_drift=lambda whole: lambda kappa, x: whole(kappa / 2, x)),
            "drift",
        ),
        "g for its square": (well_with(_equation=of_g), "value"),
        "end at the other well": (
            replaced(well_cost=lambda whole: lambda nu, x: whole(nu, -x)),
            "terminal",
        ),
        "control by g squared": (well_with(control=scaled(G)), "control"),
        "kernel of dt": (replaced(best_kernel=kernel_of_dt), "chain's value"),
        "move for control": (overridden("DiscreteWell", control=moved_by), "chain's first"),
        "even steps": (
            well_with(
                discrete=lambda whole, self, times: whole(np.linspace(0, 1, len(times)).tolist())
            ),
            "chain's second",
        ),
        "chain's reward for its cost": (
            overridden("DiscreteWell", value=scaled(-1)),
            "chain's value",
        ),
        "kappa and nu exchanged": (replaced(_well=exchanged), "named"),
        "no rotation": (replaced(_ou=without_rotation), "rotation"),
    },
    CHAIN: {
        "P's sign": (rows(lambda chain, dt, P, Q, s2: (2 - P, Q, s2)), "mean"),
        "score's half in Q": (rows(lambda chain, dt, P, Q, s2: (P, 2 * Q - dt, s2)), "mean"),
        "eta for the gain in Q": (rows(with_bare_gain), "mean"),
        "noise of dt squared": (rows(lambda chain, dt, P, Q, s2: (P, Q, s2 * dt)), "std"),
        "noise at the step's end": (rows(later_noise), "std"),
        "steps from time zero": (rows(from_time_zero), "rectified_flow: mean"),
        "silent kernels": (edited("(self._rows[2] > 0)", "(self._rows[2] >= 0)"), "silent"),
    },
}
