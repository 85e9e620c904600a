"""The base reweighted: loops over prompts, the jackknife by hand."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
from scipy import special

from tests.mutants.theory.audit.shared import Checks
from tests.theory.audit.synthetic import data_of, gaussians, statistic
from theory.audit.estimators import tilt
from theory.common.tolerances import ALGEBRA, QUADRATURE


def check_reweighting(module: ModuleType) -> Checks:
    pooled = gaussians(np.random.default_rng(6), 3, 8, 6, 0.5).pooled
    f = 1.1 * pooled.reward
    found = module.reweighted(f, pooled)
    weights = [special.softmax(f[(pooled.prompt == g) & pooled.is_base]) for g in range(3)]

    def parts(pooled, f):
        """A prompt's (KL by the jackknife, Var_tuned(f)/n1, Var_base(w)/n0 by all rows)."""
        found = []
        for g in range(pooled.count):
            own = pooled.prompt == g
            e, tuned = np.exp(f[own & pooled.is_base]), f[own & ~pooled.is_base]
            n0, n1 = len(e), len(tuned)
            rest = [np.log(np.delete(e, i).mean()) for i in range(n0)]
            log_z = n0 * np.log(e.mean()) - (n0 - 1) * np.mean(rest)
            w = np.exp(f[own] - log_z)
            noise = max((w**2 / (n0 + n1 * w)).sum() - 1, 0) / n0
            found.append((tuned.mean() - log_z, tuned.var(ddof=1) / n1, noise))
        return np.array(found).T

    pooled_kl = gaussians(np.random.default_rng(16), 3, 40, 30, 0.9).pooled
    g = 0.9 * pooled_kl.reward
    values, of_tuned, noise = parts(pooled_kl, g)
    bound = module.kl_bound(g, pooled_kl)
    rng = np.random.default_rng(7)
    sizes = 15 + 3 * np.arange(15)
    many = data_of(
        [rng.normal(size=40) for _ in sizes], [0.9 + rng.normal(size=n) for n in sizes]
    ).pooled
    share = sizes / sizes.sum()
    own = parts(many, 0.9 * many.reward)[0]
    flips = np.sign(np.random.default_rng(1).normal(size=(40_000, 15)))
    like = module.kl_bound(0.9 * many.reward, many)

    def refused(x):
        u = share * (own - x)
        return (np.abs(statistic(flips * u)) >= abs(statistic(u))).mean() <= 0.05

    if bound is None or like is None:
        return {"there": False}
    near = 0.03 * (like.high - like.low)
    few = gaussians(np.random.default_rng(8), 15, 2, 2, 1.0).pooled
    flat = tilt.Interval(0.1, -0.2, 0.4, 0.15)
    base = pooled.reward[pooled.is_base] - np.repeat(
        [pooled.reward[pooled.is_base & (pooled.prompt == k)].mean() for k in range(3)], 8
    )
    return {
        "weights": ALGEBRA.holds(found.weights, np.concatenate(weights)),
        "effective": ALGEBRA.holds(found.effective, [1 / (w @ w) for w in weights]),
        "bound": ALGEBRA.holds(bound.value, np.mean(values), 1.0),
        "error": ALGEBRA.holds(bound.error, np.sqrt(np.sum(of_tuned + noise)) / 3),
        "flips": all(
            refused(end + sign * near) and not refused(end - sign * near)
            for end, sign in ((like.low, -1), (like.high, 1))
        ),
        "too few": module.kl_bound(few.reward, few) is None,
        "at most": QUADRATURE.holds(
            module.kl_at_most(flat, pooled), 0.4**2 * (base @ base) / (24 - 3) / 2
        )
        and module.kl_at_most(replace(flat, low=-3.0), pooled) is None,
    }


CHECKS = {"reweighting": check_reweighting}

MUTANTS = {
    # reweighting
    "weights of all prompts together": (
        "reweighting",
        "w = parts / np.bincount(prompt, parts)[prompt]",
        "w = parts / parts.sum()",
    ),
    "tuned rows reweighted": ("reweighting", "rows = pooled.is_base", "rows = ~pooled.is_base"),
    "bias left in": ("reweighting", "log_z = top + jackknife", "log_z = top + plain"),
    "top forgotten": ("reweighting", "log_z = top + jackknife", "log_z = jackknife"),
    "prompts even in the error": ("reweighting", "share**2 @ (of_tuned", "share @ (of_tuned"),
    "base rows' own noise": ("reweighting", "+ pooled.over_rows(n1) * ratio", ""),
    "any number of base rows": ("reweighting", "return None if few else found", "return found"),
    "nearer end": (
        "reweighting",
        "max(abs(tilt.low), abs(tilt.high))",
        "min(abs(tilt.low), abs(tilt.high))",
    ),
    "n for n - 1 in the spread": (
        "reweighting",
        "float((pooled.n0 - 1).sum())",
        "float(pooled.n0.sum())",
    ),
    "prompts even in the flips": (
        "reweighting",
        "away = share * (own - value)",
        "away = (own - value) / len(own)",
    ),
}
