"""Mistakes in theory.audit's own code: each is rejected by a quick check of its module.

A mutant is a module's text with one snippet replaced. The checks use enumeration, loops and
closed forms, and give the names of what fails; the modules as they stand fail nothing.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from scipy import special, stats

from tests.mutants.harness import mutant_module
from tests.theory.audit.synthetic import (
    conditional_likelihood,
    data_of,
    gaussians,
    label_law,
    planted,
    statistic,
)
from theory.audit.data.samples import Pooled
from theory.audit.estimators import conditional, curve, tilt
from theory.audit.families import families
from theory.audit.fit import inclusion, likelihood
from theory.common.tolerances import ALGEBRA, FLOAT32, QUADRATURE, QUADRATURE_2D

FAMILIES = ("family", "ranks", "curved", "clipped")
ELSEWHERE = {
    "inclusion": "fit.inclusion",
    "likelihood": "fit.likelihood",
    **{name: f"families.{name}" for name in FAMILIES},
}
Checks = dict[str, bool]
ZERO = np.zeros(1)


def times(T):
    return lambda theta: (theta[0] * T, T[:, None])


def small(seed=0):
    rng = np.random.default_rng(seed)
    sizes = [(3, 2), (2, 5), (4, 1)]
    return data_of(
        [rng.normal(size=n) for n, _ in sizes], [0.7 + rng.normal(size=m) for _, m in sizes]
    )


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


def check_families(module: ModuleType) -> Checks:
    rng = np.random.default_rng(2)
    pooled = data_of([0.5 + rng.gamma(3, size=90)], [0.4 + rng.gamma(4, size=70)]).pooled
    found: Checks = {}
    for name, known in families.FAMILIES.items():
        kind = getattr(module, type(known).__name__, None)  # those that the module defines
        if kind is None:
            continue
        family = kind(**vars(known))
        fitted = family.fit(pooled)
        h, theta = 1e-5, fitted.fit.theta
        slope = (fitted.evaluate(theta + h)[0] - fitted.evaluate(theta - h)[0]) / (2 * h)
        found[f"{name}: slope"] = QUADRATURE.holds(fitted.evaluate(theta)[1][:, 0], slope, 1.0)
        p, r, log = fitted.parameters, pooled.reward, fitted.fit.log_ratio
        words = {
            "exponential": lambda p=p, r=r: p["a"] * r,
            "linear": lambda p=p, r=r: np.log(p["constant"] + p["slope"] * r),
            "truncated_2": lambda p=p, r=r: np.log(1 + p["a"] * r + (p["a"] * r) ** 2 / 2),
            "truncated_3": lambda p=p, r=r: np.log(
                1 + p["a"] * r + (p["a"] * r) ** 2 / 2 + (p["a"] * r) ** 3 / 6
            ),
            "power": lambda p=p, r=r: p["b"] * np.log(r),
            "clipped": lambda p=p, r=r: p["a"] * np.minimum(r, p["cap"]),
            "best_of_n": lambda p=p: (p["n"] - 1) * np.log(_base_ranks(pooled)),
            "rank": lambda p=p: p["a"] * _base_ranks(pooled),
        }
        with np.errstate(invalid="ignore"):
            gap = log - words[name]()
        found[f"{name}: words"] = QUADRATURE.holds(gap, gap.mean(), 1.0)
        again = family.at(p, pooled)[1]
        found[f"{name}: at"] = QUADRATURE.holds(again, theta, 1.0)
    return found


def _base_ranks(pooled: Pooled) -> np.ndarray:
    base = pooled.reward[pooled.is_base]
    values = [((base < x).sum() + (base <= x).sum() + 1) / 2 for x in pooled.reward]
    return np.array(values) / (len(base) + 1)


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


CHECKS = {
    "inclusion": check_inclusion,
    "likelihood": check_likelihood,
    **dict.fromkeys(FAMILIES, check_families),
    "curve": check_curve,
    "tilt": check_tilt,
    "reweighting": check_reweighting,
    "conditional": check_conditional,
    "excess": check_excess,
}

MUTANTS = {
    # inclusion
    "correction's sign": ("inclusion", "chance = p - 0.5 *", "chance = p + 0.5 *"),
    "correction forgotten": ("inclusion", "chance = p - 0.5 *", "chance = p - 0.0 *"),
    "skew not centred": ("inclusion", "(skew - pooled.over_rows(mean) * w)", "(skew)"),
    "2 pi forgotten": ("inclusion", "np.log(2 * np.pi * size[~small])", "np.log(size[~small])"),
    "n/(n - 1) dropped": ("inclusion", "None) * (n / (n - 1))", "None)"),
    "labels of no doubt": ("inclusion", "size = W + rest / (2 * np.pi)", "size = W"),
    "p for pi": ("inclusion", "chance[rows] = found", "pass"),
    "normaliser's sign": ("inclusion", "log_normaliser += logs", "log_normaliser -= logs"),
    "later rows with this one": (
        "inclusion",
        "table[:, 1:] = chance[:, i, None] * later[i + 1, :, :-1]",
        "table[:, 1:] = chance[:, i, None] * later[i, :, :-1]",
    ),
    "labels not counted down": ("inclusion", "left -= one", "left -= 0 * one"),
    # likelihood
    "no normaliser": ("likelihood", "rows.sum()) - given.log_normaliser", "rows.sum())"),
    "chance without condition": (
        "likelihood",
        "chance, c = given.chance, given.weight",
        "chance, c = p, given.weight",
    ),
    "labels swapped": (
        "likelihood",
        "(2 * pooled.label - 1) * eta",
        "(1 - 2 * pooled.label) * eta",
    ),
    "ridge's sign": ("likelihood", "gradient - ridge * theta", "gradient + ridge * theta"),
    "means of cells kept": (
        "likelihood",
        "rest = scores - means[cell]",
        "rest = scores - 0 * means[cell]",
    ),
    "cells by label alone": (
        "likelihood",
        "cell = 2 * pooled.prompt + pooled.label",
        "cell = 0 * pooled.prompt + pooled.label",
    ),
    "pairs as single rows": ("likelihood", "rest = _by(rest, pooled.unit)", "pass"),
    "spread not taken off": ("family", "return pooled.z, pooled.spread", "return pooled.z, 1.0"),
    "n for n - 1": ("ranks", '"n", 1.0', '"n", 0.0'),
    "ranks of the tuned": (
        "ranks",
        "own[pooled.label[start:end] == 0]",
        "own[pooled.label[start:end] == 1]",
    ),
    "linear slope's sign": ("curved", "((c * z - s) / phi)", "((c * z + s) / phi)"),
    "linear centre": (
        "curved",
        "math.cos(theta) - slope * pooled.centre",
        "math.cos(theta) + slope * pooled.centre",
    ),
    "truncated derivative": (
        "curved",
        "_coefficients(self.order - 1)",
        "_coefficients(self.order)",
    ),
    "factorials forgotten": ("curved", "1 / math.factorial(j)", "1.0"),
    "cap in standard units": ("clipped", "cap = pooled.centre + pooled.spread * cut", "cap = cut"),
    # curve
    "no projection on the wrapper": ("curve", "np.vstack([-inner,", "np.vstack([0 * inner,"),
    "projection's sign": ("curve", "np.vstack([-inner,", "np.vstack([inner,"),
    "prompts' sums not centred": ("curve", "rest = sums - sums.mean(0)", "rest = sums"),
    "Hotelling's share": (
        "curve",
        "share = (groups - freedom) / (freedom * (groups - 1))",
        "share = groups / (freedom * (groups - 1))",
    ),
    "prompts' means kept": ("curve", "inner - (totals / mass[:, None]).T @ totals", "inner"),
    "pairs as rows in the test": ("curve", "if pooled.unit is not None:", "if False:"),
    "ranks of half the range": ("curve", "overall = 2 * share - 1", "overall = share - 0.5"),
    # tilt
    "intercept's bias left in": ("tilt", "(y - given.chance) * slope", "(y - p) * slope"),
    "spread in standard units": (
        "tilt",
        "np.where(good, a, np.nan) / pooled.spread",
        "np.where(good, a, np.nan)",
    ),
    "Q's weights": ("tilt", "w = error**-2", "w = error**-1"),
    "heterogeneity's norm": ("tilt", "(w.sum() - (w**2).sum() / w.sum())", "w.sum()"),
    "half the rows do not matter": ("tilt", "MOST_SHARE = 0.5", "MOST_SHARE = 1.0"),
    "scores at the maximum for all a": ("tilt", "fit.theta + step, pooled", "fit.theta, pooled"),
    "flips in standard units": ("tilt", "ends[0] / unit, ends[1] / unit", "ends[0], ends[1]"),
    "chi^2 of two": ("tilt", "chi2.ppf(CONFIDENCE, 1)", "chi2.ppf(CONFIDENCE, 2)"),
    "information at the maximum for all a": (
        "tilt",
        "max(float(fit.information[0, 0]), TINY)",
        "float(fitted.fit.information[0, 0])",
    ),
    "information for the sandwich": (
        "tilt",
        "math.sqrt(float(score_variance(fit, pooled)[0, 0]))",
        "math.sqrt(float(fit.information[0, 0]))",
    ),
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
    # conditional
    "real labels not among them": (
        "conditional",
        "np.concatenate([strata.pooled.label[None] == 1, drawn])",
        "drawn",
    ),
    "real labels last": (
        "conditional",
        "np.concatenate([strata.pooled.label[None] == 1, drawn])",
        "np.concatenate([drawn, strata.pooled.label[None] == 1])",
    ),
    "labels without their chance": (
        "conditional",
        "- self.strata.chance.astype(np.float32)",
        "- np.float32(0.3)",
    ),
    "no projection on the curve": (
        "conditional",
        ("return np.asarray(rest - H.astype(np.float32) @ inner.astype(np.float32))"),
        "return rest",
    ),
    "strata's means kept": (
        "conditional",
        ("rest = phi - pooled.over_rows(prompt_means(phi, c, pooled)).astype(np.float32)"),
        "rest = phi",
    ),
    "small values are extreme": (
        "conditional",
        "(values >= values[..., :1])",
        "(values <= values[..., :1])",
    ),
    "ties do not count": (
        "conditional",
        "(values >= values[..., :1])",
        "(values > values[..., :1])",
    ),
    "witness turned": ("conditional", "values = (phi @ direction)", "values = -(phi @ direction)"),
    "pairs on both sides": (
        "conditional",
        "at_most(data.unpaired(), MOST_ROWS)",
        "at_most(data, MOST_ROWS)",
    ),
    "strata by prompt alone": (
        "conditional",
        "np.lexsort((pooled.reward, pooled.prompt))",
        "np.lexsort((pooled.label, pooled.prompt))",
    ),
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


def mutated(name: str, *edits: tuple[str, str]) -> ModuleType:
    return mutant_module(f"theory.audit.{ELSEWHERE.get(name, f'estimators.{name}')}", *edits)


def failures(name: str, module: ModuleType) -> list[str]:
    """What fails; a mutant may also be unable to go on."""
    try:
        return [what for what, good in CHECKS[name](module).items() if not good]
    except ValueError as error:
        return [str(error)]


@pytest.mark.parametrize("name", CHECKS)
def test_modules_as_they_stand_pass(name):
    assert failures(name, mutated(name)) == []


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name):
    module, old, new = MUTANTS[name]
    with np.errstate(all="ignore"):
        assert failures(module, mutated(module, (old, new)))
