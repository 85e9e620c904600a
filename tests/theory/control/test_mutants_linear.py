"""Mistakes in Riccati equations, named cases and chains: each is rejected by a quick check.

As test_mutants, whose helpers serve; second routes are dense algebra on whole paths, composed
kernels, enumeration and roots.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import cache, partial
from itertools import product
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from tests.theory.control.test_mutants import (
    LOOSE,
    MEMORYLESS,
    SCALE,
    STEP,
    Checks,
    failures,
    later,
    refused,
    tensor,
    value_of,
)
from tests.theory.methods.mutants import mutant_module
from theory.claims.linear_settings import LinearProblems
from theory.control.equation import solve
from theory.gaussians import GaussianSum
from theory.oracle.control_limits import kl_to_tilted, path_kl, tilted_moments
from theory.oracle.control_line import line_expectation, uniform_clock
from theory.oracle.control_linear import discrete_optimum
from theory.oracle.instants import instant
from theory.paths import PATHS
from theory.problem import Problem, load_problem
from theory.rewards import quadratic_reward
from theory.schedules import Diffusion
from theory.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT

SETTING, SCALAR = LinearProblems().draw(2, 4), LinearProblems().draw(1, 4)
CONSTANT, LATE = 0.3, 0.4
POINT = np.array([0.6, -0.4])


@cache
def values(t: float, places: tuple[tuple[float, ...], ...]) -> np.ndarray:
    numbers = later(SETTING.numbers(), t)
    return np.array([value_of(numbers, x) for x in places]) + CONSTANT


def crossed(middle: np.ndarray, moves: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, np.concatenate([[middle], middle + moves, middle - moves]).tolist()))


@cache
def truths() -> dict[str, np.ndarray]:
    """Dense paths: the mean value (V is quadratic), laws, KLs."""
    n, steered = SETTING.numbers(), SETTING.numbers(True)
    V = values(0.0, crossed(n.mean, np.linalg.cholesky(n.cov).T))
    mean = V[0] + 0.5 * (V[1:].sum() - 4 * V[0])
    still = steered._replace(
        running_matrix=lambda t: np.zeros((2, 2)), running_vector=lambda t: np.zeros(2),
        final_matrix=np.zeros((2, 2)), final_vector=np.zeros(2),
    )  # fmt: skip
    return {
        "expected": np.array(mean), "law": tilted_moments(n), "steered": tilted_moments(still),
        "energy": path_kl(steered, n), "cost": mean + kl_to_tilted(steered, n),
    }  # fmt: skip


def rebuilt(module: ModuleType, problem, **changes):
    own = {f.name: getattr(problem, f.name) for f in fields(problem)} | changes
    return module.LinearQuadratic(**own)


def flat(law: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.concatenate([law[0], law[1].ravel()])


def check_linear(module: ModuleType) -> Checks:
    problem, known = rebuilt(module, SETTING.problem, final_constant=CONSTANT), truths()
    V = values(LATE, crossed(POINT, np.eye(2)))
    slope = 0.5 * (V[1:3] - V[3:])
    x = POINT[None]
    n, g = SETTING.numbers(), SETTING.numbers().noise(LATE)
    best, theirs = problem.discrete(np.linspace(0, 1, 5)), discrete_optimum(n, POINT, 4)
    second = discrete_optimum(later(n, 0.25), POINT, 3).control / math.sqrt(0.75)
    # The distance along a chain of two steps, by enumeration.
    line = rebuilt(module, SCALAR.problem)
    pair, noise = line.discrete([0.0, 0.4, 1.0]), SCALAR.numbers().noise
    z, w = np.polynomial.hermite_e.hermegauss(12)
    gap = size = 0.0
    for (a, wa), (b, wb) in product(zip(z, w, strict=True), repeat=2):
        y = line.mean + math.sqrt(line.cov[0, 0]) * a
        for k, (t, dt) in enumerate(((0.0, 0.4), (0.4, 0.6))):
            u = pair.control(y[None], k)[0]
            gap += wa * wb * dt * ((line.control(y[None], t)[0] - u) ** 2).sum()
            size += wa * wb * dt * (u**2).sum()
            drift = line.matrix(t) @ y + line.shift(t) + noise(t) * u
            y = y + dt * drift + noise(t) * math.sqrt(dt) * b
    base = GaussianSum.mixture([1.0], [[0.3, -0.2]], covs=[[[0.6, 0.2], [0.2, 0.4]]])
    reward = quadratic_reward([[-0.3, 0.1], [0.1, -0.2]], [0.5, 0.2], 0.1)
    one = Problem("one", base, reward, 1.2, PATHS["trigonometric"]())
    made, at = module.of_gaussian(one, SCALE, Diffusion(constant=0.7, start=0.3)), tensor(x)
    drift = one.base_field(at, LATE) + 0.5 * 0.49 * one.base_field.score(at, LATE)
    law = instant("trigonometric", 0.3)
    # Without control X_1 has the base's law.
    m, S = base.mean[0].numpy(), base.cov[0].numpy()
    plain = made.steered(lambda t: (np.zeros((2, 2)), np.zeros(2)))
    paid = made.cost(lambda t: (np.zeros((2, 2)), np.zeros(2)))
    mean_reward = float(reward(tensor(m[None]))) + 0.5 * np.trace(reward.matrix.numpy() @ S)
    return {
        "value": QUADRATURE.holds(problem.value(x, LATE), V[:1], 1.0),
        "gradient": QUADRATURE.holds(problem.gradient(x, LATE)[0], slope, 1.0),
        "control": QUADRATURE.holds(problem.control(x, LATE)[0], -g * slope, 1.0),
        "expected": QUADRATURE.holds(problem.expected_value(), known["expected"], 1.0),
        "law": QUADRATURE.holds(flat(problem.law()), known["law"], 1.0),
        "steered": QUADRATURE.holds(flat(problem.steered(SETTING.feedback)), known["steered"], 1.0),
        "energy": QUADRATURE.holds(problem.control_energy(SETTING.feedback), known["energy"], 1.0),
        "cost": QUADRATURE.holds(problem.cost(SETTING.feedback), known["cost"], 1.0),
        "chain's value": QUADRATURE_TIGHT.holds(best.value(x), theirs.value + CONSTANT, 1.0),
        "chain's control": QUADRATURE_TIGHT.holds(best.control(x, 0)[0], theirs.control, 1.0),
        "chain's second": QUADRATURE_TIGHT.holds(best.control(x, 1)[0], second, 1.0),
        "distance": ALGEBRA.holds(pair.distance(), gap / size),
        "drift": ALGEBRA.holds(x @ made.matrix(LATE).T + made.shift(LATE), drift, 1.0),
        "cost of a reward": ALGEBRA.holds(made.value(x, 1.0), -SCALE * reward(at), 1.0),
        "noise": ALGEBRA.holds(made.noise(LATE), 0.7),
        "marginal": QUADRATURE_TIGHT.holds(plain[0][2:], m, 1.0)
        and QUADRATURE_TIGHT.holds(plain[1][2:, 2:], S, 1.0)
        and QUADRATURE_TIGHT.holds(paid, -SCALE * mean_reward, 1.0),
        "start": ALGEBRA.holds(made.mean, law.alpha * m)
        and ALGEBRA.holds(made.cov, law.alpha**2 * S + law.sigma**2 * np.eye(2)),
    }


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
            lambda z, t, k=kappa: -4 * k * z * (z**2 - 1), lambda t: G,
            lambda z, n=nu: np.exp(-n * (z - 1) ** 2), x, axis, uniform_clock(0.0),
            steps=80, levels=3,
        ).value  # fmt: skip
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
        "costs": all(np.linalg.eigvalsh(linear[name].final_matrix).min() > 0
                     for name in ("ou_quadratic", "ou_unstable")),
    }  # fmt: skip


def check_chains(module: ModuleType) -> Checks:
    """Kernels with a schedule by Euler's rule, and one best kernel of a quadratic."""
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


