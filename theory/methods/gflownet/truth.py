"""The optimum of each GFlowNet method, over Gaussian kernels N(m(x), s_k^2 I) with m free.

Where it is the KL-regularised one (`theory.control.chain_optimum`) it is known in d = 1 and 2: for
trajectory balance, for a `held` flow, and for the bidirectional condition with the policy's score
held fixed, E[u_k + J#' u_{k+1} | X_k] being its dynamic programming. Else it is the fixed point of
the loss's own expected semi-gradient (`theory.gflownet.class_best`), d = 1. Either is the optimum
of the loss; neither samples the target at finitely many steps, which needs kernels that are no
Gaussians.

A prior of strength eta enters as a chain, `priors`; all flows are in the unit of log R^beta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from theory.control.chain_optimum import ChainOptimum, regularised_optimum
from theory.gflownet.class_best import (
    ClassBest,
    NotSettledError,
    Weights,
    nabla_best,
    scalar_best,
)
from theory.gflownet.flows import look_ahead_strengths
from theory.gflownet.line import Line
from theory.laws.distances import Array
from theory.methods.chain.rollouts import GRID_SPACING, Smooth, jacobian
from theory.methods.contract.method import Optimum
from theory.methods.gflownet.family import FlowMethod, GFlowNet, predicted
from theory.problems.problem import Problem
from theory.samplers.chain import Chain, state_axes

if TYPE_CHECKING:
    from theory.methods.gflownet.detailed_balance import DetailedBalance
    from theory.methods.gflownet.nabla_db import Nabla
    from theory.methods.gflownet.trajectory_balance import TrajectoryMethod

SMOOTHING_NODES = 16
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

    def axes(self, coarse: bool = False) -> tuple[Array, ...]:
        """A grid that holds base and target."""
        target = self.method.target(self.problem).law
        laws = [self.problem.base, *([] if target is None else [target])]
        laws.sort(key=lambda law: float(torch.linalg.eigvalsh(law.cov).min()))
        spacing = math.inf if coarse else GRID_SPACING[self.problem.dim]
        return state_axes(self.chain, laws, spacing)

    @cached_property
    def regularised(self) -> ChainOptimum:
        """The KL-regularised optimum; its values V_k are the logarithms of the flows."""
        against = self.method.against
        curvatures = against.curvatures(self.chain)

        def straight(x: Tensor) -> Tensor:
            return self.terminal(x) - 0.5 * curvatures[-1] * x.square().sum(1)

        return regularised_optimum(
            self.chain,
            against.velocity(self.problem),
            straight,
            1 / self.strength,
            self.axes(),
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
            index = (t * self.chain.steps).round().long()
            values = x.new_zeros(len(x), outputs)
            for k in index.unique().tolist():
                rows = index == k
                values[rows] = function(k, x[rows].detach())
            return values

        return network

    def best_on_line(self, best: ClassBest) -> ChainOptimum:
        """A fixed point's kernels."""
        base = self.method.against.velocity(self.problem)
        return ChainOptimum(self.chain, base, 1 / self.strength, math.nan, best.shifts, best.flows)

    @cached_property
    def line(self) -> Line:
        """The grid of the fixed point."""
        (axis,) = self.axes(coarse=True)
        return Line(self.chain, self.method.against.velocity(self.problem), axis)

    @cached_property
    def start(self) -> Array:
        """Shifts to begin the rounds from, (T, n): the KL-regularised ones."""
        points = self.line.axis[:, None]
        return np.array([shift(points)[:, 0] for shift in self.regularised.shifts]) / (
            self.line.widths**2
        )

    @cached_property
    def anchors(self) -> Array:
        """lambda s^4/Q^2 of an anchor to the base, (T,)."""
        if self.method.anchor != "base":
            return np.zeros(self.chain.steps)
        _, Q, s = (c.numpy() for c in self.chain.coefficients(torch.zeros(1, dtype=torch.float64)))
        return np.asarray(self.method.anchor_weight * s**4 / Q**2)


def _value(case: Case, k: int, x: Tensor) -> Tensor:
    """V_k at x, (n, 1)."""
    if k == case.chain.steps:
        return case.terminal(x)[:, None]
    return torch.as_tensor(case.regularised.values[k](x.numpy()))


def _value_slope(case: Case, k: int, x: Tensor) -> Tensor:
    """grad V_k at x, (n, d)."""
    if k == case.chain.steps:
        return _slope(case.terminal, x)
    return torch.as_tensor(jacobian(case.regularised.values[k], x.numpy())[:, 0])


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(function(x).sum(), x)
    return slope


# --- trajectory balance


def of_trajectories(method: TrajectoryMethod, problem: Problem) -> Optimum | None:
    """d = 1 and 2, without an anchor to the base; log Z is the mean of V_0."""
    if problem.dim > 2 or method.anchor == "base":
        return None
    case = Case(method, problem)
    best = case.regularised
    log_z = best.log_z * case.strength - float(case.costs[0])
    return Optimum(
        Smooth(best),
        case.chain,
        networks={"log_z": lambda x, t, cond=None: x.new_full((len(x), 1), log_z)},
        log_z=log_z,
    )


