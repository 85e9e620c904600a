"""The recursion in closed form where laws stay Gaussian: d = 1, N(mu, s^2), r = h x^2/2 + b x + c.

With V = t^2 s^2 + (1-t)^2 the posterior of X_1 is Gaussian of variance P = s^2 (1-t)^2 / V, so
Cov(X_1 - X_0, r | x) = P (h E[X_1 | x] + b) / (1-t) is affine in x, and so is every field of
the modes "frozen" and "refit". In w = s t/(1-t) = tan(phi) the two scalar ODEs of one refit epoch
are integrals that close: with kappa = lam h s^2 / 2,

    s'^2 = s^2 exp(2 kappa),     mu' = mu + lam (h mu + b) s^2 exp(kappa) int_0^1 exp(-kappa y^2) dy

(d log s/dt gains lam h s^4 t (1-t)/V^2, whose integral is kappa; the mean's source
lam s^2 (1-t) (h mu + b)/V is carried to t = 1 by s V^(-1/2) exp(kappa cos^2 phi)). For comparison
the tilt by exp(lam r) has 1/s'^2 = 1/s^2 - lam h. Consequences:

- h = 0: mu' = mu + lam b s^2, s' = s: the tilt exactly, at every lam. Then u_{q'} is the new field
  itself, so the student's epochs are the refit's.
- h < 0: s_k^2 > 0 always falls, 1/s_k^2 = 1/s_0^2 + |h| K lam + O(lam) for a fixed sum K lam.
- h > 0: the refit law exists at every lam, where the tilt needs lam h s^2 < 1.

An ema replaces lam by (1 - ema) lam. For anchors and frozen terms `affine_flow` solves the ODEs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import dawsn, erf

from theory.common.checks import check_finite, check_positive

# An affine field in one dimension: t -> (slope, intercept).
Affine = Callable[[float], tuple[float, float]]
RTOL = 1e-12


def gaussian_epoch(
    mean: float, std: float, lam: float, curvature: float, slope: float
) -> tuple[float, float]:
    """(mean, std) after one refit epoch with r = curvature x^2/2 + slope x + c."""
    _check(mean, std)
    kappa = 0.5 * lam * curvature * std**2
    push = lam * (curvature * mean + slope) * std**2 * _push_factor(kappa)
    return mean + push, std * math.exp(kappa)


def _push_factor(kappa: float) -> float:
    """exp(kappa) int_0^1 exp(-kappa y^2) dy."""
    if kappa == 0:
        return 1.0
    root = math.sqrt(abs(kappa))
    if kappa < 0:
        return float(dawsn(root)) / root
    return math.exp(kappa) * 0.5 * math.sqrt(math.pi) / root * float(erf(root))


def gaussian_tilt(
    mean: float, std: float, scale: float, curvature: float, slope: float
) -> tuple[float, float]:
    """(mean, std) of N(mean, std^2) exp(scale r).

    Raises:
        ValueError: scale curvature std^2 >= 1, where the tilt does not exist.
    """
    _check(mean, std)
    precision = 1 / std**2 - scale * curvature
    if precision <= 0:
        raise ValueError(
            f"scale * curvature = {scale * curvature:g}: allowed is less than 1/std^2 = "
            f"{1 / std**2:g}, where exp(scale r) has an integral"
        )
    return (mean / std**2 + scale * slope) / precision, precision**-0.5


def gaussian_velocity(mean: float, std: float) -> Affine:
    """u_q of q = N(mean, std^2) as slope and intercept in x."""
    _check(mean, std)

    def field(t: float) -> tuple[float, float]:
        a = (t * std**2 - (1 - t)) / (t**2 * std**2 + (1 - t) ** 2)
        return a, mean * (1 - a * t)

    return field


def gaussian_covariance(mean: float, std: float, curvature: float, slope: float) -> Affine:
    """Cov_q(X_1 - X_0, r | X_t = x) of q = N(mean, std^2) as slope and intercept in x."""
    _check(mean, std)

    def field(t: float) -> tuple[float, float]:
        variance = t**2 * std**2 + (1 - t) ** 2
        spread, gain = std**2 * (1 - t) / variance, t * std**2 / variance
        return spread * curvature * gain, spread * (curvature * mean * (1 - gain * t) + slope)

    return field


def affine_flow(field: Affine) -> tuple[float, float]:
    """(mean, std) at t = 1 of dX = (a(t) X + c(t)) dt, X_0 ~ N(0, 1), by its two scalar ODEs."""

    def rate(t: float, state: np.ndarray) -> list[float]:
        a, c = field(t)
        return [a * state[0] + c, a]

    end = solve_ivp(rate, (0, 1), [0.0, 0.0], method="DOP853", rtol=RTOL, atol=1e-13).y[:, -1]
    return float(end[0]), math.exp(end[1])


def blend(*parts: tuple[float, Affine]) -> Affine:
    """Sum of weight times field."""

    def field(t: float) -> tuple[float, float]:
        values = [(weight, *part(t)) for weight, part in parts]
        return sum(w * a for w, a, _ in values), sum(w * c for w, _, c in values)

    return field


def _check(mean: float, std: float) -> None:
    check_finite("mean", mean)
    check_positive("std", std)
