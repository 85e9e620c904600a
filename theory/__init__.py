"""The exact theory: what a reward-fine-tuned diffusion model samples, on problems in closed form.

    laws, tilts, fields      Gaussian sums; rewards, and the laws they tilt; velocity fields
    samplers, evaluation     what a field samples, measured against what it is said to sample
    problems                 named problems, and your own
    control, recursion       optima under any diffusion schedule; online training over epochs
    gflownet                 a chain's exact flows and kernels, and the conditions they meet

Methods are in `theory.methods`, the audit of samples is in `theory.audit`.
"""

from typing import TYPE_CHECKING

from theory.common.face import face

if TYPE_CHECKING:
    from theory.common.checks import check_finite, check_positive
    from theory.control.grid import GridOptimum
    from theory.control.value import MemorylessOptimum
    from theory.evaluation.choices import choose_field
    from theory.evaluation.report import law_report
    from theory.fields.diffusion import Diffusion
    from theory.fields.guidance import GuidedField
    from theory.fields.mixture import ExactField, MixtureField, ModelField
    from theory.fields.paths import (
        RECTIFIED_FLOW,
        Trigonometric,
        VarianceExploding,
        VariancePreserving,
    )
    from theory.gflownet.balance import Balance, ResidualBalance
    from theory.gflownet.flows import (
        ChainFlows,
        ResidualFlows,
        pretrained_flows,
        residual_flows,
        reward_flows,
    )
    from theory.gflownet.kernels import GaussianKernels
    from theory.gflownet.policy_law import exact_policy_law, policy_law, weighted_draws
    from theory.gflownet.prior import prior_solution, prior_target
    from theory.laws.distances import GridLaw, grid_distances, sample_distances
    from theory.laws.gaussians import GaussianSum
    from theory.problems.problem import Problem, load_problem, parse_problem, problem_names
    from theory.recursion import Mode, Recursion, TwoKL, carry
    from theory.samplers.chain import Chain, chain_law
    from theory.samplers.flow import FlowLaw
    from theory.samplers.sde import sde_law
    from theory.tilts.bump_rewards import BumpReward, bump_reward, bumps_reward
    from theory.tilts.quadratic import QuadraticReward, linear_reward, quadratic_reward
    from theory.tilts.rewards import CallableReward, Reward
    from theory.tilts.tilt import Tilt, tilt
    from theory.tilts.wrappers import (
        ClippedExponential,
        Exponential,
        Power,
        TruncatedExponential,
        Wrapper,
    )
else:
    __getattr__, __dir__, __all__ = face(__name__, __file__)
