"""Mistakes in theory.control's grids and closed forms and in theory.schedules: all are rejected.

A mutant is a module's text with one snippet replaced. The quick checks of a module use quadrature,
dense algebra on whole paths, finite differences and closed forms, and give the names of what fails;
the modules as they stand fail nothing. Riccati, cases, chains, adjoints: test_mutants_adjoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.special import logsumexp, softmax

from tests.theory.methods.mutants import mutant_module
from theory.control.equation import solve
from theory.gaussians import GaussianSum
from theory.oracle.control_limits import tilted_moments
from theory.oracle.control_line import extrapolated
from theory.oracle.control_linear import LinearNumbers, dense_value
from theory.oracle.instants import instant
from theory.paths import PATHS
from theory.problem import Problem, load_problem
from theory.rewards import quadratic_reward
from theory.schedules import Diffusion
from theory.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D, QUADRATURE_TIGHT

Checks = dict[str, bool]
SCALE = 1.3
STEP = 1e-5  # of central differences
LOOSE = (1e-8, 1e-9)  # of time steps: below QUADRATURE, a third of the time


def tensor(value):
    return torch.as_tensor(np.asarray(value, dtype=float))


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False


def later(n: LinearNumbers, start: float) -> LinearNumbers:
    """The numbers on [start, 1] as ones on [0, 1]; their control is sqrt(1 - start) times as large.
    Mean and covariance are those at `start` already."""
    keep = 1 - start

    def of(part):
        return lambda t: keep * part(start + keep * t)

    return LinearNumbers(
        of(n.matrix), of(n.shift), lambda t: math.sqrt(keep) * n.noise(start + keep * t),
        of(n.running_matrix), of(n.running_vector), *n[5:],
    )  # fmt: skip


def value_of(numbers: LinearNumbers, x: Sequence[float]) -> float:
    """-log E[exp(-cost) | X_0 = x], the steps of dense paths extrapolated to 0."""
    place = np.array(x)
    return float(extrapolated(lambda n: np.array(dense_value(numbers, place, n)), 8, 3).value)


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
            rows.append((logsumexp(log) - logsumexp(log + tilt), slope, -g * slope,
                         ds / s * place + (da - a * ds / s) * mean))  # fmt: skip
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
    lambda t: np.array([[-0.6 - 0.3 * t]]), lambda t: np.array([0.2 - 0.2 * t]),
    lambda t: 0.7 + 0.3 * t, lambda t: np.array([[0.4 + 0.4 * t]]), lambda t: np.array([0.3]),
    np.array([[0.5]]), np.array([-0.7]), np.zeros(1), np.eye(1),
)  # fmt: skip
PLANE = LinearNumbers(
    lambda t: np.array([[-0.9, 0.4], [-0.1 - 0.3 * t, -0.6]]), lambda t: np.array([0.1, -0.3]),
    lambda t: 0.8, lambda t: np.zeros((2, 2)), lambda t: np.zeros(2),
    np.array([[0.6, 0.2], [0.2, 0.3]]), np.array([0.5, -0.2]), np.zeros(2), np.eye(2),
)  # fmt: skip


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
        1, lambda x, t: -x, lambda t: 0.5 + 0.2 * t,
        lambda x: logsumexp(powers * x, axis=1) - math.log(2), kappa=-1.0,
    )  # fmt: skip
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
                factor * axis ** max(power - k, 0), 1.0,
            )  # fmt: skip
    return found


ONE = Problem(
    "one", GaussianSum.mixture([1.0], [[0.4]], stds=[0.8]),
    quadratic_reward([[-0.3]], [0.7], 0.1), 1.5,
)  # fmt: skip
BEGIN, NOISE = 0.5, 0.7


def cost(x: np.ndarray, t: float) -> np.ndarray:
    return (0.4 + 0.3 * t) * x[:, 0] ** 2 + 0.5 * x[:, 0]


def generative(start: float) -> LinearNumbers:
    """ONE's generative SDE with g = NOISE and the costs above, on [start, 1] by [0, 1]."""

    def matrix(t: float) -> np.ndarray:
        spread = t**2 * 0.64 + (1 - t) ** 2
        return np.array([[(t * 0.64 - (1 - t) - 0.5 * NOISE**2) / spread]])

    numbers = LinearNumbers(
        matrix, lambda t: 0.4 - matrix(t)[0] * t * 0.4, lambda t: NOISE,
        lambda t: np.array([[0.8 + 0.6 * t]]), lambda t: np.array([0.5]),
        np.array([[SCALE * 0.3]]), np.array([-SCALE * 0.7]),
        np.array([0.4 * start]), np.array([[0.64 * start**2 + (1 - start) ** 2]]),
    )  # fmt: skip
    return later(numbers, start)


