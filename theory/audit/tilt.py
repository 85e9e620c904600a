r"""The effective tilt: the a of exp(a r) that is most likely, with its interval.

With prompts enough to be a sample of prompts (LEAST_CLUSTERS), the interval counts each prompt's
sum of scores as one observation: it holds for prompts like these, whose own tilts may differ.
With fewer, rows are the observations, and it holds for these prompts. Either way the variance is
the sandwich information^-1 Var(score) information^-1, right for the most likely a although the
true ratio is no exponential. Rows of one seed on both sides are one observation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, norm
from scipy.stats import t as student

from theory.audit.families import Fitted
from theory.audit.inclusion import TINY, inclusion
from theory.audit.likelihood import intercepts, score_variance
from theory.audit.samples import Array, Pooled

CONFIDENCE = 0.95
MOST_DIGITS = 6  # before or behind the point, else powers of ten
LEAST_CLUSTERS = 10
INNER, MOST_STEP = 40, 2.0
ARRIVED, NEAR = 1e-8, 1e-5  # steps: of all prompts, of one that has a maximum
LEAST_INFORMATION = 1e-3  # of a standardised tilt, else the sides are separated


@dataclass(frozen=True)
class Interval:
    """A number, its standard error, and the interval that covers the truth with CONFIDENCE."""

    value: float
    low: float
    high: float
    error: float

    @staticmethod
    def of(value: float, error: float, freedom: float = math.inf) -> Interval:
        """value +- t error, t of Student's law with `freedom` degrees."""
        q = 0.5 + CONFIDENCE / 2
        wide = float(norm.ppf(q) if math.isinf(freedom) else student.ppf(q, freedom)) * error
        return Interval(value, value - wide, value + wide, error)

    def __str__(self) -> str:
        known = 0 < self.error < math.inf
        digits = 1 - math.floor(math.log10(self.error)) if known else 3
        numbers = (self.value, self.low, self.high)
        size = max(map(abs, numbers))
        if digits <= MOST_DIGITS and size < 10**MOST_DIGITS:
            shown = [f"{x:.{max(digits, 0)}f}" for x in numbers]
        else:  # as many digits, behind one before the point
            top = math.floor(math.log10(size)) if 0 < size < math.inf else 0
            shown = [f"{x:.{min(max(digits + top, 1), 15)}e}" for x in numbers]
        return f"{shown[0]} [{shown[1]}, {shown[2]}]"


@dataclass(frozen=True, eq=False)
class PromptTilts:
    """Each prompt's own tilt (P,) and its standard error; nan where it has none (constant rewards,
    or separated sides). spread: the standard deviation of the true tilts between prompts
    (DerSimonian and Laird); p_value: of one tilt for all (Cochran's Q)."""

    tilt: Array
    error: Array
    spread: float
    p_value: float


def effective_tilt(fitted: Fitted, pooled: Pooled) -> Interval:
    """The interval of the first parameter of a one-parameter family, in the reward's units."""
    fit = fitted.fit
    clusters = pooled.prompt if pooled.count >= LEAST_CLUSTERS else None
    variance = float(score_variance(fit, pooled, clusters)[0, 0])
    information = float(fit.information[0, 0])
    error = math.sqrt(variance) / information
    (value,) = fitted.parameters.values()
    unit = pooled.spread if fitted.name == "exponential" else 1.0
    freedom = pooled.count - 1 if clusters is not None else math.inf
    return Interval.of(value, error / unit, freedom)


def prompt_tilts(pooled: Pooled) -> PromptTilts:
    """Every prompt's own tilt, given its numbers, by Newton on all of them at once."""
    z, y = pooled.z, pooled.label
    a, alpha = np.zeros(pooled.count), np.log(pooled.n1 / pooled.n0)
    for _ in range(INNER):
        alpha, p = intercepts(pooled.spreaded(a) * z, pooled, alpha)
        given = inclusion(p, pooled)
        weight = np.maximum(pooled.sums(given.weight), TINY)
        slope = z - pooled.spreaded(pooled.sums(given.weight * z) / weight)
        information = pooled.sums(given.weight * slope**2)
        score = pooled.sums((y - given.chance) * slope)
        step = np.where(information > TINY, score / np.maximum(information, TINY), 0.0)
        step = np.clip(step, -MOST_STEP, MOST_STEP)
        a += step
        if float(np.abs(step).max()) < ARRIVED:
            break
    good = (information > LEAST_INFORMATION) & (weight > LEAST_INFORMATION) & (np.abs(step) < NEAR)
    tilt = np.where(good, a, np.nan) / pooled.spread
    error = np.where(good, 1 / np.sqrt(np.maximum(information, TINY)), np.nan) / pooled.spread
    # Of standardised tilts: their squares neither overflow nor vanish.
    spread, p_value = _between(tilt[good] * pooled.spread, error[good] * pooled.spread)
    return PromptTilts(tilt, error, spread / pooled.spread, p_value)


def _between(tilt: Array, error: Array) -> tuple[float, float]:
    if len(tilt) < 2:
        return 0.0, 1.0
    w = error**-2
    mean = (w * tilt).sum() / w.sum()
    q = float((w * (tilt - mean) ** 2).sum())
    freedom = len(tilt) - 1
    excess = (q - freedom) / (w.sum() - (w**2).sum() / w.sum())
    return math.sqrt(max(excess, 0.0)), float(chi2.sf(q, freedom))
