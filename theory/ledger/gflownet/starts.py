"""nabla, what nabla-DB samples from which start: G3, and the noising that section 2.1 prints.

First routes: the target as a Gaussian sum, the exact policy's law by one integral over X_0
(`theory.gflownet`). Second routes: kernels that are normalised by themselves, multiplied out over
tables (`theory.ledger.oracle.gflownet.line`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from theory.gflownet.flows import ChainFlows, reward_flows
from theory.gflownet.kernels import PrintedNoising, composed
from theory.gflownet.policy_law import exact_policy_law
from theory.laws.distances import GridLaw, grid_distances
from theory.ledger.core import Array, Context, Finding, Identity, Region, number
from theory.ledger.gflownet.points import flows_of
from theory.ledger.oracle.gflownet.line import Line
from theory.ledger.oracle.gflownet.printed_noise import as_printed, multiplied
from theory.ledger.settings.gflownet import FlowSetting, line_problems
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain, grid_law, grid_points
from theory.tilts.quadratic import quadratic_reward
from theory.tilts.wrappers import Exponential, Power

# Paths whose first state is noise alone, where X_0 ~ F_0 / Z.
MEMORYLESS = ("rectified_flow", "trigonometric")
REACH, SPACING = 14.0, 0.02
AXES = (np.linspace(-9.0, 9.0, 601),)


def through(s: FlowSetting, spacing: float = SPACING) -> tuple[Array, ...]:
    """A uniform grid on the line with the setting's x_T in its middle."""
    count = math.ceil(REACH / spacing)
    steps = np.arange(-count, count + 1, dtype=np.float64)
    return (float(s.states[-1, 0]) + spacing * steps,)


