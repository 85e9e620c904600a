"""What was lost beyond the tilt: weighted covariances prompt by prompt."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from scipy import special, stats

from tests.mutants.theory.audit.shared import Checks
from tests.theory.audit.synthetic import planted
from theory.audit.estimators import conditional, curve
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


CHECKS = {"excess": check_excess}

MUTANTS = {
    # excess
    "base not reweighted": (
        "excess",
        "implied = _variance(rest, weights, pooled)",
        "implied = _variance(rest, 1 - label, pooled)",
    ),
    "base for tuned": (
        "excess",
        "tuned = _variance(rest, label * (1 - curve.chance), pooled)",
        "tuned = _variance(rest, (1 - label) * curve.chance, pooled)",
    ),
    "overlap turned round": (
        "excess",
        "label * (1 - curve.chance), pooled)",
        "label * curve.chance, pooled)",
    ),
    "variance with bias": ("excess", "away / np.maximum(room, TINY) * (room > 0)", "away"),
    "tuned and base swapped": (
        "excess",
        "math.log(of_tuned / self.mean(",
        "-math.log(of_tuned / self.mean(",
    ),
    "p of another calibration": (
        "excess",
        "2 * float(student.sf(abs(log) / error, freedom))",
        "float(rank(np.abs(standardised(np.ones((1, 40)))))[0])",
    ),
    "features in their own units": (
        "excess",
        "units.standard(pooled_features(data))",
        "pooled_features(data)",
    ),
    "ends not swapped": (
        "excess",
        "-math.expm1(inner.high), -math.expm1(inner.low)",
        "-math.expm1(inner.low), -math.expm1(inner.high)",
    ),
    "rows of no weight": (
        "excess",
        "_variance(spread.features, u * weight, pooled)",
        "_variance(spread.features, weight, pooled)",
    ),
    "curve's refit doubled many times": (
        "excess",
        "inverse @ ((u - 1) @ scores)",
        "30 * inverse @ ((u - 1) @ scores)",
    ),
    "root not doubled": ("excess", "np.trace(q[1]) - 2 * cross", "np.trace(q[1]) - cross"),
    "covariance with bias": ("excess", "@ rest / (1 - float((weights**2).sum()))", "@ rest"),
    "floor not taken off": (
        "excess",
        "float(found[0] - found[1:].mean())",
        "float(found[1:].mean())",
    ),
    "implied of the base": ("excess", "share[base.prompt] * spread.weights", "even"),
    "not about a mean": (
        "excess",
        ("away = np.square(strata.raw - centre[np.searchsorted(turns, strata.prompt)]).sum(1)"),
        "away = strata.raw.sum(1)",
    ),
}