@cache
def generated_value(x: float, t: float) -> float:
    return value_of(generative(t), (x,)) - SCALE * 0.1


@cache
def generated_law() -> np.ndarray:
    return tilted_moments(generative(BEGIN))


def check_grid(module: ModuleType) -> Checks:
    module.solve = partial(solve, tolerances=LOOSE)
    module.MOST_LOST = math.inf  # a wrong mass is left to the checks
    schedule = Diffusion(constant=NOISE, start=BEGIN)
    grid = module.GridOptimum(ONE, SCALE, schedule, cost, points=33, count=4)
    t = float(grid.solution.times[2])
    x, h = np.array([[-0.8], [0.1], [1.3]]), 1e-3
    rows = np.array([[generated_value(p + s * h, t) for p in x[:, 0]] for s in (-1, 0, 1)])
    slope, bend = (rows[2] - rows[0]) / (2 * h), (rows[2] - 2 * rows[1] + rows[0]) / h**2
    edge = grid.solution.points(t)[-1:]
    out = edge + 0.7
    truth = generated_law()
    mean, cov = grid.law.moments()
    near = module.GridOptimum(
        replace(load_problem("quadratic_2d"), scale=1.0), SCALE,
        Diffusion(constant=NOISE, start=0.97), points=17, count=4,
    )  # fmt: skip
    points = np.random.default_rng(0).uniform(-1, 1, size=(4, 2))
    by_hand = tensor(points).requires_grad_(True)
    (c_slope,) = torch.autograd.grad(-SCALE * near.problem.reward(by_hand).sum(), by_hand)
    matrix = near.problem.reward.matrix.numpy()
    found = {
        "value": QUADRATURE.holds(grid.value(x, t), rows[1], 1.0),
        "gradient": QUADRATURE.holds(grid.gradient(x, t)[:, 0], slope, 1.0),
        "laplacian": QUADRATURE.holds(grid.laplacian(x, t), bend, 1.0),
        "control": QUADRATURE.holds(grid.control(x, t)[:, 0], -NOISE * slope, 1.0),
        "mass": QUADRATURE.holds(grid.mass, 1.0),
        "law": QUADRATURE.holds([mean[0], cov[0, 0]], [truth[1], truth[5]], 1.0),
        "beyond": QUADRATURE.holds(
            grid.value(out, t), grid.value(edge, t) + 0.7 * grid.gradient(edge, t)[:, 0], 1.0
        ),
        "straight beyond": grid.laplacian(out, t)[0] == 0,
        "plane": QUADRATURE.holds(near.gradient(points, 1.0), c_slope, 1.0),
        "plane's laplacian": QUADRATURE.holds(
            near.laplacian(points, 1.0), -SCALE * np.trace(matrix), 1.0
        ),
    }
    for backwards in (False, True):
        frame = module.law_frame(load_problem("note_1d"), 4.0, backwards)
        for part in (frame.centre, frame.width):
            rate = (part(0.4 + STEP)[0] - part(0.4 - STEP)[0]) / (2 * STEP)
            found[f"frame moves, {backwards}"] = QUADRATURE.holds(part(0.4)[1], rate, 1.0)
        # The outermost of both Gaussians at 4 standard deviations, from below by a smooth maximum.
        s = 0.6 if backwards else 0.4
        ends = [s * m + sign * 4 * math.hypot(s * d, 1 - s)
                for m, d in ((-1.2, 0.6), (1.1, 0.9)) for sign in (-1, 1)]  # fmt: skip
        centre, width = frame.centre(0.4)[0][0], frame.width(0.4)[0][0]
        soft = math.log(2) / module.SHARPNESS
        found[f"frame holds, {backwards}"] = bool(
            0 <= min(ends) - (centre - width) <= soft and 0 <= centre + width - max(ends) <= soft
        )
    return found


