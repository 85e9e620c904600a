"""How near each method's exact optimum comes to base exp(a r) / Z, and what the tilt asks of draws.

A total tilt a is reached at once or in K stages of h = a/K. A stage starts from the velocity v of
the stage before, with data from the law q that v samples; u_q = E_q[Y | X_t], m_q = E_q[r | X_t].
Its exact optimum:

    nft, nft_beta = 2/h     v + h Cov_q(Y, r | X_t) + h (m_q - 1/2)(u_q - v)
    explicit                v + h Cov_q(Y, r | X_t) + h m_q (u_q - v)
    implicit, weighted      the velocity of q exp(h r) / Z: no bias at any K

u_q = v in the first stage only, so the first two agree at K = 1 and differ after it. Distances are
total variation, and shares of TV(base, target). d = 1 and 2: laws carried on a grid; in any d, one
stage by Monte Carlo over the exact flow, TV = E_p(1 - q/p)_+. With K > 1 there is no closed form
in d > 2 for the first two, and none is given.

What an unbiased method pays is the variance of its weights w = exp(h r). The effective share of
a sample of q_j = base exp(j h r)/Z(j h) is

    ESS/n = (E w)^2 / E w^2 = Z((j+1) h)^2 / (Z(j h) Z((j+2) h)),       exact in any d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from theory.common.checks import check_choice, check_order, check_positive
from theory.evaluation.grids import flow_on_grid, make_grid, mixture_on_grid, tilt_on_grid
from theory.fields.mixture import ExactField
from theory.laws.distances import Array, Distance, GridLaw, grid_distances
from theory.problems.problem import Problem
from theory.recursion.axes import base_on, default_axes
from theory.recursion.checks import DivergedError, mass_of
from theory.recursion.flow import Velocity, optimum
from theory.recursion.moments import Fields
from theory.recursion.online import _Carrier
from theory.recursion.spec import Recursion
from theory.samplers.flow import FlowLaw
from theory.tilts.wrappers import Exponential

Kind = Literal["nft", "explicit", "implicit", "weighted"]
FIRST_ORDER = ("nft", "explicit")
# Nodes an axis and steps of trajectories: errors of TV far below a percent of the way.
NODES = {1: 384, 2: 72}
STEPS = {1: 14, 2: 4}
MOST_LOST = 1e-3
# Of the flow in any d: errors below those of the draws.
RTOL, ATOL = 1e-4, 1e-5


@dataclass(frozen=True)
class Reached:
    """tv: of the law to base exp(a r)/Z; to_go: TV(base, target); w1: the same in W1 (d = 1)."""

    tv: Distance
    to_go: float
    w1: float | None = None
    w1_to_go: float | None = None

    @property
    def share(self) -> float:
        """tv as a share of the way."""
        return self.tv.value / self.to_go


def weight_share(problem: Problem, total: float, stages: int = 1) -> float:
    """The least ESS/n of the weights exp(r total/stages) over the stages, each from the exact law
    of the one before."""
    _check(total, stages)
    h = total / stages
    log_z = [0.0]
    log_z += [float(problem.tilt(Exponential(h * j)).log_z) for j in range(1, stages + 2)]
    return math.exp(min(2 * log_z[j + 1] - log_z[j] - log_z[j + 2] for j in range(stages)))


def reached(problem: Problem, kind: Kind, total: float, stages: int = 1) -> Reached:
    """How near the law of the exact optimum comes to base exp(total r)/Z, d = 1 and 2.

    Raises:
        ValueError: unknown kind, total not positive, stages < 1, d > 2, or a grid that loses more
            than MOST_LOST of the mass.
    """
    check_choice("kind", kind, get_args(Kind))
    _check(total, stages)
    if problem.dim > 2:
        raise ValueError(
            f"problem {problem.name!r} must have d = 1 or 2 (reached_by_draws serves one stage in "
            f"any d), got {problem.dim}"
        )
    if kind not in FIRST_ORDER:
        return _measured(problem, problem.tilted_field(Exponential(total)), total)
    if stages == 1:
        return _measured(problem, problem.cumulant_field(total, 1), total)
    return _compared(staged_laws(problem, kind, total / stages, stages)[-1], problem, total)


def staged_laws(problem: Problem, kind: Kind, h: float, stages: int) -> list[GridLaw]:
    """The laws after 0 to `stages` stages of a first-order method with step h, d = 1 and 2.

    Every stage starts from the optimum of the one before, as a network does, and not from the
    velocity u_q of its own samples.

    Raises:
        ValueError: another kind, or a law that the grid does not hold.
    """
    check_choice("kind", kind, FIRST_ORDER)
    _check(h, stages)
    spec = Recursion(nft_beta=2 / h, mode="student")
    axes = default_axes(problem, spec, stages, NODES[problem.dim])
    base, rewards = base_on(problem, axes)
    carrier = _Carrier(problem, spec, base, rewards, STEPS[problem.dim])
    laws, log_q = [base], base.log_density
    old, fields = carrier.base_velocity, carrier.first
    for epoch in range(1, stages + 1):
        old = _stage(kind, old, fields, h)
        law = carrier._law(old, fields, log_q, log_q, epoch, h)
        log_q = law.log_density
        lost = abs(1 - mass_of(log_q, axes))
        if not lost <= MOST_LOST:
            raise DivergedError(
                f"stage {epoch} of {stages}, h = {h:g}: the grid of "
                f"{' x '.join(map(str, log_q.shape))} nodes must lose at most {MOST_LOST:g} of the "
                f"law (smaller stages), got {lost:.1e}"
            )
        laws.append(law)
        if epoch < stages:
            fields = carrier.tables.fields(log_q, whole=True)
    return laws


def _stage(kind: Kind, old: Velocity, fields: Fields, h: float) -> Velocity:
    """The optimum of one stage: NFT's, and for the explicit form h/2 (u - v) more."""
    new = optimum(old, fields, h)
    if kind == "nft":
        return new
    gap, gap_div = fields.u - old.v, fields.div_u - old.div
    v, div = new.v + 0.5 * h * gap, new.div + 0.5 * h * gap_div
    v[0], div[0] = old.v[0], old.div[0]  # at t = 1 every field is x
    return Velocity(v, div)


