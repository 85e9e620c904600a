r"""The effective tilt: the a of exp(a r) that is most likely, with its interval.

Its estimand is the mean of the prompts' own tilts, each weighted by what its rows say of it (their
information between its tilt and the mean: E U_g(a) = (a_g - a) I_g): the one tilt that is
likeliest for all (White 1982). The interval answers one of three questions:

    PROMPTS_LIKE   what is it for prompts like these, whose tilts may differ? Every prompt's score
                   U_g(a) is one term with mean zero at the truth: all a that sign flips
                   (sign_flips.py) do not refuse, for any spread of rows over prompts, exact where
                   scores are symmetric. Needs LEAST_PROMPTS, of which none holds over half of the
                   rows.
    THESE_PROMPTS  what is it for these prompts? Rows are the observations: the sandwich
                   information^-1 Var(score) information^-1, right for the most likely a although
                   the true ratio is no exponential, and although these prompts' tilts differ. Rows
                   of one seed on both sides are one observation.
    ONE_TILT       what is it, if there is one for all prompts (the user says so)? All a with
                   U(a)^2 <= chi^2 information(a) (Rao 1948); the sandwich where seeds are shared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi2, norm
from scipy.stats import t as student

from theory.audit.data.samples import Array, Pooled
from theory.audit.estimators import sign_flips
from theory.audit.families.family import Fitted
from theory.audit.fit.inclusion import TINY, inclusion
from theory.audit.fit.likelihood import Fit, intercepts, score_variance, state

CONFIDENCE = 0.95
MOST_DIGITS = 6  # before or behind the point, else powers of ten
LEAST_PROMPTS = 10
MOST_SHARE = 0.5  # of the rows, in one prompt of a sample of prompts
LINEAR = 0.02  # of a standardised tilt, over which scores are as good as linear
PROMPTS_LIKE, THESE_PROMPTS = "prompts like these", "these prompts"
ONE_TILT = "one tilt for all prompts"
INNER, MOST_STEP = 40, 2.0
ARRIVED, NEAR = 1e-8, 1e-5  # steps: of all prompts, of one that has a maximum
RUN_AWAY, PRECISE = 100.0, 1e-4  # a standardised tilt's end; relative
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
        digits = 1 - math.floor(math.log10(self.error)) if 0 < self.error < math.inf else 3
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


@dataclass(frozen=True)
class Tilt(Interval):
    """The interval of the effective tilt; scope: the question it answers; alone: the prompt (its
    index) that holds over half of the rows, for which reason it is not PROMPTS_LIKE."""

    scope: str = THESE_PROMPTS
    alone: int | None = None


def like_these(sizes: Array) -> bool:
    """Whether prompts of these sizes (P,) are a sample of prompts: enough of them, and none holds
    more than MOST_SHARE."""
    return len(sizes) >= LEAST_PROMPTS and bool(sizes.max() <= MOST_SHARE * sizes.sum())


def effective_tilt(fitted: Fitted, pooled: Pooled, one_tilt: bool = False) -> Tilt:
    """The interval of the first parameter of a one-parameter family, in the reward's units.

    one_tilt: the user says that all prompts have the same.
    """
    fit = fitted.fit
    (value,) = fitted.parameters.values()
    unit = pooled.spread if fitted.name == "exponential" else 1.0
    if one_tilt and pooled.unit is None:
        return _between_ends(value, unit, _score_ends(fitted, pooled), ONE_TILT)
    if not one_tilt and like_these(pooled.sizes):
        low, high = _flip_ends(fitted, pooled)
        if math.isfinite(high - low):
            return _between_ends(value, unit, (low, high), PROMPTS_LIKE)
    error = math.sqrt(float(score_variance(fit, pooled)[0, 0])) / float(fit.information[0, 0])
    found = Interval.of(value, error / unit)
    heavy = pooled.count >= LEAST_PROMPTS and not one_tilt and not like_these(pooled.sizes)
    alone = int(pooled.sizes.argmax()) if heavy else None
    scope = ONE_TILT if one_tilt else THESE_PROMPTS
    return Tilt(value, found.low, found.high, found.error, scope, alone)


def _between_ends(value: float, unit: float, ends: tuple[float, float], scope: str) -> Tilt:
    """From the ends' distances to the value, in standardised units."""
    low, high = ends[0] / unit, ends[1] / unit
    error = (high - low) / (2 * float(norm.ppf(0.5 + CONFIDENCE / 2)))
    return Tilt(value, value + low, value + high, error, scope)


def _at(fitted: Fitted, pooled: Pooled, step: float) -> Fit:
    """The likelihood that far from its maximum."""
    fit = fitted.fit
    return state(fitted.evaluate, fit.theta + step, pooled, fit.alpha - fit.means[:, 0] * step)[0]


def _flip_ends(fitted: Fitted, pooled: Pooled) -> tuple[float, float]:
    fit = fitted.fit
    slope = pooled.sums(fit.weight * fit.slope[:, 0] ** 2)
    here = pooled.sums(fit.scores(pooled)[:, 0])
    error = math.sqrt(max(float(here @ here), float(slope.sum()))) / float(slope.sum())
    return sign_flips.interval(
        lambda step: pooled.sums(_at(fitted, pooled, step).scores(pooled)[:, 0]) if step else here,
        slope,
        1 - CONFIDENCE,
        2 * error,
        LINEAR,
    )


def _score_ends(fitted: Fitted, pooled: Pooled) -> tuple[float, float]:
    most = float(chi2.ppf(CONFIDENCE, 1))
    error = 1 / math.sqrt(float(fitted.fit.information[0, 0]))

    def excess(step: float) -> float:
        fit = _at(fitted, pooled, step)
        return float(fit.scores(pooled).sum() ** 2 / max(float(fit.information[0, 0]), TINY)) - most

    ends = []
    for sign in (-1.0, 1.0):
        near, far = 0.0, 2 * sign * error
        while excess(far) < 0:
            near, far = far, 2 * far
            if abs(far) > RUN_AWAY:
                break
        reached = abs(far) <= RUN_AWAY
        ends.append(float(brentq(excess, near, far, rtol=PRECISE)) if reached else sign * math.inf)
    return ends[0], ends[1]


def prompt_tilts(pooled: Pooled) -> PromptTilts:
    """Every prompt's own tilt, given its numbers, by Newton on all of them at once."""
    z, y = pooled.z, pooled.label
    a, alpha = np.zeros(pooled.count), np.log(pooled.n1 / pooled.n0)
    for _ in range(INNER):
        alpha, p = intercepts(pooled.over_rows(a) * z, pooled, alpha)
        given = inclusion(p, pooled)
        weight = np.maximum(pooled.sums(given.weight), TINY)
        slope = z - pooled.over_rows(pooled.sums(given.weight * z) / weight)
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
