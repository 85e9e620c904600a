"""The free curve and the effective tilt: least squares, loops over prompts, enumerated flips."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
from scipy import stats

from tests.mutants.harness import Checks, edited, replaced, revised
from tests.mutants.theory.audit.shared import ZERO, times
from tests.theory.audit.synthetic import data_of, gaussians, statistic
from theory.audit.data.samples import Pooled
from theory.audit.estimators import tilt
from theory.audit.families import families
from theory.audit.fit import likelihood
from theory.common.tolerances import QUADRATURE, QUADRATURE_2D


def check_curve(module: ModuleType) -> Checks:
    pooled = gaussians(np.random.default_rng(3), 30, 20, 20, 0.4).pooled
    fit = families.FAMILIES["exponential"].fit(pooled).fit
    H = module.basis(pooled)
    bend = pooled.z**2
    c, prompt = fit.weight, pooled.prompt
    centred = bend - (np.bincount(prompt, c * bend) / np.bincount(prompt, c))[prompt]
    root = np.sqrt(c)
    factor = np.linalg.lstsq(root[:, None] * fit.slope, root * centred, rcond=None)[0]
    rest = centred - fit.slope @ factor
    score = (pooled.label - fit.chance) * rest
    t = stats.ttest_1samp(np.bincount(prompt, score), 0.0)
    alone = module.goodness(fit, pooled, bend[:, None])
    clusters = module.goodness(fit, pooled, bend[:, None], True)
    seeds = np.arange(60)
    rng = np.random.default_rng(4)
    noise = rng.normal(size=60)
    pairs = data_of(
        [noise], [0.4 + noise + 0.2 * rng.normal(size=60)], base_seed=seeds, tuned_seed=seeds
    ).pooled
    own = families.FAMILIES["exponential"].fit(pairs).fit
    square = pairs.z**2
    square = square - np.average(square, weights=own.weight)
    square = square - own.slope[:, 0] * (own.weight * own.slope[:, 0] @ square) / (
        own.weight @ own.slope[:, 0] ** 2
    )
    single = (pairs.label - own.chance) * square
    by_pair = np.bincount(pairs.unit, single)
    share = stats.rankdata(pooled.reward) / len(pooled)
    return {
        "statistic": QUADRATURE.holds(alone.statistic, score.sum() ** 2 / (c @ rest**2)),
        "p": QUADRATURE.holds(alone.p_value, stats.chi2.sf(alone.statistic, 1)),
        "Hotelling": QUADRATURE.holds(clusters.statistic, t.statistic**2),
        "F": QUADRATURE.holds(clusters.p_value, t.pvalue),
        "pairs": QUADRATURE.holds(
            module.goodness(own, pairs, (pairs.z**2)[:, None]).statistic,
            by_pair.sum() ** 2 / (by_pair @ by_pair),
        ),
        "freedom": module.goodness(fit, pooled, H).freedom == H.shape[1] - 1,
        "ranks": QUADRATURE.holds(H[:, 3], 2 * share - 1 - 1 / len(pooled), 1.0),
        "scores": QUADRATURE.holds(H[:, 1], stats.norm.ppf(share - 0.5 / len(pooled)), 1.0),
    }


def check_tilt(module: ModuleType) -> Checks:
    rng = np.random.default_rng(5)
    pooled = gaussians(rng, 12, 50, 40, 0.5 * rng.normal(size=12)).pooled
    found = module.prompt_tilts(pooled)
    w = 1 / found.error**2
    q = (w * (found.tilt - np.average(found.tilt, weights=w)) ** 2).sum()
    M = np.diag(w) - np.outer(w, w) / w.sum()
    expected = np.trace(M @ (np.diag(1 / w) + found.spread**2 * np.eye(12)))
    own = []
    for g in range(12):
        rows = pooled.prompt == g
        fit = likelihood.maximise(
            times(pooled.reward[rows]),
            ZERO,
            Pooled.sorted(pooled.reward[rows], pooled.label[rows], np.zeros(rows.sum(), dtype=int)),
        )
        own.append((fit.theta[0], fit.information[0, 0] ** -0.5))
    own = np.array(own)
    fitted = families.FAMILIES["exponential"].fit(pooled)
    interval = module.effective_tilt(fitted, pooled)
    little = gaussians(rng, 4, 6, 5, 0.8).pooled
    one = module.effective_tilt(families.FAMILIES["exponential"].fit(little), little, True)
    flips = 1 - 2 * (np.arange(2**12)[:, None] >> np.arange(12) & 1)

    def at(a, pooled=pooled):
        """(prompts' scores, information) in the reward's units, of a tilt held fixed."""
        held = likelihood.state(times(pooled.reward), np.array([a]), pooled, None)[0]
        return pooled.sums(held.scores(pooled)[:, 0]), held.information[0, 0]

    def refused(a):
        u = at(a)[0]
        return (np.abs(statistic(flips * u)) >= abs(statistic(u)) * (1 - 1e-9)).mean() <= 0.05

    def one_refused(a):
        u, information = at(a, little)
        return u.sum() ** 2 > stats.chi2.ppf(0.95, 1) * information

    def ends(found, decided):
        """Whether each end lies where the decision turns, within 2 % of the interval."""
        near = 0.01 * (found.high - found.low)
        return all(
            decided(end + sign * near) and not decided(end - sign * near)
            for end, sign in ((found.low, -1), (found.high, 1))
        )

    # One prompt with most rows: these prompts alone, by the sandwich.
    heavy = data_of(
        [rng.normal(size=400)] + [rng.normal(size=4) for _ in range(11)],
        [rng.normal(size=400)] + [rng.normal(size=4) for _ in range(11)],
    ).pooled
    of_heavy = families.FAMILIES["exponential"].fit(heavy)
    apart = module.effective_tilt(of_heavy, heavy)
    middle = likelihood.score_variance(of_heavy.fit, heavy)[0, 0]
    error = np.sqrt(middle) / of_heavy.fit.information[0, 0] / heavy.spread
    return {
        "tilts": QUADRATURE_2D.holds(found.tilt, own[:, 0]),
        "errors": QUADRATURE_2D.holds(found.error, own[:, 1]),
        "Q": QUADRATURE.holds(found.p_value, stats.chi2.sf(q, 11)),
        "spread": QUADRATURE.holds(expected, q),
        "interval": ends(interval, refused) and interval.scope == tilt.PROMPTS_LIKE,
        "one tilt": ends(one, one_refused),
        "one prompt": apart.scope == tilt.THESE_PROMPTS and apart.alone == 0,
        "sandwich": QUADRATURE.holds(
            [apart.low, apart.high], stats.norm.interval(0.95, apart.value, error)
        ),
    }


CHECKS = {"estimators.curve": check_curve, "estimators.tilt": check_tilt}

# --- the mutants of a module, and the check that rejects each


def unprojected(whole):
    """The functions' products with the wrapper's slope, which project on it, are 0."""

    def moments(fit, pooled, functions):
        products, *rest = whole(fit, pooled, functions)
        k = fit.slope.shape[1]
        products[:k, k:] = 0
        products[k:, :k] = 0
        return products, *rest

    return moments


def single_rows(whole):
    return lambda fit, pooled, *rest: whole(fit, replace(pooled, unit=None), *rest)


def without_shared_freedom(whole):
    def sf(x, freedom, rest):
        return whole.sf(x * (rest + freedom) / rest, freedom, rest)

    return SimpleNamespace(sf=sf)


def one_freedom_more(whole):
    return SimpleNamespace(ppf=lambda level, freedom: whole.ppf(level, freedom + 1), sf=whole.sf)


def at_the_maximum(whole):
    def at(fitted, pooled, step):
        return replace(whole(fitted, pooled, step), information=fitted.fit.information)

    return at


MUTANTS = {
    "estimators.curve": {
        "no projection on the wrapper": (replaced(_moments=unprojected), "statistic"),
        "projection's sign": (edited("np.vstack([-inner,", "np.vstack([inner,"), "statistic"),
        "prompts' sums not centred": (
            edited("rest = sums - sums.mean(0)", "rest = sums"),
            "Hotelling",
        ),
        "Hotelling's share": (replaced(fisher=without_shared_freedom), "F"),
        "prompts' means kept": (
            edited("inner - (totals / mass[:, None]).T @ totals", "inner"),
            "statistic",
        ),
        "pairs as rows in the test": (replaced(goodness=single_rows), "pairs"),
        "ranks of half the range": (
            replaced(_polynomials=lambda whole: lambda values: whole(values / 2)),
            "ranks",
        ),
    },
    "estimators.tilt": {
        "intercept's bias left in": (
            replaced(inclusion=lambda whole: lambda p, pooled: replace(whole(p, pooled), chance=p)),
            "tilts",
        ),
        "spread in standard units": (
            replaced(
                prompt_tilts=lambda whole: (
                    lambda pooled: revised(
                        whole(pooled), tilt=lambda found: found.tilt * pooled.spread
                    )
                )
            ),
            "tilts",
        ),
        "Q's weights": (
            replaced(_between=lambda whole: lambda tilt, error: whole(tilt, np.sqrt(error))),
            "Q",
        ),
        "heterogeneity's norm": (
            edited("(w.sum() - (w**2).sum() / w.sum())", "w.sum()"),
            "spread",
        ),
        "half the rows do not matter": (replaced(MOST_SHARE=lambda whole: 1.0), "one prompt"),
        "scores at the maximum for all a": (
            replaced(_at=lambda whole: lambda fitted, pooled, step: whole(fitted, pooled, 0.0)),
            "interval",
        ),
        "flips in standard units": (
            replaced(
                _between_ends=lambda whole: lambda value, unit, *rest: whole(value, 1.0, *rest)
            ),
            "interval",
        ),
        "chi^2 of two": (replaced(chi2=one_freedom_more), "one tilt"),
        "information at the maximum for all a": (replaced(_at=at_the_maximum), "one tilt"),
        "information for the sandwich": (
            replaced(score_variance=lambda whole: lambda fit, pooled: fit.information),
            "sandwich",
        ),
    },
}
