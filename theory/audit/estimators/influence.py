"""What the tilt rests on: the row, the prompt, the 1 % of rows without which it is fitted again.

A row's score over the information that is left without it, s_i/(I - c_i J_i^2), is what the fitted
tilt loses when the row is left out (Cook 1977), to first order; so are sums of them over prompts,
and over the rows of largest influence of one sign (Broderick, Giordano and Meager 2020). These are
found so, left out, and the tilt is fitted again (but for a row whose first order is a hundredth of
the tilt's standard error). A conclusion that one row decides is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from theory.audit.data.equal_rows import Mask
from theory.audit.data.samples import Array, Pooled
from theory.audit.estimators.reweighting import kl_bound, reweighted
from theory.audit.estimators.tilt import ONE_TILT, Interval, Tilt, effective_tilt
from theory.audit.families.family import Fitted, check_together, times
from theory.audit.fit.likelihood import OUTER, NoFitError, maximise

LEAST_EFFECTIVE = 30.0  # samples of the reweighted base: below, KL and diversity are off (validate)
PERCENT = 100  # rows, of which one is left out
LEAST_LEFT = 1e-3  # of the information, without a row
NOTHING, FAR = 0.01, 100  # of a standard error; times the samples needed: a row's first order does
MANY = 100_000  # rows, of which no few make Newton's steps long
STEPS = 1  # of Newton's from there: what is left is far below a standard error


@dataclass(frozen=True, eq=False)
class Without:
    """The tilt without some rows: None where there is no fit; effective: samples of the reweighted
    base then; changes: whether the conclusion is another: the tilt's sign, whether it is told, its
    value by more than either interval, or whether there are samples enough."""

    tilt: Interval | None
    effective: float
    changes: bool


@dataclass(frozen=True, eq=False)
class Influence:
    """Without the most influential row (row_at: among the pooled ones), prompt (prompt_at), and
    percent_of rows; None of one prompt, and of less than PERCENT rows a side."""

    row: Without
    row_at: int
    prompt: Without | None
    prompt_at: int | None
    percent: Without | None
    percent_of: int


def influence(fitted: Fitted, tilt: Tilt, effective: float, pooled: Pooled) -> Influence:
    """Of the exponential's fit and its tilt; effective: samples of its reweighted base."""
    fit = fitted.fit
    theta, information = float(fit.theta[0]), float(fit.information[0, 0])
    scores, own = fit.scores(pooled)[:, 0], fit.weight * fit.slope[:, 0] ** 2

    def moves(score: Array, part: Array) -> Array:
        """What the parameter loses without a row, or a prompt."""
        return np.asarray(score / np.maximum(information - part, LEAST_LEFT * information))

    def without(rows: Mask, change: float) -> Without:
        return _without(~rows, theta - change, tilt, effective, pooled)

    by_row = moves(scores, own)
    row_at = int(np.argmax(np.abs(by_row)))
    change = float(by_row[row_at])
    little = abs(change) / pooled.spread < NOTHING * tilt.error
    if little and effective >= FAR * LEAST_EFFECTIVE:
        row = _moved(tilt, change / pooled.spread, effective)
    else:
        row = without(np.arange(len(pooled)) == row_at, change)
    prompt_at = prompt = percent = None
    if pooled.count > 1:
        by_prompt = moves(pooled.sums(scores), pooled.sums(own))
        prompt_at = int(np.argmax(np.abs(by_prompt)))
        prompt = without(pooled.prompt == prompt_at, float(by_prompt[prompt_at]))
    count = len(pooled) // PERCENT
    if count > 1:
        most = _most(by_row, count, tilt)
        percent = without(most, float(by_row[most].sum()))
    return Influence(row, row_at, prompt, prompt_at, percent, count)


def _moved(tilt: Interval, by: float, effective: float) -> Without:
    """The tilt less so little that its first order is all of it."""
    moved = Interval(tilt.value - by, tilt.low - by, tilt.high - by, tilt.error)
    return Without(moved, effective, _told(moved) != _told(tilt))


def _most(by_row: Array, count: int, tilt: Interval) -> Mask:
    """The rows that hold the tilt away from zero; where it is not told from that, those of either
    sign that move it more."""
    order = np.argpartition(by_row, [count, len(by_row) - count])
    ends = [order[:count], order[-count:]]
    told = _told(tilt)
    rows = ends[told > 0] if told else max(ends, key=lambda end: abs(float(by_row[end].sum())))
    return np.isin(np.arange(len(by_row)), rows)


def _without(rows: Mask, start: float, tilt: Tilt, effective: float, pooled: Pooled) -> Without:
    """The tilt of some rows, begun where the influence function says that it lies."""
    kept = pooled.two_sided(rows)
    if not kept.any():
        return Without(None, 0.0, True)
    unit = None if pooled.unit is None else pooled.unit[kept]
    # In units of their own: one row may have made the spread of all.
    some = Pooled.sorted(pooled.reward[kept], pooled.label[kept], pooled.prompt[kept], unit)
    try:
        check_together(some.z, some)
        at = np.array([start / pooled.spread * some.spread])
        fit = maximise(times(some.z), at, some, most=STEPS if len(some) > MANY else OUTER)
    except NoFitError:
        return Without(None, 0.0, True)
    again = Fitted("exponential", {"a": float(fit.theta[0]) / some.spread}, "", fit, times(some.z))
    found = effective_tilt(again, some, tilt.scope == ONE_TILT)
    left = reweighted(fit.log_ratio, some).total
    changes = _told(found) != _told(tilt) or not agree(found, tilt)
    changes |= (left >= LEAST_EFFECTIVE) != (effective >= LEAST_EFFECTIVE)
    return Without(found, left, bool(changes))


def _told(tilt: Interval) -> int:
    """The tilt's sign, 0 where it is not told."""
    return int(tilt.low > 0) - int(tilt.high < 0)


def agree(one: Interval, other: Interval) -> bool:
    """Whether each holds the other's value: a row may widen an interval as well as move it."""
    return one.low <= other.value <= one.high and other.low <= one.value <= other.high


def kl_without(
    log_ratio: Array, pooled: Pooled, bound: Interval | None
) -> tuple[int, Interval] | None:
    """The row that KL's bound most rests on, of log Phi (N,), and the bound without it; None where
    there is no bound without any.

    Of tuned rows it takes the one whose log Phi lies farthest from its prompt's others, of base
    rows the one of largest weight.
    """
    rest = np.abs(log_ratio - pooled.over_rows(pooled.sums(log_ratio) / pooled.sizes))
    base = pooled.is_base
    weights = np.zeros(len(pooled))
    weights[base] = reweighted(log_ratio, pooled).weights * (pooled.n0 > 1)[pooled.prompt[base]]
    found = []
    for place in (int(np.argmax(np.where(base, -1.0, rest))), int(np.argmax(weights))):
        kept = pooled.two_sided(np.arange(len(pooled)) != place)
        without = kl_bound(log_ratio[kept], pooled.take(kept))
        if without is not None:
            found.append((place, without))
    value = math.inf if bound is None else bound.value
    return max(found, key=lambda one: abs(one[1].value - value), default=None)