@dataclass(frozen=True, eq=False)
class Steering:
    """What SteeredField asks of an optimum, V = (1 + t) sum sin(x_i + i) + 0.3 x_0 x_1."""

    problem: Problem
    schedule: Diffusion

    def gradient(self, x: np.ndarray, t: float) -> np.ndarray:
        return (1 + t) * np.cos(x + np.arange(2)) + 0.3 * x[:, ::-1]

    def laplacian(self, x: np.ndarray, t: float) -> np.ndarray:
        return -(1 + t) * np.sin(x + np.arange(2)).sum(1)


def check_steered(module: ModuleType) -> Checks:
    problem = replace(load_problem("bump_2d"), path=PATHS["trigonometric"]())
    x, found = np.random.default_rng(1).normal(size=(4, 2)), {}
    at, base = tensor(x), problem.base_field
    for schedule in (Diffusion.of_constant(0.8), Diffusion.of_memoryless(2.0), MEMORYLESS):
        optimum = Steering(problem, schedule)
        for share, t in ((1.0, 0.3), (0.6, 0.8)):
            a, s, da, ds = instant("trigonometric", t)
            g = float(schedule.squared(problem.path, tensor(t)).sqrt())
            field = module.SteeredField(optimum, share)
            velocity = field(at, t).numpy()
            # Of the velocity, by what all predictions have in common.
            score = (a * velocity - da * x) / (s * (da * s - a * ds))
            mean = (s * velocity - ds * x) / (da * s - a * ds)
            drift = velocity + 0.5 * g**2 * score
            plain = (base(at, t) + 0.5 * g**2 * base.score(at, t)).numpy()
            moves = [tensor(STEP * unit) for unit in np.eye(2)]
            slopes = [(field(at + m, t) - field(at - m, t))[:, i] / (2 * STEP)
                      for i, m in enumerate(moves)]  # fmt: skip
            both = field.with_divergence(at, t)
            key = f"{schedule.label}, {share}: "
            found |= {
                key + "drift": ALGEBRA.holds(
                    drift - plain, -share * g**2 * optimum.gradient(x, t), 1.0
                ),
                key + "score": ALGEBRA.holds(field.score(at, t), score, 1.0),
                key + "mean": ALGEBRA.holds(field.posterior_mean(at, t), mean, 1.0),
                key + "divergence": QUADRATURE.holds(both[1], sum(slopes), 1.0),
                key + "velocity": ALGEBRA.holds(both[0], velocity, 1.0),
            }
    end = module.SteeredField(Steering(problem, MEMORYLESS)).score(at, 1.0) - base.score(at, 1.0)
    return found | {"end": ALGEBRA.holds(end, -optimum.gradient(x, 1.0), 1.0)}


MEMORYLESS = Diffusion.of_memoryless(1.0)


