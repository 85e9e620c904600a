"""nabla, what residual nabla-DB samples at which prior strength: G4.

First routes: the target as a Gaussian sum, the conditions solved backwards on a grid
(`theory.gflownet.prior`). Second routes: as in `starts`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from theory.common.tolerances import QUADRATURE
from theory.gflownet.flows import last_law, pretrained_flows
from theory.gflownet.kernels import GaussianKernels, Kernels
from theory.gflownet.prior import (
    fixed_variance_remainder,
    prior_solution,
    prior_target_on_grid,
)
from theory.laws.distances import grid_distances
from theory.laws.gaussians import GaussianSum
from theory.ledger.core import Array, Context, Finding, Identity, Region, number
from theory.ledger.gflownet.points import flows_of, residual_of
from theory.ledger.gflownet.starts import AXES, at_middle, log_target, through
from theory.ledger.oracle.gflownet.line import Line
from theory.ledger.settings.gflownet import FlowSetting, line_problems
from theory.problems.problem import Problem, load_problem
from theory.samplers.chain import Chain
from theory.tilts.quadratic import linear_reward
from theory.tilts.wrappers import Exponential

# Rewards whose R^beta P#^eta has a mass at every eta: the exp of a convex one may outgrow it.
INTEGRABLE = ("linear", "bumps")


def _residual_from_noise(s: FlowSetting) -> Array:
    line = Line(s.numbers)
    return line.residual_law(line.back, 1.0, float(s.numbers.sigma[0]), s.states[-1])


def _residual_of_powers(s: FlowSetting) -> Array:
    """The law of P = P#^eta Ft' / Ft, P# the chain with Gaussian kernels."""
    line = Line(s.numbers, s.start_std, s.eta)
    return line.residual_law(line.gaussian, s.eta, s.start_std, s.states[-1])


def _solved(s: FlowSetting, eta: float | None = None) -> Array:
    chain = replace(s.chain, start_std=s.start_std)
    kernels = GaussianKernels(chain, s.problem.base_field)
    own = s.eta if eta is None else eta
    least = float(chain.coefficients(torch.ones(1, dtype=torch.float64))[2].min())
    axes = through(s, min(0.05, 0.3 * least / math.sqrt(max(own, 1.0))))
    solution = prior_solution(chain, kernels, s.problem.reward, s.wrapper, own, axes)
    return np.atleast_1d(at_middle(solution.law))


PROPOSITION_4 = Identity(
    "at eta = 1, from a memoryless start, the policy of (11)-(14) samples R^beta P# / Z",
    line_problems(late=False),
    lambda s: np.atleast_1d(log_target(s)),
    _residual_from_noise,
    {
        "not normalised": lambda s: np.atleast_1d(log_target(s) + float(flows_of(s).log_z)),
        "the base": lambda s: np.atleast_1d(
            residual_of(s).base.log_flow(s.numbers.steps, torch.as_tensor(s.states[-1])[None])
        ),
    },
    role="condition",
    dims=(1,),
)
ANY_STRENGTH = Identity(
    "at any eta it samples R^beta(x_T) int P_0 / Ft_0 prod P#^eta",
    replace(line_problems(), kinds=INTEGRABLE),
    _solved,
    _residual_of_powers,
    {
        "1.1 eta": lambda s: _solved(s, 1.1 * s.eta),
        "eta = 1": lambda s: _solved(s, 1.0 if abs(s.eta - 1) > 0.1 else 1.2),
    },
    role="instead",
    dims=(1,),
    share=0.3,
)


def _target_of_strength(s: FlowSetting, eta: float) -> Array:
    """log of (10) at x_T."""
    axes = through(s)
    law = prior_target_on_grid(s.last, s.problem.reward, s.wrapper, eta, axes)
    return np.atleast_1d(at_middle(law))


def _powers_in_balance(s: FlowSetting) -> Array:
    """The law of P = P#^eta Ft' / Ft, P# the chain that goes back exactly."""
    line = Line(s.numbers, sharpest=s.eta)
    return line.residual_law(line.back, s.eta, float(s.numbers.sigma[0]), s.states[-1])


