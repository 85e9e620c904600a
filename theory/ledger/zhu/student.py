"""zhu, Z5: the recursion whose v_old is the last student, which is no velocity of its samples."""

from __future__ import annotations

import math

import numpy as np
import torch

from theory import GridLaw, Recursion, carry, load_problem
from theory.common.tolerances import QUADRATURE
from theory.ledger.core import Array, Context, Finding, Identity, extra, number, row
from theory.ledger.oracle import conditional
from theory.ledger.settings.problems import Problems, Setting
from theory.ledger.zhu.laws import column
from theory.recursion.checks import DivergedError
from theory.recursion.flow import Velocity, optimum
from theory.recursion.grid import Clock
from theory.recursion.moments import Tables
from theory.recursion.online import STEPS


def old_velocity(s: Setting, velocity: Array) -> Array:
    """Some v_old that is not the velocity of the data: shrunk and pushed aside."""
    return 0.8 * velocity + 0.3 * np.cos(np.arange(1, s.dim + 1))


def student_optimum(s: Setting, extra: float = 1.0, centre: float = 1.0) -> Array:
    """v_old + (2/beta) Cov(r, V | x) + (1/beta)(2 m_t - 1)(u - v_old)."""
    reward = s.problem.conditional_reward
    u = row(s.problem.base_field(s.point, s.t))
    v = old_velocity(s, u)
    m = float(reward.mean(s.point, s.t)[0])
    step = 2 * row(reward.covariance(s.point, s.t)) + extra * (2 * m - centre) * (u - v)
    return v + step / s.nft_beta


def student_by_quadrature(s: Setting) -> Array:
    v = old_velocity(s, conditional.velocity(s.case, s.x, s.at))
    return conditional.nft_minimiser(s.case, s.x, s.at, s.nft_beta, v_old=v)


STUDENT = Identity(
    "optimum with any v_old: v_old + (2/beta) Cov(r, V|x) + (1/beta)(2 m_t - 1)(u - v_old)",
    Problems(),
    student_optimum,
    student_by_quadrature,
    {
        "without the last term": lambda s: student_optimum(s, extra=0.0),
        "its sign": lambda s: student_optimum(s, extra=-1.0),
        "2 m_t for 2 m_t - 1": lambda s: student_optimum(s, centre=0.0),
    },
    lambda s: 1 + (2 * s.spread + 1) / s.nft_beta,
    role="instead",
)


UNBOUNDED = "quadratic_1d"  # a reward far below 0, where only NFT's refitted form stays stable


def old_velocity_gaps(name: str, nft_beta: float, epochs: int) -> tuple[Array, str]:
    """RMS of v_old - u after every epoch of the student recursion, over the base's X_t at four
    times; and what ended the run early. v_old's step is theory.recursion's, on its grid."""
    problem = load_problem(name)
    laws: list[GridLaw] = []
    ended = ""
    try:
        carry(problem, Recursion(nft_beta, "student"), epochs, progress=lambda _, q: laws.append(q))
    except DivergedError as error:
        ended = str(error).split(":")[0]
    (axis,) = laws[0].axes
    tables = Tables((axis,), Clock.even(STEPS[1]), problem.reward)
    fields = tables.fields(problem.base.log_density(column(axis)).numpy())
    old = Velocity(fields.u, fields.div_u)
    places = [int(np.argmin(np.abs(tables.clock.times - t))) for t in (0.2, 0.4, 0.6, 0.8)]
    weights = []
    for k in places:
        t = torch.tensor(float(tables.clock.times[k]))
        density = problem.base.noised(column(tables.x_axes(k)[0]), t, 1 - t).log_abs.exp().numpy()
        weights.append(density / density.sum())
    found = []
    for law in laws:
        old = optimum(old, fields, 2 / nft_beta)
        fields = tables.fields(law.log_density)
        found.append(math.sqrt(((old.v - fields.u)[places, :, 0] ** 2 * weights).sum(1).mean()))
    return np.array(found), ended


def growth(gaps: Array) -> tuple[float, float]:
    """Factor an epoch over the last five of `gaps` and the five before: exp of fitted slopes."""
    fits = (np.polyfit(np.arange(5), np.log(part), 1)[0] for part in (gaps[-5:], gaps[-9:-4]))
    late, early = (math.exp(fit) for fit in fits)
    return late, early


@extra
def student_outside_unit_interval(context: Context) -> Finding:
    """Given x, v_old - u grows by 1 + (1 - 2 m_t)/nft_beta an epoch, and by what each epoch adds:
    where rewards are below 0, without bound in x."""
    beta, epochs = 16.0, 14
    gaps, ended = old_velocity_gaps(UNBOUNDED, beta, epochs + 2)
    inside, _ = old_velocity_gaps("bumps_1d", beta, epochs)
    (late, early), (late_in, early_in) = growth(gaps[:epochs]), growth(inside)
    most = 1 + 1 / beta  # of the factor where r is in [0, 1]
    refit = carry(load_problem(UNBOUNDED), Recursion(beta), epochs + 2)

    def diverges(late: float, early: float) -> bool:
        return late > early > most

    return Finding(
        name="rewards outside [0, 1]: the student recursion diverges, the refitted one does not",
        role="support",
        kind="exact",
        holds=diverges(late, early) and refit.mass_error <= QUADRATURE.rtol,
        figure=f"{UNBOUNDED}, nft_beta = {beta:g}: RMS of v_old - u over the base's X_t grows by "
        f"{early:.2f} an epoch around epoch {epochs - 6}, by {late:.2f} around {epochs - 2} "
        f"(bumps_1d, r in [0, 1]: {early_in:.2f}, then {late_in:.2f}); trajectories "
        + (f"leave the grid at {ended} of {epochs + 2}" if ended else "stay on the grid")
        + f"; refitted: mass within {number(refit.mass_error)} after {epochs + 2} epochs",
        numbers={
            "gaps": gaps[:epochs].tolist(),
            "gaps_in_unit_interval": inside.tolist(),
            "factors": [early, late],
            "factors_in_unit_interval": [early_in, late_in],
            "mass_error": refit.mass_error,
        },
        worst=UNBOUNDED,
        mutants={"r in [0, 1]": not diverges(late_in, early_in)},
    )
