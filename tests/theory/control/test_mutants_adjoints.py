"""Mistakes in adjoints and critical points: each is rejected by a quick check of its module.

As test_mutants, whose helpers serve; second routes are complex steps through paths simulated anew
and sums over a line's grid.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.interpolate import make_interp_spline
from scipy.optimize import brentq

from tests.theory.control.test_mutants import SCALE, STEP, Checks, failures, tensor
from tests.theory.methods.mutants import mutant_module
from theory.chains import Chain
from theory.oracle import control_chain
from theory.problem import load_problem
from theory.tolerances import ALGEBRA, QUADRATURE, SLOPE

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
        lambda t, a: -(np.cos(np.sin(3 * t)) * a + np.sin(t)), (1, 0), [1.0],
        rtol=ALGEBRA.rtol, atol=ALGEBRA.rtol / 100,
    )  # fmt: skip
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

    slopes = np.array([
        (matching(THETA + STEP * unit) - matching(THETA - STEP * unit)) / (2 * STEP)
        for unit in np.eye(4).reshape(4, 2, 2)
    ])  # fmt: skip
    gradients = {"matching": module.matching_gradient, "control": module.control_gradient}
    line = module.Process(
        lambda x, t: torch.sin(x), lambda x, t: 0 * x, noise_at, lambda x: x[:, 0],
        lambda x, t: math.sin(t) * x[:, 0],
    )  # fmt: skip
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
            0.5 * ((gap[0] - gap[1]) / s[3]) ** 2, 1.0,
        ),
    }  # fmt: skip
    for i, (name, gradient) in enumerate(gradients.items()):
        exact = gradient(process, times, states, full, [theta]).detach()
        found[f"{name} gradient"] = QUADRATURE.holds(exact, known["theta"], 1.0)
        left = gradient(process, times, states, held, [theta], "own").detach()
        found[f"{name} gradient, own"] = QUADRATURE.holds(left, slopes[:, i], 1.0)
    return found


AXIS = np.linspace(-9, 9, 241)
STD = np.array([0.7, 0.5, 0.6])
INNER = np.abs(AXIS) < 3


def rows_of(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Base means, a policy's, and the slopes of both, (3, N) each."""
    k = np.arange(3)[:, None]
    u, du = 0.4 * np.sin(x) + 0.2 * k, 0.4 * np.cos(x) + 0 * k
    base, slope = 0.7 * x + 0.2 * np.sin(x + k), 0.7 + 0.2 * np.cos(x + k)
    return base, base + STD[:, None] * u, slope, slope + STD[:, None] * du


def final(x: np.ndarray) -> np.ndarray:
    return np.log(np.cosh(x - 0.5)) + 0.3 * np.sin(x)


def final_slope(x: np.ndarray) -> np.ndarray:
    return np.tanh(x - 0.5) + 0.3 * np.cos(x)