# --- detailed balance


def of_balance(method: DetailedBalance, problem: Problem) -> Optimum | None:
    """d = 1; d = 2 too with a held flow and no anchor to the base. None where no fixed point is
    found."""
    case, known = Case(method, problem), method.held and method.anchor != "base"
    if problem.dim > 2 or (problem.dim == 2 and not known):
        return None
    if known:
        best = case.regularised

        def residual(k: int, x: Tensor) -> Tensor:
            return _value(case, k, x) - float(case.costs[k])
    else:
        try:
            found = scalar_best(
                case.line, case.terminal, case.anchors,
                prior=case.strength, held=method.held, start=case.start,
            )  # fmt: skip
        except NotSettledError:
            return None
        best = case.best_on_line(found)

        def residual(k: int, x: Tensor) -> Tensor:
            return torch.as_tensor(found.flows[k](x.numpy()))

    model = Smooth(best)

    def left(k: int, x: Tensor) -> Tensor:
        flow = residual(k, x) + method.against.log_state(case.chain, k, x)[:, None]
        gamma = _gamma(method, case.chain, k)
        if not gamma:
            return flow
        return flow - gamma * case.log_reward(_data(case, model, k, x))[:, None]

    networks = {"flow": case.by_state(left, 1)}
    return Optimum(model, case.chain, networks=networks, note="" if known else NOTE)


# --- nabla-DB


def of_nabla(method: Nabla, problem: Problem) -> Optimum | None:
    """d = 1; d = 2 too where it is the KL-regularised one. None where the flow is known up to
    constants (w_backward = 0), the forward-looking part is trained through, or no fixed point is
    found."""
    case = Case(method, problem, _smoothing(method, problem))
    first = method.bidirectional and not method.second_order
    known = (method.held or first) and method.anchor != "base"
    if method.bidirectional and not known:
        return None
    unknown = not method.w_backward or (method.second_order and method.looks)
    if problem.dim > 2 or (problem.dim == 2 and not known) or (unknown and not known):
        return None
    if known:
        best = case.regularised

        def score(k: int, x: Tensor) -> Tensor:
            return _value_slope(case, k, x)
    else:
        try:
            found = nabla_best(
                case.line, case.terminal, _weights(method, case),
                prior=case.strength, second_order=method.second_order, held=method.held,
                start=case.start,
            )  # fmt: skip
        except NotSettledError:
            return None
        best = case.best_on_line(found)

        def score(k: int, x: Tensor) -> Tensor:
            return torch.as_tensor(found.flows[k](x.numpy()))

    model = Smooth(best)
    if method.bidirectional:
        return Optimum(model, case.chain)

    def left(k: int, x: Tensor) -> Tensor:
        flow = score(k, x) + _slope(lambda y: method.against.log_state(case.chain, k, y), x)
        gamma = _gamma(method, case.chain, k)
        if not gamma:
            return flow
        return flow - gamma * _slope(lambda y: case.log_reward(_data(case, model, k, y)), x)

    networks = {"flow": case.by_state(left, problem.dim)}
    return Optimum(model, case.chain, networks=networks, note="" if known else NOTE)


def _weights(method: Nabla, case: Case) -> Weights:
    s2 = case.line.widths[:, 0] ** 2
    unit = s2 if method.unit == "kernel" else np.ones_like(s2)
    return Weights(
        method.w_forward * unit, method.w_backward * unit, method.w_terminal * unit[-1],
        case.anchors,
    )  # fmt: skip


def _smoothing(method: Nabla, problem: Problem) -> tuple[Tensor, Tensor] | None:
    """Nodes c eps (q, d) and their weights (q,), or None without smoothing."""
    if not method.smoothing:
        return None
    z, w = np.polynomial.hermite_e.hermegauss(SMOOTHING_NODES)
    nodes = np.stack([g.ravel() for g in np.meshgrid(*[z] * problem.dim, indexing="ij")], -1)
    weights = np.stack([g.ravel() for g in np.meshgrid(*[w] * problem.dim, indexing="ij")], -1)
    weights = weights.prod(-1)
    return method.smoothing * torch.as_tensor(nodes), torch.as_tensor(weights / weights.sum())


def _gamma(method: FlowMethod, chain: Chain, k: int) -> float:
    return method.scale * look_ahead_strengths(chain, method.look_ahead)[k]


def _data(case: Case, model: Any, k: int, x: Tensor) -> Tensor:
    """xhat at X_k = x, x itself at the end."""
    if k == case.chain.steps:
        return x
    t = case.chain.times[k].to(x).expand(len(x))
    return predicted(case.problem.path, model, x, t, None)
