"""A policy trained on a chain against its method's own optimum and target.

Laws are exact, of the networks' own chains, on a grid in d = 1 and 2; distances are W1 in d = 1 and
TV in d = 2. The error of a law is its distance to the optimum's as a share of the shift, from the
base's own chain to that optimum. Where a method states no optimum (`theory.methods.gflownet.truth`)
or it is not known to be unique, only the distance to the target is known.

KL to the base, and the lower bound on log Z,

    KL = sum_k E|m_k - m#_k|^2/(2 s_k^2),     E[log w] = E log R^beta(X_T) - KL <= log Z,

are over paths, m# the exact base kernels, along trajectories of the policy itself: importance
estimates from the base's trajectories see modes that the policy never visits, these do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from theory.control.chain_optimum import NotUniqueError
from theory.evaluation.sampler_laws import Bench, Law
from theory.fields.mixture import VelocityModel
from theory.gflownet.flows import reward_sum
from theory.methods import Method, Optimum
from theory.methods.gflownet.family import GFlowNet
from theory.methods.gflownet.priors import Noising
from theory.problems.problem import Problem
from theory.samplers.chain import Chain
from theory.tilts.wrappers import Wrapper
from toys.evaluation.control_error import (
    chain_of,
    kernels_label,
    mean_reward,
    mode_masses,
    variance,
    velocities,
)

DRAWS = 16_384
SEED = 2**44


@dataclass(frozen=True, eq=False)
class PolicyTruth:
    """What a method is said and known to sample on a problem; start: the base's own chain."""

    method: Method
    problem: Problem
    chain: Chain
    bench: Bench
    best: Optimum | None
    optimum: Law | None
    target: Law
    start: Law
    log_z: float
    wrapper: Wrapper

    @classmethod
    def of(cls, method: Method, problem: Problem) -> PolicyTruth:
        """Of a method that trains kernels of a chain towards a target.

        Raises:
            ValueError: it does not, or d > 2.
        """
        if problem.dim > 2:
            raise ValueError(
                f"problem must be in d = 1 or 2, got {problem.name!r} in d = {problem.dim}"
            )
        chain, goal = chain_of(method, problem), method.target(problem)
        if goal is None:
            raise ValueError(f"the method must aim at a target, got {method.label}")
        bench = Bench.of(problem, chain, [goal])
        try:
            best = method.optimum(problem)
        except NotUniqueError:
            best = None
        return cls(
            method,
            problem,
            chain,
            bench,
            best,
            optimum=None if best is None else bench.of_velocity(best.velocity),
            target=bench.of_target(goal),
            start=bench.of_velocity(problem.base_field),
            log_z=float(goal.log_z) if with_prior(method) else _log_mass(method, problem),
            wrapper=goal.wrapper,
        )


def with_prior(method: Method) -> bool:
    """Whether the base is a factor of the target."""
    return not (isinstance(method, GFlowNet) and isinstance(method.against, Noising))


def _log_mass(method: Method, problem: Problem) -> float:
    """log int R^beta."""
    assert isinstance(method, GFlowNet)
    return float(reward_sum(problem.reward, method.wrapper).total()[0])


def path_kl(truth: PolicyTruth, model: VelocityModel, draws: int = DRAWS) -> tuple[float, ...]:
    """KL of a policy's chain to the base's and its standard error; and those of E[log w]."""
    chain, problem = truth.chain, truth.problem
    noise = torch.randn(
        draws,
        chain.steps + 1,
        problem.dim,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(SEED),
    )
    with torch.no_grad():
        x = chain.rollout(model, noise)
        _, Q, s = chain.coefficients(x)
        gap = velocities(model, chain, x[:, :-1]) - velocities(problem.base_field, chain, x[:, :-1])
        kl = 0.5 * ((Q / s)[:, None] * gap).square().sum((1, 2))
        log_w = truth.wrapper.log_abs(problem.reward(x[:, -1])) - kl
    return tuple(
        value
        for one in (kl, log_w)
        for value in (float(one.mean()), float(one.std()) / math.sqrt(draws))
    )


def measure_policy(truth: PolicyTruth, model: VelocityModel) -> dict[str, Any]:
    """A policy against the truth; plain numbers."""
    law, best = truth.bench.of_velocity(model), truth.optimum
    laws = {"base": truth.start, "target": truth.target, "trained": law}
    if best is not None:
        laws["optimum"] = best
    shift = None if best is None else truth.start.distance(best)
    to_go = truth.start.distance(truth.target)
    kl, kl_se, bound, bound_se = path_kl(truth, model)
    prior = with_prior(truth.method)
    return {
        "problem": truth.problem.name,
        "dim": truth.problem.dim,
        "kernels": kernels_label(truth.chain),
        "distance": "W1" if truth.problem.dim == 1 else "TV",
        "shift": shift,
        "law_share": None if best is None else law.distance(best) / truth.start.distance(best),
        "optimum_to_target_share": None if best is None else best.distance(truth.target) / to_go,
        "to_target_share": law.distance(truth.target) / to_go,
        "reward": {name: mean_reward(truth.problem, one) for name, one in laws.items()},
        "std": {name: math.sqrt(variance(one)) for name, one in laws.items()},
        "modes": {name: mode_masses(truth.problem, one) for name, one in laws.items()},
        "path_kl": kl,
        "path_kl_se": kl_se,
        "bound": bound if prior else None,
        "bound_se": bound_se if prior else None,
        "bound_of_optimum": None if truth.best is None else truth.best.log_z,
        "log_z": truth.log_z,
    }
