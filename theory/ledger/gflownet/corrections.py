"""nabla, a pretrained chain out of balance: G9.

First routes: Gaussian kernels of the chain and laws on a grid (`theory.gflownet`). Second routes:
`theory.ledger.oracle.gflownet.violation` and `line`.
"""

from __future__ import annotations

import numpy as np
import torch

from theory.common.tolerances import ALGEBRA
from theory.gflownet.balance import ResidualBalance, Violation
from theory.gflownet.flows import last_law, residual_flows
from theory.gflownet.kernels import GaussianKernels, kernel_scores
from theory.gflownet.policy_law import cell_size, policy_law
from theory.laws.distances import GridLaw, grid_distances
from theory.ledger.core import Array, Context, Finding, Identity, Region, number, row
from theory.ledger.gflownet.points import base_of, score_size
from theory.ledger.gflownet.starts import AXES, at_middle, log_target, through
from theory.ledger.oracle.gflownet import violation
from theory.ledger.oracle.gflownet.line import Line
from theory.ledger.settings.gflownet import FlowProblems, FlowSetting, line_problems
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain, chain_law, grid_law, grid_points
from theory.tilts.rewards import Reward
from theory.tilts.wrappers import Exponential, Wrapper

# --- G9: the pretrained chain violates detailed balance


def _violated(s: FlowSetting) -> Violation:
    kernels = GaussianKernels(s.chain, s.problem.base_field)
    return Violation(s.chain, kernels, base_of(s))


class _AsKernels:
    """h in the place of a log-density, for its gradients."""

    def __init__(self, correction: Violation) -> None:
        self.log_density = correction.__call__


def _violation_scores(s: FlowSetting, swapped: bool = False, sign: float = 1.0) -> Array:
    """Gradients of log h in x' and in x, (2 d,)."""
    before, after = kernel_scores(_AsKernels(_violated(s)), s.k, s.point, s.next_point)
    pair = [before, after] if swapped else [after, before]
    return sign * np.concatenate([row(part) for part in pair])


def _violation_by_integrals(s: FlowSetting) -> Array:
    found = violation.violation_scores(s.numbers, s.k, s.x, s.x_next)
    return np.concatenate([found.next, found.here])


VIOLATION = Identity(
    "the h of (51) and (52): gradients of log P# F# / (P_B F#')",
    FlowProblems(),
    _violation_scores,
    _violation_by_integrals,
    {
        "sign": lambda s: _violation_scores(s, sign=-1.0),
        "gradients exchanged": lambda s: _violation_scores(s, swapped=True),
        "a chain in balance": lambda s: 0 * _violation_scores(s),
    },
    score_size,
    role="condition",
)


def _tilted(law: GridLaw, reward: Reward, wrapper: Wrapper) -> GridLaw:
    """R^beta times a law, normalised."""
    log_density = law.log_density.ravel()
    log_density = log_density + wrapper.log_abs(reward(grid_points(law.axes))).numpy()
    density = np.exp(log_density - log_density.max())
    return grid_law(law.axes, density / (density.sum() * cell_size(law.axes)))


def _own_law(s: FlowSetting) -> Array:
    """log R^beta P# / Z at x_T, P# the law of the Gaussian kernels."""
    least = float(s.chain.coefficients(torch.ones(1, dtype=torch.float64))[2].min())
    axes = through(s, min(0.05, 0.3 * least))
    law = policy_law(s.chain, GaussianKernels(s.chain, s.problem.base_field), axes)
    return np.atleast_1d(at_middle(_tilted(law, s.problem.reward, s.wrapper)))


def _sampled(s: FlowSetting) -> Array:
    """The law of the policy that meets the residual conditions over the Gaussian kernels."""
    line = Line(s.numbers)
    return line.residual_law(line.gaussian, 1.0, float(s.numbers.sigma[0]), s.states[-1])


OWN_LAW = Identity(
    "the residual conditions sample R^beta times the pretrained chain's own law",
    line_problems(late=False),
    _own_law,
    _sampled,
    {"R^beta times the data's law": lambda s: np.atleast_1d(log_target(s))},
    role="instead",
    dims=(1,),
    share=0.5,
)


