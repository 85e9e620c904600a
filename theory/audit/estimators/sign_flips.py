r"""A sum of independent terms with mean zero: how far from zero is too far?

Where u_1, ..., u_P are independent and each as likely to be u as -u, any statistic of them has,
given the sizes |u_g|, the law of that of s_g u_g with even signs s: p = P(|T(s u)| >= |T(u)|) is
exact, whatever the sizes are and however unlike (Fisher 1935, section 21; Cameron, Gelbach and
Miller 2008, the wild cluster bootstrap with the null imposed). A variance estimated from the terms
would have to be told how few of them matter; this need not. Inverted in a parameter, it is an
interval.

T is the studentised sum w = sum u / |u|, freed of what skew terms make of it (Hall 1992):
T = w + c (2 w^2 + 1)/6 + c^2 w^3/27 with c = sum u^3 / |u|^3. Symmetric terms are tested exactly
either way; of skew ones w alone refuses the truth too often, by an error that T has not.

To ENUMERATED terms all signs are tried. Beyond, the LARGEST terms have DRAWS random signs and the
rest, many and small, are one normal variable of their variance, whose part in c is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.special import ndtr

from theory.audit.data.samples import Array

ENUMERATED, LARGEST, DRAWS = 12, 64, 4096
TIE = 1e-12  # of a statistic: what rounding makes of equal ones
CLOSE = 0.01  # of an end's distance: what one more step may move it by
MOST_STEPS, MOST_DOUBLINGS, BISECTIONS = 8, 60, 40


@cache
def _signs(count: int) -> Array:
    """(rows, count): every choice of signs, or DRAWS random ones."""
    if count <= ENUMERATED:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
    else:
        bits = np.random.default_rng(0).integers(0, 2, size=(DRAWS, count))
    return 1.0 - 2.0 * bits.astype(np.float64)


def p_value(terms: Array) -> float:
    """P(|T(terms with random signs)| >= |T(terms)|), terms (P,)."""
    size = float(np.linalg.norm(terms))
    if size == 0:
        return 1.0
    large, rest = terms / size, np.empty(0)
    observed = abs(float(_statistic(large.sum(), (large**3).sum()))) * (1 - TIE)
    if len(terms) > LARGEST:
        order = np.argpartition(-np.abs(large), LARGEST)
        large, rest = large[order[:LARGEST]], large[order[LARGEST:]]
    signs = _signs(len(large))
    sums, cubes = signs @ large, signs @ large**3
    spread = float(np.linalg.norm(rest))
    if spread > 0:
        above, below = (_sum_at(end, cubes) - sums for end in (observed, -observed))
        return float((ndtr(-above / spread) + ndtr(below / spread)).mean())
    beyond = int((np.abs(_statistic(sums, cubes)) >= observed).sum())
    # Random signs: the terms' own are one choice more.
    return beyond / len(sums) if len(terms) <= ENUMERATED else (beyond + 1) / (len(sums) + 1)


def _statistic(w: Array, c: Array) -> Array:
    return w + c * (2 * w**2 + 1) / 6 + c**2 * w**3 / 27


def _sum_at(value: float, c: Array) -> Array:
    """The w at which T is the value: T - c/6 = ((1 + c w/3)^3 - 1)/c, without dividing by c."""
    root = np.cbrt(1 + c * (value - c / 6))
    return 3 * (value - c / 6) / (root**2 + root + 1)


def interval(
    terms: Callable[[float], Array],
    slope: Array,
    level: float,
    step: float,
    linear: float,
) -> tuple[float, float]:
    """(low, high): the x about 0 at which terms(x) (P,) are not too far from zero at the level.

    terms(0) sums to about zero, and terms(x) to less and less; slope (P,): -d terms/dx at 0.
    step: a first guess of the ends. linear: the |x| up to which terms are as good as linear and
    are not evaluated anew. An end that is not reached is infinite.
    """
    start = terms(0.0)
    if step == 0:  # no term differs from its expectation
        return 0.0, 0.0
    ends = []
    for sign in (-1.0, 1.0):
        x, at, falls = 0.0, start, slope
        for _ in range(MOST_STEPS):
            # Terms as they were found at x, and fall along a chord: the end of that line.
            end = _end(at + falls * x, falls, level, sign, step)
            if not np.isfinite(end) or abs(end) <= linear or abs(end - x) <= CLOSE * abs(end):
                x = end
                break
            # A long way is gone by halves of itself at most: what lies there is not known yet.
            x = end if x == 0 or abs(end) <= 2 * abs(x) else 2 * x
            at = terms(x)
            falls = (start - at) / x
        ends.append(x)
    return ends[0], ends[1]


def _end(at_zero: Array, falls: Array, level: float, sign: float, step: float) -> float:
    """sign times the least |x| from which on at_zero - falls x is too far from zero."""
    inside, outside = 0.0, step
    for _ in range(MOST_DOUBLINGS):
        if p_value(at_zero - falls * sign * outside) <= level:
            break
        inside, outside = outside, 2 * outside
    else:
        return sign * float("inf")
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        if p_value(at_zero - falls * sign * middle) <= level:
            outside = middle
        else:
            inside = middle
        if outside - inside <= CLOSE / 10 * outside:
            break
    return sign * (inside + outside) / 2
