"""Riccati equations and chains of them: dense algebra on whole paths, enumeration."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from functools import cache
from itertools import product
from types import ModuleType

import numpy as np

from tests.helpers import tensor
from tests.mutants.harness import Checks, edited, overridden, replaced, revised
from tests.mutants.theory.control.shared import (
    SCALE,
    later,
    value_of,
)
from tests.theory.ledger.oracle.references import discrete_optimum
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.fields.diffusion import Diffusion
from theory.fields.paths import PATHS
from theory.laws.gaussians import GaussianSum
from theory.ledger.oracle.control.limits import kl_to_tilted, path_kl, tilted_moments
from theory.ledger.oracle.instants import instant
from theory.ledger.settings.linear import LinearProblems
from theory.problems.problem import Problem
from theory.tilts.quadratic import quadratic_reward

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
        running_matrix=lambda t: np.zeros((2, 2)),
        running_vector=lambda t: np.zeros(2),
        final_matrix=np.zeros((2, 2)),
        final_vector=np.zeros(2),
    )
    return {
        "expected": np.array(mean),
        "law": tilted_moments(n),
        "steered": tilted_moments(still),
        "energy": path_kl(steered, n),
        "cost": mean + kl_to_tilted(steered, n),
    }


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


CHECKS = {"control.linear": check_linear}

# --- the mutants of a module, and the check that rejects each


def problem_with(**parts):
    return overridden("LinearQuadratic", **parts)


def of_another(name, **changes):
    """A part as that of another problem, each change(problem) a field of it."""
    return problem_with(
        **{name: lambda whole, self, *given: whole.func(revised(self, **changes), *given)}
    )


def without_running(whole, self, feedback):
    return whole(feedback) - self._costs(feedback)[1]


def as_a_cost(whole):
    return lambda *given: revised(whole(*given), final_vector=lambda made: -made.final_vector)


def score_not_halved(whole):
    def wrong(problem, scale, schedule):
        louder = whole(problem, scale, replace(schedule, constant=math.sqrt(2) * schedule.constant))
        found = whole(problem, scale, schedule)
        return replace(found, matrix=louder.matrix, shift=louder.shift)

    return wrong


def running_without_dt(whole, self, times):
    most = self.running_matrix * (len(times) - 1)
    return whole.func(replace(self, running_matrix=most), times)


MUTANTS = {
    "control.linear": {
        "A for its transpose": (
            of_another("_riccati", matrix=lambda problem: lambda t: problem.matrix(t).T),
            "value",
        ),
        "vector's transpose": (edited("dp = A.T @ p", "dp = A @ p"), "gradient"),
        "shift forgotten": (
            of_another("_riccati", shift=lambda problem: lambda t: 0 * problem.shift(t)),
            "gradient",
        ),
        "trace forgotten": (edited("g2 * (np.trace(P) - p @ p)", "g2 * (-p @ p)"), "value"),
        "constant of the mean alone": (
            of_another("expected_value", cov=lambda problem: 0 * problem.cov),
            "expected",
        ),
        "g squared": (
            problem_with(control=lambda whole, self, x, t: self.noise(t) * whole(x, t)),
            "control",
        ),
        "cross moment turned": (edited("(cross @ B.T)", "(cross @ B)"), "law"),
        "energy of the mean": (
            edited("mean @ mean + np.trace(P @ S @ P.T)", "mean @ mean"),
            "energy",
        ),
        "no running cost": (problem_with(cost=without_running), "cost"),
        "chain with the tilt's value": (
            edited(
                "+ 0.5 * s2 * np.trace(P)\n",
                "+ 0.5 * np.linalg.slogdet(eye + s2 * P)[1]\n",
            ),
            "chain's value",
        ),
        "no response of its own step": (
            edited("-g * K @ P @ M", "-g * P @ M"),
            "chain's control",
        ),
        "running cost without dt": (problem_with(discrete=running_without_dt), "chain's value"),
        "chain's noise without dt": (edited("+ g**2 * dt * np", "+ g**2 * np"), "distance"),
        "score not halved": (replaced(of_gaussian=score_not_halved), "drift"),
        "reward as a cost": (
            replaced(of_gaussian=as_a_cost),
            "cost of a reward",
        ),
        "laws from time zero": (of_another("steered", start=lambda problem: 0.0), "marginal"),
    }
}
