r"""Numerical derivatives of posterior means in a parameter, on nodes that the stencil shares.

A law h(y) moves with a parameter s: h_s = h exp(q(s, y)), q(0, .) = 0. With c a fixed point and
g = expm1(q(s, y) - q(s, c)),

    log int h_s / int h = q(s, c) + log1p(E[g]),    E_s[f] = (E[f] + E[f g]) / (1 + E[g]),

so one vector-valued integral gives masses and means at all s of a stencil, and what the
quadrature misses is a smooth function of s too. The derivative at s = 0 is that of the odd
polynomial of degree 2 PAIRS - 1 through the odd part at Chebyshev nodes; the radius is such that
h_s stays a mild change of h, so that singularities in s are several radii away.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from theory.ledger.oracle.integrals.integrate import Array, Function, mesh
from theory.ledger.oracle.integrals.law import Law

PAIRS = 6
MILD = 0.1  # |q| over the radius where h is near its peak; further out, over the fall of log h
Exponent = Callable[[Array, Array], Array]  # y (n, d), s (J,) -> (n, J)

_NODES = np.cos(np.pi * (2 * np.arange(PAIRS) + 1) / (4 * PAIRS))
_OTHERS = np.where(np.eye(PAIRS, dtype=bool), 0.0, _NODES**2)
_WEIGHTS = np.prod(
    np.where(np.eye(PAIRS, dtype=bool), 1.0, -_OTHERS / ((_NODES**2)[:, None] - _OTHERS)), axis=1
) / (2 * _NODES)


def steps(radius: float) -> Array:
    """The stencil, (2 PAIRS,): the positive nodes, then their mirror images."""
    return radius * np.concatenate([_NODES, -_NODES])


def slope(values: Array, radius: float) -> Array:
    """The derivative at 0 from values (2 PAIRS, ...) at `steps(radius)`, shape (...)."""
    return np.asarray(np.tensordot(_WEIGHTS, values[:PAIRS] - values[PAIRS:], axes=1) / radius)


def _cloud(law: Law) -> tuple[Array, Array]:
    """Points around every mode of the law and all over its region, (n, d), and how far log|h| is
    below its peak there. Without the region, an exponent that is flat around the peak and large
    elsewhere would pass for mild."""
    d, region = len(law.x), law.density.region
    arms = np.array([s for s in np.ndindex(*[3] * d) if any(c != 1 for c in s)]) - 1.0
    around = np.concatenate([np.zeros((1, d)), arms, 2 * arms, 4 * arms])
    side = 129 if d == 1 else 25
    all_over = mesh(
        [np.linspace(a, b, side) for a, b in zip(region.lower, region.upper, strict=True)]
    )
    y = np.concatenate([*(c.centre + around @ c.frame.T for c in law.charts), all_over])
    return y, law.charts[0].log_peak - law.log_h(y)


def radius_for(law: Law, exponent: Exponent, largest: float) -> float:
    """The largest of largest / 2^k, k <= 120, at which exp(q) changes the law mildly."""
    y, fall = _cloud(law)
    y, fall = y[np.isfinite(fall)], fall[np.isfinite(fall)]
    centre = law.charts[0].centre[None]
    for radius in largest * 0.5 ** np.arange(121):
        ends = np.array([radius, -radius])
        with np.errstate(all="ignore"):  # a radius far too large is refused, whatever it gives
            size = np.abs(exponent(y, ends) - exponent(centre, ends)).max(axis=1)
        if np.all(size <= MILD * np.maximum(fall, 1.0)):  # never for nan
            break
    return float(radius)


def shifted(law: Law, exponents: Function, f: Function) -> tuple[Array, Array]:
    """log int h_s / int h (J,) and E_s[f] (J, m), for exponents (n, d) -> (n, J) and f (n, d) ->
    (n, m). Raises QuadratureError."""
    base = exponents(law.charts[0].centre[None])

    def integrand(y: Array) -> Array:
        gain, value = np.expm1(exponents(y) - base), f(y)
        both = gain[:, :, None] * value[:, None, :]
        return np.concatenate([gain, value, both.reshape(len(y), -1)], axis=1)

    found, j = law.mean(integrand).value, base.shape[1]
    gain, rest = found[:j], found[j:]
    m = len(rest) // (j + 1)
    mean = (rest[:m] + rest[m:].reshape(j, m)) / (1 + gain)[:, None]
    return base[0] + np.log1p(gain), mean
