"""What was lost beyond the tilt: weighted covariances prompt by prompt."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
from scipy import special, stats

from tests.mutants.harness import Checks, edited, overridden, replaced, revised
from tests.theory.audit.synthetic import planted
from theory.audit.estimators import conditional, curve, excess
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D


def check_excess(module: ModuleType) -> Checks:
    data = planted(np.random.default_rng(11), 2, 90, scale=[0.5, 0.9])
    permuted = conditional.permute(data, 0, 39)
    found = module.excess(data, permuted, 0)
    pooled, free = data.pooled, curve.fit_curve(data.pooled)
    sides = [
        (data.base, pooled.is_base, free.chance),
        (data.tuned, ~pooled.is_base, 1 - free.chance),
    ]
    rest = [data.base.features[data.base.prompt == g] for g in range(2)]
    unit = np.sqrt(np.square(np.concatenate([f - f.mean(0) for f in rest])).sum(0) / (180 - 2))
    base, implied, overlap, noise = [], [], ([], []), 0.0
    for g in range(2):
        rows = (pooled.prompt == g) & pooled.is_base
        f = data.base.features[data.base.prompt == g] / unit
        base.append(np.trace(np.cov(f.T)))
        implied.append(np.trace(np.cov(f.T, aweights=special.softmax(free.log_ratio[rows]))))
        for found_v, (side, own, weight) in zip(overlap, sides, strict=True):
            w, f = weight[(pooled.prompt == g) & own], side.features[side.prompt == g] / unit
            v = np.trace(np.cov(f.T, aweights=w))
            away = np.square(f - np.average(f, axis=0, weights=w)).sum(1) - v
            found_v.append(v)
            noise += (w**2 @ away**2) / w.sum() ** 2 / v**2
    base, implied, of_base, of_tuned = map(np.array, (base, implied, *overlap))
    mass = np.bincount(pooled.prompt, free.weight)
    share = (mass @ of_tuned) / (mass @ of_base)
    x = np.random.default_rng(0).normal(size=(30, 3))
    w = np.random.default_rng(1).dirichlet(np.ones(30))
    p, q = (x.mean(0), np.cov(x.T)), (w @ x, np.cov(x.T, aweights=w) + np.diag([1.0, 0, 2]))
    values = np.linalg.eigvals(p[1] @ q[1]).real
    distance = np.square(p[0] - q[0]).sum() + np.trace(p[1] + q[1]) - 2 * np.sqrt(values).sum()
    error = found.lost.error / share
    ends = 1 - share * np.exp(np.array([1, -1]) * stats.norm.ppf(0.975) * error)
    shifted = planted(np.random.default_rng(12), 1, 300, shift=1.5, a=0.2)
    moved = module.excess(shifted, conditional.permute(shifted, 0, 39), 0)
    # One bootstrap's worth of noise, by the delta method without the curve's own.
    rough = np.sqrt(noise) / 2
    return {
        "base": QUADRATURE.holds(found.base, base.mean()),
        "implied": QUADRATURE.holds(found.implied, implied.mean()),
        "lost": QUADRATURE.holds(found.lost.value, 1 - share),
        "interval": QUADRATURE.holds([found.lost.low, found.lost.high], ends, 1.0),
        "error": 0.8 < error / rough < 1.25,
        "by prompt": QUADRATURE.holds(found.by_prompt, 1 - of_tuned / of_base, 1.0),
        "p of a prompt": found.by_prompt_p[0] == 1 / 40,
        "p": QUADRATURE.holds(found.p_value, 2 * stats.norm.sf(abs(np.log(share)) / error)),
        "moments": ALGEBRA.holds(module.moments(x, w)[1], np.cov(x.T, aweights=w), 1.0),
        "frechet": QUADRATURE_2D.holds(module.frechet(p, q), distance),
        "excess": abs(moved.frechet_excess - 1.5**2 / 1.49) < 0.8 / 1.49,
        "implied distance": 0.013 < moved.frechet_implied < 0.3 < moved.frechet_total,
    }


CHECKS = {"estimators.excess": check_excess}

# --- the mutants of a module, and the check that rejects each


def spread_with(**fields):
    """Other variances: each field of what they are."""
    return overridden("Spread", of=lambda whole, *given: revised(whole(*given), **fields))


def turned_round(found):
    return excess._variance(found.features, found.pooled.label * found.curve.chance, found.pooled)


def in_own_units(whole, data, units):
    return whole(data, SimpleNamespace(standard=lambda features: features))


def with_bias(whole):
    def variance(x, weights, pooled):
        w = weights / pooled.over_rows(pooled.sums(weights))
        return whole(x, weights, pooled) * (1 - pooled.sums(w**2))

    return variance


def excess_with(**fields):
    """Another result: each field of what it is."""
    return replaced(excess=lambda whole: lambda *given: revised(whole(*given), **fields))


def root_not_doubled(whole):
    def frechet(p, q):
        gap = p[0] - q[0]
        without_root = gap @ gap + np.trace(p[1] + q[1])
        return 0.5 * (whole(p, q) + without_root)

    return frechet


def covariance_with_bias(whole):
    def moments(x, weights):
        mean, cov = whole(x, weights)
        return mean, cov * (1 - weights @ weights)

    return moments


def floor_not_taken_off(whole):
    def distances(*given):
        found = whole(*given)
        return found | {"frechet_excess": found["frechet_floor"]}

    return distances


def implied_of_the_base(whole):
    def distances(data, units, spread, permuted):
        even = 1 / spread.pooled.n0[data.base.prompt]
        return whole(data, units, replace(spread, weights=even), permuted)

    return distances


MUTANTS = {
    "estimators.excess": {
        "base not reweighted": (spread_with(implied=lambda found: found.base), "implied"),
        "base for tuned": (spread_with(overlap_tuned=lambda found: found.overlap_base), "lost"),
        "overlap turned round": (spread_with(overlap_tuned=turned_round), "lost"),
        "variance with bias": (replaced(_variance=with_bias), "base"),
        "tuned and base swapped": (
            overridden("Spread", log_ratio=lambda whole, self: -whole()),
            "lost",
        ),
        "p of another calibration": (excess_with(p_value=lambda found: found.frechet_p), "p"),
        "features in their own units": (overridden("Spread", of=in_own_units), "base"),
        "ends not swapped": (
            excess_with(
                lost=lambda found: replace(found.lost, low=found.lost.high, high=found.lost.low)
            ),
            "interval",
        ),
        "rows of no weight": (
            edited(
                "_variance(spread.features, u * weight, pooled)",
                "_variance(spread.features, weight, pooled)",
            ),
            "error",
        ),
        "curve's refit doubled many times": (
            edited("inverse @ ((u - 1) @ scores)", "30 * inverse @ ((u - 1) @ scores)"),
            "error",
        ),
        "root not doubled": (replaced(frechet=root_not_doubled), "frechet"),
        "covariance with bias": (replaced(moments=covariance_with_bias), "moments"),
        "floor not taken off": (replaced(_distances=floor_not_taken_off), "excess"),
        "implied of the base": (replaced(_distances=implied_of_the_base), "implied distance"),
        "not about a mean": (
            edited(
                "np.square(strata.raw - centre[np.searchsorted(turns, strata.prompt)])",
                "strata.raw",
            ),
            "p of a prompt",
        ),
    }
}
