"""nabla, identities at one pair of states: G1 and G2.

First routes are theory's closed forms (`theory.gflownet`: kernels as mixtures by components, flows
as noised sums); second routes are integrals over X_T and their numerical derivatives
(`theory.ledger.oracle.gflownet`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from theory.gflownet.flows import (
    ChainFlows,
    ResidualFlows,
    pretrained_flows,
    residual_flows,
    reward_flows,
)
from theory.gflownet.kernels import NoisingKernels, kernel_scores
from theory.ledger.core import Array, Identity, row
from theory.ledger.oracle.gflownet import flows as oracle
from theory.ledger.settings.gflownet import FlowProblems, FlowSetting

WITH_PRIOR = FlowProblems()
WITHOUT = FlowProblems(prior=False)
# Where scores are derivatives of integrals over the plane.
EVEN, EVEN_WITHOUT = (FlowProblems(prior=p, max_condition=10.0) for p in (True, False))


@lru_cache(maxsize=16)
def residual_of(s: FlowSetting) -> ResidualFlows:
    """F, F# and their ratio, of W = R^beta p_T."""
    return residual_flows(s.chain, s.problem.base, s.problem.reward, s.wrapper)


@lru_cache(maxsize=16)
def base_of(s: FlowSetting) -> ChainFlows:
    """F#, of W = p_T."""
    return pretrained_flows(s.chain, s.problem.base)


@lru_cache(maxsize=16)
def flows_of(s: FlowSetting) -> ChainFlows:
    """F, of W = R^beta p_T or R^beta."""
    if s.prior:
        return residual_of(s).tilted
    return reward_flows(s.chain, s.problem.reward, s.wrapper)


def _noise(s: FlowSetting) -> Array:
    """(x - ratio x') / variance: the score of the noise between the two states."""
    return (s.x - s.numbers.ratio[s.k] * s.x_next) / s.numbers.forward[s.k]


def score_size(s: FlowSetting) -> float:
    return max(1.0, float(np.abs(_noise(s)).max()))


# --- G1: P_F F = P_B F'


def _mass_back(s: FlowSetting, of: ChainFlows | None = None, later: int = 1) -> Array:
    """log P_B(x|x') F(x')."""
    flows = of or flows_of(s)
    noise = NoisingKernels(s.chain).log_density(s.k, s.point, s.next_point)
    return (noise + flows.log_flow(s.k + later, s.next_point)).numpy()


def _turned(s: FlowSetting) -> Array:
    """The noising kernel with its states exchanged."""
    noise = NoisingKernels(s.chain).log_density(s.k, s.next_point, s.point)
    return (noise + flows_of(s).log_flow(s.k + 1, s.next_point)).numpy()


def _mass_ahead(s: FlowSetting) -> Array:
    """log P_F(x'|x) F(x), from integrals."""
    n = s.numbers
    return np.array(oracle.log_forward(n, s.k, s.x, s.x_next) + oracle.log_flow(n, s.k, s.x))


def _balance(domain: FlowProblems, name: str) -> tuple[Identity[FlowSetting], ...]:
    return (
        Identity(
            f"log P_B F' = log P_F F, {name}",
            domain,
            _mass_back,
            _mass_ahead,
            {
                "F of the state before": lambda s: _mass_back(s, later=0),
                "P_B with its states exchanged": _turned,
                "the pretrained chain's flow": lambda s: _mass_back(s, base_of(s)),
            },
        ),
        Identity(
            f"log P_F by components, {name}",
            domain,
            lambda s: flows_of(s).log_density(s.k, s.point, s.next_point).numpy(),
            lambda s: np.array(oracle.log_forward(s.numbers, s.k, s.x, s.x_next)),
            {
                "not divided by F(x)": lambda s: (
                    flows_of(s).log_density(s.k, s.point, s.next_point)
                    + flows_of(s).log_flow(s.k, s.point)
                ).numpy(),
                "the pretrained kernel": lambda s: (
                    base_of(s).log_density(s.k, s.point, s.next_point).numpy()
                ),
            },
        ),
    )


G1_PARTS = (*_balance(WITH_PRIOR, "W = R^beta p_T"), *_balance(WITHOUT, "W = R^beta"))


# --- G2: its gradients


def _ahead(s: FlowSetting, of: ChainFlows | None = None, noise: float = 1.0) -> Array:
    """grad' log P_F - grad' log P_B: (6) says that it is grad' log F(x')."""
    slope = NoisingKernels(s.chain).scores(s.k, s.point, s.next_point)[1]
    return row(kernel_scores(of or flows_of(s), s.k, s.point, s.next_point)[1] - noise * slope)


def _behind(s: FlowSetting, of: ChainFlows | None = None, turned: bool = False) -> Array:
    """grad log P_B - grad log P_F: (9) says that it is grad log F(x)."""
    slopes = NoisingKernels(s.chain).scores(s.k, s.point, s.next_point)
    before = kernel_scores(of or flows_of(s), s.k, s.point, s.next_point)[0]
    return row(slopes[1 if turned else 0] - before)


def _gradients(domain: FlowProblems, name: str) -> tuple[Identity[FlowSetting], ...]:
    return (
        Identity(
            f"(6): grad' log P_F - grad' log P_B = grad' log F', {name}",
            domain,
            _ahead,
            lambda s: oracle.flow_score(s.numbers, s.k + 1, s.x_next),
            {
                "the pretrained kernel": lambda s: _ahead(s, base_of(s)),
                "without the noising": lambda s: _ahead(s, noise=0.0),
                "sign": lambda s: -_ahead(s),
            },
            score_size,
        ),
        Identity(
            f"(9): grad log P_B - grad log P_F = grad log F, {name}",
            domain,
            _behind,
            lambda s: oracle.flow_score(s.numbers, s.k, s.x),
            {
                "the pretrained kernel": lambda s: _behind(s, base_of(s)),
                "the noising's gradient in x'": lambda s: _behind(s, turned=True),
                "sign": lambda s: -_behind(s),
            },
            score_size,
        ),
    )


G2_PARTS = (*_gradients(EVEN, "W = R^beta p_T"), *_gradients(EVEN_WITHOUT, "W = R^beta"))
