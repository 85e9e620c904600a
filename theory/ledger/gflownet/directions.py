"""nabla, losses that are met by less than they are said to be: G10 and G11.

First routes: `theory.gflownet`'s residual flows, one integral over the last noising kernel. Second
routes: policies normalised by themselves on tables (`theory.ledger.oracle.gflownet`).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from theory.common.tolerances import QUADRATURE
from theory.gflownet.flows import ResidualFlows
from theory.laws.distances import GridLaw, grid_distances
from theory.ledger.core import Array, Context, Finding, Identity, Region, number
from theory.ledger.gflownet.divergence import NODES, note_flows
from theory.ledger.gflownet.points import flows_of, residual_of
from theory.ledger.gflownet.starts import AXES, PROPOSITION_1, log_target
from theory.ledger.gflownet.strengths import PROPOSITION_4
from theory.ledger.oracle.gflownet.line import Line
from theory.ledger.oracle.gflownet.printed import least_errors
from theory.ledger.settings.gflownet import FlowSetting, line_problems
from theory.samplers.chain import grid_law, grid_points

# --- G10: residual DB as printed


def _before_last(s: FlowSetting) -> Array:
    return np.atleast_1d(s.states[-2])


def _log_mass(s: FlowSetting) -> Array:
    line = Line(s.numbers)
    return least_errors(line, line.back, _before_last(s)).log_mass


def _last_flow(s: FlowSetting, later: int = 0, sign: float = 1.0) -> Array:
    point = torch.as_tensor(s.states[-2])[None]
    return (sign * residual_of(s).log_flow(s.numbers.steps - 1 + later, point)).numpy()


MASS = Identity(
    "(20) as printed needs P# R^beta to have the mass 1 given x: it is Ft(x)",
    line_problems(),
    _last_flow,
    _log_mass,
    {"R^beta(x)": lambda s: _last_flow(s, 1), "1 / Ft(x)": lambda s: _last_flow(s, sign=-1.0)},
    role="instead",
    dims=(1,),
)


def _printed_least(scale: float, steps: int = 6) -> float:
    """The mean over F#_{T-1} of |log Ft_{T-1}|: the least largest error of (20) as printed at the
    last step, by all policies."""
    _, flows = note_flows(steps, scale)
    points = grid_points(AXES)
    k = steps - 1
    weight = flows.base.log_flow(k, points).exp()
    return float((weight * flows.log_flow(k, points).abs()).sum() / weight.sum())


def residual_db_as_printed(context: Context) -> Finding:
    """The least error of (20) as printed over all policies, at the last step of note_1d."""
    left, constant = _printed_least(2.0), _printed_least(1e-12)
    return Finding(
        name="(20) as printed reaches zero at a policy that samples R^beta P#",
        role="claim",
        kind="exact",
        holds=left <= QUADRATURE.rtol,
        figure=f"note_1d, last step: over all policies the largest error is at least |log Ft(x)|, "
        f"{number(left)} on average; {number(constant)} where R is constant",
        numbers={"least": left, "constant R": constant},
        worst="the loss without log Ft(x) asks a normalised kernel to be P# R^beta",
        mutants={"R constant": constant < QUADRATURE.rtol},
    )


def printed_region(cells: int) -> Region:
    """What (20) as printed leaves at its last step, note_1d, over beta and the number of steps."""
    scales = np.geomspace(0.05, 4.0, cells)
    steps = np.unique(np.round(np.geomspace(2, 9, cells)).astype(int))
    errors = [[_printed_least(float(a), int(t)) for t in steps] for a in scales]
    return Region(
        "the least error of (20) as printed, last step, note_1d",
        "beta",
        scales,
        "steps",
        steps.astype(np.float64),
        np.array(errors),
        "mean |log Ft|",
        log_axes="x",
    )


DAG_DB = replace(PROPOSITION_1, name="DAG-DB at zero samples R^beta / Z, the prior is not seen")
RESIDUAL_DB = replace(PROPOSITION_4, name="residual DB with Ft(x) at zero samples R^beta P# / Z")
G10_PARTS = (residual_db_as_printed, DAG_DB, RESIDUAL_DB, MASS)


# --- G11: the forward condition alone


def _forward_only(s: FlowSetting) -> Array:
    """The law of kernels P# until the last step, and P# R^beta / Ft there: the forward condition
    with Ft_k = 1 for k < T."""
    line = Line(s.numbers)
    ones = [np.zeros(len(axis)) for axis in line.axes[1:-1]]
    start = float(s.numbers.sigma[0])
    return line.policy_law(line.back, ones, line.log_reward, start, s.states[-1])


def base_until_last(flows: ResidualFlows, x: Tensor) -> Tensor:
    """log of that law's density at x_T (n, 1): log W(x_T) + log int q(x | x_T) / Ft_{T-1}(x) dx, by
    sums over the last noising kernel, (n,)."""
    k = flows.chain.steps - 1
    ratio, variance = (float(row[k]) for row in flows.chain.noising)
    places = ratio * x + math.sqrt(variance) * NODES  # (n, nodes)
    flow = flows.log_flow(k, places.reshape(-1, 1)).reshape(places.shape)
    logs = torch.log_softmax(-0.5 * NODES**2, 0) - flow
    return flows.tilted.log_flow(flows.chain.steps, x) + logs.logsumexp(-1)


FORWARD_ONLY = Identity(
    "with Ft_k = 1 for k < T zero forward loss samples W(x_T) E[1 / Ft_{T-1} | x_T]",
    line_problems(late=False),
    lambda s: base_until_last(residual_of(s), torch.as_tensor(s.states[-1])[None]).numpy(),
    _forward_only,
    {
        "R^beta P# / Z": lambda s: np.atleast_1d(log_target(s)),
        "not divided by Ft": lambda s: np.atleast_1d(log_target(s) + float(flows_of(s).log_z)),
    },
    role="instead",
    dims=(1,),
)


def _miss(steps: int, scale: float) -> tuple[float, float]:
    """TV of that law to R^beta P# and to the base, note_1d."""
    _, flows = note_flows(steps, scale)
    points = grid_points(AXES)
    law = grid_law(AXES, base_until_last(flows, points).exp().numpy())
    others: list[GridLaw] = [
        grid_law(AXES, flow.weight.normalised().density(points).numpy())
        for flow in (flows.tilted, flows.base)
    ]
    target, base = (grid_distances(law, other)["TV"].value for other in others)
    return target, base


