"""released, N7: what E r is off one half by, at one point and over epochs."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from theory import GaussianSum, Problem, QuadraticReward, bump_reward
from theory.common.tolerances import QUADRATURE
from theory.ledger.core import Array, Context, Finding, Identity, extra, number
from theory.ledger.liu.laws import last_laws_apart, plain_numbers
from theory.ledger.oracle.released import modes as released_modes
from theory.ledger.oracle.released import training as released
from theory.ledger.settings.modes import (
    ModePoints,
    ModeSetting,
)
from theory.methods.matching.reward_mapping import CLIP, SPREAD, STD_FLOOR
from theory.recursion import Trajectory
from theory.recursion.spec import Mode
from theory.released.exact import Epoch, carry_epochs
from theory.released.modes import MODES
from theory.tilts.moments import reward_moments

AT_ZERO = 1 / math.sqrt(2 * math.pi)


MEANS = {
    "all": 0.0,
    "positive_only": AT_ZERO,
    "negative_only": -AT_ZERO,
    "one_only": 0.5,
    "binary": 0.0,
}


def conditional(s: ModeSetting) -> tuple[float, Array, Array]:
    """u = E[Y | x], and by mode E[f(A) | x] and Cov(f(A), Y | x), Y = X_1 - X_0, each (5,)."""
    reward = s.problem.reward
    assert isinstance(reward, QuadraticReward)
    post = s.problem.base_field.posterior(s.point, s.t)
    slope = float(reward.vector[0])
    w, mu = post.weights[:, 0].numpy(), post.component_means[:, 0, 0].numpy()
    data = post.law.cov[:, 0, 0].numpy()
    inside = (1 - s.t) ** 2 * data / (s.t**2 * data + (1 - s.t) ** 2)
    centre = (slope * mu + float(reward.constant) - s.centre) / s.size
    std = abs(slope) * np.sqrt(inside) / s.size
    mean, f, cov = float(w @ mu), [], []
    for mode in MODES.values():
        own, rise = mode.mean(centre, std, CLIP), mode.slope(centre, std, CLIP)
        f.append(float(w @ own))
        cov.append(float(w @ (rise * slope / s.size * inside + own * (mu - mean))))
    return (mean - float(s.x[0])) / (1 - s.t), np.array(f), np.array(cov) / (1 - s.t)


def step_from(s: ModeSetting, gap: float, offset: float = 1.0, tilt: Array | float = 1.0) -> Array:
    """The optima, by mode (5,), from v_old = u + gap; offset: the share of their second term."""
    u, f, cov = conditional(s)
    above = f / SPREAD + s.shift
    return np.asarray(u + gap + 2 / s.nft_beta * (tilt * cov / SPREAD - offset * above * gap))


JUMPS = np.array([CLIP if mode.jumps else 1.0 for mode in MODES.values()])


def _by_sums(s: ModeSetting, gap: float) -> Array:
    return released_modes.minimisers(
        s.case, s.x, s.at, s.nft_beta, s.centre, s.size, CLIP, gap, s.shift
    )


def _step_size(s: ModeSetting) -> float:
    return 1 + (1 + 2 * abs(s.gap)) * (1 + 2 * abs(s.shift)) / s.nft_beta


NO_OFFSET = Identity(
    "v_old the velocity of its data: v_old + (0.2/nft_beta) Cov(f(A), Y | x), r moved by anything",
    ModePoints(),
    lambda s: step_from(s, 0.0, 0.0),
    lambda s: _by_sums(s, 0.0),
    {
        "one side for both": lambda s: step_from(s, 0.0, 0.0)[[0, 0, 0, 3, 4]],
        "r of 0 and 1 where f jumps": lambda s: step_from(s, 0.0, 0.0, JUMPS),
        "no tilt": lambda s: step_from(s, 0.0, 0.0, 0.0),
    },
    _step_size,
    role="condition",
    dims=(1,),
)


OFFSET = Identity(
    "any v_old: (2/nft_beta)(E[r | x] - 1/2)(u - v_old) comes on top",
    ModePoints(),
    lambda s: step_from(s, s.gap),
    lambda s: _by_sums(s, s.gap),
    {
        "nothing on top": lambda s: step_from(s, s.gap, 0.0),
        "its other sign": lambda s: step_from(s, s.gap, -1.0),
        "half of it": lambda s: step_from(s, s.gap, 0.5),
    },
    _step_size,
    role="instead",
    dims=(1,),
)


@lru_cache(maxsize=1)
def smooth() -> Problem:
    """N(0, 1) and one wide bump: few nodes hold its laws."""
    base = GaussianSum.mixture([1.0], [[0.0]], stds=[1.0])
    return Problem("N(0, 1), one bump", base, bump_reward(1.0, [1.0], width=1.5))


@lru_cache(maxsize=16)
def carried(
    problem: Problem, offset: float, nft_beta: float, epochs: int, mode: Mode = "student"
) -> Trajectory:
    """The laws of `epochs` epochs of mapped rewards whose mean is 1/2 + offset."""
    spread = reward_moments(problem.base, problem.moments)[1]

    def plan(epoch: int, mean: float, std: float) -> Epoch:
        return Epoch(2 / nft_beta / (SPREAD * (std + STD_FLOOR)), offset=2 / nft_beta * offset)

    reach = 1.3 * epochs * 2 / nft_beta / (SPREAD * spread)
    return carry_epochs(problem, plan, epochs, reach, mode=mode)


def variation(one: Trajectory, other: Trajectory, epoch: int = -1) -> float:
    """TV of two runs' laws, which share their axes."""
    (axis,) = one.axes
    gap = np.abs(one.laws[epoch].density - other.laws[epoch].density)
    return float(0.5 * np.trapezoid(gap, axis))