IN_BALANCE = Identity(
    "at any eta, from a memoryless start and P# in balance with P_B, it samples (10)",
    replace(line_problems(late=False), kinds=INTEGRABLE),
    lambda s: _target_of_strength(s, s.eta),
    _powers_in_balance,
    {
        "1.1 eta": lambda s: _target_of_strength(s, 1.1 * s.eta),
        "eta = 1": lambda s: _target_of_strength(s, 1.0 if abs(s.eta - 1) > 0.1 else 1.2),
    },
    role="condition",
    tier=QUADRATURE,
    dims=(1,),
)


def _strength(prior: float, first_time: float, gaussian: bool, steps: int = 4) -> float:
    """TV of what (11)-(14) sample on note_1d to (10), P# the exact chain or Gaussian kernels."""
    problem = load_problem("note_1d")
    chain, wrapper = Chain(steps, 0.15, first_time=first_time), Exponential(problem.scale)
    kernels: Kernels = pretrained_flows(chain, problem.base)
    if gaussian:
        kernels = GaussianKernels(chain, problem.base_field)
    solution = prior_solution(chain, kernels, problem.reward, wrapper, prior, AXES)
    last = last_law(chain, problem.base)
    target = prior_target_on_grid(last, problem.reward, wrapper, prior, AXES)
    return grid_distances(solution.law, target)["TV"].value


def strengths_and_starts(context: Context) -> Finding:
    """TV to (10) over prior strengths, starts and kernels."""
    found = {
        "eta 1, exact kernels, first_time 0.35": _strength(1.0, 0.35, False),
        "eta 2, the same": _strength(2.0, 0.35, False),
        "eta 2, Gaussian kernels from noise": _strength(2.0, 0.0, True),
    }
    kept = max(_strength(eta, 0.0, False) for eta in (0.5, 1.0, 2.0))
    slopes = fixed_variance_remainder(Chain(4, 0.15), 2.0).numpy()
    return Finding(
        name="law of X_T = (10) wherever (11)-(14) hold",
        role="claim",
        kind="exact",
        holds=max(found.values()) <= QUADRATURE.rtol,
        figure="note_1d: "
        + ", ".join(f"TV {number(v)} ({k})" for k, v in found.items())
        + f"; {number(kept)} at eta 0.5, 1 and 2 with exact kernels from noise; policies of the "
        f"chain's own variance keep (eta - 1) x'/s², slopes of {number(slopes.min())} to "
        f"{number(slopes.max())} at eta 2",
        numbers={"TV": found, "slopes": slopes.tolist()},
        worst="Gaussian kernels of a mixture are out of balance with the noising: powers of F no "
        "longer cancel",
        mutants={"exact kernels from noise": kept <= QUADRATURE.rtol},
    )


def strength_region(cells: int) -> Region:
    """TV of what (11)-(14) sample to (10), Gaussian kernels of two modes, over eta and the tilt."""
    strengths, tilts = np.geomspace(0.4, 2.5, cells), np.linspace(0.1, 2.0, cells)
    axes = (np.linspace(-8.0, 8.0, 241),)
    base = GaussianSum.mixture([0.6, 0.4], [[-1.0], [1.2]], stds=[0.7, 0.5])
    chain = Chain(3, 0.25)
    errors = []
    for eta in strengths:
        line = []
        for a in tilts:
            problem = Problem("two", base, linear_reward([1.0]), float(a))
            kernels = GaussianKernels(chain, problem.base_field)
            wrapper, last = Exponential(float(a)), last_law(chain, base)
            law = prior_solution(chain, kernels, problem.reward, wrapper, float(eta), axes).law
            target = prior_target_on_grid(last, problem.reward, wrapper, float(eta), axes)
            line.append(grid_distances(law, target)["TV"].value)
        errors.append(line)
    return Region(
        "what (11)-(14) sample, against (10), three Gaussian kernels",
        "eta",
        strengths,
        "slope of log R^beta",
        tilts,
        np.array(errors),
        "TV",
        log_axes="x",
    )


G4_PARTS = (strengths_and_starts, PROPOSITION_4, IN_BALANCE, ANY_STRENGTH)