def forward_alone(context: Context) -> Finding:
    """Zero forward and terminal loss at flows that are 1 before the end, note_1d."""
    found = {steps: _miss(steps, 2.0) for steps in (2, 4, 9)}
    return Finding(
        name="the forward condition with the terminal one samples R^beta P#",
        role="claim",
        kind="exact",
        holds=max(target for target, _ in found.values()) <= QUADRATURE.rtol,
        figure="Ft_k = 1 for k < T, note_1d: "
        + ", ".join(
            f"TV {number(t)} to R^beta P#, {number(b)} to the base (T = {steps})"
            for steps, (t, b) in found.items()
        ),
        numbers={"TV": {str(k): list(v) for k, v in found.items()}},
        worst="any flows have kernels of zero forward loss: only the last step must know R",
        mutants={"the base at T = 2": found[2][1] > 0.01},
    )


def forward_region(cells: int) -> Region:
    """TV of the base-until-the-last-step policy to R^beta P#, note_1d."""
    scales = np.geomspace(0.1, 4.0, cells)
    steps = np.unique(np.round(np.geomspace(2, 9, cells)).astype(int))
    errors = [[_miss(int(t), float(a))[0] for t in steps] for a in scales]
    return Region(
        "what w_B = 0 allows: base until the last step, note_1d",
        "beta",
        scales,
        "steps",
        steps.astype(np.float64),
        np.array(errors),
        "TV to R^beta P#",
        log_axes="x",
    )


G11_PARTS = (forward_alone, FORWARD_ONLY)