def check_schedules(module: ModuleType) -> Checks:
    D, rf, vp = module.Diffusion, PATHS["rectified_flow"](), PATHS["variance_preserving"]()
    t, h, m = np.array([0.05, 0.3, 0.8]), 0.2, 1.7
    at = tensor(t)
    etas = []
    for time in t:
        a, s, da, ds = instant("variance_preserving", time)
        etas.append(s * (s * da / a - ds))
    eta = np.array(etas)
    offset, double = D.of_offset(h, m), D.of_memoryless(m, 0.05)
    odd = D.of_function("odd", lambda path, time: 1 - 2 * time)
    ratio = D.of_function("own", lambda path, time: 1 + time)
    return {
        "constant": ALGEBRA.holds(D.of_constant(0.6).squared(rf, at), 0.36),
        "memoryless": ALGEBRA.holds(double.squared(vp, at), 2 * m * eta),
        "offset": ALGEBRA.holds(offset.squared(rf, at), 2 * m * (1 - t + h) / (t + h)),
        "start": (double.start, D.of_memoryless().start, offset.start) == (0.05, 1e-4, 0.0),
        "zero at the end": float(D(memoryless=1.0).squared(rf, tensor(1.0))) == 0,
        "ratio": ALGEBRA.holds(D.of_constant(0.6).gain_ratio(rf, at), (1 - t) / 0.36),
        "eta's ratio": ALGEBRA.holds(double.gain_ratio(rf, at), t / (2 * m)),
        "offset's ratio": ALGEBRA.holds(
            offset.gain_ratio(rf, at), (1 - t) * (t + h) / (2 * m * (1 - t + h))
        ),
        "own ratio": ALGEBRA.holds(ratio.gain_ratio(rf, at), (1 - t) / (1 + t)),
        "infinite": refused(lambda: D(memoryless=1.0).squared(rf, tensor([0.5, 0.0]))),
        "negative": refused(lambda: odd.squared(rf, at)),
        "offset of a constant": refused(lambda: D(constant=1.0, offset=0.1)),
        "negative offset": refused(lambda: D(memoryless=1.0, offset=-0.1)),
        "start at the end": refused(lambda: D(constant=1.0, start=1.0)),
        "two kinds": refused(lambda: D(constant=1.0, memoryless=1.0)),
        "labels": [d.label for d in (D.of_constant(0.6), double, D.of_offset(h), odd)]
        == ["g = 0.6", "g² = 1.7·2η", "memoryless, offset 0.2", "odd"],
    }


CHECKS = {
    "control.value": check_value, "control.equation": check_equation, "control.grid": check_grid,
    "control.steered": check_steered, "schedules": check_schedules,
}  # fmt: skip

