"""Critical points of adjoint matching on the line, in function space, by quadrature.

A Gaussian policy's kernels N(m_k(x), s_k^2) against the base's N(m_bk(x), s_k^2) are the control
u_k = (m_k - m_bk)/s_k of  J = E[ sum |u_k|^2/2 + c(X_T) ],  c = -scale r. Conditional means of the
adjoints, A_k(x) = E[a_k | X_k = x], obey backward recursions: with H_k(m) = E[A_{k+1}(m + s_k xi)],

    full   A_k = m_k' H_k(m_k) + d/dx (m_k - m_bk)^2/(2 s_k^2)    (the gradient of the cost to go)
    lean   A_k = m_bk' H_k(m_k)
    G_k    = (m_k - m_bk)/s_k + s_k H_k(m_k)

and G_k p_k is the functional gradient in u_k of basic Adjoint Matching (full; that of J) and
of Adjoint Matching (lean). The lean one drops (m_k' - m_bk') (H_k(m_k) + (m_k - m_bk)/s_k^2) =
u_k' G_k from A_k: zero wherever G_k is. So both have the same critical points, solved backwards as
H_k knows later kernels alone, pointwise in x:

    phi_k(m) = m + s_k^2 H_k(m) = m_bk(x),

unique if phi_k' > 0 everywhere. phi_k' = 1 + O(dt): in continuous time always, for few steps and a
curved reward not (Domingo-Enrich et al. 2024; slides, "Guarantee", "Adjoint Matching loss").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from scipy.interpolate import make_interp_spline

from theory import Chain, Problem, check_positive
from theory.common.checks import check_choice
from theory.laws.distances import Array

Adjoint = Literal["full", "lean"]
Function = Callable[[Array], Array]
DEGREE = 5
# Of the noise: a trapezoidal sum, which features narrower than a kernel need less of than
# Gauss-Hermite (48 nodes of that leave 5e-5 of u* where a posterior switches within s_k).
SPREAD, NODE_STEP = 8.4, 0.15
POINTS, REACH = 401, 7.0
NARROW = 1.2  # a kernel's least standard deviation in grid steps, for densities
BRACKET = 3.0  # half-widths of the grid that are searched for roots
ROOTS = 601
NEWTON = 60


class Spline:
    """Through values on the axis, straight on beyond its ends."""

    def __init__(self, axis: Array, values: Array) -> None:
        self.axis, self._spline = axis, make_interp_spline(axis, values, k=DEGREE)
        self._slope = self._spline.derivative()

    def __call__(self, x: Array) -> Array:
        inside = np.clip(x, self.axis[0], self.axis[-1])
        found = self._spline(inside)
        beyond = x != inside
        if beyond.any():
            found[beyond] += self._slope(inside[beyond]) * (x - inside)[beyond]
        return np.asarray(found)

    def slope(self, x: Array) -> Array:
        return np.asarray(self._slope(np.clip(x, self.axis[0], self.axis[-1])))


@dataclass(frozen=True, eq=False)
class LineChain:
    """A chain on the line: base means (T, N) on the axis (N,), s_k (T,), c and c' as functions."""

    axis: Array
    base: Array
    std: Array
    start_std: float
    final: Function
    final_slope: Function

    def __post_init__(self) -> None:
        if self.base.shape != (len(self.std), len(self.axis)) or len(self.axis) < 16:
            raise ValueError(
                "base, std and axis must have shapes (T, N), (T,) and (N,) with N of 16 or more, "
                f"got {self.base.shape}, {self.std.shape} and {self.axis.shape}"
            )

    @classmethod
    def of_problem(
        cls, problem: Problem, chain: Chain, scale: float, points: int = POINTS
    ) -> LineChain:
        """On a grid that holds the base, its start and X_1 + sigma_end X_0 to REACH standard
        deviations.

        Raises:
            ValueError: the problem is not on the line, or scale is not > 0.
        """
        if problem.dim != 1:
            raise ValueError(f"problem must have d = 1, got {problem.name!r} in d = {problem.dim}")
        check_positive("scale", scale)
        start = float(chain.start(torch.ones(1, dtype=torch.float64)))
        mean, std = problem.base.mean[:, 0].numpy(), problem.base.cov[:, 0, 0].sqrt().numpy()
        low = min(-REACH * start, float((mean - REACH * std).min()))
        high = max(REACH * start, float((mean + REACH * std).max()))
        axis = np.linspace(low, high, points)

        def final(x: Array) -> Array:
            return np.asarray(
                -scale * problem.reward(torch.as_tensor(x.reshape(-1, 1))).numpy().reshape(x.shape)
            )

        def slope(x: Array) -> Array:
            with torch.enable_grad():
                point = torch.as_tensor(x.reshape(-1, 1)).requires_grad_(True)
                (found,) = torch.autograd.grad(problem.reward(point).sum(), point)
            return np.asarray(-scale * found.numpy().reshape(x.shape))

        places = torch.as_tensor(axis)[:, None]
        with torch.no_grad():
            means = [chain.mean(problem.base_field, k, places)[:, 0] for k in range(chain.steps)]
        std_k = chain.coefficients(torch.zeros(1, dtype=torch.float64))[2].numpy()
        return cls(axis, torch.stack(means).numpy(), std_k, start, final, slope)

    @property
    def steps(self) -> int:
        return len(self.std)

    @property
    def dx(self) -> float:
        """Of the axis."""
        return float(self.axis[1] - self.axis[0])

    @cached_property
    def start(self) -> Array:
        """The density of X_0 over its peak, (N,)."""
        return np.asarray(np.exp(-0.5 * (self.axis / self.start_std) ** 2))

    # --- one kernel

    @cached_property
    def _noise(self) -> tuple[Array, Array]:
        """Nodes xi (q,), and the rows (3, q) that make E[f], s E[f]' and s^2 E[f]'' (Stein)."""
        z = np.arange(-SPREAD, SPREAD + NODE_STEP / 2, NODE_STEP)
        w = np.exp(-0.5 * z**2)
        w = w / w.sum()
        return z, np.stack([w, w * z, w * (z**2 - 1)])

    def smoothed(self, k: int, later: Function, m: Array) -> tuple[Array, Array]:
        """E[later(m + s_k xi)] and its derivative in m, each of m's shape (n,)."""
        return self.curved(k, later, m)[:2]

    def curved(self, k: int, later: Function, m: Array) -> tuple[Array, Array, Array]:
        """The same and the second derivative."""
        z, rows = self._noise
        s = self.std[k]
        found = later(m[:, None] + s * z) @ rows.T
        return found[:, 0], found[:, 1] / s, found[:, 2] / s**2

    def _derivative(self, values: Array) -> Array:
        return Spline(self.axis, values).slope(self.axis)

    @cached_property
    def base_slopes(self) -> Array:
        """m_b' (T, N)."""
        return np.array([self._derivative(row) for row in self.base])

    # --- along a policy's means (T, N)

    def adjoints(self, means: Array, adjoint: Adjoint = "full") -> tuple[Array, Array]:
        """(A (T + 1, N), H (T, N)): the adjoint's conditional means and H_k(m_k(x)).

        Raises:
            ValueError: means of another shape, not finite, or an unknown adjoint.
        """
        check_choice("adjoint", adjoint, get_args(Adjoint))
        self._check(means)
        later: Function = self.final_slope
        A, H = [self.final_slope(self.axis)], []
        for k in range(self.steps - 1, -1, -1):
            h, _ = self.smoothed(k, later, means[k])
            slope = self._derivative(means[k])
            a = self.base_slopes[k] * h
            if adjoint == "full":
                a = slope * h + (slope - self.base_slopes[k]) * (
                    (means[k] - self.base[k]) / self.std[k] ** 2
                )
            A.append(a)
            H.append(h)
            later = Spline(self.axis, a)
        return np.array(A[::-1]), np.array(H[::-1])

    def controls(self, means: Array) -> Array:
        """u_k = (m_k - m_bk)/s_k, (T, N)."""
        return np.asarray((means - self.base) / self.std[:, None])

    def gradient_fields(self, means: Array, adjoint: Adjoint = "full") -> Array:
        """G (T, N): zero everywhere at a critical point, and only there."""
        return self.controls(means) + self.std[:, None] * self.adjoints(means, adjoint)[1]

    def dropped(self, means: Array, adjoint: Adjoint = "full") -> tuple[Array, Array]:
        """E[what the lean adjoint drops | X_k = x], and its two terms' size |.| + |.|, (T, N).

        (m_k' - m_bk') (H_k + (m_k - m_bk)/s_k^2): dt times the slides' (grad u)'(g a + u).
        """
        H = self.adjoints(means, adjoint)[1]
        move = (means - self.base) / self.std[:, None] ** 2
        slope = np.array([self._derivative(row) for row in means]) - self.base_slopes
        return slope * (H + move), np.abs(slope) * (np.abs(H) + np.abs(move))

    def cost_to_go(self, means: Array) -> Array:
        """J_k(x) = E[ sum_{j >= k} |u_j|^2/2 + c(X_T) | X_k = x], (T + 1, N)."""
        self._check(means)
        later: Function = self.final
        J, u = [self.final(self.axis)], self.controls(means)
        for k in range(self.steps - 1, -1, -1):
            J.append(self.smoothed(k, later, means[k])[0] + 0.5 * u[k] ** 2)
            later = Spline(self.axis, J[-1])
        return np.array(J[::-1])

    def densities(self, means: Array) -> Array:
        """Densities of X_0, ..., X_T, (T + 1, N), by the trapezoidal rule.

        Raises:
            ValueError: a kernel is narrower than NARROW grid steps, or mass leaves the grid.
        """
        self._check(means)
        if self.std.min() < NARROW * self.dx:
            raise ValueError(
                f"the narrowest kernel must be {NARROW:g} steps of the grid wide, got "
                f"{self.std.min():.3g} for steps of {self.dx:.3g}: use more points"
            )
        found = [self.start / (self.start_std * math.sqrt(2 * math.pi))]
        for k in range(self.steps):
            z = (self.axis[:, None] - means[k][None, :]) / self.std[k]
            kernel = np.exp(-0.5 * z**2) / (self.std[k] * math.sqrt(2 * math.pi))
            found.append(kernel @ found[-1] * self.dx)
        mass = float(found[-1].sum()) * self.dx
        if not abs(mass - 1) <= 1e-3:
            raise ValueError(
                f"the grid must hold a mass of 1 of X_T to 1e-3, got {mass:.5f}: it must reach "
                "farther"
            )
        return np.array(found)

    def start_mean(self, values: Array) -> float:
        """E[values(X_0)], (N,) -> a number."""
        return float(self.start @ values / self.start.sum())

    def _check(self, means: Array) -> None:
        if means.shape != self.base.shape or not np.isfinite(means).all():
            raise ValueError(
                f"means must be finite numbers of shape {self.base.shape}, got shape "
                f"{means.shape}, finite: {bool(np.isfinite(means).all())}"
            )

    # --- critical points

    def critical(self, branch: Sequence[int] = ()) -> CriticalPoint:
        """The critical point, backwards from k = T - 1, and how many roots there were to choose of.

        branch: which root, in ascending order, kernel k takes where it has several (-1: the last);
        the first by default.
        """
        middle = 0.5 * (self.axis[0] + self.axis[-1])
        half = 0.5 * BRACKET * (self.axis[-1] - self.axis[0])
        search = np.linspace(middle - half, middle + half, ROOTS)
        later: Function = self.final_slope
        T = self.steps
        means, roots, least = np.empty_like(self.base), np.empty_like(self.base), np.empty(T)
        for k in range(T - 1, -1, -1):
            H, slope = self.smoothed(k, later, search)
            s2 = self.std[k] ** 2
            phi = search + s2 * H
            least[k] = float((1 + s2 * slope).min())
            above = phi[None, :] >= self.base[k][:, None]
            turns = above[:, 1:] != above[:, :-1]
            roots[k] = turns.sum(1)
            if (roots[k] == 0).any():
                raise ValueError(
                    f"kernel {k} has no critical mean within {half:.3g} of {middle:.3g} for some x "
                    "on the grid: the cost falls without bound, or the reward pulls farther"
                )
            wanted = branch[k] if branch else 0
            place = np.array([np.flatnonzero(t)[min(wanted, t.sum() - 1)] for t in turns])
            low, high = search[place], search[place + 1]
            share = (self.base[k] - phi[place]) / (phi[place + 1] - phi[place])
            means[k] = self._root(k, later, low, high, low + share * (high - low))
            later = Spline(self.axis, self.base_slopes[k] * self.smoothed(k, later, means[k])[0])
        return CriticalPoint(means, roots.astype(int), least)

    def _root(self, k: int, later: Function, low: Array, high: Array, m: Array) -> Array:
        """phi_k(m) = m_bk by Newton's method from m, halving [low, high] where it steps out."""
        s2 = self.std[k] ** 2
        low, high = low.copy(), high.copy()
        rising = low + s2 * self.smoothed(k, later, low)[0] < self.base[k]
        for _ in range(NEWTON):
            H, slope = self.smoothed(k, later, m)
            rest = m + s2 * H - self.base[k]
            below = (rest < 0) == rising
            low, high = np.where(below, m, low), np.where(below, high, m)
            step = m - rest / np.where(np.abs(1 + s2 * slope) < 1e-9, 1e-9, 1 + s2 * slope)
            new = np.where((step >= low) & (step <= high), step, 0.5 * (low + high))
            if np.abs(new - m).max() <= 1e-13 * (1 + np.abs(m).max()):
                return new
            m = new
        return m


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """means (T, N); roots (T, N): critical means of each kernel at each x; least (T,): the least
    phi_k' over the bracket."""

    means: Array
    roots: Array
    least: Array

    @property
    def unique(self) -> bool:
        """Whether every kernel has one critical mean at every x, phi_k rising all over the
        bracket."""
        return bool((self.roots == 1).all() and (self.least > 0).all())
