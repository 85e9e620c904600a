"""Adjoint states: complex steps through paths simulated anew, an ODE, Heun's rule by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import product
from types import ModuleType

import numpy as np
import torch
from scipy.integrate import solve_ivp

from tests.helpers import tensor
from tests.mutants.harness import Checks, edited, replaced
from tests.mutants.theory.control.shared import (
    STEP,
)
from theory.common.tolerances import ALGEBRA, QUADRATURE, SLOPE
from theory.ledger.oracle.control import chain as control_chain
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain

TIMES = np.array([0.0, 0.15, 0.3, 0.6, 0.7, 1.0])
RNG = np.random.default_rng(4)
A, W, THETA = RNG.normal(size=(3, 2, 2)) * np.array([0.4, 1.0, 0.5])[:, None, None]
START, XI = RNG.normal(size=(3, 2)), RNG.normal(size=(3, 5, 2))


def written(lib, theta) -> tuple:
    """Drift, control, running cost and final cost of one process, in numpy or torch."""
    return (
        lambda x, t: lib.sin(x @ (A if lib is np else tensor(A)) + t),
        lambda x, t: lib.tanh(x @ (W if lib is np else tensor(W)) - t) @ theta,
        lambda x, t: 0.4 * lib.sin(x + t).sum(1),
        lambda x: lib.cos(x[:, 0]) + 0.3 * (x**2).sum(1) + x[:, -1],
    )


def noise_at(t: float) -> float:
    return 0.5 + 0.3 * t


@cache
def simulated() -> dict[str, np.ndarray]:
    """Paths, gradients of costs from every state on by complex steps, and that in theta."""

    def chain(theta):
        b, u, f, c = written(np, theta)
        return control_chain.Chain(b, u, noise_at, f, c, TIMES)

    own = chain(THETA)
    rows = list(zip(START, XI, strict=True))
    paths = np.array([control_chain.chain_path(own, s, xi) for s, xi in rows])

    def total(theta):
        moved, cost = chain(theta), 0.0
        for s, xi in rows:
            x = control_chain.chain_path(moved, s, xi)
            for k in range(5):
                now, t = x[k : k + 1], TIMES[k]
                energy = 0.5 * (moved.control(now, t) ** 2).sum() + moved.cost(now, t)[0]
                cost += (TIMES[k + 1] - t) * energy
            cost += moved.final(x[5:])[0]
        return cost / 3

    by_theta = [
        (total(THETA + STEP * unit) - total(THETA - STEP * unit)) / (2 * STEP)
        for unit in np.eye(4).reshape(4, 2, 2)
    ]
    full, lean = (
        np.array([control_chain.cost_gradient(own, s, xi, frozen=frozen) for s, xi in rows])
        for frozen in (False, True)
    )
    return {"paths": paths, "full": full, "lean": lean, "theta": np.array(by_theta)}


@cache
def smooth_adjoint() -> float:
    """a(0) of a' = -(cos(x) a + sin(t)), a(1) = 1 along x = sin(3 t)."""
    found = solve_ivp(
        lambda t, a: -(np.cos(np.sin(3 * t)) * a + np.sin(t)),
        (1, 0),
        [1.0],
        rtol=ALGEBRA.rtol,
        atol=ALGEBRA.rtol / 100,
    )
    return float(found.y[0, -1])


def trapezoid(n: int) -> float:
    """The same by Heun's rule in n steps, the last interval a plain step."""
    t = np.linspace(0, 1, n + 1)
    slope, rate, dt, a = np.cos(np.sin(3 * t)), np.sin(t), 1 / n, 1.0
    a += dt * (slope[n - 1] * a + rate[n - 1])
    for k in range(n - 2, -1, -1):
        first = slope[k + 1] * a + rate[k + 1]
        a += 0.5 * dt * (first + slope[k] * (a + dt * first) + rate[k])
    return a


