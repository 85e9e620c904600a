r"""Maximum likelihood of a tilt from two samples, with one normaliser a prompt.

Base rewards r ~ p_g, tuned rewards r ~ p_g Phi_theta(r)/Z_g, in every prompt g, p_g unknown. The
semiparametric likelihood, maximised over all base laws p_g, is that of the labels y (1: tuned) in a
logistic regression with one intercept a prompt (Anderson 1972; Prentice and Pyke 1979; Qin 1998),

    eta_i = log Phi_theta(r_i) + alpha_g,    p_i = 1/(1 + exp(-eta_i)),

and the slope's information is the right one although the counts were fixed by design. An
intercept a prompt costs a bias of order 1/(rows a prompt), a factor of two for pairs. So the
labels are taken given their number in each prompt (inclusion.py), which needs no intercept:

    l(theta) = sum_i log P(y_i | p_i) - sum_g log P(S_g = n1_g),
    grad l = sum_i (y_i - pi_i) J_i,    information = sum_i c_i (J_i - J_g)(J_i - J_g)',

J = d log Phi/d theta, J_g its c-weighted mean in the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.samples import Array, Pooled
from theory.audit.fit.inclusion import TINY, Inclusion, inclusion

INNER, OUTER, MOST_HALVINGS = 60, 60, 30
HALVINGS = 80  # of an interval that holds an intercept
ARRIVED, STEP = 1e-6, 1e-8  # of a step: of intercepts, of standardised parameters
DECREMENT = 1e-14  # of the log-likelihood: 1e-7 of a standard error
MOST_STEP, RUN_AWAY, ROUNDING = 4.0, 1e4, 1e-10
LEAST_WEIGHT = 1.0  # variance of all labels together, at a maximum that is one
# theta (k,) -> (log Phi (N,), J (N, k)) of the pooled rows; -inf where Phi vanishes
Evaluate = Callable[[Array], tuple[Array, Array]]


class NoFitError(ValueError):
    """No finite maximum: labels are separated, or a parameter runs to an end of its range."""


@dataclass(frozen=True, eq=False)
class Fit:
    """What the labels say of theta (k,).

    alpha (P,), log_ratio log Phi (N,), chance pi (N,), weight c (N,), slope J less J_g (N, k),
    means J_g (P, k), information (k, k), value l.
    """

    theta: Array
    alpha: Array
    log_ratio: Array
    chance: Array
    weight: Array
    slope: Array
    means: Array
    information: Array
    value: float

    def scores(self, pooled: Pooled) -> Array:
        """(N, k): (y - pi)(J - J_g)."""
        return np.asarray((pooled.label - self.chance)[:, None] * self.slope)


def intercepts(log_ratio: Array, pooled: Pooled, start: Array | None = None) -> tuple[Array, Array]:
    """(alpha (P,), p (N,)) with sum_i p_i = n1 in every prompt; needs both sides in each.

    Newton on one increasing function a prompt, its steps held to MOST_STEP; by halves where it does
    not arrive: one row may lie so far out that its log_ratio says nothing of where to begin.
    """
    if start is None:
        lift = np.maximum.reduceat(log_ratio, pooled.starts)
        shifted = np.exp(log_ratio - pooled.over_rows(lift))
        start = np.log(pooled.n1 / pooled.n0) - np.log(pooled.sums(shifted) / pooled.sizes) - lift
    alpha = np.array(start)
    p = chance_of(log_ratio + pooled.over_rows(alpha))
    for _ in range(INNER):
        gap = pooled.n1 - pooled.sums(p)
        step = np.clip(gap / np.maximum(pooled.sums(p * (1 - p)), TINY), -MOST_STEP, MOST_STEP)
        alpha += step
        p = chance_of(log_ratio + pooled.over_rows(alpha))
        if float(np.abs(step).max()) < ARRIVED:  # what is left is the square of it
            return alpha, p
    ends = [
        np.log(pooled.n1 / pooled.n0) - by.reduceat(log_ratio, pooled.starts)
        for by in (np.maximum, np.minimum)
    ]
    for _ in range(HALVINGS):
        alpha = 0.5 * (ends[0] + ends[1])
        p = chance_of(log_ratio + pooled.over_rows(alpha))
        short = pooled.sums(p) < pooled.n1
        ends = [np.where(short, alpha, ends[0]), np.where(short, ends[1], alpha)]
    return alpha, p


def chance_of(eta: Array) -> Array:
    """1/(1 + exp(-eta)), by numpy's exp, five times as fast as scipy's expit."""
    e = np.abs(eta)
    np.negative(e, out=e)
    np.exp(e, out=e)
    p = np.where(eta >= 0, 1.0, e)
    e += 1
    p /= e
    return p


def _row_values(eta: Array, pooled: Pooled) -> Array:
    """log P(y_i | p_i), (N,), without overflow; a tuned row where Phi vanishes has likelihood 0."""
    eta = (2 * pooled.label - 1) * eta
    e = np.abs(eta)
    np.negative(e, out=e)
    np.exp(e, out=e)
    e += 1
    np.log(e, out=e)
    return np.asarray(np.minimum(eta, 0.0) - e)


def _value(log_ratio: Array, alpha: Array, p: Array, pooled: Pooled) -> tuple[float, Inclusion]:
    """(l, what the labels are given their numbers)."""
    given = inclusion(p, pooled)
    rows = _row_values(log_ratio + pooled.over_rows(alpha), pooled)
    return float(rows.sum()) - given.log_normaliser, given


def value_at(evaluate: Evaluate, theta: Array, pooled: Pooled) -> float:
    """l(theta)."""
    log_ratio, _ = evaluate(theta)
    return _value(log_ratio, *intercepts(log_ratio, pooled), pooled)[0]


def row_values(evaluate: Evaluate, theta: Array, pooled: Pooled) -> Array:
    """log P(y_i | p_i) of the rows (N,): what they say, but for the prompts' normalisers."""
    log_ratio, _ = evaluate(theta)
    alpha, _ = intercepts(log_ratio, pooled)
    return _row_values(log_ratio + pooled.over_rows(alpha), pooled)


