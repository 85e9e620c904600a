"""released, N5: how the adaptive normaliser weighs times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy.special import ndtr

from theory.ledger.core import Array, Context, Finding, extra, number
from theory.ledger.liu.adaptive import TOY
from theory.ledger.liu.stationary import LinePosterior, line_posterior
from theory.ledger.settings.problems import Setting
from theory.ledger.settings.unit import UnitRewards, levelled
from theory.problems.problem import Problem, load_problem

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


def time_weights(times: Array) -> dict[str, Array]:
    """What a squared error of V is multiplied by at v_0 at each time on the rectified flow, d = 1,
    note's toy: 1 / mean|e| by its mean over X_t; means are 1. Numbers of a figure."""
    problem = load_problem(TOY)
    sizes = []
    for t in times:
        law = problem.base.convolved(float(t), float(1 - t))
        width = float(law.covariance()[0, 0].sqrt())
        x = float(law.expectation()[0]) + width * torch.linspace(-5, 5, 31, dtype=torch.float64)
        share = law.density(x[:, None])
        rows = [mean_velocity_size(problem, float(place), float(t)) for place in x]
        sizes.append(float(share @ torch.tensor(rows, dtype=torch.float64) / share.sum()))
    size, slope = np.array(sizes), 1 - times
    raw = {
        VARIANTS[0]: slope / size,
        VARIANTS[1]: 1 / size,
        VARIANTS[2]: slope**2,
        VARIANTS[3]: np.ones_like(times),
    }
    return {k: v / v.mean() for k, v in raw.items()}


def mean_velocity_size(problem: Problem, x: float, t: float) -> float:
    """E|V - v_0| given X_t = x."""
    p = line_posterior(problem, torch.tensor([[x]], dtype=torch.float64), t)
    return p.gain * mean_size(p, 0.0)


@extra
def weights_over_time(context: Context) -> Finding:
    """What changes: how times weigh on each other where one network serves them all."""
    rows = time_weights(np.array(TIMES))
    early = {k: float(v[0] / v[-1]) for k, v in rows.items()}
    return Finding(
        name="weight of a squared velocity error at t = 0.1 over that at t = 0.9",
        role="instead",
        kind="exact",
        holds=early[VARIANTS[2]] > early[VARIANTS[0]] > early[VARIANTS[1]],
        figure=", ".join(f"{number(v)} ({k})" for k, v in early.items())
        + ": of no account to a field that is free at every (x, t), of account to a network",
        numbers={"times": list(TIMES), "weights": {k: v.tolist() for k, v in rows.items()}},
        mutants={"the same in both spaces": early[VARIANTS[0]] > 3 * early[VARIANTS[1]]},
    )


@extra
def least_weight(context: Context) -> Finding:
    """The floor of 1e-5: none to be seen at the times of a sampling grid; where all errors of x1
    are below it, w is constant and v* is back."""
    whole = line_at(UnitRewards().draw(1, 5))
    sizes = {}
    for t in (0.9, 0.99, 1 - 1e-4, 1 - 1e-5, 1 - 1e-6):
        p = whole(t)
        sizes[t] = abs(p.step() / p.nft_step() - 1), abs(p.step() / p.step(0.0) - 1)
    return Finding(
        name="the floor of 1e-5",
        role="support",
        kind="exact",
        holds=sizes[0.9][1] < 1e-6 and sizes[1 - 1e-6][0] < 0.05 < sizes[0.9][0],
        figure="drift of the step from v*, and its change by the floor: "
        + ", ".join(
            f"{number(a)}, {number(b)} (1 - t = {1 - t:.0e})" for t, (a, b) in sizes.items()
        ),
        numbers={f"{1 - t:.0e}": list(v) for t, v in sizes.items()},
        mutants={"no floor": sizes[1 - 1e-6][1] > 0.05},
    )


VARIANTS = ("x1, normalised", "velocity, normalised", "x1, none", "velocity, none")


def mean_size(p: LinePosterior, u: float) -> float:
    """E|u - D| given x, in units of X_1: folded Gaussians."""
    m, s = p.mean + u - p.law.means, p.law.stds
    z = m / s
    folded = m * (2 * ndtr(z) - 1) + 2 * s * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return float(p.law.shares @ folded)


def line_at(s: Setting) -> Callable[[float], LinePosterior]:
    """t -> the posterior at time t on the rectified flow, above one point of the data.

    The reward is a bump as narrow as the posterior, so that it is informative there."""
    y = float(s.case.means[0, 0])

    def at(t: float) -> LinePosterior:
        width = (1 - t) / t
        case = replace(
            s.case,
            kind="bumps",
            parameters={
                "heights": np.array([1.0]),
                "centres": np.array([[y + width]]),
                "precisions": np.array([[[width**-2]]]),
            },
        )
        problem = levelled(case, 0.1, 0.9).problem()
        return line_posterior(problem, torch.tensor([[t * y]], dtype=torch.float64), t)

    return at