def check_chain_optimum(module: ModuleType) -> Checks:
    # max_m E[-q (m + s xi - 1)^2] - (m - b)^2 / (2 scale s^2).
    q, s, b = 0.8, 0.6, np.array([[-1.2], [0.3]])
    keep = 1 / (1 + 2 * SCALE * s**2 * q)
    mean, value = module.best_kernel(lambda y: -q * (y - 1) ** 2, b, s, SCALE, 0)
    return {
        "best mean": ALGEBRA.holds(mean, 1 + keep * (b - 1), 1.0),
        "best value": ALGEBRA.holds(value, (-q * (keep * (b - 1) ** 2 + s**2))[:, 0], 1.0),
    }


CHECKS = {
    "control.linear": check_linear, "control.cases": check_cases, "chains": check_chains,
    "chain_optimum": check_chain_optimum,
}  # fmt: skip

# module, text, replacement, and the check that rejects it
MUTANTS = {
    # linear
    "A for its transpose": ("control.linear", "dP = A.T @ P + P @ A", "dP = A @ P + P @ A.T",
                            "value"),
    "vector's transpose": ("control.linear", "dp = A.T @ p", "dp = A @ p", "gradient"),
    "shift forgotten": ("control.linear", "g2 * P @ p + P @ a", "g2 * P @ p", "gradient"),
    "trace forgotten": ("control.linear", "g2 * (np.trace(P) - p @ p)", "g2 * (-p @ p)", "value"),
    "constant of the mean alone": ("control.linear", "np.trace(P @ self.cov)) +", "0.0) +",
                                   "expected"),
    "g squared": ("control.linear", "-self.noise(t) * self", "-self.noise(t) ** 2 * self",
                  "control"),
    "cross moment turned": ("control.linear", "(cross @ B.T)", "(cross @ B)", "law"),
    "energy of the mean": ("control.linear", "mean @ mean + np.trace(P @ S @ P.T)", "mean @ mean",
                           "energy"),
    "no running cost": ("control.linear", "return energy + running + final",
                        "return energy + final", "cost"),
    "chain with the tilt's value": ("control.linear", "+ 0.5 * s2 * np.trace(P)\n",
                                    "+ 0.5 * np.linalg.slogdet(eye + s2 * P)[1]\n",
                                    "chain's value"),
    "no response of its own step": ("control.linear", "-g * K @ P @ M", "-g * P @ M",
                                    "chain's control"),
    "running cost without dt": ("control.linear", "+ dt * self.running_matrix",
                                "+ self.running_matrix", "chain's value"),
    "chain's noise without dt": ("control.linear", "+ g**2 * dt * np", "+ g**2 * np", "distance"),
    "score not halved": ("control.linear", "first - 0.5 * float", "first - float", "drift"),
    "reward as a cost": ("control.linear", "final_vector=-scale", "final_vector=scale",
                         "cost of a reward"),
    "laws from time zero": ("control.linear", ("self.cov.ravel(), self.cov.ravel()])\n"
                                               "        found = solve_ivp(rate, (self.start,"),
                            ("self.cov.ravel(), self.cov.ravel()])\n"
                             "        found = solve_ivp(rate, (0.0,"), "marginal"),
    # cases
    "half the drift": ("control.cases", "k=kappa: -4 * k", "k=kappa: -2 * k", "value"),
    "g for its square": ("control.cases", "lambda t: self.g**2", "lambda t: self.g", "value"),
    "end at the other well": ("control.cases", "n * (x[:, 0] - 1)", "n * (x[:, 0] + 1)", "end"),
    "control by g squared": ("control.cases", "-self.g * self.gradient",
                             "-self.g**2 * self.gradient", "control"),
    "kernel of dt": ("control.cases", "self.g * dt**0.5", "self.g * dt", "chain's value"),
    "move for control": ("control.cases", "(mean - start) / (self.g * dt)",
                         "(mean - start) / (self.g * dt**0.5)", "chain's first"),
    "even steps": ("control.cases", "float(grid[k + 1] - grid[k])", "1 / (len(grid) - 1)",
                   "chain's second"),
    "chain's reward for its cost": ("control.cases", "[-self._values[j]", "[self._values[j]",
                                    "chain's value"),
    "kappa and nu exchanged": ("control.cases", "for i in (0, 1))", "for i in (1, 0))", "named"),
    "no rotation": ("control.cases", "0.6 * (turn - turn.T)", "0.6 * (turn + turn.T)",
                    "rotation"),
    # chains
    "P's sign": ("chains", "1 - dt * 0.5 * g2", "1 + dt * 0.5 * g2", "mean"),
    "score's half in Q": ("chains", "(1 + 0.5 * g2 *", "(1 + g2 *", "mean"),
    "eta for the gain in Q": ("chains", "g2 * path.alpha(t) / gain", "g2 / gain", "mean"),
    "noise of dt squared": ("chains", "P, Q, g2 * dt]", "P, Q, g2 * dt**2]", "std"),
    "noise at the step's end": ("chains", "squared(path, t)", "squared(path, t + 1 / self.steps)",
                                "std"),
    "steps from time zero": ("chains", "dt, gain = (1 - self.first_time) / self.steps,",
                             "dt, gain = 1 / self.steps,", "rectified_flow: mean"),
    "silent kernels": ("chains", "(self._rows[2] > 0)", "(self._rows[2] >= 0)", "silent"),
    "move at twice the KL": ("chain_optimum", "(2 * scale * std**2)", "(scale * std**2)",
                             "best value"),
    "gain of std": ("chain_optimum", "start, scale * std**2, k)", "start, scale * std, k)",
                    "best mean"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_modules_as_they_stand_pass(name):
    assert failures(CHECKS[name], mutant_module(f"theory.{name}")) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name):
    module, old, new, check = MUTANTS[name]
    found = failures(CHECKS[module], mutant_module(f"theory.{module}", (old, new)))
    assert any(check in what for what in found), found
