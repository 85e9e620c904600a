r"""Regularised maximisation over distributions, numerically: on n atoms, and values of densities.

On atoms, F(p) = sum_i p_i m_i - KL(p | p_k) / eta_1 - KL(p | p_0) / eta_0 is climbed in softmax
logits by damped Newton steps; that F is maximal is all that is used. In the plane and on the line,
unnormalised densities are normalised by the adaptive oracle. An eta of inf drops its term.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import logsumexp

from theory.ledger.oracle.integrals.integrate import Array, Function, Region, integrate
from theory.ledger.oracle.integrals.law import Density, Law

CONVERGED = 1e-13  # the last Newton step, in log p
_SWEEPS = 500
_STALL = 1e-12  # rounding in a difference of F
_FAINT = 1e-25  # absolute error of an interval's mass


def maximise_two_kl(
    m: Array, p_k: Array, p_0: Array, eta_1: float = math.inf, eta_0: float = math.inf
) -> Array:
    """The distribution (n,) on n atoms that maximises F, for rewards m and positive distributions
    p_k, p_0, all (n,). Raises ValueError for other shapes, masses that are not positive or do
    not sum to 1, eta <= 0 or both inf; RuntimeError if the climb does not converge."""
    m = np.asarray(m, dtype=np.float64)
    for name, p in (("p_k", p_k), ("p_0", p_0)):
        if np.shape(p) != m.shape or m.ndim != 1:
            raise ValueError(f"{name} must have the shape of m, (n,), got {np.shape(p)}")
        if np.any(np.asarray(p) <= 0) or abs(np.sum(p) - 1) > 1e-9:
            raise ValueError(f"{name} must be positive and sum to 1")
    strengths = 1 / np.array([eta_1, eta_0])
    if not (np.all(strengths >= 0) and 0 < strengths.sum() < math.inf):
        raise ValueError(f"eta_1 and eta_0 must be positive, one finite, got {eta_1} and {eta_0}")
    anchors = np.log([p_k, p_0])

    def objective(logits: Array) -> tuple[float, Array, Array]:
        """F, p, and dF/dp less its mean under p."""
        log_p = logits - logsumexp(logits)
        p = np.exp(log_p)
        gain = m - strengths @ (log_p - anchors)
        value = float(p @ gain)
        return value, p, gain - value

    logits = anchors[1].copy()
    value, p, gap = objective(logits)
    damping = 0.0
    for _ in range(_SWEEPS):
        # dF/dlogits = p gap. Newton in u = sqrt(p) dlogits; `gauge` holds shifts of all logits.
        root = np.sqrt(p)
        gauge = np.outer(root, root)
        tilt = gap[:, None] * gauge
        curvature = strengths.sum() * (np.eye(len(m)) - gauge) - np.diag(gap) + tilt + tilt.T
        try:
            factor = cho_factor(curvature + gauge + damping * np.eye(len(m)))
        except LinAlgError:
            damping = max(4 * damping, 1e-3 * strengths.sum())
            continue
        # root may underflow: a step in log p is at most 30.
        move = np.clip(cho_solve(factor, root * gap) / np.maximum(root, 1e-150), -30, 30)
        fresh = objective(logits + move)
        if fresh[0] < value - _STALL * (1 + abs(value)):
            damping = max(4 * damping, 1e-3 * strengths.sum())
            continue
        change = np.abs(fresh[1] - p).max()
        logits, (value, p, gap), damping = logits + move, fresh, damping / 8
        if damping < 1e-12 and change < CONVERGED:
            return p
    raise RuntimeError(f"the climb did not converge: largest gradient {np.abs(p * gap).max():.1e}")


def penalised(
    log_p: Function, reward: Function, references: Sequence[tuple[Function, float]], region: Region
) -> float:
    """E_p[r] - sum KL(p | reference) / strength in d = 1, 2, for a log density (n, d) -> (n,) up to
    a constant and pairs of a normalised log density and its strength; another constant in a
    reference moves the value alone. region holds the mass of p. Raises QuadratureError, also where
    a reference vanishes and p does not."""
    p = Law(Density(log_p, region), None)

    def integrand(y: Array) -> Array:
        own = log_p(y)
        return np.column_stack([reward(y), *(own - log_q(y) for log_q, _ in references)])

    (mass, gain, *gaps), _ = p.integral(integrand)
    log_z = math.log(mass) + p.log_scale()
    costs = (
        (gap / mass - log_z) / strength for gap, (_, strength) in zip(gaps, references, strict=True)
    )
    return float(gain / mass - sum(costs))


def regularised_objective(
    log_p: Function, log_reference: Function, reward: Function, strength: float, region: Region
) -> float:
    """The same with one reference, also known up to a constant, whose mass region holds too."""
    reference = Law(Density(log_reference, region), None)
    (mass, *_), _ = reference.integral()
    value = penalised(log_p, reward, [(log_reference, strength)], region)
    return value - (math.log(mass) + reference.log_scale()) / strength


def tilted_masses(
    log_p: Function, reward: Function, strength: float, intervals: Array, region: Region
) -> Array:
    """Masses of p exp(strength r) / Z in intervals (m, 2) of the line, (m,), ends may be infinite;
    log_p and r are (n, 1) -> (n,), the region holds the tilted mass at this strength. All is
    relative to the highest peak, so a strength of 1e4 does not overflow. Raises ValueError in d =
    2 and for an interval that is not increasing, QuadratureError."""
    intervals = np.asarray(intervals, dtype=np.float64)
    if len(region.lower) != 1:
        raise ValueError("tilted_masses needs d = 1")
    if intervals.ndim != 2 or intervals.shape[1] != 2 or np.any(intervals[:, 0] >= intervals[:, 1]):
        raise ValueError("intervals must have shape (m, 2), each with left < right")

    def log_h(y: Array) -> Array:
        return np.asarray(log_p(y) + strength * reward(y))

    law = Law(Density(log_h, region), None)
    ends = [c.centre[0] + c.frame[0, 0] * s[0] for c in law.charts for s in (c.lower, c.upper)]
    low, high = min(region.lower[0], *ends), max(region.upper[0], *ends)
    peaks = np.array([c.centre[0] for c in law.charts])
    cuts = np.concatenate([peaks, region.points[:, 0], intervals.ravel()])
    cuts = np.unique(cuts[(cuts > low) & (cuts < high)])
    top = law.charts[0].log_peak

    def integrand(y: Array) -> Array:
        h = np.exp(log_h(y) - top)[:, None]
        return np.hstack([h, h * ((y > intervals[:, 0]) & (y < intervals[:, 1]))])

    box = Region(np.array([low]), np.array([high]), cuts[:, None])
    found = integrate(integrand, box, atol=_FAINT).value
    return np.asarray(found[1:] / found[0])
