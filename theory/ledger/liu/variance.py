"""liu, L12: is the noise of NFT's gradient that of the loss weighted by 1 + 2r?

Per sample, over each loss's own curvature (theory.ledger.liu.noise), at v_0 and at each loss's
optimum. "Comparable" is read as within a factor of two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from theory import Problem, linear_reward, load_problem
from theory.ledger.core import (
    Array,
    Claim,
    Context,
    Finding,
    Identity,
    Region,
    Role,
    extra,
    fit_slope,
    number,
)
from theory.ledger.liu.noise import MarginalNoise, NoiseMoments, noise_moments
from theory.ledger.liu.toy_noise import RANGES, TOY, network_ratio, pointwise_ratios, toy
from theory.ledger.oracle import variance as oracle_variance
from theory.ledger.settings.problems import Problems, Setting
from theory.ledger.settings.unit import CONDITION
from theory.tilts.moments import reward_moments

FACTOR = 2.0  # "comparable"
BETAS = (0.1, 0.3, 1.0, 3.0, 10.0)
FLOOR = 1e-13
RELEASED = 10.0  # the released mapping divides standardised rewards by so much


# --- exact: the closed forms


@lru_cache(maxsize=1)
def _moments(s: Setting) -> NoiseMoments:
    """Made once for the claim and its wrong versions."""
    return noise_moments(s.problem, s.point, s.t)


def nft_noise(s: Setting) -> Array:
    """The closed form at v_0, and once more for v*: the same number."""
    return np.repeat(_moments(s).nft(s.nft_beta).numpy(), 2)


def weighted_noise(s: Setting, a: float) -> Array:
    m = _moments(s)
    return np.array([float(m.weighted(a)[0]), float(m.weighted(a, "optimum")[0])])


def _nft_by_quadrature(s: Setting) -> Array:
    find = oracle_variance.nft
    return np.array([find(s.case, s.x, s.at, s.nft_beta, k) for k in (False, True)])


def _weighted_by_quadrature(s: Setting) -> Array:
    find = oracle_variance.weighted
    return np.array([find(s.case, s.x, s.at, 2 / s.nft_beta, k) for k in (False, True)])


def _not_centred(s: Setting) -> Array:
    return nft_noise(s) + 4 * float((_moments(s).covariance ** 2).sum()) / s.nft_beta**2


IDENTITIES = (
    Identity(
        "NFT: (E[(2r - 1)² |D|²] - 4 |c|²) / beta² at v0 and at v*",
        Problems(),
        nft_noise,
        _nft_by_quadrature,
        {
            "(2r - 1)² taken as 1": lambda s: np.repeat(
                _moments(s).squares[:, 0].numpy() / s.nft_beta**2, 2
            ),
            "second moment for the variance": _not_centred,
            "beta for beta²": lambda s: nft_noise(s) * s.nft_beta,
        },
        lambda s: (1 + s.spread) ** 2 / s.nft_beta**2,
        role="support",
        share=0.5,
    ),
    Identity(
        "weighted by 1 + a r, at v0 and at its optimum",
        Problems(kinds=("bumps",), max_condition=CONDITION),
        lambda s: weighted_noise(s, 2 / s.nft_beta),
        _weighted_by_quadrature,
        {
            "a = 1/beta": lambda s: weighted_noise(s, 1 / s.nft_beta),
            "the optimum's taken at v0": lambda s: weighted_noise(s, 2 / s.nft_beta)[[0, 0]],
            "curvature of the unweighted loss": lambda s: (
                weighted_noise(s, 2 / s.nft_beta)
                * (1 + 2 / s.nft_beta * float(_moments(s).mean[0])) ** 2
            ),
        },
        role="support",
        share=0.3,
    ),
)


# --- the statement


def comparable(context: Context) -> Finding:
    """Within a factor of two at every problem?"""
    count = context.choose(24, 120, 600)
    found = pointwise_ratios(count, context.seed)
    whole = {(low, high): toy().ratio(low, high) for low, high in RANGES}
    worst = min(whole, key=lambda k: whole[k])
    share = {
        place: float(((found[place] > 1 / FACTOR) & (found[place] < FACTOR)).mean())
        for place in ("v0", "optimum")
    }
    quantiles = np.quantile(found["v0"], [0.0, 0.05, 0.5, 0.95, 1.0]).tolist()
    return Finding(
        name="noise of NFT within a factor of 2 of that of 1 + 2r",
        role="claim",
        kind="exact",
        holds=min(share.values()) == 1.0 and all(1 / FACTOR < v < FACTOR for v in whole.values()),
        figure=(
            f"on {100 * share['v0']:.0f} % of {count} problems at v0, "
            f"{100 * share['optimum']:.0f} % at the optima; ratio {number(quantiles[0])} to "
            f"{number(quantiles[-1])}, median {number(quantiles[2])}; over all of X_t and t in "
            "the note's toy "
        )
        + ", ".join(f"{number(v)} (r in [{k[0]:g}, {k[1]:g}])" for k, v in whole.items()),
        numbers={
            "share": share,
            "quantiles": quantiles,
            "correlation_with_(2r-1)^2": float(np.corrcoef(found["v0"], found["level"])[0, 1]),
            "toy": {f"{k[0]:g} to {k[1]:g}": v for k, v in whole.items()},
        },
        worst=f"the note's toy with r in [{worst[0]:g}, {worst[1]:g}]: NFT's noise is "
        f"{number(whole[worst])} of the weighted loss's",
        mutants={"always less than half": bool((found["v0"] > 0.5).any())},
    )


def _order_part(
    name: str,
    role: Role,
    order: int,
    ends: Callable[[float], tuple[float, float]],
    one: bool,
    context: Context,
) -> Finding:
    """How the ratio leaves 1 (or 0) as the reward's range shrinks to one value."""
    sizes = np.geomspace(1e-3, 1e-1, 8)
    ratios = np.array([toy().ratio(*ends(float(e))) for e in sizes])
    slope = fit_slope(sizes, np.abs(1 - ratios) if one else ratios, FLOOR)
    what = "|ratio - 1|" if one else "ratio"
    far = np.array([toy().ratio(*ends(float(e)), nft_beta=2.0) for e in sizes])
    return Finding(
        name=name,
        role=role,
        kind="order",
        holds=slope.order == order and slope.is_order,
        figure=(
            f"{what} falls with the range of r, slope {slope}: {number(ratios[-1])} at a "
            f"range of 0.1, {number(ratios[0])} at 0.001; with beta = 2 it is "
            f"{number(far[0])} there"
        ),
        numbers={"sizes": sizes.tolist(), "ratios": ratios.tolist(), "slope": slope.slope},
        order=order,
        mutants={"1 at beta = 2 too": abs(1 - far[0]) > 0.1}
        if one
        else {"of first order": slope.order != 1},
    )


