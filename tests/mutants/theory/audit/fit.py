"""Labels given their numbers, and likelihoods: enumeration, differences."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
from scipy import special

from tests.mutants.harness import Checks, edited, replaced, revised
from tests.mutants.theory.audit.shared import ZERO, small, times
from tests.theory.audit.synthetic import conditional_likelihood, data_of, gaussians, label_law
from theory.audit.data.samples import SMALL
from theory.audit.fit import inclusion, likelihood
from theory.common.tolerances import ALGEBRA, QUADRATURE


def check_inclusion(module: ModuleType) -> Checks:
    pooled = small().pooled
    _, p = likelihood.intercepts(1.3 * pooled.reward, pooled)
    found = module.inclusion(p, pooled)
    pi, log = [], 0.0
    for g in range(3):
        rows = pooled.prompt == g
        labels, law, _ = label_law(1.3 * pooled.reward[rows], int(pooled.n1[g]))
        pi += (law @ labels).tolist()
        log += np.log(np.where(labels == 1, p[rows], 1 - p[rows]).prod(1).sum())
    pi = np.array(pi)
    n = pooled.sizes[pooled.prompt]
    large = gaussians(np.random.default_rng(0), 1, 40, 20, 0.5).pooled
    _, q = likelihood.intercepts(1.5 * large.reward, large)
    exact, exact_log = inclusion._of_block(q[None], np.array([20]))
    beyond = module.inclusion(q, large)
    drawn = module.draw_labels(p, pooled, 4000, np.random.default_rng(0))
    sure = data_of([np.arange(20.0)], [100 + np.arange(20.0)]).pooled
    certain = module.inclusion(np.where(sure.label == 1, 1 - 1e-9, 1e-9), sure)
    return {
        "certain": QUADRATURE.holds(1 + certain.log_normaliser, 1.0),
        "chance": ALGEBRA.holds(found.chance, pi),
        "weight": ALGEBRA.holds(found.weight, pi * (1 - pi) * n / (n - 1)),
        "normaliser": ALGEBRA.holds(found.log_normaliser, log),
        "expansion": bool(np.abs(beyond.chance - exact[0]).max() < 1 / 60**2),
        "expanded normaliser": abs(beyond.log_normaliser - exact_log) < 1 / 60,
        "counts": bool((pooled.sums(drawn.T.astype(float)) == pooled.n1[:, None]).all()),
        "draws": bool(np.abs(drawn.mean(0) - pi).max() < 5 / np.sqrt(4000)),
    }


def check_likelihood(module: ModuleType) -> Checks:
    data = small()
    pooled = data.pooled
    true = conditional_likelihood(lambda t, r: t * r, 0.8, data)
    evaluate = times(pooled.reward)
    fit = module.maximise(evaluate, ZERO, pooled)

    def value(t):
        return conditional_likelihood(lambda a, r: a * r, t, data)

    best = fit.theta[0]
    h = 1e-4
    slope = (value(best + h) - value(best - h)) / (2 * h)
    ridge = module.maximise(evaluate, ZERO, pooled, ridge=2.0).theta[0]
    ridge_slope = (value(ridge + h) - value(ridge - h)) / (2 * h) - 2 * ridge
    # Variances: rows alone; pairs of one seed.
    rng = np.random.default_rng(1)
    big = gaussians(rng, 3, 9, 7, 0.5).pooled
    own = module.maximise(times(big.reward), ZERO, big)
    rest, total = own.scores(big)[:, 0], 0.0
    for g in range(3):
        for label in (0, 1):
            cell = rest[(big.prompt == g) & (big.label == label)]
            total += len(cell) * np.var(cell, ddof=1)
    seeds = np.arange(30)
    pairs = data_of(
        [rng.normal(size=30)], [rng.normal(size=30)], base_seed=seeds, tuned_seed=seeds
    ).pooled
    of_pairs = module.maximise(times(pairs.reward), ZERO, pairs)
    score = of_pairs.scores(pairs)[:, 0]
    both = [score[pairs.label == k] - score[pairs.label == k].mean() for k in (0, 1)]
    paired = np.var(both[0] + both[1], ddof=1) * 30
    return {
        "value": ALGEBRA.holds(module.value_at(evaluate, np.array([0.8]), pooled), true),
        "maximum": QUADRATURE.holds(1 + slope, 1.0),
        "ridge": QUADRATURE.holds(1 + ridge_slope, 1.0),
        "rows": QUADRATURE.holds(module.score_variance(own, big), total),
        "pairs": QUADRATURE.holds(module.score_variance(of_pairs, pairs), paired),
        "chances": ALGEBRA.holds(module.chance_of(np.array([-2.0, 3])), special.expit([-2, 3])),
    }


CHECKS = {"fit.inclusion": check_inclusion, "fit.likelihood": check_likelihood}

# --- the mutants of a module, and the check that rejects each


def inclusion_with(change):
    """Other chances, weights or normalisers: change(found, p, pooled)."""

    def wrong(whole):
        def inclusion(p, pooled):
            found = whole(p, pooled)
            return replace(found, **change(found, p, pooled))

        return inclusion

    return replaced(inclusion=wrong)


def by_size(pooled, small, large):
    """Values of rows of small prompts, and of large ones."""
    return np.where(pooled.sizes[pooled.prompt] <= SMALL, small, large)


def without_2_pi(found, p, pooled):
    gap = 0.5 * np.log(2 * np.pi) * (pooled.sizes > SMALL).sum()
    return {"log_normaliser": found.log_normaliser + gap}


def rows_with(**fields):
    """Score variances of other rows: each field of them."""
    return replaced(
        score_variance=lambda whole: lambda fit, pooled: whole(fit, revised(pooled, **fields))
    )


MUTANTS = {
    "fit.inclusion": {
        "correction's sign": (
            inclusion_with(
                lambda found, p, pooled: {
                    "chance": by_size(pooled, found.chance, 2 * p - found.chance)
                }
            ),
            "expansion",
        ),
        "correction forgotten": (
            inclusion_with(lambda found, p, pooled: {"chance": by_size(pooled, found.chance, p)}),
            "expansion",
        ),
        "skew not centred": (
            edited("(skew - pooled.over_rows(mean) * w)", "(skew)"),
            "expansion",
        ),
        "2 pi forgotten": (inclusion_with(without_2_pi), "expanded normaliser"),
        "n/(n - 1) dropped": (
            inclusion_with(lambda found, p, pooled: {"weight": found.chance * (1 - found.chance)}),
            "weight",
        ),
        "labels of no doubt": (edited("size = W + rest / (2 * np.pi)", "size = W"), "certain"),
        "p for pi": (
            inclusion_with(lambda found, p, pooled: {"chance": by_size(pooled, p, found.chance)}),
            "chance",
        ),
        "normaliser's sign": (
            inclusion_with(lambda found, p, pooled: {"log_normaliser": -found.log_normaliser}),
            "normaliser",
        ),
        "later rows with this one": (
            edited(
                "table[:, 1:] = chance[:, i, None] * later[i + 1, :, :-1]",
                "table[:, 1:] = chance[:, i, None] * later[i, :, :-1]",
            ),
            "draws",
        ),
        "labels not counted down": (edited("left -= one", "left -= 0 * one"), "counts"),
    },
    "fit.likelihood": {
        "no normaliser": (
            inclusion_with(lambda found, p, pooled: {"log_normaliser": 0.0}),
            "value",
        ),
        "chance without condition": (
            inclusion_with(lambda found, p, pooled: {"chance": p}),
            "maximum",
        ),
        "labels swapped": (
            replaced(_row_values=lambda whole: lambda eta, pooled: whole(-eta, pooled)),
            "value",
        ),
        "ridge's sign": (
            replaced(maximise=lambda whole: lambda *given, ridge=0.0: whole(*given, ridge=-ridge)),
            "ridge",
        ),
        "means of cells kept": (
            edited("rest = scores - means[cell]", "rest = scores - 0 * means[cell]"),
            "rows",
        ),
        "cells by label alone": (rows_with(prompt=lambda pooled: 0 * pooled.prompt), "rows"),
        "pairs as single rows": (rows_with(unit=lambda pooled: None), "pairs"),
    },
}
