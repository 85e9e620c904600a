"""nabla, the loss as a Fisher divergence: G8.

First routes: sums over a kernel's nodes, automatic differentiation in the policy's mean. Second
routes: complex steps (`theory.ledger.oracle.gflownet.divergence`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from theory.common.tolerances import QUADRATURE
from theory.gflownet.flows import ResidualFlows, residual_flows
from theory.gflownet.kernels import NoisingKernels
from theory.ledger.core import Array, Context, Finding, Identity, Region, number
from theory.ledger.gflownet.points import residual_of
from theory.ledger.oracle.gflownet import violation
from theory.ledger.oracle.gflownet.divergence import fisher
from theory.ledger.settings.gflownet import FlowProblems, FlowSetting
from theory.problems.problem import Problem, load_problem
from theory.samplers.chain import Chain
from theory.tilts.wrappers import Exponential

NODES = torch.arange(-9.0, 9.01, 0.1, dtype=torch.float64)  # in a kernel's standard deviations
ON_LINE = FlowProblems(max_condition=100.0)


def note_flows(steps: int = 6, scale: float | None = None) -> tuple[Problem, ResidualFlows]:
    """note_1d's residual flows on a short chain."""
    problem = load_problem("note_1d")
    wrapper = Exponential(problem.scale if scale is None else scale)
    return problem, residual_flows(Chain(steps, 0.1), problem.base, problem.reward, wrapper)


class Fisher(NamedTuple):
    """Of a policy N(m, s^2) at one state: the divergence, its slope in m, the half loss's slope in
    m with the data held, and the divergence as (21) prints it."""

    value: float
    slope: float
    held: float
    printed: float


def divergence(flows: ResidualFlows, k: int, x: Tensor, mean: float, std: float) -> Fisher:
    """At X_k = x (1, 1), by automatic differentiation in m."""
    noising, weight = NoisingKernels(flows.chain), torch.exp(-0.5 * NODES**2)
    weight = weight / weight.sum()
    m = torch.tensor(mean, dtype=torch.float64, requires_grad=True)

    def half_loss(places: Tensor) -> Tensor:
        here = x.expand(len(places), 1)
        wanted = noising.scores(k, here, places)[1] + flows.tilted.score(k + 1, places)
        return 0.5 * (weight * (-(places - m) / std**2 - wanted)[:, 0] ** 2).sum()

    places = (m + std * NODES)[:, None]
    value = half_loss(places)
    (slope,) = torch.autograd.grad(value, m)
    (held,) = torch.autograd.grad(half_loss(places.detach()), m)
    flow = flows.tilted.score(k + 1, places.detach())[:, 0]
    return Fisher(
        *(float(v.detach()) for v in (value, slope, held, 0.5 * (weight * flow**2).sum()))
    )


def _policy(s: FlowSetting) -> tuple[float, float]:
    """Mean and standard deviation of the pretrained kernel at x."""
    kernel = violation.plugged(s.numbers, s.k)
    return float(violation.plugged_mean(s.numbers, s.k, s.x)[0]), math.sqrt(kernel.variance)


def _ours(s: FlowSetting) -> Fisher:
    mean = float(s.chain.mean(s.problem.base_field, s.k, s.point))
    std = float(s.chain.coefficients(s.point)[2][s.k])
    return divergence(residual_of(s), s.k, s.point, mean, std)


def _divergence_value(s: FlowSetting) -> Array:
    return np.atleast_1d(fisher(s.numbers, s.k, float(s.x[0]), *_policy(s)).value)


def _divergence_slope(s: FlowSetting) -> Array:
    return np.atleast_1d(fisher(s.numbers, s.k, float(s.x[0]), *_policy(s)).slope)


def _held_slope(s: FlowSetting) -> Array:
    return np.atleast_1d(fisher(s.numbers, s.k, float(s.x[0]), *_policy(s)).held_slope)


VALUES = Identity(
    "with the policy's score for log P_B's: the divergence is half the on-policy loss",
    ON_LINE,
    lambda s: np.atleast_1d(_ours(s).value),
    _divergence_value,
    {
        "as printed": lambda s: np.atleast_1d(_ours(s).printed),
        "without 1/2": lambda s: np.atleast_1d(2 * _ours(s).value),
    },
    role="instead",
    tier=QUADRATURE,
    dims=(1,),
)
SLOPES = Identity(
    "the divergence's derivative in the policy's mean: data move with the policy",
    ON_LINE,
    lambda s: np.atleast_1d(_ours(s).slope),
    _divergence_slope,
    {
        "the loss's, data held": lambda s: np.atleast_1d(_ours(s).held),
        "sign": lambda s: np.atleast_1d(-_ours(s).slope),
    },
    role="instead",
    tier=QUADRATURE,
    dims=(1,),
)
HELD = Identity(
    "the half loss's derivative in the policy's mean, data held",
    ON_LINE,
    lambda s: np.atleast_1d(_ours(s).held),
    _held_slope,
    {"the divergence's": lambda s: np.atleast_1d(_ours(s).slope)},
    role="instead",
    tier=QUADRATURE,
    dims=(1,),
)


def _divergences(offset: float, stretch: float, k: int = 3) -> Fisher:
    """note_1d: the policy's mean off the exact kernel's by `offset` of its standard deviations, its
    own standard deviation `stretch` times that."""
    _, flows = note_flows()
    x = torch.tensor([[0.4]], dtype=torch.float64)
    kernel = flows.tilted.kernel(k, x)
    std = float(kernel.covariance().sqrt())
    mean = float(kernel.expectation()) + offset * std
    return divergence(flows, k, x, mean, stretch * std)


def fisher_as_printed(context: Context) -> Finding:
    """(21) at one state of note_1d: the printed first term, and the gradients."""
    found = _divergences(0.5, 1.0)
    gap = abs(found.slope - found.held) / abs(found.slope)
    printed = abs(found.printed - found.value) / found.value
    return Finding(
        name="(21): the on-policy loss is the Fisher divergence",
        role="claim",
        kind="exact",
        holds=max(gap, printed) <= QUADRATURE.rtol,
        figure=f"note_1d: as printed {number(found.printed)} for {number(found.value)}; slope in "
        f"the policy's mean {number(found.slope)}, of the loss with data held {number(found.held)}",
        numbers=found._asdict(),
        worst="the loss's gradient holds the samples: the term through the policy's law is missing",
        mutants={"value as printed": printed > 0.01, "gradient of the loss": gap > 0.01},
    )


def gradient_region(cells: int) -> Region:
    """|slope - held| / |slope| on note_1d."""
    offsets, stretches = np.linspace(0.1, 2.0, cells), np.geomspace(0.4, 1.6, cells)
    errors = []
    for offset in offsets:
        found = [_divergences(float(offset), float(s)) for s in stretches]
        errors.append([abs(f.slope - f.held) / abs(f.slope) for f in found])
    return Region(
        "gradient of the on-policy loss against the Fisher divergence's, note_1d",
        "offset of the mean, in standard deviations",
        offsets,
        "standard deviation over the exact kernel's",
        stretches,
        np.array(errors),
        "relative gap of slopes",
        log_axes="y",
    )


G8_PARTS = (fisher_as_printed, VALUES, SLOPES, HELD)