def offset_online(context: Context) -> Finding:
    """TV after epochs between laws with r centred and with every mode's own offset."""
    nft_beta, epochs, problem = 0.5, 2, smooth()
    plain = carried(problem, 0.0, nft_beta, epochs)
    moved = {
        name: carried(problem, mean / SPREAD, nft_beta, epochs)
        for name, mean in MEANS.items()
        if mean
    }
    found = {name: variation(plain, run) for name, run in moved.items()}
    first = max(variation(plain, run, 1) for run in moved.values())
    worst = max(found, key=lambda k: found[k])
    return Finding(
        name="the mean of r changes nothing online",
        role="claim",
        kind="exact",
        holds=found[worst] <= QUADRATURE.rtol,
        figure=f"TV after {epochs} epochs, nft_beta = {nft_beta:g}, one tilt: "
        + ", ".join(f"{k} {number(v)}" for k, v in found.items())
        + f" ({number(first)} after one)",
        numbers={"tv": found, "first": first},
        worst=f"{problem.name}, E r = {0.5 + MEANS[worst] / SPREAD:.3f}",
        mutants={"the first epoch sees it": first <= QUADRATURE.rtol},
    )


def route_gaps(offset: float, *others: float) -> list[float]:
    """Largest differences of densities over the peak after two epochs: the oracle's normal
    equations on sums at `offset`, theory's grid at this and at other offsets."""
    nft_beta, problem = 0.5, smooth()
    rule = released_modes.OffsetEpochs(nft_beta, 0.0, mapped=True, offset=offset)
    theirs = released.released_laws(plain_numbers(problem), [rule] * 2, (0.0, 0.0))[-1]
    return [
        last_laws_apart(carried(problem, own, nft_beta, 2), theirs) for own in (offset, *others)
    ]


@extra
def offset_by_two_routes(context: Context) -> Finding:
    """The laws of `offset_online` once more."""
    error, wrong = route_gaps(MEANS["negative_only"] / SPREAD, 0.0)
    return Finding(
        name="laws of two epochs with an offset by two routes",
        role="support",
        kind="exact",
        holds=error <= QUADRATURE.rtol,
        figure=f"densities within {number(error)} of the peak",
        numbers={"error": error},
        mutants={"the offset left out": wrong > QUADRATURE.rtol},
    )