near_zero = partial(
    _order_part, "r near 0 everywhere, beta = 1", "condition", 1, lambda e: (0.0, e), True
)
near_one = partial(
    _order_part, "r near 1 everywhere, beta = 1", "condition", 1, lambda e: (1.0 - e, 1.0), True
)
near_half = partial(
    _order_part,
    "r near 1/2: NFT's noise is (2r - 1)²",
    "instead",
    2,
    lambda e: (0.5 - e / 2, 0.5 + e / 2),
    False,
)


@extra
def against_beta(context: Context) -> Finding:
    """At a matched target, weight 1 + (2/beta) r: NFT's noise is 1/beta^2, the other's bounded."""
    ratios = [toy().ratio(0.0, 1.0, b) for b in BETAS]
    signal = [toy().per_signal(0.0, 1.0, b) for b in BETAS]
    baseline, gain = toy().best_baseline(0.0, 1.0)
    return Finding(
        name="at a matched target, weight 1 + (2/beta) r",
        role="instead",
        kind="exact",
        holds=ratios[0] > FACTOR and ratios[-1] < 1 / FACTOR and max(signal) < 1,
        figure="in the toy with r in [0, 1] the ratio is "
        + ", ".join(f"{number(v)} (beta {b:g})" for b, v in zip(BETAS, ratios, strict=True))
        + "; per squared mean step NFT has the less noise at every beta, "
        + " to ".join(number(f(signal)) for f in (min, max))
        + f" of the other's; best baseline {number(baseline)} for 1/2: noise less by a factor "
        f"{number(gain)}",
        numbers={
            "betas": list(BETAS),
            "ratios": ratios,
            "per_signal": signal,
            "baseline": baseline,
        },
        mutants={"the ratio does not depend on beta": ratios[0] > 10 * ratios[-1]},
    )


