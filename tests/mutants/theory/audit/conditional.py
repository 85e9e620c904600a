"""Features given prompt and reward: least squares with dummies, planted collapse."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
from scipy import stats

from tests.mutants.harness import Checks, edited, overridden, replaced, revised
from tests.theory.audit.synthetic import data_of, planted
from theory.audit.fit import likelihood
from theory.common.tolerances import ALGEBRA, FLOAT32


def check_conditional(module: ModuleType) -> Checks:
    data = planted(np.random.default_rng(8), 2, 80, scale=[0.35, 1.0])
    permuted = module.permute(data, 0, 39)
    strata = permuted.strata
    found = module.conditional_test(data, permuted, 0, False)
    dummies = np.eye(strata.pooled.count)[strata.pooled.prompt]
    X = np.hstack([dummies, strata.functions])
    root = np.sqrt(strata.weight)[:, None]
    phi = np.random.default_rng(0).normal(size=(len(X), 2)).astype(np.float32)
    rest = phi - X @ np.linalg.lstsq(root * X, root * phi.astype(float), rcond=1e-10)[0]
    sums = np.stack(
        [permuted.residual[:, strata.prompt == g] @ rest[strata.prompt == g] for g in range(2)]
    )
    shifted = planted(np.random.default_rng(9), 1, 200, shift=1.5, a=0.2)
    moved = module.conditional_test(shifted, module.permute(shifted, 0, 39), 0, False)
    noise = np.random.default_rng(0).normal(size=(200, 2))
    seeds = np.arange(200)
    pairs = data_of(
        [noise[:, 0]], [noise[:, 0] + 0.1], [noise], [noise], base_seed=seeds, tuned_seed=seeds
    )
    kept = module.stratify(pairs)
    label = kept.pooled.label
    null = planted(np.random.default_rng(10), 2, 80, a=1.0)
    under = module.conditional_test(null, module.permute(null, 0, 39), 0, False)
    _, p = likelihood.intercepts(strata.log_ratio, strata.pooled)
    return {
        "real labels first": bool((permuted.labels[0] == (strata.pooled.label == 1)).all()),
        "labels": permuted.labels.shape[0] == 40,
        "power": found.p_value == 1 / 40,
        "prompt": bool(found.prompt_p[0] == 1 / 40 and found.prompt_p[1] > 1 / 40),
        "level": under.p_value > 1 / 40,
        "projection": FLOAT32.holds(module.orthogonal(phi, strata), rest, 10.0),
        "sums": FLOAT32.holds(
            module.prompt_sums(strata, permuted.residual, rest.astype(np.float32)), sums, 10.0
        ),
        "witness": bool(np.nanmean(moved.witness[1]) > np.nanmean(moved.witness[0])),
        "rank": ALGEBRA.holds(module.rank(np.array([2.0, 1, 3, 2])), 0.75),
        "standardised": ALGEBRA.holds(
            module.standardised(np.array([1.0, 2, 4])), stats.zscore([1.0, 2, 4]), 1.0
        ),
        "seeds": not set(kept.side_row[label == 0]) & set(kept.side_row[label == 1]),
        "chances": ALGEBRA.holds(strata.p, p),
        "residual": FLOAT32.holds(permuted.residual.mean(1)[1:] + 1, np.ones(39), 1.0),
        "narrow": bool(strata.pooled.sizes.max() <= 32 and strata.pooled.count > 10),
    }


CHECKS = {"estimators.conditional": check_conditional}

# --- the mutants of a module, and the check that rejects each


def labels_with(of):
    """Other labels of the real data and its permutations."""
    return replaced(
        permute=lambda whole: (
            lambda *given: revised(whole(*given), labels=lambda found: of(found.labels))
        )
    )


def without_curve(whole):
    def orthogonal(phi, strata):
        return whole(phi, replace(strata, functions=0 * strata.functions))

    return orthogonal


def means_kept(whole):
    def orthogonal(phi, strata):
        means = likelihood.prompt_means(phi, strata.weight, strata.pooled)
        return whole(phi, strata) + strata.pooled.over_rows(means).astype(np.float32)

    return orthogonal


def turned(whole):
    return lambda strata, phi, direction, data: whole(strata, phi, -direction, data)


MUTANTS = {
    "estimators.conditional": {
        "real labels not among them": (
            labels_with(lambda labels: np.concatenate([labels[1:2], labels[1:]])),
            "real labels first",
        ),
        "real labels last": (
            labels_with(lambda labels: np.roll(labels, -1, 0)),
            "real labels first",
        ),
        "labels without their chance": (
            overridden(
                "Permuted",
                residual=lambda whole, self: self.labels.astype(np.float32) - np.float32(0.3),
            ),
            "residual",
        ),
        "no projection on the curve": (replaced(orthogonal=without_curve), "projection"),
        "strata's means kept": (replaced(orthogonal=means_kept), "projection"),
        "small values are extreme": (
            replaced(rank=lambda whole: lambda values: whole(-values)),
            "power",
        ),
        "ties do not count": (
            replaced(rank=lambda whole: lambda values: 1 - whole(-values)),
            "rank",
        ),
        "witness turned": (replaced(_witness=turned), "witness"),
        "pairs on both sides": (
            edited("at_most(data.unpaired(), MOST_ROWS)", "at_most(data, MOST_ROWS)"),
            "seeds",
        ),
        "strata by prompt alone": (
            replaced(_cut=lambda whole: lambda pooled: whole(replace(pooled, reward=pooled.label))),
            "no stratum of rewards",
        ),
    }
}
