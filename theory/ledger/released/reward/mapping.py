"""N1: the tilt of one epoch under the released reward mapping, in units of the reward's std."""

from __future__ import annotations

import math

import numpy as np

from theory.common.tolerances import QUADRATURE_TIGHT
from theory.ledger.core import Array, Claim, Context, Finding, Identity, Region, extra, number
from theory.ledger.oracle.released import mapping as oracle
from theory.ledger.released.reward.beyond import beyond_first_order, code_path
from theory.ledger.settings.released import (
    GROUP,
    AtomBatch,
    AtomBatches,
    Batches,
    BatchSetting,
    Prompts,
    PromptSetting,
)
from theory.methods.matching.reward_mapping import CLIP, SPREAD, STD_FLOOR
from theory.released.mapping import (
    MappedRewards,
    Rewards,
    batch_std,
    finite_batch_slopes,
    gaussian_batch_share,
    ideal_tilt,
)

PROMPTS = 48


# --- a large batch


def laws_of(s: PromptSetting) -> list[Rewards]:
    return [Rewards(*row) for row in zip(s.weights, s.means, s.stds, strict=True)]


def tilts(
    s: PromptSetting,
    own_std: bool = False,
    infinite: bool = False,
    clip: float = CLIP,
    means_count: bool = True,
) -> Array:
    """Effective tilt of every prompt, per standard deviation of its rewards, (P,)."""
    laws = laws_of(s)
    spread = batch_std(laws)
    if not means_count:
        spread = math.sqrt(np.mean([law.variance for law in laws]))
    group = None if infinite or not s.group else s.group
    return np.array(
        [
            MappedRewards(law, law.std if own_std else spread, group, clip).effective_tilt(
                s.nft_beta
            )
            for law in laws
        ]
    )


def tilts_by_sums(s: PromptSetting) -> Array:
    size = oracle.pooled_std(s.weights, s.means, s.stds) + STD_FLOOR
    return np.array(
        [
            2
            / (SPREAD * s.nft_beta)
            * oracle.mapped_slope(w, m, d, size, s.group, CLIP)
            * oracle.pooled_std(w[None], m[None], d[None])
            for w, m, d in zip(s.weights, s.means, s.stds, strict=True)
        ]
    )


def tilts_by_sums_unclipped(s: PromptSetting) -> Array:
    """The clip put so far out that nothing reaches it."""
    size = oracle.pooled_std(s.weights, s.means, s.stds) + STD_FLOOR
    return np.array(
        [
            2 / (SPREAD * s.nft_beta) * oracle.mapped_slope(w, m, d, size, s.group, 1e6)
            for w, m, d in zip(s.weights, s.means, s.stds, strict=True)
        ]
    )


def tilt_size(s: PromptSetting) -> float:
    return 0.2 / s.nft_beta


def stated(s: PromptSetting, of_one: float = 1.0) -> Array:
    """0.2/nft_beta of every prompt, less what the floor of 1e-4 takes from a std of 1."""
    return np.full(len(s.weights), of_one * ideal_tilt(s.nft_beta) / (1 + STD_FLOOR))


UNDER_ASSUMPTIONS = Identity(
    "infinite group, prompts of one mean and spread, nothing clipped: 0.2/nft_beta per std",
    Prompts(alike=True),
    stated,
    tilts_by_sums_unclipped,
    {
        "0.1/nft_beta": lambda s: stated(s, 0.5),
        "the group mean of 24": lambda s: stated(s, 1 - 1 / GROUP),
        "without the floor": lambda s: stated(s, 1 + STD_FLOOR),
    },
    tilt_size,
    role="condition",
    dims=(1,),
)

CORRECTED = Identity(
    "finite group, clip, batch-wide std: (2/nft_beta) Cov(r, R)/Var(R) std(R) of every prompt",
    Prompts(),
    tilts,
    tilts_by_sums,
    {
        "0.2/nft_beta": lambda s: stated(s),
        "per-prompt std": lambda s: tilts(s, own_std=True),
        "infinite group": lambda s: tilts(s, infinite=True),
        "nothing clipped": lambda s: tilts(s, clip=1e3),
        "batch std without the spread of means": lambda s: tilts(s, means_count=False),
    },
    tilt_size,
    role="instead",
    dims=(1,),
)

# --- finite batches

GAUSSIAN_BATCH = Identity(
    "equal Gaussian prompts, batch of N: N(n-1)/(n(N-1)) sqrt(2/N) Gamma(N/2)/Gamma((N-1)/2)",
    Batches(),
    lambda s: np.array([gaussian_batch_share(s.group, s.prompts)]),
    lambda s: np.array([oracle.gaussian_batch_slope(s.group, s.prompts)]),
    {
        "1 - 1/n: std not random": lambda s: np.array([1 - 1 / s.group]),
        "one group is the batch": lambda s: np.array([gaussian_batch_share(s.group, 1)]),
        "unbiased std": lambda s: _unbiased(s),
    },
    role="instead",
    dims=(1,),
)


def _unbiased(s: BatchSetting) -> Array:
    rows = s.group * s.prompts
    return np.array([gaussian_batch_share(s.group, s.prompts) * math.sqrt(1 - 1 / rows)])


def _fixed_spread(s: AtomBatch) -> Array:
    """(1 - 1/n) / (S + floor), S of an infinite batch."""
    pooled = math.sqrt(float((s.m * s.x**2).sum(1).mean() - (s.m * s.x).sum(1).mean() ** 2))
    return np.full(len(s.x), (1 - 1 / s.group) / (pooled + STD_FLOOR) / SPREAD)