def reached_by_draws(
    problem: Problem, kind: Kind, total: float, n: int = 1000, seed: int = 0
) -> Reached:
    """The same for one stage in any d, over n draws of the exact flow; floor: 4 standard errors.

    Raises:
        ValueError: unknown kind, total not positive, n < 2.
    """
    check_choice("kind", kind, get_args(Kind))
    _check(total, 1)
    check_order("n", n, 2)
    generator = torch.Generator().manual_seed(seed)
    target = problem.tilt(Exponential(total))
    base = problem.base.sample(n, generator)
    to_go = total_variation(problem.base.log_density(base), target.log_density(base)).value
    if kind not in FIRST_ORDER:
        return Reached(Distance(0.0, 0.0), to_go)
    law = FlowLaw(problem.cumulant_field(total, 1), RTOL, ATOL, "dopri5")
    x, log_p = law.push_with_log_density(law.start(n, generator))
    return Reached(total_variation(log_p, target.log_density(x)), to_go)


def total_variation(log_p: torch.Tensor, log_q: torch.Tensor) -> Distance:
    """E_p(1 - q/p)_+ from log-densities (n,) at draws of p, with four standard errors."""
    part = (1 - (log_q - log_p).exp()).clamp_min(0)
    return Distance(float(part.mean()), 4 * float(part.std()) / len(part) ** 0.5)


# --- grids


def _measured(problem: Problem, field: ExactField, total: float) -> Reached:
    axes = make_grid(problem, field, {"exp": problem.tilt(Exponential(total))})
    return _compared(flow_on_grid(field, axes), problem, total)


def _compared(law: GridLaw, problem: Problem, total: float) -> Reached:
    target = tilt_on_grid(problem.tilt(Exponential(total)), law.axes)
    base = mixture_on_grid(problem.base, law.axes)
    near, far = grid_distances(law, target), grid_distances(base, target)
    if "W1" in near:
        return Reached(near["TV"], far["TV"].value, near["W1"].value, far["W1"].value)
    return Reached(near["TV"], far["TV"].value)


def _check(total: float, stages: int) -> None:
    check_positive("total", total)
    check_order("stages", stages, 1)


def stages_for(share: float, stages: Array, shares: Array) -> float:
    """The K at which a share of the way is left, between measured ones on log-log axes; beyond the
    last by its slope.

    Raises:
        ValueError: fewer than two points, or the errors do not fall.
    """
    check_positive("share", share)
    x, y = np.log(np.asarray(stages, float)), np.log(np.asarray(shares, float))
    if len(x) < 2 or not (np.diff(y) < 0).all():
        raise ValueError(f"shares must be at least two, falling, got {list(shares)}")
    goal = math.log(share)
    if goal < y[-1]:
        return float(np.exp(x[-1] + (goal - y[-1]) * (x[-1] - x[-2]) / (y[-1] - y[-2])))
    return float(np.exp(np.interp(-goal, -y, x)))