@extra
def released_rewards(context: Context) -> Finding:
    """r = 1/2 + z/10 of a standardised reward z, as the released code has it."""
    found = MarginalNoise.of(released_problem()).ratio(0.0, 1.0)
    return Finding(
        name="rewards of the released code, r = 1/2 + z/10",
        role="instead",
        kind="exact",
        holds=found < 1 / FACTOR,
        figure=(
            f"NFT has {number(found)} of the noise of 1 + 2r (linear reward on the toy's "
            "mixture): its factor is (2r - 1)² = z²/25"
        ),
        numbers={"ratio": found},
        mutants={"comparable": found < 0.1},
    )


def released_problem() -> Problem:
    """The toy's mixture with a linear reward, standardised, times 1/10, about 1/2."""
    base = load_problem(TOY).base
    mean, std = reward_moments(base, Problem("raw", base, linear_reward([1.0]), 1.0).moments)
    slope = 1 / (RELEASED * std)
    return Problem("released", base, linear_reward([slope], 0.5 - slope * mean), 1.0)


# --- a network


@extra
def network(context: Context) -> Finding:
    """Parameter gradients of a small network by Monte Carlo, against the fields' numbers."""
    n = min(context.profile.draws, 20_000)
    found = {k: network_ratio(*k, n, context.seed) for k in RANGES}
    fields = {k: toy().ratio(*k) for k in RANGES}
    # Above one half for a reward near an end, below a tenth near 1/2: at 6 standard errors.
    ends = all(found[k][0] - 6 * found[k][1] > 0.5 for k in RANGES[1:3])
    middle = found[RANGES[3]][0] + 6 * found[RANGES[3]][1] < 0.1
    return Finding(
        name="parameter gradients of a small network",
        role="support",
        kind="statistical",
        holds=bool(ends and middle),
        figure=f"{n} draws: "
        + ", ".join(
            f"{number(v)} ± {number(3 * e)} (r in [{k[0]:g}, {k[1]:g}], field {number(fields[k])})"
            for k, (v, e) in found.items()
        ),
        numbers={f"{k[0]:g} to {k[1]:g}": list(v) for k, v in found.items()},
        mutants={"comparable at r near 1/2": bool(middle)},
    )


# --- maps


def noise_region(cells: int) -> Region:
    """|ratio - 1| over where the reward lies: its value away from the bump and on its top."""
    ends = np.linspace(0.0, 1.0, cells)
    return Region(
        "noise of NFT against that of 1 + 2r, beta = 1",
        "r away from the bump",
        ends,
        "r at the bump's top",
        ends,
        np.asarray([[abs(toy().ratio(float(a), float(b)) - 1) for b in ends] for a in ends]),
        "|ratio - 1|",
    )


L12_PARTS = (
    comparable,
    near_zero,
    near_one,
    near_half,
    against_beta,
    released_rewards,
    network,
    *IDENTITIES,
)

L12 = Claim(
    id="L12",
    source="liu, after (2)",
    statement=(
        "The NFT loss and the loss weighted by 1 + 2r should have comparable empirical "
        "variances, for r properly scaled, say to [0, 1]."
    ),
    assumptions=(
        "Variance: of one sample's gradient in the field's value, over the loss's own curvature; "
        "comparable: within a factor of two; beta = 1, for which v* is v0 + 2 Cov."
    ),
    first="closed conditional moments E[r^k D|x], E[r^k |D|²|x] of Gaussian sums "
    "(theory.ledger.liu.noise)",
    second=(
        "the losses' values by quadrature: gradients and curvature by differences, minimisers found"
    ),
    recorded="conditional",
    remark=(
        "True where r stays near 0 or near 1. NFT's noise is (2r - 1)², which vanishes at r = "
        "1/2, where the released code puts its rewards; it subtracts v0 as a control variate, "
        "which the weighted loss does not. Over beta the ratio runs through every size."
    ),
    parts=L12_PARTS,
    region=noise_region,
)
