"""Closed value functions and the Hamilton-Jacobi-Bellman equation: sums over X_1, dense paths."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from types import ModuleType

import numpy as np
from scipy import integrate
from scipy.special import logsumexp, softmax

from tests.helpers import tensor
from tests.mutants.harness import Checks, overridden, replaced
from tests.mutants.theory.control.shared import (
    SCALE,
    STEP,
    later,
    refused,
    scaled,
    value_of,
)
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D, QUADRATURE_TIGHT
from theory.fields.diffusion import Diffusion
from theory.fields.paths import PATHS, column
from theory.ledger.oracle.control.linear import LinearNumbers
from theory.ledger.oracle.instants import instant
from theory.problems.problem import load_problem


def check_value(module: ModuleType) -> Checks:
    """Both routes of the tilt, by sums over X_1 given X_t = x."""
    found: Checks = {}
    x, times = np.array([-1.5, -0.2, 0.9, 2.1]), np.array([0.1, 0.4, 0.6, 0.9])
    y = np.linspace(-9, 9, 4001)
    routes = ("note_1d", "trigonometric", "quadrature"), ("linear_1d", "rectified_flow", "closed")
    for name, path, route in routes:
        problem = replace(load_problem(name), path=PATHS[path](), route=route)
        log_p = problem.base.log_density(tensor(y)[:, None]).numpy()
        tilt = SCALE * problem.reward(tensor(y)[:, None]).numpy()
        rows = []
        for place, t in zip(x, times, strict=True):
            a, s, da, ds = instant(path, t)
            log = log_p - (place - a * y) ** 2 / (2 * s**2)
            mean = softmax(log + tilt) @ y
            slope = a / s**2 * (softmax(log) @ y - mean)
            g = math.sqrt(2 * s * (s * da / a - ds))
            rows.append(
                (
                    logsumexp(log) - logsumexp(log + tilt),
                    slope,
                    -g * slope,
                    ds / s * place + (da - a * ds / s) * mean,
                )
            )
        V, gradient, control, velocity = np.array(rows).T
        optimum = module.MemorylessOptimum(problem, SCALE)
        at = tensor(x)[:, None], tensor(times)
        for what, actual, expected in (
            ("value", optimum.value(*at), V),
            ("gradient", optimum.gradient(*at)[:, 0], gradient),
            ("control", optimum.control(*at)[:, 0], control),
            ("velocity", optimum.velocity(*at)[:, 0], velocity),
            ("noise", module.value_at_noise(optimum), logsumexp(log_p) - logsumexp(log_p + tilt)),
        ):
            found[f"{name}: {what}"] = QUADRATURE_TIGHT.holds(actual, expected, 1.0)
    for schedule in (Diffusion.of_offset(0.1), Diffusion.of_memoryless(2.0)):
        found[f"guard: {schedule.label}"] = refused(
            lambda s=schedule: optimum.control(at[0], 0.5, s)
        )
    return found


LINE = LinearNumbers(
    lambda t: np.array([[-0.6 - 0.3 * t]]),
    lambda t: np.array([0.2 - 0.2 * t]),
    lambda t: 0.7 + 0.3 * t,
    lambda t: np.array([[0.4 + 0.4 * t]]),
    lambda t: np.array([0.3]),
    np.array([[0.5]]),
    np.array([-0.7]),
    np.zeros(1),
    np.eye(1),
)
PLANE = LinearNumbers(
    lambda t: np.array([[-0.9, 0.4], [-0.1 - 0.3 * t, -0.6]]),
    lambda t: np.array([0.1, -0.3]),
    lambda t: 0.8,
    lambda t: np.zeros((2, 2)),
    lambda t: np.zeros(2),
    np.array([[0.6, 0.2], [0.2, 0.3]]),
    np.array([0.5, -0.2]),
    np.zeros(2),
    np.eye(2),
)


@cache
def dense_values(d: int, start: float, places: tuple[tuple[float, ...], ...]) -> np.ndarray:
    numbers = later(LINE if d == 1 else PLANE, start)
    return np.array([value_of(numbers, x) for x in places])


def places(x: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in x.tolist())


def equation_of(module: ModuleType, n: LinearNumbers):
    return module.Equation(
        len(n.mean),
        lambda x, t: x @ n.matrix(t).T + n.shift(t),
        lambda t: n.noise(t) ** 2,
        lambda x: 0.5 * np.einsum("ni,ij,nj->n", x, n.final_matrix, x) + x @ n.final_vector,
        lambda x, t: (
            0.5 * np.einsum("ni,ij,nj->n", x, n.running_matrix(t), x) + x @ n.running_vector(t)
        ),
    )


def check_equation(module: ModuleType) -> Checks:
    frame = module.Frame(
        lambda t: (np.array([0.2 + 0.1 * t**2]), np.array([0.2 * t])),
        lambda t: (np.array([1.5 + 0.4 * t]), np.array([0.4])),
    )
    line = equation_of(module, LINE)
    run = module.solve(line, [0.4, 0.0], points=13, reach=1.0, frame=frame, order=4)
    inner = slice(3, 10, 3)
    x = run.points(0.4)[inner]
    moved = [dense_values(1, 0.4, places(x + s * STEP)) for s in (-1, 0, 1)]
    # W = log E[(exp(a X_1) + exp(b X_1))/2] of an Ornstein-Uhlenbeck process, kappa = -1.
    powers = np.array([0.5, -0.9])
    noise = integrate.quad(lambda t: math.exp(-2 * (1 - t)) * (0.5 + 0.2 * t), 0, 1)[0]
    mixture = module.Equation(
        1,
        lambda x, t: -x,
        lambda t: 0.5 + 0.2 * t,
        lambda x: logsumexp(powers * x, axis=1) - math.log(2),
        kappa=-1.0,
    )
    logs = module.solve(mixture, [0.0], points=49, reach=3.0)
    middle = np.abs(logs.points(0.0)[:, 0]) < 1.5
    known = math.exp(-1) * powers * logs.points(0.0) + powers**2 * noise / 2
    plane = equation_of(module, PLANE)
    turned = module.solve(plane, [0.3], points=9, reach=2.0, order=4)
    own = turned.points(0.3)[20:61:13]
    axes = (np.linspace(-1, 1, 7), np.linspace(-2, 2, 7))
    system = module._System(plane, module.Frame.still(2), axes, 4)
    w, way = np.sin(np.arange(49.0)), np.cos(np.arange(49.0) ** 2)
    slope = (system.rate(0.3, w + way) - system.rate(0.3, w - way)) / 2  # rates are quadratic
    found = {
        "line": QUADRATURE.holds(run.at(0.4)[inner], moved[1], 1.0),
        "later stop": QUADRATURE.holds(
            run.at(0.0)[inner], dense_values(1, 0.0, places(run.points(0.0)[inner])), 1.0
        ),
        "gradient": QUADRATURE.holds(
            run.gradient_at(0.4)[inner, 0], (moved[2] - moved[0]) / (2 * STEP), 1.0
        ),
        "logarithm": QUADRATURE.holds(
            logs.at(0.0)[middle], (logsumexp(known, axis=1) - math.log(2))[middle], 1.0
        ),
        "plane": QUADRATURE_2D.holds(
            turned.at(0.3)[20:61:13], dense_values(2, 0.3, places(own)), 1.0
        ),
        "jacobian": ALGEBRA.holds(system.jacobian(0.3, w) @ way, slope, np.abs(slope).max()),
        "places": ALGEBRA.holds(frame.find(frame.place(x, 0.4), 0.4), x, 1.0),
    }
    axis = np.linspace(-1, 2, 15)
    for k in (1, 2):
        for power in range(5):
            factor = math.perm(power, k)
            found[f"stencil {k}: power {power}"] = QUADRATURE_TIGHT.holds(
                module.differences(axis, 4, k) @ axis**power,
                factor * axis ** max(power - k, 0),
                1.0,
            )
    return found


CHECKS = {"control.value": check_value, "control.equation": check_equation}

# --- the mutants of a module, and the check that rejects each


def coefficients(of):
    """Other drift, g^2 and cost on the grid: of(drift, g2, cost)."""
    return overridden("_System", _coefficients=lambda whole, self, tau: of(*whole(tau)))


def solving(change):
    """Another equation or frame is solved: change(equation, frame)."""

    def init(whole, self, equation, frame, *rest):
        whole(*change(equation, frame), *rest)

    return overridden("_System", __init__=init)


def still(frame):
    return replace(frame, centre=lambda t: (frame.centre(t)[0], 0.0))


def at_log_one(whole, self, x, t):
    """log Z, which the value takes off, is 0."""
    return whole(x, t) + self.target.log_z


def with_base_density(whole, self, x, t):
    return whole(x, t) - self.problem.base_field.posterior(x, t).log_abs


def without_alpha(whole, self, x, t):
    return whole(x, t) / column(self.problem.path.alpha(t))


def at_own_scale(whole, self):
    return whole.func(replace(self, scale=self.problem.scale))


def without_offset(whole, self, x, t, schedule=None):
    return whole(x, t, schedule and replace(schedule, offset=0.0))


OPTIMUM = "MemorylessOptimum"
MUTANTS = {
    "control.value": {
        "value's sign": (overridden(OPTIMUM, value=scaled(-1)), "note_1d: value"),
        "no log Z": (overridden(OPTIMUM, value=at_log_one), "linear_1d: value"),
        "density of the base kept": (
            overridden(OPTIMUM, value=with_base_density),
            "linear_1d: value",
        ),
        "gradient without alpha": (
            overridden(OPTIMUM, gradient=without_alpha),
            "note_1d: gradient",
        ),
        "g squared": (
            overridden("Diffusion", squared=lambda whole, self, path, t: whole(path, t) ** 2),
            "note_1d: control",
        ),
        "control uphill in cost": (overridden(OPTIMUM, control=scaled(-1)), "note_1d: control"),
        "the problem's own scale": (
            overridden(OPTIMUM, target=at_own_scale),
            "note_1d: velocity",
        ),
        "offsets let in": (overridden(OPTIMUM, control=without_offset), "guard"),
    },
    "control.equation": {
        "noise not halved": (coefficients(lambda drift, g2, cost: (drift, 2 * g2, cost)), "line"),
        "square's sign": (
            solving(lambda own, frame: (replace(own, kappa=-own.kappa), frame)),
            "line",
        ),
        "kappa forgotten": (
            solving(lambda own, frame: (replace(own, kappa=1.0), frame)),
            "logarithm",
        ),
        "frame's motion forgotten": (solving(lambda own, frame: (own, still(frame))), "line"),
        "slope in y": (
            overridden(
                "Solution",
                gradient_at=lambda whole, self, t: whole(t) * self.frame.width(t)[0],
            ),
            "gradient",
        ),
        "no factorial": (
            replaced(_weights=lambda whole: lambda places, k: whole(places, k) / math.factorial(k)),
            "stencil 2: power 2",
        ),
        "Jacobian of half the square": (
            overridden("_System", jacobian=lambda whole, self, tau, w: whole(tau, w / 2)),
            "jacobian",
        ),
        "axes exchanged": (
            replaced(
                _operators=lambda whole: (
                    lambda axes, order: tuple(along[::-1] for along in whole(axes, order))
                )
            ),
            "plane",
        ),
    },
}
