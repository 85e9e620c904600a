r"""The released code's epochs with laws carried on a grid (theory.recursion), d <= 2.

Every epoch the data come from the old copy's field v, with law q; its optimum, the reward mapped
by r = 1/2 + g (R - E_q R), lam = 2 g / nft_beta, is

    mu* = v + lam Cov_q(Y, R | x) + (lam (m_q - E_q R) + o)(u_q - v),    m_q = E_q[R | x],

o = (2/nft_beta) (E_q r - 1/2), which the mapping makes 0 and an advantage mode may not;
the penalty leaves omega(t) mu* + (1 - omega(t)) v_0 (theory.released.penalty), and the old copy
follows, v <- d v + (1 - d) mu. "refit" puts u_q, the velocity of the data, in v's place: what a
student would start from that had been trained on its own samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from theory.common.checks import check_choice, check_order, check_positive
from theory.laws.distances import GridLaw
from theory.problems.problem import Problem
from theory.recursion.axes import base_on, default_axes
from theory.recursion.checks import DivergedError, GridError, check_law, mass_of
from theory.recursion.flow import Velocity, optimum
from theory.recursion.grid import Array
from theory.recursion.online import STEPS, Trajectory, _Carrier, _check_problem
from theory.recursion.spec import Mode, Recursion
from theory.released.penalty import Penalty


@dataclass(frozen=True)
class Epoch:
    """lam: the tilt's step, in units of 1/reward; decay d of the old copy; the KL penalty; reach:
    the share of the way to its optimum that the student goes, carried on from epoch to epoch;
    offset: (2/nft_beta) (E r - 1/2)."""

    lam: float
    decay: float = 0.0
    penalty: Penalty | None = None
    reach: float = 1.0
    offset: float = 0.0


# (epoch from 1, E_q R, std_q R) -> what that epoch does
Plan = Callable[[int, float, float], Epoch]


class _Released(_Carrier):
    """`_Carrier` with epochs that differ, and a penalty that depends on time."""

    def follow(self, plan: Plan) -> Iterator[GridLaw]:
        log_q, fields, old = self.log_base, self.first, self.base_velocity
        student = old
        for epoch in count(1):
            mean, std = self._rewards(log_q)
            rule = plan(epoch, mean, std)
            if self.recursion.mode == "refit":
                old = Velocity(fields.u, fields.div_u)
            new = optimum(old, fields, rule.lam, mean, rule.offset)
            if rule.penalty is not None:
                new = self._pulled(new, rule.penalty)
            student = new if rule.reach == 1 else new.mixed(rule.reach, student)
            old = old.mixed(rule.decay, student)
            law = self._law(old, fields, log_q, log_q, epoch, (1 - rule.decay) * rule.lam)
            log_q = law.log_density
            check_law(log_q, self.axes, epoch, mass_of(self.log_base, self.axes))
            yield law
            fields = self.tables.fields(log_q, whole=self.recursion.mode == "student")

    def _rewards(self, log_q: Array) -> tuple[float, float]:
        p = np.exp(log_q - log_q.max())
        p /= p.sum()
        mean = float((p * self.rewards).sum())
        return mean, float(np.sqrt((p * (self.rewards - mean) ** 2).sum()))

    def _pulled(self, new: Velocity, penalty: Penalty) -> Velocity:
        """omega new + (1 - omega) v_0 at every stage time."""
        column = penalty.share(self.tables.clock.times).reshape(-1, *[1] * (new.div.ndim - 1))
        base = self.base_velocity
        return Velocity(
            base.v + column[..., None] * (new.v - base.v), base.div + column * (new.div - base.div)
        )


def _listed(epochs: Sequence[Epoch]) -> Plan:
    return lambda epoch, mean, std: epochs[epoch - 1]


def carry_epochs(
    problem: Problem,
    plan: Plan | Sequence[Epoch],
    epochs: int | None = None,
    reach: float | None = None,
    mode: Mode = "student",
    grid: int | None = None,
) -> Trajectory:
    """The laws of the old copy after 0 to `epochs` epochs; arguments and errors of `carry_so_far`,
    and GridError or DivergedError where an epoch's law cannot be held."""
    run, error = carry_so_far(problem, plan, epochs, reach, mode, grid)
    if error is not None:
        raise error
    return run


def carry_so_far(
    problem: Problem,
    plan: Plan | Sequence[Epoch],
    epochs: int | None = None,
    reach: float | None = None,
    mode: Mode = "student",
    grid: int | None = None,
) -> tuple[Trajectory, ValueError | None]:
    """The laws of the old copy after 0 to `epochs` epochs, or to the last one that the grid holds,
    and the error that ended them.

    plan: what every epoch does, a function of the law's E R and std R, or a list (then `epochs` and
    `reach` follow from it). reach: the tilt up to which the axes are to hold the laws.
    mode: "student", the old copy's own field as in the code, or "refit".

    Raises:
        ValueError: a plan that is a function without epochs or reach, another mode, d > 2.
        GridError: the grid does not hold the base.
    """
    check_choice("mode", mode, ("student", "refit"))
    if isinstance(plan, Sequence):
        epochs, reach = len(plan), sum((1 - e.decay) * e.lam for e in plan)
        plan = _listed(plan)
    if epochs is None or reach is None:
        raise ValueError(
            "epochs and reach must be given with a plan that is a function, got epochs = "
            f"{epochs!r} and reach = {reach!r}"
        )
    check_order("epochs", epochs, 1)
    check_positive("reach", reach)
    spec = Recursion(2 * epochs / reach, mode)  # of the same total tilt: for axes and errors
    _check_problem(problem, spec)
    axes = default_axes(problem, spec, epochs, grid)
    base, rewards = base_on(problem, axes)
    check_law(base.log_density, axes, 0, mass_of(base.log_density, axes))
    kept = [base]
    laws, error = _Released(problem, spec, base, rewards, STEPS[problem.dim]).follow(plan), None
    try:
        for _ in range(epochs):
            kept.append(next(laws))
    except (GridError, DivergedError) as found:
        error = found
    return Trajectory(problem, spec, axes, kept, rewards), error
