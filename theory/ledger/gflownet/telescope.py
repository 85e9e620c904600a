"""nabla, residual detailed balance and relative trajectory balance: G5."""

from __future__ import annotations

import numpy as np
import torch

from theory.gflownet.flows import residual_flows
from theory.ledger.core import Array, Context, Finding, Identity, Region, number
from theory.ledger.gflownet.points import residual_of
from theory.ledger.oracle.gflownet import flows as oracle
from theory.ledger.settings.gflownet import FlowProblems, FlowSetting
from theory.problems.problem import Problem, load_problem
from theory.samplers.chain import Chain
from theory.tilts.wrappers import Exponential

# Paths whose first state is noise alone, where X_0 ~ F_0 / Z.
MEMORYLESS = ("rectified_flow", "trigonometric")


def _per_step(s: FlowSetting) -> Array:
    """log Ft(x') - log Ft(x) of every transition, (50)."""
    flows = residual_of(s)
    logs = [float(flows.log_flow(k, torch.as_tensor(x)[None])[0]) for k, x in enumerate(s.states)]
    return np.diff(np.array(logs))


def _ends(s: FlowSetting, constant: bool = False, reward: float = 1.0) -> Array:
    """log R^beta(x_T) - log Ft_0(x_0), or - log Z / Z#."""
    flows = residual_of(s)
    first, last = (torch.as_tensor(s.states[i])[None] for i in (0, -1))
    start = flows.log_z if constant else flows.log_flow(0, first)[0]
    return np.atleast_1d(float(reward * flows.log_reward(last)[0] - start))


def _whole(s: FlowSetting) -> Array:
    return np.atleast_1d(oracle.log_ratio_of_path(s.numbers, s.states).sum())


def _steps(s: FlowSetting) -> Array:
    return oracle.log_ratio_of_path(s.numbers, s.states)


TELESCOPED = Identity(
    "sum log P_F / P# = log R^beta(x_T) - log Z / Z# from a memoryless start, (49)",
    FlowProblems(late=False, paths=MEMORYLESS),
    lambda s: _ends(s, constant=True),
    _whole,
    {
        "without Z": lambda s: _ends(s, constant=True) + float(residual_of(s).log_z),
        "R^2 beta": lambda s: _ends(s, constant=True, reward=2.0),
    },
    role="condition",
)
STEPWISE = Identity(
    "log P_F / P# = log Ft(x') - log Ft(x) at every step, (50)",
    FlowProblems(),
    _per_step,
    _steps,
    {
        "sign": lambda s: -_per_step(s),
        "a step late": lambda s: np.roll(_per_step(s), 1),
    },
)
FROM_ANY_START = Identity(
    "its sum leaves Ft_0 of the first state: log R^beta(x_T) - log Ft_0(x_0)",
    FlowProblems(),
    _ends,
    _whole,
    {"log Z / Z# for Ft_0": lambda s: _ends(s, constant=True)},
    role="instead",
)


def _spread(problem: Problem, first_time: float, scale: float | None = None) -> float:
    """Standard deviation of log Ft_0(X_0) over the chain's own X_0: what (49) is off by when Z is
    the best one number."""
    wrapper = Exponential(problem.scale if scale is None else scale)
    chain = Chain(12, 0.04, first_time=first_time)
    flows = residual_flows(chain, problem.base, problem.reward, wrapper)
    z = torch.linspace(-8, 8, 401, dtype=torch.float64)
    weight = torch.exp(-0.5 * z**2)
    value = flows.log_flow(0, chain.start(z[:, None]))
    mean = (weight * value).sum() / weight.sum()
    return float(((weight * (value - mean) ** 2).sum() / weight.sum()).sqrt())


def one_number(context: Context) -> Finding:
    """(49) along the paths of a late chain with the best Z there is."""
    problem = load_problem("note_1d")
    off, kept = _spread(problem, 0.35), _spread(problem, 0.0)
    return Finding(
        name="(49) holds with one Z / Z# wherever residual DB does",
        role="claim",
        kind="exact",
        holds=off <= 1e-9,
        figure=f"note_1d from first_time 0.35: log Ft_0(X_0) spreads by {number(off)} around the "
        f"best log Z / Z#; by {number(kept)} at first_time 0",
        numbers={"spread": off, "memoryless": kept},
        worst="late_1d: relative trajectory balance with a learned Z has no zero there",
        mutants={"spread at first_time 0": kept < 1e-9},
    )


def telescope_region(cells: int) -> Region:
    """The spread of log Ft_0 over the chain's own start, note_1d, over first_time and scale."""
    problem = load_problem("note_1d")
    times, scales = np.linspace(0.02, 0.5, cells), np.geomspace(0.2, 4.0, cells)
    errors = [[_spread(problem, float(t), float(a)) for a in scales] for t in times]
    return Region(
        "what one Z leaves of relative trajectory balance, note_1d",
        "first_time",
        times,
        "beta",
        scales,
        np.array(errors),
        "standard deviation of log Ft_0",
        log_axes="y",
    )


G5_PARTS = (one_number, STEPWISE, TELESCOPED, FROM_ANY_START)