def state(
    evaluate: Evaluate, theta: Array, pooled: Pooled, start: Array | None
) -> tuple[Fit, Array]:
    """(everything at theta, gradient of l); start: of the intercepts."""
    log_ratio, J = evaluate(theta)
    alpha, p = intercepts(log_ratio, pooled, start)
    value, given = _value(log_ratio, alpha, p, pooled)
    chance, c = given.chance, given.weight
    if not (c > 0).all():  # where Phi vanishes J is infinite, and the row says nothing
        J = np.where((c > 0)[:, None], J, 0.0)
    means = prompt_means(J, c, pooled)
    slope = J - pooled.over_rows(means)
    gradient = (pooled.label - chance) @ slope
    information = (c[:, None] * slope).T @ slope
    return Fit(theta, alpha, log_ratio, chance, c, slope, means, information, value), gradient


def prompt_means(values: NDArray[Any], weight: Array, pooled: Pooled) -> Array:
    """Weighted means (P, k) of values (N, k) in the prompts."""
    total = np.maximum(pooled.sums(weight), TINY)
    return np.asarray(pooled.sums(weight[:, None] * values) / total[:, None])


def maximise(
    evaluate: Evaluate,
    start: Array,
    pooled: Pooled,
    low: Array | None = None,
    high: Array | None = None,
    ridge: float = 0.0,
    most: int = OUTER,
) -> Fit:
    """The maximum of the adjusted likelihood near `start`, by damped Fisher scoring.

    low, high (k,): the open range of the parameters. ridge: times |theta|^2/2, taken off.

    Raises:
        NoFitError: no maximum inside: labels are separated, all but.
    """
    theta = np.array(start, dtype=np.float64)
    fit, gradient = state(evaluate, theta, pooled, None)
    if not np.isfinite(fit.value):
        raise NoFitError(f"the likelihood of theta = {theta.tolist()} is zero")

    def worth(found: Fit) -> float:
        return found.value - 0.5 * ridge * float(found.theta @ found.theta)

    for _ in range(most):
        curvature = fit.information + ridge * np.eye(len(theta))
        ascent = gradient - ridge * theta
        step = np.linalg.lstsq(curvature, ascent, rcond=1e-13)[0]
        if float(step @ ascent) < DECREMENT:  # what a step would still gain
            break
        length, better = 1.0, None
        for _ in range(MOST_HALVINGS):
            new = theta + length * step
            if low is not None and high is not None:
                # Half the way to an end at most: an open range is never left.
                new = np.clip(new, (theta + low) / 2, (theta + high) / 2)
            # Intercepts follow the step, to first order.
            tried = state(evaluate, new, pooled, fit.alpha - fit.means @ (new - theta))
            if worth(tried[0]) >= worth(fit) - ROUNDING * abs(fit.value):
                better = tried
                break
            length /= 2
        if better is None:
            break
        moved = float(np.abs(better[0].theta - theta).max())
        fit, gradient = better
        theta = fit.theta
        if float(np.abs(theta).max()) > RUN_AWAY:
            raise NoFitError("the labels are separated: a parameter runs away")
        if moved < STEP * (1 + float(np.abs(theta).max())):
            break
    if ridge == 0 and float(fit.weight.sum()) < LEAST_WEIGHT:
        raise NoFitError("the labels are separated: what the rewards say of them leaves no doubt")
    return fit


def score_variance(fit: Fit, pooled: Pooled) -> Array:
    """(k, k): variance of the sum of scores, whatever the true ratio is.

    Rows are independent, their means in each prompt and label taken off (counts were fixed), rows
    of one seed added first.
    """
    scores = fit.scores(pooled)
    cell = 2 * pooled.prompt + pooled.label.astype(np.int64)
    counts = np.bincount(cell)
    means = _by(scores, cell) / np.maximum(counts, 1)[:, None]
    rest = scores - means[cell]
    # A row that is alone in its cell is its own mean: its score counts as it is.
    lonely = counts[cell] == 1
    rest[lonely] = scores[lonely]
    rest *= np.sqrt(np.where(lonely, 1.0, counts[cell] / np.maximum(counts[cell] - 1, 1)))[:, None]
    if pooled.unit is not None:
        rest = _by(rest, pooled.unit)
    return np.asarray(rest.T @ rest)


def _by(values: Array, groups: NDArray[np.int64]) -> Array:
    """Sums over groups, (groups, k)."""
    return np.stack([np.bincount(groups, column) for column in values.T], 1)