def check_adjoints(module: ModuleType) -> Checks:
    theta, known = tensor(THETA).requires_grad_(True), simulated()
    b, u, f, c = written(torch, theta)
    process, times = module.Process(b, u, noise_at, c, f), tensor(TIMES)
    states = module.rollout(process, times, tensor(START), tensor(XI))
    full, lean = (a(process, times, states) for a in (module.full_adjoint, module.lean_adjoint))
    held = tensor(np.random.default_rng(6).normal(size=states.shape))
    numpy_u = written(np, THETA)[1]

    def matching(moved):
        own, total = written(np, moved)[1], [0.0, 0.0]
        for k in range(5):
            x, a = known["paths"][:, k], held[:, k].numpy()
            gap = own(x, TIMES[k]) + noise_at(TIMES[k]) * a
            dt = TIMES[k + 1] - TIMES[k]
            total[0] += 0.5 * dt * (gap**2).sum() / 3
            # The control's own gradient holds u + g a.
            fixed = numpy_u(x, TIMES[k]) + noise_at(TIMES[k]) * a
            total[1] += dt * (fixed * own(x, TIMES[k])).sum() / 3
        return np.array(total)

    slopes = np.array(
        [
            (matching(THETA + STEP * unit) - matching(THETA - STEP * unit)) / (2 * STEP)
            for unit in np.eye(4).reshape(4, 2, 2)
        ]
    )
    gradients = {"matching": module.matching_gradient, "control": module.control_gradient}
    line = module.Process(
        lambda x, t: torch.sin(x),
        lambda x, t: 0 * x,
        noise_at,
        lambda x: x[:, 0],
        lambda x, t: math.sin(t) * x[:, 0],
    )
    errors = {}
    for rule, n in product(("step", "heun"), (60, 120)):
        grid = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        along = torch.sin(3 * grid)[None, :, None]
        a = float(module.lean_adjoint(line, grid, along, rule)[0, 0, 0])
        errors[rule, n] = abs(a - smooth_adjoint())
    by_hand = ALGEBRA.holds(a, trapezoid(n))
    orders = {rule: math.log2(errors[rule, 60] / errors[rule, 120]) for rule in ("step", "heun")}
    problem = load_problem("bump_2d")
    chain, policy = Chain(5, sigma_end=0.1, first_time=0.1), problem.nft_field(1.5)
    euler, clock = module.chain_process(chain, problem.base_field, policy, problem.reward)
    noise = tensor(np.random.default_rng(7).normal(size=(3, 6, 2)))
    own = module.rollout(euler, clock, chain.start(noise[:, 0]), noise[:, 1:])
    s = chain.coefficients(noise)[2]
    gap = [chain.mean(m, 3, own[:, 3]) for m in (policy, problem.base_field)]
    found = {
        "Heun by hand": by_hand,
        "paths": ALGEBRA.holds(states, known["paths"], 1.0),
        "full": ALGEBRA.holds(full, known["full"], 1.0),
        "lean": ALGEBRA.holds(lean, known["lean"], 1.0),
        "orders": abs(orders["step"] - 1) <= SLOPE and abs(orders["heun"] - 2) <= SLOPE,
        "chain": ALGEBRA.holds(own, chain.rollout(policy, noise), 1.0),
        "chain's KL": ALGEBRA.holds(
            0.5 * 0.18 * euler.control(own[:, 3], float(clock[3])) ** 2,
            0.5 * ((gap[0] - gap[1]) / s[3]) ** 2,
            1.0,
        ),
    }
    for i, (name, gradient) in enumerate(gradients.items()):
        exact = gradient(process, times, states, full, [theta]).detach()
        found[f"{name} gradient"] = QUADRATURE.holds(exact, known["theta"], 1.0)
        left = gradient(process, times, states, held, [theta], "own").detach()
        found[f"{name} gradient, own"] = QUADRATURE.holds(left, slopes[:, i], 1.0)
    return found


CHECKS = {"control.adjoints": check_adjoints}

# --- the mutants of a module, and the check that rejects each


def seen_by(function, change):
    """A function that is given another process: change(process)."""

    def wrong(whole):
        return lambda process, *rest, **options: whole(change(process), *rest, **options)

    return replaced(**{function: wrong})


def without_g(process):
    return replace(process, noise=lambda t: 1.0)


def paying_twice(process):
    def running(x, t):
        return process.running(x, t) + 0.5 * (process.control(x, t) ** 2).sum(1)

    return replace(process, running=running)


def drifting_with_control(process):
    def drift(x, t):
        return process.drift(x, t) + process.noise(t) * process.control(x, t)

    return replace(process, drift=drift)


def at_later_states(whole):
    def backwards(process, times, states, *rest):
        return whole(process, times, torch.cat([states[:, 1:], states[:, -1:]], 1), *rest)

    return backwards


def noise_without_g(whole):
    def rollout(process, times, start, noise):
        g = tensor([process.noise(t) for t in times[:-1].tolist()])
        return whole(process, times, start, noise / g[:, None])

    return rollout


def control_without_dt(whole):
    def chain_process(*given):
        process, times = whole(*given)
        root = math.sqrt(times[1] - times[0])
        return replace(process, control=lambda x, t: root * process.control(x, t)), times

    return chain_process


OTHER = {"next": "own", "own": "next"}


def exchanged(whole):
    return lambda *given, matching: whole(*given[:-1], OTHER[given[-1]], matching=matching)


MUTANTS = {
    "control.adjoints": {
        "energy not halved": (seen_by("full_adjoint", paying_twice), "full"),
        "control without g": (seen_by("full_adjoint", without_g), "full"),
        "lean with the control": (seen_by("lean_adjoint", drifting_with_control), "lean"),
        "lean without running cost": (
            seen_by("lean_adjoint", lambda process: replace(process, running=None)),
            "lean",
        ),
        "step at its end": (replaced(_backwards=at_later_states), "full"),
        "Euler for Heun": (
            edited("slope(k, t, a + dt * first)", "slope(k, t, a)"),
            "orders",
        ),
        "Heun at one time": (
            edited("slope(k + 1, steps[k + 1][0], a)", "slope(k + 1, t, a)"),
            "orders",
        ),
        "Heun in the wrong order": (
            edited(
                "(first + slope(k, t, a + dt * first))",
                "(slope(k, t, a) + slope(k + 1, t, a + dt * first))",
            ),
            "orders",
        ),
        "last two by steps": (
            edited('"heun" and k < len(steps) - 1', '"heun" and k < len(steps) - 2'),
            "Heun by hand",
        ),
        "noise without g": (replaced(rollout=noise_without_g), "paths"),
        "chain's control without dt": (replaced(chain_process=control_without_dt), "chain"),
        "chain of unit time": (
            edited("dt = (1 - chain.first_time) / chain.steps", "dt = 1 / chain.steps"),
            "chain",
        ),
        "places exchanged": (replaced(_gradient=exchanged), "own"),
        "adjoint without g": (seen_by("_gradient", without_g), "matching gradient"),
        "gap not held": (edited("(gap.detach() * u)", "(gap * u)"), "control gradient"),
    }
}