def kernels(means: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each step's kernel as a matrix from x (rows) to x' (columns), and that of d/dm."""
    found = []
    for m, s in zip(means, STD, strict=True):
        z = (AXIS[None, :] - m[:, None]) / s
        kernel = np.exp(-0.5 * z**2) / (s * math.sqrt(2 * math.pi)) * (AXIS[1] - AXIS[0])
        found.append((kernel, kernel * z / s))
    return found


def backwards(means: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, ...]:
    """J (4, N), its derivative, the lean adjoint's mean, and H of both, by sums over the axis."""
    base, _, base_slope, _ = rows_of(AXIS)
    J, full, lean, H, H_lean = [final(AXIS)], [final_slope(AXIS)], [final_slope(AXIS)], [], []
    for k in (2, 1, 0):
        kernel, moved = kernels(means)[k]
        u, du = (means[k] - base[k]) / STD[k], (slopes[k] - base_slope[k]) / STD[k]
        H.insert(0, moved @ J[0])
        H_lean.insert(0, kernel @ lean[0])
        J.insert(0, kernel @ J[0] + 0.5 * u**2)
        full.insert(0, slopes[k] * H[0] + u * du)
        lean.insert(0, base_slope[k] * H_lean[0])
    return tuple(np.array(rows) for rows in (J, full, lean, H, H_lean))


def check_critical(module: ModuleType) -> Checks:
    base, means, base_slope, slope = rows_of(AXIS)
    line = module.LineChain(AXIS, base, STD, 1.2, final, final_slope)
    J, full, lean, H, H_lean = backwards(means, slope)
    u, s = (means - base) / STD[:, None], STD[:, None]
    drop = (slope - base_slope) * (H + u / s)
    density = np.exp(-0.5 * (AXIS / 1.2) ** 2) / (1.2 * math.sqrt(2 * math.pi))
    laws = [density]
    for kernel, _ in kernels(means):
        laws.append(laws[-1] @ kernel)
    best = line.critical()
    bent = make_interp_spline(AXIS, best.means, k=7, axis=1).derivative()(AXIS)
    own = backwards(best.means, bent)
    # One kernel whose smoothed c' is -b sin(2 m)/s^2: phi = m - b sin(2 m), its roots by hand.
    b, std = 1.5, 0.5
    steep = b / std**2 * math.exp(2 * std**2)
    wave = module.LineChain(
        AXIS, AXIS[None] * 0.3, np.array([std]), 1.2, lambda x: steep / 2 * np.cos(2 * x),
        lambda x: -steep * np.sin(2 * x),
    )  # fmt: skip
    place = int(np.flatnonzero(np.isclose(AXIS, 0.6))[0])
    fine = np.linspace(-8, 8, 4001)
    phi = fine - b * np.sin(2 * fine) - 0.18
    turns = np.flatnonzero(phi[1:] * phi[:-1] < 0)
    roots = [brentq(lambda m: m - b * math.sin(2 * m) - 0.18, fine[i], fine[i + 1]) for i in turns]
    branches = [wave.critical([i]) for i in range(len(roots))]
    problem, chain = load_problem("note_1d"), Chain(3, sigma_end=0.12)
    made = module.LineChain.of_problem(problem, chain, SCALE, 61)
    at = tensor(made.axis)[:, None]
    cut = module.Spline(AXIS, AXIS**2)
    curve = line.curved(1, final, means[1][INNER])[2]
    bend = kernels(means)[1][1] @ final_slope(AXIS)
    search = module.BRACKET * np.linspace(-9, 9, module.ROOTS)
    return {
        "cost to go": QUADRATURE.holds(line.cost_to_go(means)[:, INNER], J[:, INNER], 1.0),
        "full": QUADRATURE.holds(line.adjoints(means)[0][:, INNER], full[:, INNER], 1.0),
        "lean": QUADRATURE.holds(line.adjoints(means, "lean")[0][:, INNER], lean[:, INNER], 1.0),
        "gradient": QUADRATURE.holds(
            line.gradient_fields(means)[:, INNER], (u + s * H)[:, INNER], 1.0
        ),
        "lean gradient": QUADRATURE.holds(
            line.gradient_fields(means, "lean")[:, INNER], (u + s * H_lean)[:, INNER], 1.0
        ),
        "dropped": QUADRATURE.holds(line.dropped(means)[0][:, INNER], drop[:, INNER], 1.0),
        "curvature": QUADRATURE.holds(curve, bend[INNER], 1.0),
        "densities": QUADRATURE.holds(line.densities(means), laws, 1.0),
        "start": QUADRATURE.holds(line.start_mean(AXIS**2), 1.2**2),
        "critical": QUADRATURE.holds(
            ((best.means - base) / s + s * own[4])[:, INNER], 0.0, 1.0
        ) and QUADRATURE.holds(((best.means - base) / s + s * own[3])[:, INNER], 0.0, 1.0),
        "unique": best.unique and not branches[0].unique,
        "count": len(roots) == branches[0].roots[0, place],
        "branches": QUADRATURE.holds([p.means[0, place] for p in branches], roots, 1.0),
        "least": QUADRATURE.holds(
            branches[0].least[0], (1 - 2 * b * np.cos(2 * search)).min(), 1.0
        ),
        "beyond": ALGEBRA.holds(cut(np.array([-10.0, 11.0])), [81 + 18, 81 + 36]),
        "made": ALGEBRA.holds(made.std, chain.coefficients(at)[2])
        and ALGEBRA.holds(made.base[1], chain.mean(problem.base_field, 1, at)[:, 0], 1.0),
        "cost": ALGEBRA.holds(made.final(made.axis), -SCALE * problem.reward(at), 1.0),
        "cost's slope": QUADRATURE.holds(
            made.final_slope(made.axis),
            (made.final(made.axis + STEP) - made.final(made.axis - STEP)) / (2 * STEP), 1.0,
        ),
    }  # fmt: skip


CHECKS = {"control.adjoints": check_adjoints, "control.critical": check_critical}

# module, text, replacement, and the check that rejects it
MUTANTS = {
    # adjoints
    "energy not halved": ("control.adjoints", "0.5 * (u**2).sum()\n", "(u**2).sum()\n", "full"),
    "control without g": ("control.adjoints", "+ process.noise(t) * u) * a", "+ u) * a", "full"),
    "lean with the control": ("control.adjoints", "total = (process.drift(x, t) * a).sum()",
                              ("total = ((process.drift(x, t) + process.noise(t) * "
                               "process.control(x, t)) * a).sum()"), "lean"),
    "lean without running cost": ("control.adjoints", ("(process.drift(x, t) * a).sum()\n"
                                  "        return total if process.running is None"),
                                  "(process.drift(x, t) * a).sum()\n        return total if True",
                                  "lean"),
    "step at its end": ("control.adjoints", "a = a + dt * slope(k, t, a)",
                        "a = a + dt * slope(k + 1, t, a)", "full"),
    "Euler for Heun": ("control.adjoints", "slope(k, t, a + dt * first)", "slope(k, t, a)",
                       "orders"),
    "Heun at one time": ("control.adjoints", "slope(k + 1, steps[k + 1][0], a)",
                         "slope(k + 1, t, a)", "orders"),
    "Heun in the wrong order": ("control.adjoints", "(first + slope(k, t, a + dt * first))",
                                "(slope(k, t, a) + slope(k + 1, t, a + dt * first))", "orders"),
    "last two by steps": ("control.adjoints", '"heun" and k < len(steps) - 1',
                          '"heun" and k < len(steps) - 2', "Heun by hand"),
    "noise without g": ("control.adjoints", "g * math.sqrt(dt) * noise", "math.sqrt(dt) * noise",
                        "paths"),
    "chain's control without dt": ("control.adjoints", "(s[k] * math.sqrt(dt))", "s[k]", "chain"),
    "chain of unit time": ("control.adjoints", "dt = (1 - chain.first_time) / chain.steps",
                           "dt = 1 / chain.steps", "chain"),
    "places exchanged": ("control.adjoints", 'k + 1 if place == "next" else k',
                         'k if place == "next" else k + 1', "own"),
    "adjoint without g": ("control.adjoints", "u + process.noise(t) * a\n", "u + a\n",
                          "matching gradient"),
    "gap not held": ("control.adjoints", "(gap.detach() * u)", "(gap * u)", "control gradient"),
    # critical
    "energy's slope by s": ("control.critical", "(means[k] - self.base[k]) / self.std[k] ** 2",
                            "(means[k] - self.base[k]) / self.std[k]", "full"),
    "full by the base": ("control.critical", "a = slope * h +", "a = self.base_slopes[k] * h +",
                         "full"),
    "lean by the policy": ("control.critical", "a = self.base_slopes[k] * h\n", "a = slope * h\n",
                           "lean"),
    "cost to go without KL": ("control.critical", "[0] + 0.5 * u[k] ** 2)", "[0])", "cost to go"),
    "gradient without s": ("control.critical", "self.std[:, None] * H\n", "H\n", "gradient"),
    "dropped's sign": ("control.critical", "return slope * (H + move)",
                       "return slope * (H - move)", "dropped"),
    "kernel turned": ("control.critical", "kernel @ found[-1]", "kernel.T @ found[-1]",
                      "holds a mass"),
    "Stein without centre": ("control.critical", "w * (z**2 - 1)", "w * z**2", "curvature"),
    "slope not by s": ("control.critical", "found[:, 1] / s,", "found[:, 1],", "least"),
    "flat beyond": ("control.critical", "found[beyond] += ", "found[beyond] += 0 * ", "beyond"),
    "roots of falling phi": ("control.critical", "(rest < 0) == rising", "rest < 0", "branches"),
    "later kernel's own slope": ("control.critical", "a = self.base_slopes[k] * self.smoothed",
                                 "a = self._derivative(means[k]) * self.smoothed", "critical"),
    "std of the next kernel": ("control.critical", "dtype=torch.float64))[2].numpy()",
                               "dtype=torch.float64))[2].roll(-1).numpy()", "made"),
    "cost's own slope's sign": ("control.critical", "-scale * found.numpy()",
                                "scale * found.numpy()", "cost's slope"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_modules_as_they_stand_pass(name):
    assert failures(CHECKS[name], mutant_module(f"theory.{name}")) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name):
    module, old, new, check = MUTANTS[name]
    found = failures(CHECKS[module], mutant_module(f"theory.{module}", (old, new)))
    assert any(check in what for what in found), found
