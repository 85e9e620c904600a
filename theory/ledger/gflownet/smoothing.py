"""nabla, a reward whose gradient is averaged over noise: G13.

First routes: bumps and quadratics smoothed in closed form (`theory.gflownet.smoothing`), targets as
Gaussian sums. Second routes: log R averaged over nodes, Z by an adaptive integral
(`theory.ledger.oracle.gflownet.smoothed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from theory.gflownet.kernels import gradient
from theory.gflownet.smoothing import laplacian, smoothed_reward
from theory.laws.distances import GridLaw, grid_distances
from theory.ledger.core import (
    Array,
    Context,
    Finding,
    Identity,
    Region,
    fit_slope,
    number,
    row,
)
from theory.ledger.gflownet.starts import AXES, log_target
from theory.ledger.oracle.gflownet import smoothed as oracle
from theory.ledger.settings.gflownet import FlowProblems, FlowSetting
from theory.problems.problem import Problem, load_problem
from theory.samplers.chain import grid_law, grid_points
from theory.tilts.bump_rewards import BumpReward
from theory.tilts.quadratic import QuadraticReward
from theory.tilts.rewards import Reward
from theory.tilts.tilt import tilt
from theory.tilts.wrappers import Exponential

PAPER = 2e-3  # c; of N(0, c) it may be the variance
SAME = 0.01  # of TV / c² to its limit, on grids
PLANE = (np.linspace(-7.0, 7.0, 141), np.linspace(-7.0, 7.0, 141))
PROBLEMS = ("note_1d", "bumps_1d", "bump_2d")
BUMPS = FlowProblems(forms=("log",), kinds=("bumps",))
QUADRATICS = FlowProblems(forms=("log",), kinds=("linear", "quadratic"))
ANY = FlowProblems(forms=("log",), max_condition=10.0)

# Wrong ways to smooth: (reward, c) -> reward.
Smoother = Callable[[Reward, float], Reward]


def _widths_alone(reward: Reward, c: float) -> Reward:
    smooth = smoothed_reward(reward, c)
    assert isinstance(smooth, BumpReward)
    assert isinstance(reward, BumpReward)
    return replace(smooth, heights=reward.heights)


def _heights_alone(reward: Reward, c: float) -> Reward:
    smooth = smoothed_reward(reward, c)
    assert isinstance(smooth, BumpReward)
    assert isinstance(reward, BumpReward)
    return replace(smooth, precisions=reward.precisions)


# --- the target


def _target(
    s: FlowSetting,
    smooth: Smoother = smoothed_reward,
    c: float | None = None,
    power: float | None = None,
) -> Array:
    """log exp(beta log R * N(0, c^2 I)) p_T / Z at x_T."""
    reward = smooth(s.problem.reward, s.smoothing if c is None else c)
    law = tilt(s.last, reward, Exponential(s.power if power is None else power))
    return law.log_density(torch.as_tensor(s.states[-1])[None]).numpy()


def _target_by_integrals(s: FlowSetting) -> Array:
    return np.atleast_1d(oracle.smoothed_log_density(s.numbers, s.states[-1], s.smoothing))


TARGET = Identity(
    "the target of E grad log R(x + c eps) is exp(beta log R * N(0, c² I)) p_T / Z",
    BUMPS,
    _target,
    _target_by_integrals,
    {
        "R itself": lambda s: _target(s, c=0.0),
        "1.1 c": lambda s: _target(s, c=1.1 * s.smoothing),
        "c for its square": lambda s: _target(s, c=math.sqrt(s.smoothing)),
        "wider bumps of the same height": lambda s: _target(s, _widths_alone),
        "lower bumps of the same width": lambda s: _target(s, _heights_alone),
    },
    dims=(1,),  # the plane takes half a minute a setting; SCORE has it
)


def _bent(reward: Reward, c: float) -> Reward:
    """A parabola widened as a bump of its curvature is."""
    assert isinstance(reward, QuadraticReward)
    widened = torch.eye(reward.dim, dtype=reward.dtype) + c**2 * reward.matrix.abs()
    matrix = torch.linalg.solve(widened, reward.matrix)
    return replace(reward, matrix=0.5 * (matrix + matrix.mT))


def _gained(s: FlowSetting) -> float:
    """What the smoothing adds to log R^beta."""
    x = s.point
    gap = smoothed_reward(s.problem.reward, s.smoothing)(x) - s.problem.reward(x)
    return s.power * float(gap[0])


UNCHANGED = Identity(
    "linear and quadratic log R keep the target R^beta p_T / Z",
    QUADRATICS,
    lambda s: np.atleast_1d(log_target(s)),
    _target_by_integrals,
    {
        "what log R gains, kept": lambda s: np.atleast_1d(log_target(s) + _gained(s)),
        "a parabola widened like a bump": lambda s: _target(s, _bent),
        "R^(1.1 beta)": lambda s: _target(s, lambda r, c: r, power=1.1 * s.power),
        "p_T": lambda s: _target(s, lambda r, c: r, power=1e-12),
    },
    role="condition",
    dims=(1,),
)

# --- the gradient that (14) is given


def _score(s: FlowSetting, smooth: Smoother = smoothed_reward, c: float | None = None) -> Array:
    """beta grad (log R * N(0, c^2 I)) at x_T."""
    reward = smooth(s.problem.reward, s.smoothing if c is None else c)
    return s.power * row(gradient(reward, torch.as_tensor(s.states[-1])[None]))


def _score_size(s: FlowSetting) -> float:
    return max(1.0, s.power)


SCORE = Identity(
    "beta E grad log R(x + c eps) = beta grad (log R * N(0, c² I))",
    ANY,
    _score,
    lambda s: oracle.smoothed_score(s.numbers, s.states[-1], s.smoothing),
    {
        "at x alone": lambda s: _score(s, c=0.0),
        "1.1 c": lambda s: _score(s, c=1.1 * s.smoothing),
        "c for its square": lambda s: _score(s, c=math.sqrt(s.smoothing)),
        "without beta": lambda s: _score(s) / s.power,
    },
    _score_size,
)

# --- how far it is from R^beta p_T


def _law(problem: Problem, c: float) -> GridLaw:
    axes = AXES if problem.base.dim == 1 else PLANE
    law = tilt(problem.base, smoothed_reward(problem.reward, c), Exponential(problem.scale))
    return grid_law(axes, law.log_density(grid_points(axes)).exp().numpy())


def apart(problem: Problem, c: float) -> float:
    """TV of the smoothed target to R^beta times the base."""
    return grid_distances(_law(problem, c), _law(problem, 0.0))["TV"].value


def leading(problem: Problem) -> float:
    """TV / c² as c tends to 0: beta/4 E |lap log R - E lap log R| under the target."""
    law = _law(problem, 0.0)
    mass = law.density.ravel() / law.density.sum()
    bend = laplacian(problem.reward, grid_points(law.axes)).numpy()
    return float(problem.scale / 4 * mass @ np.abs(bend - mass @ bend))


def order_two(context: Context) -> Finding:
    """TV to R^beta times the base over c, its leading term, and at the paper's c."""
    names = context.choose(PROBLEMS[:2], PROBLEMS)
    scales = np.geomspace(0.02, 0.3, context.choose(8, 12))
    slopes, rates, sizes, by_variance, beyond = {}, {}, {}, [], []
    for name in names:
        problem = load_problem(name)
        errors = np.array([apart(problem, c) for c in scales.tolist()])
        slopes[name] = fit_slope(scales, errors, 1e-12)
        rates[name] = apart(problem, PAPER) / PAPER**2 / leading(problem)
        sizes[name] = [apart(problem, PAPER), apart(problem, math.sqrt(PAPER))]
        by_variance.append(fit_slope(scales**2, errors, 1e-12))
        if problem.base.dim == 1:
            rest = np.abs(errors - leading(problem) * scales**2)
            beyond.append(fit_slope(scales, rest, 1e-12))
    worst = max(slopes, key=lambda k: abs(slopes[k].slope - 2))
    sized = max(sizes, key=lambda k: sizes[k][0])
    off = max(abs(rate - 1) for rate in rates.values())
    return Finding(
        name="samples follow R^beta p_T / Z to second order in c",
        role="claim",
        kind="order",
        order=min(s.order for s in slopes.values()),
        holds=all(s.is_order and s.order == 2 for s in slopes.values()) and off < SAME,
        figure=f"slope {slopes[worst]} ({worst}, the furthest of {len(slopes)} from 2); TV / c² at "
        f"the paper's c = 0.002 within {100 * off:.2g} % of (beta/4) E|lap log R - its mean|; "
        f"there TV {number(sizes[sized][0])}, or {number(sizes[sized][1])} if c is the variance "
        f"({sized})",
        numbers={
            "slopes": {k: [s.slope, s.half, s.low, s.high] for k, s in slopes.items()},
            "leading": rates,
            "at the paper's c": sizes,
        },
        worst=sized,
        mutants={
            "c the variance": all(s.order != 2 for s in by_variance),
            "less the leading term": all(s.order != 2 for s in beyond),
            "beta/2 in the leading term": abs(rates[worst] / 2 - 1) > SAME,
        },
    )


def smoothing_region(cells: int) -> Region:
    """TV of the smoothed target to R^beta times the base, note_1d, whose bump has width 1."""
    widths, scales = np.geomspace(0.02, 2.0, cells), np.geomspace(0.1, 6.0, cells)
    problem = load_problem("note_1d")
    errors = [[apart(replace(problem, scale=float(a)), float(c)) for a in scales] for c in widths]
    return Region(
        "what averaging the reward's gradient costs, note_1d",
        "c over the bump's width",
        widths,
        "beta",
        scales,
        np.array(errors),
        "TV to R^beta p_T",
        log_axes="xy",
    )


G13_PARTS = (order_two, TARGET, SCORE, UNCHANGED)