def _bias(steps: int, scale: float) -> float:
    """TV of R^beta times the chain's own law to R^beta p_T, note_1d."""
    problem, chain = load_problem("note_1d"), Chain(steps, 0.1)
    wrapper = Exponential(scale)
    own = _tilted(chain_law(chain, problem.base_field, AXES), problem.reward, wrapper)
    ideal = last_law(chain, problem.base).density(grid_points(AXES)).numpy()
    target = _tilted(grid_law(AXES, ideal), problem.reward, wrapper)
    return grid_distances(own, target)["TV"].value


def bias_and_corrections(context: Context) -> Finding:
    """bump_2d, Gaussian kernels: what (51) and (52) leave at the exact policy of the ideal chain
    with h = log of the violation; (52) as printed; and a free h at a policy of no kind."""
    problem = load_problem("bump_2d")
    chain, wrapper = Chain(5, 0.1), Exponential(problem.scale)
    flows = residual_flows(chain, problem.base, problem.reward, wrapper)
    pretrained = GaussianKernels(chain, problem.base_field)
    generator = torch.Generator().manual_seed(context.seed)
    states = flows.base.rollout(flows.base.start_law().sample(32, generator), generator)
    exact = ResidualBalance(flows.tilted, pretrained, flows)
    odd = ResidualBalance(flows.base, pretrained, flows)  # no tilt at all
    h = Violation(chain, pretrained, flows.base)

    def free(k: int, x: torch.Tensor, x_next: torch.Tensor) -> torch.Tensor:
        return -odd.detailed(k, x, x_next)

    left = printed = anything = 0.0
    for k in range(1, chain.steps):
        x, x_next = states[:, k], states[:, k + 1]
        size = float(torch.cat(exact.policy_scores(k, x, x_next)).abs().max())
        for balance, correction in ((exact, h), (odd, free)):
            parts = (
                balance.corrected_forward(k, x, x_next, correction),
                balance.corrected_reverse(k, x, x_next, correction),
            )
            worst = max(float(p.abs().max()) for p in parts) / size
            if balance is exact:
                left = max(left, worst)
            else:
                anything = max(anything, worst)
        wrong = exact.corrected_reverse(k, x, x_next, h, printed=True)
        printed = max(printed, float(wrong.abs().max()) / size)
    bias = {steps: _bias(steps, 2.0) for steps in (4, 9)}
    return Finding(
        name="(51) and (52) as printed, h learned, give R^beta times the ideal prior",
        role="claim",
        kind="exact",
        holds=max(left, printed) <= ALGEBRA.rtol,
        figure=(
            f"with the violation's log for h, (51) and the corrected (52) leave {number(left)} of "
            f"the scores, (52) as printed {number(printed)}; a free h leaves {number(anything)} at "
            f"a policy without any tilt; bias without h, note_1d: "
            + ", ".join(f"TV {number(v)} (T = {k})" for k, v in bias.items())
        ),
        numbers={"corrected": left, "printed": printed, "free h": anything, "bias": bias},
        worst="(52) prints F(x_{t+1}) under a gradient in x_t, which is zero; a learned h makes "
        "every policy a solution",
        mutants={"printed (52)": printed > 1e-3, "free h": anything <= ALGEBRA.rtol},
    )


def bias_region(cells: int) -> Region:
    """TV of what residual conditions sample over Gaussian kernels to R^beta p_T, note_1d."""
    scales = np.geomspace(0.1, 4.0, cells)
    steps = np.unique(np.round(np.geomspace(2, 9, cells)).astype(int))
    errors = [[_bias(int(t), float(a)) for t in steps] for a in scales]
    return Region(
        "bias of residual conditions over Gaussian kernels, note_1d",
        "beta",
        scales,
        "steps",
        steps.astype(np.float64),
        np.array(errors),
        "TV to R^beta p_T",
        log_axes="x",
    )


G9_PARTS = (bias_and_corrections, VIOLATION, OWN_LAW)