ANY_BATCH = Identity(
    "rewards of any law, any batch, nothing clipped: Cov(r, R) = E[V_p/(S + floor)]/10",
    AtomBatches(),
    lambda s: finite_batch_slopes(s.x, s.m, s.group),
    lambda s: oracle.enumerated_slopes(s.x, s.m, s.group, STD_FLOOR, CLIP, SPREAD),
    {
        "without the floor": lambda s: finite_batch_slopes(s.x, s.m, s.group, 1e-300),
        "std of an infinite batch": _fixed_spread,
        "variance divided by n - 1": lambda s: (
            finite_batch_slopes(s.x, s.m, s.group) * s.group / (s.group - 1)
        ),
    },
    role="instead",
    dims=(1,),
)

# --- the statement at the released values


def stated_at_released_values(context: Context) -> Finding:
    """0.2/nft_beta against the effective tilt, nft_beta = 1, 24 rows of 48 prompts."""
    plain = Rewards.gaussian()
    rare = Rewards(np.array([0.98, 0.02]), np.array([0.0, 8.0]), np.array([1.0, 1.0]))
    spread_out = [Rewards.gaussian(m, 1.0) for m in (-1.5, -0.5, 0.5, 1.5)]
    widths = [Rewards.gaussian(0.0, s) for s in (0.25, 0.5, 1.0, 2.0)]
    share = {
        "equal Gaussian prompts, large batch": MappedRewards(plain, batch_std([plain]), GROUP),
        "2 % of rewards 8 std out": MappedRewards(rare, rare.std, GROUP),
        "prompt means spread by 1.12 std": MappedRewards(spread_out[0], batch_std(spread_out)),
        "widest of stds 0.25, 0.5, 1, 2": MappedRewards(widths[3], batch_std(widths)),
        "narrowest of them": MappedRewards(widths[0], batch_std(widths)),
    }
    found = {k: v.effective_tilt(1.0) / ideal_tilt(1.0) for k, v in share.items()}
    found |= {
        f"equal Gaussian prompts, {GROUP} x {PROMPTS}": gaussian_batch_share(GROUP, PROMPTS),
        f"one prompt of {GROUP} rows is the batch": gaussian_batch_share(GROUP, 1),
    }
    worst = max(found, key=lambda k: abs(found[k] - 1))
    return Finding(
        name="tilt of one epoch = 0.2/nft_beta per std of a prompt's rewards",
        role="claim",
        kind="exact",
        holds=abs(found[worst] - 1) <= QUADRATURE_TIGHT.rtol,
        figure="share of 0.2/nft_beta: " + "; ".join(f"{k} {number(v)}" for k, v in found.items()),
        numbers={"shares": found},
        worst=f"{worst}: {number(found[worst])} of it",
    )


# --- beyond first order


def heterogeneity_region(cells: int) -> Region:
    """Error of 0.2/nft_beta over the group's size and the spread of the prompts' means."""
    groups = np.unique(np.round(np.geomspace(2, 200, cells)).astype(int))
    spreads = np.linspace(0.0, 2.0, cells)
    errors = np.empty((len(groups), cells))
    for i, n in enumerate(groups):
        for j, between in enumerate(spreads):
            law = MappedRewards(Rewards.gaussian(), math.sqrt(1 + between**2), int(n))
            errors[i, j] = abs(law.effective_tilt(1.0) / ideal_tilt(1.0) - 1)
    return Region(
        "0.2/nft_beta per std of a prompt's rewards",
        "rows of a prompt",
        groups.astype(float),
        "std of the prompts' means / std within a prompt",
        spreads,
        errors,
        "relative error",
        "x",
    )


N1_PARTS = (
    stated_at_released_values,
    UNDER_ASSUMPTIONS,
    CORRECTED,
    GAUSSIAN_BATCH,
    ANY_BATCH,
    extra(code_path),
    beyond_first_order,
)

N1 = Claim(
    id="N1",
    source="released, reward mapping: r = clamp(1/2 + clip(A, ±5)/10, 0, 1)",
    statement=(
        "With A = (R - mean of the prompt's group)/(std of the batch + 1e-4), one epoch tilts "
        "every prompt's law by exp(a R) with a = 0.2/nft_beta per standard deviation of the "
        "reward."
    ),
    assumptions=(
        "Old copy = data; to first order in the tilt (beyond: L8); the loss is linear in r, so "
        "that E[r | R] counts."
    ),
    first=(
        "closed forms: Gaussian mixtures of rewards by Stein's identity over splits of the "
        "group; E[V_p/(S + floor)] for any batch; Gamma functions for Gaussian batches"
    ),
    second=(
        "characteristic functions and cut Gauss-Legendre sums; all batches of atoms; draws of "
        "the code"
    ),
    recorded="conditional",
    remark=(
        "True for an infinite group of prompts that all have the batch's mean and spread, "
        "unclipped. The group's mean holds the own row: 1 - 1/n (23/24). The batch-wide std "
        "holds the spread of the prompts' means too: a prompt's tilt per own std shrinks by "
        "std_p/S, while the tilt per raw reward is one for all prompts. A single prompt of 24 "
        "rows is never clipped: |A| <= sqrt(23) < 5."
    ),
    parts=N1_PARTS,
    region=heterogeneity_region,
)
