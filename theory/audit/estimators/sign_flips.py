r"""A sum of independent terms, each symmetric about zero: how far from zero is too far?

Where u_1, ..., u_P are independent and each as likely to be u as -u, S = sum u_g has, given the
sizes |u_g|, the law of sum s_g |u_g| with even signs s: p = P(|sum s_g u_g| >= |S|) is exact,
whatever the sizes are and however unlike (Fisher 1935, section 21; Cameron, Gelbach and Miller
2008, the wild cluster bootstrap with the null imposed). A variance estimated from the terms would
have to be told how few of them matter; this need not. Inverted in a parameter, it is an interval.

To ENUMERATED terms all signs are tried. Beyond, the LARGEST terms have DRAWS random signs and the
rest, many and small, are one normal variable of their variance.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.special import ndtr

from theory.audit.data.samples import Array

ENUMERATED, LARGEST, DRAWS = 12, 64, 4096
TIE = 1e-12  # of a sum: what rounding makes of equal ones
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
    """P(|sum of terms with random signs| >= |their sum|), terms (P,)."""
    total = abs(float(terms.sum())) * (1 - TIE)
    large, rest = terms, 0.0
    if len(terms) > LARGEST:
        order = np.argpartition(-np.abs(terms), LARGEST)
        large, rest = terms[order[:LARGEST]], float(np.linalg.norm(terms[order[LARGEST:]]))
    sums = _signs(len(large)) @ large
    if rest > 0:
        return float((ndtr((sums - total) / rest) + ndtr((-sums - total) / rest)).mean())
    beyond = int((np.abs(sums) >= total).sum())
    # Random signs: the terms' own are one choice more.
    return beyond / len(sums) if len(terms) <= ENUMERATED else (beyond + 1) / (len(sums) + 1)


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
