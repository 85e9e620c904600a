"""Cases as chains to simulate: numpy loops over a trajectory, quadratics by enumeration."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from types import ModuleType, SimpleNamespace

import numpy as np
import torch

from tests.helpers import tensor
from tests.mutants.harness import Checks, overridden, replaced, revised
from tests.mutants.theory.control.shared import refused
from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.control.cases import Case, DoubleWell, control_case
from theory.control.linear import LinearQuadratic

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

# --- the mutants of a module, and the check that rejects each


def process_with(**changes):
    """Costs of another process: each change(process) a field of it."""
    return replaced(
        path_costs=lambda whole: lambda process, *rest: whole(revised(process, **changes), *rest)
    )


def linear_with(function, **changes):
    """A function that is given another linear-quadratic case; wells are left as they are."""

    def wrong(whole):
        def of(case, given):
            linear = isinstance(case, LinearQuadratic)
            return whole(revised(case, **changes) if linear else case, given)

        return of

    return replaced(**{function: wrong})


def chain_with(**parts):
    return overridden("OptimalChain", **parts)


def one_step_early(whole):
    def path_costs(process, times, states):
        gap = process.final(states[:, -2]) - process.final(states[:, -1])
        return whole(process, times, states) + gap

    return path_costs


def turned_root(case):
    """The covariance of noise times the root, the root being on the wrong side."""
    root = np.linalg.cholesky(case.cov)
    return root.T @ root


def of_the_next_time(whole, self, noise):
    found = whole(noise)
    pairs = zip(found.states.unbind(1), self.times[1:].tolist(), strict=False)
    later = [tensor(self.case.control(x.numpy(), t)) for x, t in pairs]
    return replace(found, continuous=torch.stack(later, 1))


def of_the_diffusion(whole, self):
    def control(x, k):
        return self.case.control(x, float(self.times[k]))

    return SimpleNamespace(control=control, value=whole().value)


MUTANTS = {
    "control.processes": {
        "energy not halved": (
            process_with(control=lambda p: lambda x, t: math.sqrt(2) * p.control(x, t)),
            "cost",
        ),
        "running cost without dt": (
            process_with(running=lambda p: p.running and (lambda x, t: STEPS * p.running(x, t))),
            "ou_quadratic: cost",
        ),
        "no final cost": (process_with(final=lambda p: lambda x: 0.0), "cost"),
        "final cost one step early": (replaced(path_costs=one_step_early), "cost"),
        "quadratic not halved": (
            linear_with(
                "case_process",
                final_matrix=lambda case: 2 * case.final_matrix,
                running_matrix=lambda case: 2 * case.running_matrix,
            ),
            "ou_quadratic: cost",
        ),
        "covariance for its root": (
            linear_with("case_starts", cov=lambda case: case.cov @ case.cov),
            "ou_quadratic: states",
        ),
        "root turned": (linear_with("case_starts", cov=turned_root), "ou_quadratic: states"),
        "drift's matrix turned": (
            linear_with("case_process", matrix=lambda case: lambda t: case.matrix(t).T),
            "ou_quadratic: states",
        ),
        "noise of the step before": (
            chain_with(
                paths=lambda whole, self, noise: whole(torch.cat([noise[:, :1], noise[:, :-1]], 1))
            ),
            "states",
        ),
        "u* of the next time": (chain_with(paths=of_the_next_time), "diffusion"),
        "paths of the diffusion's control": (chain_with(optimum=of_the_diffusion), "states"),
        "value at the mean": (
            chain_with(
                least_cost=lambda whole, self: float(self.optimum.value(self.case.mean[None])[0])
            ),
            "least",
        ),
        "few steps let in": (chain_with(__post_init__=lambda whole, self: None), "few"),
    }
}
