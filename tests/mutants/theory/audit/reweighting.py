"""The base reweighted: loops over prompts, the jackknife by hand."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
from scipy import special

from tests.mutants.harness import Checks, edited, replaced
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


CHECKS = {"estimators.reweighting": check_reweighting}

# --- the mutants of a module, and the check that rejects each


def tuned_rows(whole):
    return lambda values, pooled: whole(values, replace(pooled, label=1 - pooled.label))


def together(whole):
    return lambda log_ratio, pooled: whole(log_ratio, replace(pooled, prompt=0 * pooled.prompt))


def nearer_end(whole):
    def at_most(tilt, pooled):
        near = min(abs(tilt.low), abs(tilt.high))
        return whole(replace(tilt, low=-near, high=near), pooled)

    return at_most


def by_all_rows(whole):
    """The spread over n for that over n - 1."""

    def at_most(tilt, pooled):
        found = whole(tilt, pooled)
        return found and found * (1 - pooled.count / pooled.n0.sum())

    return at_most


MUTANTS = {
    "estimators.reweighting": {
        "weights of all prompts together": (replaced(reweighted=together), "weights"),
        "tuned rows reweighted": (replaced(_base=tuned_rows), "there"),
        "bias left in": (edited("log_z = top + jackknife", "log_z = top + plain"), "bound"),
        "top forgotten": (edited("log_z = top + jackknife", "log_z = jackknife"), "there"),
        "prompts even in the error": (
            edited("share**2 @ (of_tuned", "share @ (of_tuned"),
            "error",
        ),
        "base rows' own noise": (edited("+ pooled.over_rows(n1) * ratio", ""), "there"),
        "any number of base rows": (
            replaced(MOST_BIAS=lambda whole: np.inf, MOST_LEFT=lambda whole: np.inf),
            "too few",
        ),
        "nearer end": (replaced(kl_at_most=nearer_end), "at most"),
        "n for n - 1 in the spread": (replaced(kl_at_most=by_all_rows), "at most"),
        "prompts even in the flips": (
            edited("away = share * (own - value)", "away = (own - value) / len(own)"),
            "flips",
        ),
    }
}
