"""What the optima of GFlowNet methods are made of, over Gaussian kernels N(m(x), s_k^2 I), m free.

Where it is the KL-regularised one (`theory.control.chain_optimum`) it is known in d = 1 and 2: for
trajectory balance, for a `held` flow, and for the bidirectional condition with the policy's score
held fixed, E[u_k + J#' u_{k+1} | X_k] being its dynamic programming. Else it is the fixed point of
the loss's own expected semi-gradient (`theory.gflownet.class_best`), in d = 2 where the grid stays
small. Either is the optimum of the loss; neither samples the target at finitely many steps, which
needs kernels that are no Gaussians.

A prior of strength eta enters as a chain, `priors`; all flows are in the unit of log R^beta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.control.chain_optimum import ChainOptimum, regularised_optimum
from theory.gflownet.class_best import ClassBest
from theory.gflownet.flows import look_ahead_strengths
from theory.gflownet.grids import Grid
from theory.gflownet.line import Line
from theory.gflownet.plane import Plane
from theory.laws.distances import Array
from theory.methods.chain.rollouts import GRID_SPACING, Smooth, jacobian
from theory.methods.contract.method import Optimum
from theory.methods.gflownet.family import FlowMethod, GFlowNet, predicted
from theory.problems.problem import Problem
from theory.samplers.chain import Chain, grid_points, state_axes

NOISE_NODES = 16  # an axis
# Of the fixed point's grid in the plane: its step in the base's least standard deviation, and how
# many points an axis may have (a kernel's sums cost their fourth power).
PLANE_SPACING, PLANE_POINTS = 0.28, 140
# What reading the end's value between the points may be off by, in that value's range.
RESOLVED = 1e-4
COMMON = 20.0  # nats below the base's highest density
NOTE = "Gaussian kernels: the fixed point of the loss's own gradient at given trajectories"


@dataclass(frozen=True, eq=False)
class Case:
    """A method on a problem, as a control problem: a prior chain and what its end is worth."""

    method: GFlowNet
    problem: Problem
    noise: tuple[Tensor, Tensor] | None = None

    @cached_property
    def chain(self) -> Chain:
        return self.method.chain(self.problem)

    @property
    def strength(self) -> float:
        """eta."""
        return self.method.against.strength

    def log_reward(self, x: Tensor) -> Tensor:
        """log R at x (n, d), smoothed where the method smooths it; (n,)."""
        if self.noise is None:
            return self.method.log_of(self.problem.reward(x))
        nodes, weights = self.noise
        places = (x[:, None] + nodes).flatten(0, 1)
        values = self.method.log_of(self.problem.reward(places))
        return values.reshape(len(x), len(nodes)) @ weights

    def terminal(self, x: Tensor) -> Tensor:
        """The residual flow of X_T = x over the prior chain's, log; (n,)."""
        last = self.method.against.log_state(self.chain, self.chain.steps, x)
        return self.method.scale * self.log_reward(x) - last

    def axes(self, spacing: float) -> tuple[Array, ...]:
        """A grid that holds base and target, its step at most `spacing` least s_k."""
        target = self.method.target(self.problem).law
        laws = [self.problem.base, *([] if target is None else [target])]
        laws.sort(key=lambda law: float(torch.linalg.eigvalsh(law.cov).min()))
        return state_axes(self.chain, laws, spacing)

    @cached_property
    def regularised(self) -> ChainOptimum:
        """The KL-regularised optimum; its values V_k are the logarithms of the flows."""
        return self.regularised_on(self.axes(GRID_SPACING[self.problem.dim]))

    def regularised_on(self, axes: tuple[Array, ...]) -> ChainOptimum:
        """The same by values on a grid."""
        against = self.method.against
        curvatures = against.curvatures(self.chain)

        def straight(x: Tensor) -> Tensor:
            return self.terminal(x) - 0.5 * curvatures[-1] * x.square().sum(1)

        return regularised_optimum(
            self.chain,
            against.velocity(self.problem),
            straight,
            1 / self.strength,
            axes,
            curvatures,
        )

    @cached_property
    def costs(self) -> Array:
        """What the normalisers of log P_F - eta log P# add from kernel k on, (T + 1,)."""
        s = self.chain.coefficients(torch.zeros(1, dtype=torch.float64))[2].numpy()
        each = (self.strength - 1) * self.problem.dim * (0.5 + np.log(s * math.sqrt(2 * math.pi)))
        return np.append(np.cumsum(each[::-1])[::-1], 0.0)

    def by_state(self, function: Callable[[int, Tensor], Tensor], outputs: int) -> Any:
        """function(k, x) -> (n, outputs) as one of (x, t, cond), t = 1 being k = T."""

        def network(x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
            values = x.new_zeros(len(x), outputs)
            for k, rows in self.chain.rows_by_state(t):
                values[rows] = function(k, x[rows].detach())
            return values

        return network

    def kernels(self, best: ClassBest) -> ChainOptimum:
        """A fixed point's kernels."""
        base = self.method.against.velocity(self.problem)
        return ChainOptimum(self.chain, base, 1 / self.strength, math.nan, best.shifts, best.flows)

    @cached_property
    def grid(self) -> Grid | None:
        """That of the fixed point; None where it is too large, or too coarse for the reward."""
        axes, base = self.axes(math.inf), self.method.against.velocity(self.problem)
        if self.problem.dim == 1:
            return Line(self.chain, base, axes)
        least = float(torch.linalg.eigvalsh(self.problem.base.cov).min().sqrt())
        counts = [math.ceil(np.ptp(axis) / (PLANE_SPACING * least)) + 1 for axis in axes]
        if max(counts) > PLANE_POINTS:
            return None
        coarse = [np.linspace(axis[0], axis[-1], n) for axis, n in zip(axes, counts, strict=True)]
        plane = Plane(self.chain, base, tuple(coarse))
        return plane if self.resolved(plane) else None

    def resolved(self, plane: Plane) -> bool:
        """Whether the end's value is read right amid the points, where the base has any mass."""
        amid = grid_points(tuple((axis[1:] + axis[:-1]) / 2 for axis in plane.axes))
        with torch.no_grad():
            known, exact = self.terminal(plane.points).numpy(), self.terminal(amid).numpy()
        density = self.problem.base.log_density(amid)
        seen = (density > density.max() - COMMON).numpy()
        error = np.abs(plane.reading(amid.numpy().T) @ known - exact)[seen].max()
        return bool(error <= RESOLVED * np.ptp(exact[seen]))

    def start(self, grid: Grid) -> Array:
        """Shifts to begin the rounds from, (T, d n): the KL-regularised ones."""
        shifts = self.regularised_on(grid.axes).shifts
        return np.array([shift.values.T.ravel() for shift in shifts]) / grid.widths**2

    @cached_property
    def anchors(self) -> Array:
        """lambda s^4/Q^2 of an anchor to the base, (T,)."""
        if self.method.anchor != "base":
            return np.zeros(self.chain.steps)
        _, Q, s = (c.numpy() for c in self.chain.coefficients(torch.zeros(1, dtype=torch.float64)))
        return np.asarray(self.method.anchor_weight * s**4 / Q**2)

    @property
    def log_z(self) -> float:
        """E[V_0(X_0)]: a policy's lower bound on log Z, at the KL-regularised optimum."""
        return self.regularised.log_z * self.strength - float(self.costs[0])

    def optimum(self, model: Smooth, networks: dict[str, Any], known: bool) -> Optimum:
        """As a method states it; known: whether it is the KL-regularised one."""
        log_z = self.log_z if known else None
        return Optimum(
            model, self.chain, networks=networks, note="" if known else NOTE, log_z=log_z
        )

    # --- flows of the KL-regularised optimum, and what is looked ahead to

    def value(self, k: int, x: Tensor) -> Tensor:
        """V_k at x, (n, 1)."""
        if k == self.chain.steps:
            return self.terminal(x)[:, None]
        return torch.as_tensor(self.regularised.values[k](x.numpy()))

    def value_slope(self, k: int, x: Tensor) -> Tensor:
        """grad V_k at x, (n, d)."""
        if k == self.chain.steps:
            return slope_of(self.terminal, x)
        return torch.as_tensor(jacobian(self.regularised.values[k], x.numpy())[:, 0])

    def ahead(self, method: FlowMethod, model: Any, k: int, x: Tensor) -> Tensor:
        """gamma_k beta log R(xhat) at X_k = x, (n,); at the end xhat is x itself."""
        gamma = method.scale * look_ahead_strengths(self.chain, method.look_ahead)[k]
        if not gamma:
            return 0.0 * x.sum(1)
        if k < self.chain.steps:
            t = self.chain.times[k].to(x).expand(len(x))
            x = predicted(self.problem.path, model, x, t, None)
        return gamma * self.log_reward(x)


def slope_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Its gradient at x, (n, d)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope


def noise_nodes(c: float, dim: int) -> tuple[Tensor, Tensor] | None:
    """Nodes c eps (q, d), eps ~ N(0, I), and their weights (q,); None where c is 0."""
    if not c:
        return None
    z, w = np.polynomial.hermite_e.hermegauss(NOISE_NODES)
    nodes, weights = (
        np.stack([g.ravel() for g in np.meshgrid(*[v] * dim, indexing="ij")], -1)
        for v in (z, w / w.sum())
    )
    return c * torch.as_tensor(nodes), torch.as_tensor(weights.prod(-1))
