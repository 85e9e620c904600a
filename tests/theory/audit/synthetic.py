"""Samples with known laws, and brute force over labels: what theory.audit is checked against."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special, stats

from theory.audit import AuditData, audit_data
from theory.common.tolerances import FALSE_FAILURE_RATE

# How many standard errors a normal estimate may be off, two-sided, at FALSE_FAILURE_RATE.
SIGMAS = float(stats.norm.isf(FALSE_FAILURE_RATE / 2))


def statistic(u):
    """Hall's (1992) of the rows (..., P): ((1 + c w / 3)^3 - 1) / c + c / 6."""
    size = np.linalg.norm(u, axis=-1)
    w, c = u.sum(-1) / size, (u**3).sum(-1) / size**3
    return ((1 + c * w / 3) ** 3 - 1) / c + c / 6


def data_of(base: Sequence, tuned: Sequence, base_features=None, tuned_features=None, **seeds):
    """AuditData of rewards (and features) given as one array a prompt."""
    numbers = [np.repeat(np.arange(len(side)), [len(r) for r in side]) for side in (base, tuned)]
    features = [
        None if f is None else np.concatenate([np.asarray(x) for x in f])
        for f in (base_features, tuned_features)
    ]
    return audit_data(
        np.concatenate([np.asarray(r, dtype=float) for r in base]),
        np.concatenate([np.asarray(r, dtype=float) for r in tuned]),
        *numbers,
        prompt_names=[f"prompt {i}" for i in range(len(base))],
        base_features=features[0],
        tuned_features=features[1],
        **seeds,
    )


def gaussians(
    rng: np.random.Generator, prompts: int, n0: int, n1: int, a: float | Sequence[float]
) -> AuditData:
    """Rewards N(mu_g, 1), tuned by exp(a_g r): N(mu_g + a_g, 1). mu_g about one apart."""
    tilts = np.broadcast_to(np.asarray(a, dtype=float), prompts)
    mu = rng.normal(size=prompts)
    base = [m + rng.normal(size=n0) for m in mu]
    return data_of(base, [m + t + rng.normal(size=n1) for m, t in zip(mu, tilts, strict=True)])


def planted(
    rng: np.random.Generator,
    prompts: int,
    n: int,
    *,
    a: float = 0.6,
    scale: float | Sequence[float] = 1.0,
    shift: float = 0.0,
    dim: int = 4,
) -> AuditData:
    """Features f = noise + reward direction; tuned: tilted rewards, and the noise given the reward
    scaled about its mean, and shifted along the last axis, both in a prompt of its own or in all.
    """
    scales = np.broadcast_to(np.asarray(scale, dtype=float), prompts)
    sides: tuple[list, list] = ([], [])
    features: tuple[list, list] = ([], [])
    for g in range(prompts):
        mu = rng.normal(size=dim)
        for side, tilt, size, move in ((0, 0.0, 1.0, 0.0), (1, a, scales[g], shift)):
            r = tilt + rng.normal(size=n)
            f = mu + 0.7 * r[:, None] + size * rng.normal(size=(n, dim))
            f[:, -1] += move
            sides[side].append(r)
            features[side].append(f)
    return data_of(*sides, *features)


# --- brute force over labels


def label_law(log_odds: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray, float]:
    """All label vectors (K, n) with m ones, their probabilities, log sum of products of odds."""
    chosen = list(itertools.combinations(range(len(log_odds)), m))
    labels = np.zeros((len(chosen), len(log_odds)))
    for row, ones in enumerate(chosen):
        labels[row, list(ones)] = 1
    logs = labels @ log_odds
    total = float(special.logsumexp(logs))
    return labels, np.exp(logs - total), total


def conditional_likelihood(log_ratio: Callable, theta, data: AuditData) -> float:
    """sum_g log P(labels | their number), by subsets; log_ratio(theta, rewards)."""
    value = 0.0
    for g in range(len(data.prompts)):
        base = data.base.reward[data.base.prompt == g]
        tuned = data.tuned.reward[data.tuned.prompt == g]
        logs = log_ratio(theta, np.concatenate([tuned, base]))
        value += logs[: len(tuned)].sum() - label_law(logs, len(tuned))[2]
    return float(value)


# --- laws without randomness


def quantiles(n: int) -> np.ndarray:
    """n places in the middle of equal shares of (0, 1)."""
    return (np.arange(n) + 0.5) / n


def tilted_quantiles(n: int, base_quantile: Callable, log_phi: Callable) -> np.ndarray:
    """Quantiles of the law of base_quantile(U) tilted by exp(log_phi(r, u)), by cumulative sums.

    Gauss-Legendre in 4000 cells, and a table of the cdf that is inverted by a cubic.
    """
    from scipy.interpolate import PchipInterpolator

    cells = 4000
    nodes, weights = np.polynomial.legendre.leggauss(5)
    edges = np.linspace(0, 1, cells + 1)
    u = edges[:-1, None] + (nodes + 1) / (2 * cells)
    mass = (np.exp(log_phi(base_quantile(u), u)) * weights).sum(1)
    cdf = np.concatenate([[0.0], np.cumsum(mass)])
    return base_quantile(PchipInterpolator(cdf / cdf[-1], edges)(quantiles(n)))
