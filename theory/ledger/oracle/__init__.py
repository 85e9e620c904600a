r"""The second route: posterior fields, marginals and distances by adaptive integration.

A base density p, a weight w = Phi(r) (signed if need be) and the path X_t = alpha X_1 + sigma X_0,
with X_0 ~ N(0, I) independent of X_1, enter as callables and plain numbers. Everything is a ratio
of

    I[f](x) = int f(y) h(y) dy,  h(y) = w(y) p(y) exp(-|x - alpha y|^2 / (2 sigma^2)),  d = 1 or 2,

so E[f(X_1) | X_t = x] = I[f] / I[1]. No Gaussian identity is used, p is never asked for more than
its values, and this module shares neither code nor algebra with the closed forms that it checks.

How an integral is done. (1) Ascent on log|h| from the region's points, a grid and x / alpha finds
the modes m_k and, by difference quotients, an affine frame D_k in which each has unit curvature.
(2) h is cut up by a smooth partition of unity, w_k = softmax_k(log|h(m_k)| - |D_k^-1 (y - m_k)|^2 /
2): sum_k w_k = 1 is all that correctness needs, the frames only bring speed. (3) w_k h is
integrated in y = m_k + D_k u, over a box grown until its faces are below e^-60 of the peak, by
globally adaptive bisection with the 21-point Gauss-Kronrod rule (its tensor product in d = 2), many
cells at once. The error estimate is the plain |Kronrod - Gauss| summed over axes and cells, which
is pessimistic.

All in float64. log p must be stable and defined everywhere, -inf off the support, never NaN: a
posterior may sit outside the region. A feature far narrower than its surroundings is seen if it
is one of the points.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from theory.ledger.oracle.integrals.distances import distance, wasserstein_1d
from theory.ledger.oracle.integrals.integrate import (
    EPS,
    MAX_ORDER,
    Array,
    Estimate,
    Function,
    QuadratureError,
    Region,
    integrate,
)
from theory.ledger.oracle.integrals.law import Density, Law

__all__ = [
    "Density",
    "Estimate",
    "QuadratureError",
    "Region",
    "distance",
    "expectation",
    "integrate",
    "marginal_density",
    "mixed_cumulant",
    "normaliser",
    "posterior_expectation",
    "score",
    "velocity",
    "wasserstein_1d",
]


def normaliser(density: Density, weight: Function | None = None) -> Estimate:
    """int p w, shape (). weight is (n, d) -> (n,), e.g. Phi(r); it may be signed. Raises
    QuadratureError."""
    law = Law(density, weight)
    value, error = law.integral()
    return Estimate(value[0] * np.exp(law.log_scale()), error[0] * np.exp(law.log_scale()))


def expectation(density: Density, f: Function, weight: Function | None = None) -> Estimate:
    """int p w f / int p w, (m,), for an f (n, d) -> (n, m) that grows slowly. Raises
    QuadratureError, also where a signed weight cancels."""
    return Law(density, weight).mean(f)


def posterior_expectation(
    density: Density,
    f: Function,
    x: Array,
    alpha: float,
    sigma: float,
    weight: Function | None = None,
) -> Estimate:
    """E[f(X_1) | X_t = x] under p w, (m,), for one x (d,) and f (n, d) -> (n, m); accurate
    relative to E[|f| | x]. Raises ValueError for sigma <= 0 or an x of the wrong shape,
    QuadratureError as above."""
    return Law(density, weight, x, alpha, sigma).mean(f)


def velocity(
    density: Density,
    x: Array,
    alpha: float,
    sigma: float,
    dalpha: float,
    dsigma: float,
    weight: Function | None = None,
) -> Estimate:
    """E[alpha' X_1 + sigma' X_0 | X_t = x], X_0 = (x - alpha X_1) / sigma, (d,). Raises as the
    posterior does."""
    law = Law(density, weight, x, alpha, sigma)
    found = law.mean(lambda y: dalpha * y + dsigma * (x - alpha * y) / sigma)
    return replace(found, error=found.error + EPS * np.abs(x) * abs(dsigma) / sigma)


def score(
    density: Density, x: Array, alpha: float, sigma: float, weight: Function | None = None
) -> Estimate:
    """grad log of the law of X_t at x: E[(alpha X_1 - x) / sigma^2 | X_t = x], (d,). The
    rounding of X_1 leaves about 1e-16 |x| / sigma^2, which the error includes. Raises as the
    posterior does."""
    found = Law(density, weight, x, alpha, sigma).mean(lambda y: (alpha * y - x) / sigma**2)
    return replace(found, error=found.error + EPS * np.abs(x) / sigma**2)


def _partitions(n: int) -> Iterator[tuple[int, ...]]:
    """The block sizes of every set partition of n labels, the block of the first label in front."""
    if n == 1:
        yield (1,)
        return
    for sizes in _partitions(n - 1):
        yield from (tuple(s + (i == j) for j, s in enumerate(sizes)) for i in range(len(sizes)))
        yield (*sizes, 1)


def mixed_cumulant(
    density: Density,
    reward: Function,
    order: int,
    x: Array,
    alpha: float,
    sigma: float,
    dalpha: float,
    dsigma: float,
    weight: Function | None = None,
) -> Estimate:
    """kappa(V, r, ..., r), the joint cumulant of V = alpha' X_1 + sigma' X_0 and `order` <= 6
    copies of the reward r, (n, d) -> (n,), given X_t = x: the sum over set partitions of
    (-1)^(b-1) (b-1)! prod of the b blocks' central moments, (d,). Order 0 is E[V | x], 1 the
    covariance. Raises as the posterior does."""
    if order not in range(MAX_ORDER + 1):
        raise ValueError(f"order must be 0..{MAX_ORDER}, got {order}")
    law = Law(density, weight, x, alpha, sigma)
    d = len(law.x)

    def variables(y: Array) -> Array:
        return np.column_stack([dalpha * y + dsigma * (x - alpha * y) / sigma, reward(y)])

    first = law.mean(variables)
    if order == 0:
        return Estimate(first.value[:d], first.error[:d])

    def products(y: Array) -> Array:
        gap = variables(y) - first.value
        powers = gap[:, d:, None] ** np.arange(order + 1)  # (n, 1, order + 1)
        return np.concatenate([gap[:, :d, None] * powers, powers], axis=1).reshape(len(y), -1)

    central = law.mean(products)
    moment, slip = central.value.reshape(d + 1, -1), central.error.reshape(d + 1, -1)
    value, error = np.zeros(d), np.zeros(d)
    for (head, *rest), count in Counter(_partitions(order + 1)).items():
        factor = count * (-1) ** len(rest) * math.factorial(len(rest))
        others = np.prod(moment[d, rest])
        wobble = sum(
            slip[d, b] * abs(np.prod(moment[d, rest[:i] + rest[i + 1 :]]))
            for i, b in enumerate(rest)
        )
        value += factor * moment[:d, head - 1] * others
        error += abs(factor) * (
            slip[:d, head - 1] * abs(others) + np.abs(moment[:d, head - 1]) * wobble
        )
    return Estimate(value, error)


def marginal_density(
    density: Density, x: Array, alpha: float, sigma: float, weight: Function | None = None
) -> Estimate:
    """The density of X_t at x, shape (): int p w N(x; alpha y, sigma^2 I) / int p w. Raises as
    the posterior does."""
    law, base = Law(density, weight, x, alpha, sigma), Law(density, weight)
    (top, top_error), (bottom, bottom_error) = law.integral(), base.integral()
    unit = math.exp(law.log_scale() - base.log_scale()) / (2 * math.pi * sigma**2) ** (len(x) / 2)
    value = unit * top[0] / bottom[0]
    return Estimate(value, (unit * top_error[0] + abs(value) * bottom_error[0]) / abs(bottom[0]))
