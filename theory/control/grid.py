"""Value function, optimal control and the law of the optimum under any schedule, d = 1 and 2.

Other schedules than g^2 = 2 eta have no closed form: V solves its Hamilton-Jacobi-Bellman equation
(`theory.control.equation`) with the drift v + (g^2/2) s of the base. The law of X_1 under the
optimal control, X_0 drawn as before (slides, "Memoryless generative processes"), is

    pi_1(x) exp(-c(x)) E[exp(V(X_0, 0) - int f dt) | X_1 = x],

a third factor that for f = 0 only a memoryless process makes constant. It solves the equation of
W(x, t) = log E[exp(V(X_0, 0) - int_0^t f) | X_t = x] under the base process run backwards,

    W_t = -(v - (g^2/2) s) . grad W + (g^2/2) (lap W + |grad W|^2) - f,    W(x, 0) = V(x, 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from scipy.interpolate import CubicSpline, RectBivariateSpline, make_interp_spline

from theory.common.checks import check_instance, check_order, check_positive
from theory.control.equation import Equation, Frame, Scalar, Solution, solve
from theory.fields.diffusion import Diffusion
from theory.laws.distances import Array, GridLaw
from theory.problems.problem import Problem

POINTS = {1: 301, 2: 81}
REACH = {1: 7.0, 2: 5.0}  # standard deviations of X_t's outermost Gaussians
ORDER = {1: 8, 2: 8}
# Times at which V is kept, denser where schedules bend: interpolated between by cubic splines.
TIMES = {1: 97, 2: 33}
SPLINE = 5
MOST_LOST = 1e-2  # of the optimum's mass, before it is normalised
SHARPNESS = 6.0  # of the grid's edges, a smooth maximum over the base's Gaussians


def law_frame(problem: Problem, reach: float, backwards: bool = False) -> Frame:
    """Coordinates in which |y| <= 1 holds every Gaussian of X_t to `reach` standard deviations.

    Trajectories of the base keep to its edges or lead inwards, in both directions of time, so
    that nothing is asked of what lies beyond. backwards: in the time 1 - t.
    """
    base, path = problem.base, problem.path
    mean = base.mean.numpy()
    variance = base.cov.diagonal(dim1=-2, dim2=-1).numpy()

    def edges(t: float) -> tuple[Array, Array]:
        """(2, d) lower and upper edges, and their time derivatives."""
        s = torch.tensor(1 - t if backwards else t, dtype=torch.float64)
        alpha, dalpha = float(path.alpha(s)), float(path.dalpha(s))
        std = np.sqrt(alpha**2 * variance + float(path.sigma(s)) ** 2)
        dstd = (alpha * dalpha * variance + float(path.sigma_dsigma(s))) / std
        found, slopes = [], []
        for sign in (-1.0, 1.0):
            # A smooth maximum over the Gaussians: edges with kinks would cost interpolation in t.
            place = SHARPNESS * sign * (alpha * mean + sign * reach * std)
            weight = np.exp(place - place.max(0))
            found.append(sign * (place.max(0) + np.log(weight.sum(0))) / SHARPNESS)
            slope = dalpha * mean + sign * reach * dstd
            slopes.append((weight * slope).sum(0) / weight.sum(0))
        return np.array(found), (-1.0 if backwards else 1.0) * np.array(slopes)

    def centre(t: float) -> tuple[Array, Array]:
        place, slope = edges(t)
        return place.mean(0), slope.mean(0)

    def width(t: float) -> tuple[Array, Array]:
        place, slope = edges(t)
        return 0.5 * (place[1] - place[0]), 0.5 * (slope[1] - slope[0])

    return Frame(centre, width)


@dataclass(frozen=True, eq=False)
class GridOptimum:
    """V, grad V and lap V of a problem at a scale under a schedule, at x (n, d) and a time t.

    state_cost: f(x, t) of the running cost, none by default. points, reach, count: of the grid and
    of the kept times, by default what d asks for. float64; d = 1 and 2. Beyond the grid (`reach`
    standard deviations of X_t's outermost Gaussians) gradients go on as they are at its edge.

    Raises:
        ValueError: d > 2, scale not > 0, or the equation has no finite solution.
    """

    problem: Problem
    scale: float
    schedule: Diffusion
    state_cost: Scalar | None = None
    points: int = 0
    reach: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)
        if self.problem.dim not in POINTS:
            raise ValueError(
                f"problem {self.problem.name!r} must be in d = 1 or 2 for a grid, got d = "
                f"{self.problem.dim}; memoryless optima have closed forms in any d "
                "(theory.control.value)"
            )
        check_instance("schedule", self.schedule, Diffusion)
        if self.reach:
            check_positive("reach", self.reach)
        if self.count:
            check_order("count", self.count, 4)
        if self.points:
            check_order("points", self.points, 2 * ORDER[self.problem.dim] + 1)

    # --- the base process

    def drift(self, x: Array, t: float) -> Array:
        """v + (g^2/2) s, (n, d)."""
        point, field = torch.as_tensor(x), self.problem.base_field
        velocity, score = field(point, t), field.score(point, t)
        return np.asarray((velocity + 0.5 * self.squared(t) * score).numpy())

    def squared(self, t: float) -> float:
        """g(t)^2."""
        return float(self.schedule.squared(self.problem.path, torch.tensor(t, dtype=torch.float64)))

    def terminal(self, x: Array) -> Array:
        """c = -scale r."""
        return np.asarray(-self.scale * self.problem.reward(torch.as_tensor(x)).numpy())

    # --- the value function

    def solve_at(self, times: Sequence[float], **options: object) -> Solution:
        """V at given times (`theory.control.equation.solve`'s options)."""
        dim = self.problem.dim
        self.squared(min(times, default=self.schedule.start))  # before any work, not at its end
        equation = Equation(dim, self.drift, self.squared, self.terminal, self.state_cost)
        chosen = {
            "points": self.points or POINTS[dim],
            "reach": 1.0,
            "frame": law_frame(self.problem, self.reach or REACH[dim]),
            "order": ORDER[dim],
            **options,
        }
        return solve(equation, times, **chosen)  # type: ignore[arg-type]

    @cached_property
    def at_start(self) -> Solution:
        """V at the schedule's start alone: what the law needs."""
        return self.solve_at([self.schedule.start])

    @cached_property
    def solution(self) -> Solution:
        """V at `count` times from the schedule's start to 1."""
        count = self.count or TIMES[self.problem.dim]
        # Chebyshev's spacing at t = 1; squares of it at the start, where schedules are steep.
        u = 0.5 * (1 - np.cos(np.pi * np.arange(count - 1) / (count - 1)))
        start = self.schedule.start
        return self.solve_at((start + (1 - start) * u**2).tolist())

    @cached_property
    def _in_time(self) -> CubicSpline:
        return CubicSpline(self.solution.times[::-1], self.solution.values[::-1])

    def value(self, x: Array, t: float) -> Array:
        """V, (n,)."""
        return self._evaluate(x, t)[0]

    def gradient(self, x: Array, t: float) -> Array:
        """grad V, (n, d)."""
        return self._evaluate(x, t)[1]

    def laplacian(self, x: Array, t: float) -> Array:
        """lap V, (n,)."""
        return self._evaluate(x, t)[2]

    def control(self, x: Array, t: float) -> Array:
        """u* = -g grad V, (n, d)."""
        return np.asarray(-np.sqrt(self.squared(t)) * self.gradient(x, t))

    def _evaluate(self, x: Array, t: float) -> tuple[Array, Array, Array]:
        if not self.schedule.start <= t <= 1:
            raise ValueError(
                f"t must be a time in [{self.schedule.start:g}, 1] of the schedule, got {t:g}"
            )
        if np.ndim(x) != 2 or np.shape(x)[1] != self.problem.dim:
            raise ValueError(f"x must be an array (n, {self.problem.dim}), got shape {np.shape(x)}")
        frame, axes = self.solution.frame, self.solution.axes
        width = frame.width(t)[0]
        y = frame.find(x, t)
        inside = np.clip(y, -1.0, 1.0)
        beyond = (y - inside) * width
        W = self._in_time(t).reshape([len(a) for a in axes])
        if len(axes) == 1:
            spline = make_interp_spline(axes[0], W, k=SPLINE)
            at = inside[:, 0]
            value, slope, bend = spline(at), spline(at, 1)[:, None], spline(at, 2)[:, None]
        else:
            plane = RectBivariateSpline(*axes, W, kx=SPLINE, ky=SPLINE)
            a, b = inside.T
            value = plane.ev(a, b)
            slope = np.stack([plane.ev(a, b, dx=1), plane.ev(a, b, dy=1)], -1)
            bend = np.stack([plane.ev(a, b, dx=2), plane.ev(a, b, dy=2)], -1)
        slope = slope / width
        bend = np.where(beyond == 0, bend, 0.0)  # straight on beyond the grid
        return value + (slope * beyond).sum(-1), slope, (bend / width**2).sum(-1)

    # --- the law of the optimum

    @property
    def axes(self) -> tuple[Array, ...]:
        """The grid at t = 1."""
        dim = self.problem.dim
        frame = law_frame(self.problem, self.reach or REACH[dim])
        line = np.linspace(-1.0, 1.0, self.points or POINTS[dim])
        return tuple(frame.place(np.stack([line] * dim, -1), 1.0).T)

    @cached_property
    def law(self) -> GridLaw:
        """X_1's law under the optimal control, normalised; its mass before that is `mass`.

        Raises:
            ValueError: that mass is further than MOST_LOST from 1: the grid is too coarse.
        """
        return self._law[0]

    @property
    def mass(self) -> float:
        """int pi_1 exp(-c) E[exp(V(X_0, 0) - int f) | X_1]: 1 but for the grid's error."""
        return self._law[1]

    @cached_property
    def _law(self) -> tuple[GridLaw, float]:
        x, log_factor = self.memory_factor
        base, axes = self.problem.base.log_density(torch.as_tensor(x)).numpy(), self.axes
        log_density = base - self.terminal(x) + log_factor
        law = GridLaw(axes, log_density.reshape([len(a) for a in axes]))
        mass = law.mass()
        if not abs(mass - 1) <= MOST_LOST:
            raise ValueError(
                f"the optimum's law must have a mass of 1 to {MOST_LOST:g} on {len(axes[0])} "
                f"points an axis, got {mass:.6g}; use more points"
            )
        log_density = law.log_density - np.log(mass)
        cdf = CubicSpline(axes[0], np.exp(log_density)).antiderivative()(axes[0])
        return GridLaw(axes, log_density, cdf if len(axes) == 1 else None), mass

    @cached_property
    def memory_factor(self) -> tuple[Array, Array]:
        """(points x (n, d), log E[exp(V(X_0, 0) - int f) | X_1 = x] (n,)); for f = 0 constant iff
        X_0 is forgotten."""
        dim, field, start = self.problem.dim, self.problem.base_field, self.schedule.start
        begin = self.at_start
        first = begin.at(start)

        def drift(x: Array, s: float) -> Array:
            point, t = torch.as_tensor(x), 1 - s
            velocity, score = field(point, t), field.score(point, t)
            return np.asarray((0.5 * self.squared(t) * score - velocity).numpy())

        frame = law_frame(self.problem, self.reach or REACH[dim], backwards=True)
        cost = self.state_cost
        paid: Scalar | None = None if cost is None else lambda x, s: -cost(x, 1 - s)
        equation = Equation(
            dim, drift, lambda s: self.squared(1 - s), lambda x: first, paid, kappa=-1.0
        )
        if start:
            equation, frame = _shortened(equation, frame, start)
        found = solve(
            equation, [0.0], points=len(begin.axes[0]), reach=1.0, frame=frame, order=begin.order
        )
        return found.points(0.0), found.at(0.0)


def _shortened(equation: Equation, frame: Frame, start: float) -> tuple[Equation, Frame]:
    """The equation on [0, 1 - start] as one on [0, 1]: its time s is (1 - start) times the new."""
    keep = 1 - start

    def drift(x: Array, t: float) -> Array:
        return keep * equation.drift(x, keep * t)

    def slowed(part: Callable[[float], tuple[Array, Array]], t: float) -> tuple[Array, Array]:
        value, slope = part(keep * t)
        return value, keep * slope

    squared, cost = equation.squared, equation.state_cost
    paid: Scalar | None = None if cost is None else lambda x, t: keep * cost(x, keep * t)
    return (
        Equation(
            equation.dim,
            drift,
            lambda t: keep * squared(keep * t),
            equation.terminal,
            paid,
            equation.kappa,
        ),
        Frame(partial(slowed, frame.centre), partial(slowed, frame.width)),
    )
