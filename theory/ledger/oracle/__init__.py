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

from dataclasses import replace

import numpy as np

from theory.ledger.oracle.integrals.integrate import (
    EPS,
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
    "expectation",
    "integrate",
    "normaliser",
    "posterior_expectation",
    "velocity",
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
