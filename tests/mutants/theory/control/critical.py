"""Critical points on the line: kernels as matrices, roots by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.optimize import brentq

from tests.helpers import tensor
from tests.mutants.harness import Checks, edited, overridden, revised
from tests.mutants.theory.control.shared import (
    SCALE,
    STEP,
)
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain

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
        AXIS,
        AXIS[None] * 0.3,
        np.array([std]),
        1.2,
        lambda x: steep / 2 * np.cos(2 * x),
        lambda x: -steep * np.sin(2 * x),
    )
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
        "critical": QUADRATURE.holds(((best.means - base) / s + s * own[4])[:, INNER], 0.0, 1.0)
        and QUADRATURE.holds(((best.means - base) / s + s * own[3])[:, INNER], 0.0, 1.0),
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
            (made.final(made.axis + STEP) - made.final(made.axis - STEP)) / (2 * STEP),
            1.0,
        ),
    }


HOME = "ledger.domingo.line_chain"
CHECKS = {HOME: check_critical}

# --- the mutants of a module, and the check that rejects each


def line_with(**parts):
    return overridden("LineChain", **parts)


def lean_by_the_policy(whole, self, means, adjoint="full"):
    """Of the lean adjoint the base's slopes are the policy's."""
    own = replace(self, base=means) if adjoint == "lean" else self
    return whole.func(own, means, adjoint)


def without_kl(whole, self, means):
    return whole.func(replace(self, base=means), means)


def without_s(whole, self, means, *adjoint):
    u = self.controls(means)
    return u + (whole(means, *adjoint) - u) / self.std[:, None]


def not_centred(whole, self):
    z, rows = whole()
    return z, np.stack([rows[0], rows[1], rows[2] + rows[0]])


def not_by_s(whole, self, k, later, m):
    mean, slope, bend = whole(k, later, m)
    return mean, slope * self.std[k], bend


def made(**fields):
    """Other fields of a problem's chain, each of what it is."""
    return line_with(of_problem=lambda whole, kind, *given: revised(whole(*given), **fields))


MUTANTS = {
    HOME: {
        "energy's slope by s": (
            edited(
                "(means[k] - self.base[k]) / self.std[k] ** 2",
                "(means[k] - self.base[k]) / self.std[k]",
            ),
            "full",
        ),
        "full by the base": (edited("a = slope * h +", "a = self.base_slopes[k] * h +"), "full"),
        "lean by the policy": (line_with(adjoints=lean_by_the_policy), "lean"),
        "cost to go without KL": (line_with(cost_to_go=without_kl), "cost to go"),
        "gradient without s": (line_with(gradient_fields=without_s), "gradient"),
        "dropped's sign": (
            edited("return slope * (H + move)", "return slope * (H - move)"),
            "dropped",
        ),
        "kernel turned": (edited("kernel @ found[-1]", "kernel.T @ found[-1]"), "hold a mass"),
        "Stein without centre": (line_with(_noise=not_centred), "curvature"),
        "slope not by s": (line_with(curved=not_by_s), "least"),
        "flat beyond": (
            overridden(
                "Spline",
                __call__=lambda whole, self, x: whole(np.clip(x, self.axis[0], self.axis[-1])),
            ),
            "beyond",
        ),
        "roots of falling phi": (edited("(rest < 0) == rising", "rest < 0"), "branches"),
        "later kernel's own slope": (
            edited(
                "Spline(self.axis, self.base_slopes[k] * self.smoothed",
                "Spline(self.axis, self._derivative(means[k]) * self.smoothed",
            ),
            "critical",
        ),
        "std of the next kernel": (made(std=lambda line: np.roll(line.std, -1)), "made"),
        "cost's own slope's sign": (
            made(final_slope=lambda line: lambda x: -line.final_slope(x)),
            "cost's slope",
        ),
    }
}
