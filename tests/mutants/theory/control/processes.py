"""Cases as chains to simulate: numpy loops over a trajectory, quadratics by enumeration."""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import numpy as np

from tests.helpers import tensor
from tests.mutants.theory.control.shared import Checks, refused
from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.control.cases import Case, DoubleWell, control_case

STEPS = 8


@cache
def cases() -> tuple[Case, ...]:
    """A linear-quadratic one, and a well shallow enough for few steps; solved once."""
    well = DoubleWell(np.array([0.1, 0.15]), np.array([0.8, 0.4]), np.array([-1.0, -0.5]))
    return control_case("ou_quadratic"), well


def check_processes(module: ModuleType) -> Checks:
    found: Checks = {}
    for case in cases():
        name, linear = case.name, case.name.startswith("ou")
        rng = np.random.default_rng(0)
        noise, dt = rng.normal(size=(2, STEPS + 1, case.dim)), 1 / STEPS
        chain = module.OptimalChain(case, STEPS)
        paths, best = chain.paths(tensor(noise)), case.discrete(np.linspace(0, 1, STEPS + 1))
        x = (
            case.mean + noise[:, 0] @ np.linalg.cholesky(case.cov).T
            if linear
            else np.tile(case.begin, (2, 1))
        )
        states, controls, diffusion, cost = [x], [], [], np.zeros(2)
        for k in range(STEPS):
            u = best.control(x, k)
            controls.append(u)
            diffusion.append(case.control(x, k * dt))
            cost += dt * 0.5 * (u**2).sum(1)
            if linear:
                cost += dt * np.array(
                    [0.5 * y @ case.running_matrix @ y + case.running_vector @ y for y in x]
                )
                drift = x @ case.matrix(k * dt).T
            else:
                drift = -4 * case.kappa * (x**3 - x)
            x = x + dt * (drift + u) + math.sqrt(dt) * noise[:, k + 1]
            states.append(x)
        if linear:
            cost += np.array([0.5 * y @ case.final_matrix @ y + case.final_vector @ y for y in x])
        else:
            cost += (x - 1) ** 2 @ case.nu
        held = {round(k * dt, 9): tensor(u) for k, u in enumerate(controls)}
        process = module.case_process(case, lambda x, t, u=held: u[round(t, 9)])
        found |= {
            f"{name}: states": ALGEBRA.holds(paths.states, np.stack(states, 1), 1.0),
            f"{name}: best": ALGEBRA.holds(paths.best, np.stack(controls, 1), 1.0),
            f"{name}: diffusion": ALGEBRA.holds(paths.continuous, np.stack(diffusion, 1), 1.0),
            f"{name}: cost": ALGEBRA.holds(
                module.path_costs(process, chain.times, paths.states), cost, 1.0
            ),
        }
        if linear:
            # E V_0 of a quadratic by enumeration of each coordinate's two-point law.
            half = np.linalg.cholesky(case.cov).T
            V = best.value(np.concatenate([case.mean[None], case.mean + half, case.mean - half]))
            mean = V[0] + 0.5 * (V[1:].sum() - 2 * case.dim * V[0])
            found[f"{name}: least"] = QUADRATURE_TIGHT.holds(chain.least_cost, mean, 1.0)
        else:
            found[f"{name}: few"] = refused(
                lambda: module.OptimalChain(control_case("double_well_10d"), 16)
            )
    return found


CHECKS = {"control.processes": check_processes}

# module, text, replacement, and the check that rejects it
MUTANTS = {
    "energy not halved": (
        "control.processes",
        "0.5 * dt * (process.control(x, t) ** 2)",
        "dt * (process.control(x, t) ** 2)",
        "cost",
    ),
    "running cost without dt": (
        "control.processes",
        "dt * process.running(x, t)",
        "process.running(x, t)",
        "ou_quadratic: cost",
    ),
    "no final cost": (
        "control.processes",
        "return total + process.final(states[:, -1])",
        "return total",
        "cost",
    ),
    "final cost one step early": (
        "control.processes",
        "process.final(states[:, -1])",
        "process.final(states[:, -2])",
        "cost",
    ),
    "quadratic not halved": (
        "control.processes",
        "0.5 * ((x @ _as(matrix, x))",
        "((x @ _as(matrix, x))",
        "ou_quadratic: cost",
    ),
    "covariance for its root": (
        "control.processes",
        "np.linalg.cholesky(case.cov), noise",
        "case.cov, noise",
        "ou_quadratic: states",
    ),
    "root turned": (
        "control.processes",
        "np.linalg.cholesky(case.cov), noise).T",
        "np.linalg.cholesky(case.cov), noise)",
        "ou_quadratic: states",
    ),
    "drift's matrix turned": (
        "control.processes",
        "x @ _as(case.matrix(t), x).T",
        "x @ _as(case.matrix(t), x)",
        "ou_quadratic: states",
    ),
    "noise of the step before": (
        "control.processes",
        "noise[:, k + 1]\n",
        "noise[:, k]\n",
        "states",
    ),
    "u* of the next time": (
        "control.processes",
        "case.control(x.numpy(), t)",
        "case.control(x.numpy(), min(t + dt, 1.0))",
        "diffusion",
    ),
    "paths of the diffusion's control": (
        "control.processes",
        "x = x + dt * (process.drift(x, t) + g * u)",
        "x = x + dt * (process.drift(x, t) + g * continuous[-1])",
        "states",
    ),
    "value at the mean": (
        "control.processes",
        "root = math.sqrt(case.dim) *",
        "root = 0.0 *",
        "least",
    ),
    "few steps let in": (
        "control.processes",
        "            _ = self.optimum\n",
        "            pass\n",
        "few",
    ),
}