def at_middle(law: GridLaw) -> Array:
    """log of the density in the grid's middle."""
    return np.asarray(law.log_density[len(law.axes[0]) // 2])


def log_target(s: FlowSetting, power: float = 1.0) -> Array:
    """log W / Z at x_T; power: of R^beta p_T or R^beta, 1 but for a wrong version."""
    flows, x = flows_of(s), torch.as_tensor(s.states[-1])[None]
    log_density = flows.log_flow(s.numbers.steps, x) - flows.log_z
    return np.asarray(power * log_density[0])


def _claimed(flows: ChainFlows) -> GridLaw:
    density = flows.weight.normalised().density(grid_points(AXES))
    return grid_law(AXES, density.numpy())


def _apart(flows: ChainFlows) -> float:
    """TV of what the exact policy samples to W / Z."""
    return grid_distances(exact_policy_law(flows, AXES), _claimed(flows))["TV"].value


def _start(s: FlowSetting, stretch: float = 1.0) -> ChainFlows:
    """The same weight on a chain from N(0, s_0^2)."""
    chain = replace(s.chain, start_std=stretch * s.start_std)
    return ChainFlows(chain, flows_of(s).weight)


def _policy_from_noise(s: FlowSetting) -> Array:
    """log-density of X_T at x_T, kernel by kernel from the path's own noise."""
    line = Line(s.numbers)
    return _by_kernels(s, line, float(s.numbers.sigma[0]))


def _policy_from_any_start(s: FlowSetting) -> Array:
    return _by_kernels(s, Line(s.numbers, s.start_std), s.start_std)


def _by_kernels(s: FlowSetting, line: Line, start_std: float) -> Array:
    n = s.numbers

    def terminal(x: Array) -> Array:
        return n.log_weight(x[:, None])

    return line.policy_law(line.noise, line.flows(n), terminal, start_std, s.states[-1])


PROPOSITION_1 = Identity(
    "from a memoryless start the policy of (6), (8) and (9) samples R^beta / Z",
    line_problems(prior=False, late=False),
    lambda s: np.atleast_1d(log_target(s)),
    _policy_from_noise,
    {
        "not normalised": lambda s: np.atleast_1d(log_target(s) + float(flows_of(s).log_z)),
        "R^2 beta": lambda s: np.atleast_1d(log_target(s, 2.0)),
    },
    role="condition",
    dims=(1,),
)
ANY_START = Identity(
    "from N(0, s_0²) it samples R^beta(x_T) int q(x_0|x_T) P_0 / F_0",
    line_problems(prior=False),
    lambda s: np.atleast_1d(at_middle(exact_policy_law(_start(s), through(s)))),
    _policy_from_any_start,
    {
        "R^beta / Z": lambda s: np.atleast_1d(log_target(s)),
        "1.1 s_0": lambda s: np.atleast_1d(at_middle(exact_policy_law(_start(s, 1.1), through(s)))),
    },
    role="instead",
    dims=(1,),
)


def one_gaussian_start(first_time: float, std: float, steps: int = 2) -> ChainFlows:
    """R = N(0.8, std^2) on a chain that begins at first_time."""
    reward = quadratic_reward([[-(std**-2)]], [0.8 * std**-2])
    return reward_flows(Chain(steps, 0.1, first_time=first_time), reward, Exponential(1.0))


def late_starts(context: Context) -> Finding:
    """TV between the exact policy's law and R^beta / Z where F_0 is not proportional to P_0."""
    problem = load_problem("bumps_1d")
    found = {
        "two bumps, R³, first_time 0.35": _apart(
            reward_flows(Chain(12, 0.04, first_time=0.35), problem.reward, Power(3))
        ),
        "one Gaussian, T = 2, first_time 0.35": _apart(one_gaussian_start(0.35, 0.5)),
    }
    flows = one_gaussian_start(0.35, 0.5)
    mean, variance = exact_policy_law(flows, AXES).moments()
    # By hand: X_0 ~ N(0, s^2), X_T given X_0 the posterior of N(0.8, 1/4) seen through the noise.
    (a, noise), start = flows.noise(0), 0.65
    gain = 0.25 * a / (0.25 * a**2 + noise**2)
    by_hand = np.array([0.8 - gain * a * 0.8, gain**2 * start**2 + 0.25 * (1 - gain * a)])
    error = float(np.abs(np.array([mean[0], variance[0, 0]]) - by_hand).max())
    kept = _apart(one_gaussian_start(0.0, 0.5))
    return Finding(
        name="law of X_T = R^beta / Z wherever (6), (8), (9) hold",
        role="claim",
        kind="exact",
        holds=max(found.values()) <= 1e-6,
        figure="; ".join(f"TV {number(v)} ({k})" for k, v in found.items())
        + f"; {number(kept)} at first_time 0",
        numbers={"TV": found, "memoryless": kept, "by hand": error},
        worst=f"one Gaussian, T = 2: mean {mean[0]:.4f} for 0.8, variance {variance[0, 0]:.4f} for "
        "0.25",
        mutants={"TV at first_time 0": kept < 1e-6, "moments by hand": error < 1e-6},
    )


def printed_noise(context: Context) -> Finding:
    """Section 2.1 as printed: its one-step kernels do not compose to its kernels from the data."""
    signal = np.linspace(0.02, 1.0, 9)
    printed = PrintedNoising(torch.as_tensor(signal))
    coefficient, variance = (part.numpy()[:-1] for part in composed(*printed.step()))
    other, wanted = multiplied(signal, as_variance=True), as_printed(signal, as_variance=True)
    agree = float(
        max(np.abs(coefficient - other.factor).max(), np.abs(variance - other.variance).max())
    )
    meant = composed(*printed.meant())
    right = float((meant[1] - (1 - torch.as_tensor(signal))).abs().max())
    claimed = printed.from_data()
    same = float(np.abs(claimed[0].numpy()[:-1] - wanted.factor).max())
    undefined = int(claimed[1].isnan().sum())
    apart = float(np.abs(coefficient - wanted.factor).max())
    return Finding(
        name="section 2.1: sqrt(1 - ratio) for the variance, q(x_t|x_T) with alpha_T - alpha_t",
        role="support",
        kind="exact",
        holds=max(agree, right, same) <= 1e-10 and apart > 0.1 and undefined > 0,
        figure=(
            f"printed one-step kernels give X_t a variance of up to {number(variance.max())} "
            f"(meant: {number(float(1 - signal[0]))}); coefficients from the data off by "
            f"{number(apart)}; 1 - alpha_T - alpha_t is negative at {undefined} of {len(signal)} "
            "states"
        ),
        numbers={"variance": variance.tolist(), "coefficients off": apart, "undefined": undefined},
        worst="with 1 - ratio for the variance they compose to sqrt(alpha_t) x_T and 1 - alpha_t",
        mutants={"printed variance": float(np.abs(variance - (1 - signal[:-1])).max()) > 0.05},
    )


def start_region(cells: int) -> Region:
    """TV of the exact policy's law to R^beta / Z, one Gaussian R, over its start and R's width."""
    times, stds = np.linspace(0.02, 0.6, cells), np.geomspace(0.25, 1.5, cells)
    errors = [[_apart(one_gaussian_start(float(t), float(s))) for s in stds] for t in times]
    return Region(
        "what a start that is not F_0 costs, R one Gaussian",
        "first_time",
        times,
        "standard deviation of R",
        stds,
        np.array(errors),
        "TV",
        log_axes="y",
    )


G3_PARTS = (late_starts, PROPOSITION_1, ANY_START, printed_noise)