# module, text, replacement, and the check that rejects it
MUTANTS = {
    # value
    "value's sign": ("control.value", "return -self.target.conditional.evaluate(post)[0]",
                     "return self.target.conditional.evaluate(post)[0]", "note_1d: value"),
    "no log Z": ("control.value", "-(self.target.log_z + post.of", "-(post.of", "linear_1d: value"),
    "density of the base kept": ("control.value", ".log_abs - post.log_abs)", ".log_abs)",
                                 "linear_1d: value"),
    "gradient without alpha": ("control.value", "-(alpha[..., None] if alpha.ndim else alpha) *",
                               "-", "note_1d: gradient"),
    "g squared": ("control.value", "check_time(t, x)).sqrt()", "check_time(t, x))",
                  "note_1d: control"),
    "control uphill in cost": ("control.value", "return -(g[..., None]", "return (g[..., None]",
                               "note_1d: control"),
    "the problem's own scale": ("control.value", "Exponential(self.scale)",
                                "Exponential(self.problem.scale)", "note_1d: velocity"),
    "offsets let in": ("control.value", "!= 1.0 or schedule.offset:", "!= 1.0:", "guard"),
    # equation
    "noise not halved": ("control.equation", "0.5 * g2[i] * curved", "g2[i] * curved", "line"),
    "square's sign": ("control.equation", "DD @ w - self.equation.kappa",
                      "DD @ w + self.equation.kappa", "line"),
    "kappa forgotten": ("control.equation", "self.equation.kappa * slope**2", "slope**2",
                        "logarithm"),
    "frame's motion forgotten": ("control.equation", "- dcentre - dwidth", "- dwidth", "line"),
    "slope in y": ("control.equation", "-1) / self.frame.width(t)[0]", "-1)", "gradient"),
    "no factorial": ("control.equation", "right[derivative] = float(derivative)",
                     "right[derivative] = 1.0", "stencil 2: power 2"),
    "Jacobian of half the square": ("control.equation", "- g2[i] * self.equation.kappa",
                                    "- 0.5 * g2[i] * self.equation.kappa", "jacobian"),
    "axes exchanged": ("control.equation", "csr_array(kron(a, other)), csr_array(kron(one, b))",
                       "csr_array(kron(other, a)), csr_array(kron(b, one))", "plane"),
    # grid
    "score not halved": ("control.grid", "velocity + 0.5 * self", "velocity + self", "value"),
    "g squared on the grid": ("control.grid", "-np.sqrt(self.squared(t))", "-self.squared(t)",
                              "control"),
    "chain rule once": ("control.grid", "bend / width**2", "bend / width", "laplacian"),
    "bent beyond": ("control.grid", "np.where(beyond == 0, bend, 0.0)", "bend",
                    "straight beyond"),
    "diameter for radius": ("control.grid", "0.5 * (place[1] - place[0]), 0.5 * (slope",
                            "(place[1] - place[0]), (slope", "frame holds"),
    "memory forgotten": ("control.grid", "- self.terminal(x) + log_factor", "- self.terminal(x)",
                         "mass"),
    "memory by V's own equation": ("control.grid", "kappa=-1.0", "kappa=1.0", "mass"),
    "running cost at the wrong time": ("control.grid", "-cost(x, 1 - s)", "-cost(x, s)", "mass"),
    "shortened drift alone": ("control.grid", "keep * squared(keep * t)", "squared(keep * t)",
                              "mass"),
    # steered
    "eta for 2 eta": ("control.steered", "ratio + 0.5 * self", "ratio + self", "drift"),
    "displacement's sign": ("control.steered", "-self._factor(x, t) * gradient",
                            "self._factor(x, t) * gradient", "drift"),
    "all of the control": ("control.steered", "self.share / (", "1.0 / (", "0.6: drift"),
    "score without alpha": ("control.steered", "score(x, t) + alpha * move", "score(x, t) + move",
                            "score"),
    "sigma once": ("control.steered", "sigma**2 * move", "sigma * move", "mean"),
    "divergence's sign": ("control.steered", "divergence - gain", "divergence + gain",
                          "divergence"),
    "divergence without share": ("control.steered", "gain * own * lap", "gain * lap",
                                 "divergence"),
    # schedules
    "g for g squared": ("schedules", "self.constant**2", "self.constant", "constant"),
    "one eta": ("schedules", "2 * self.memoryless * path.eta", "self.memoryless * path.eta",
                "memoryless"),
    "offset on one side": ("schedules", "(1 + 2 * self.offset))", "(1 + self.offset))", "offset"),
    "ratio to eta": ("schedules", "path.alpha(t) / (2 * self.memoryless)",
                     "path.alpha(t) / self.memoryless", "eta's ratio"),
    "ratio as without offset": ("schedules", "self.memoryless is not None and not self.offset:",
                                "self.memoryless is not None:", "offset's ratio"),
    "eta for the gain": ("schedules", "path.gain(t) / self", "path.eta(t) / self", "ratio"),
    "negative squares": ("schedules", "torch.isfinite(value) & (value >= 0)",
                         "torch.isfinite(value)", "negative"),
    "guard of the other kind": ("schedules", "self.offset and self.memoryless is None",
                                "self.offset and self.constant is None", "allowed is an offset"),
    "start forgotten": ("schedules", "memoryless=multiple, start=start", "memoryless=multiple",
                        "start"),
}  # fmt: skip


def failures(checks: Callable[[ModuleType], Checks], module: ModuleType) -> list[str]:
    """What fails; a mutant may also be unable to go on."""
    try:
        with np.errstate(all="ignore"):
            return [what for what, good in checks(module).items() if not good]
    except ValueError as error:
        return [str(error)]


@pytest.mark.parametrize("name", CHECKS)
def test_modules_as_they_stand_pass(name):
    assert failures(CHECKS[name], mutant_module(f"theory.{name}")) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name):
    module, old, new, check = MUTANTS[name]
    found = failures(CHECKS[module], mutant_module(f"theory.{module}", (old, new)))
    assert any(check in what for what in found), found
