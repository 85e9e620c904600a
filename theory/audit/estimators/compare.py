"""Which wrapper explains the rewards: fits, held-out likelihood, goodness of fit.

Held out: every prompt's base and tuned rows are dealt into folds; a wrapper fitted on the others
says with what likelihood the labels of a fold come, given their numbers. Wrappers are compared by
these, row by row, so that one with more parameters has no advantage. Of more than MANY rows, an
even choice of that many is dealt; fits and goodness of fit see all.

explained: the share of what the free curve gains over no tilt at all (held out) that a wrapper
gains: at a million samples every wrapper is refused, and this says by how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.samples import Array, Pooled, Whole
from theory.audit.estimators.curve import basis, fit_curve, goodness, linear
from theory.audit.estimators.rank_fit import rank_goodness
from theory.audit.estimators.tilt import LEAST_PROMPTS, like_these
from theory.audit.families.families import FAMILIES
from theory.audit.families.family import Family, Fitted, some_rows, times
from theory.audit.families.ranks import Ranked
from theory.audit.fit.likelihood import Evaluate, NoFitError, maximise, row_values
from theory.common.checks import check_choice

FOLDS, MANY = 5, 60_000
LEVEL = 0.05
ZERO = np.zeros(1)
LEAST_GAIN = 3.0  # of the free curve's held-out log-likelihood, for a share of it to be one


@dataclass(frozen=True, eq=False)
class Candidate:
    """A wrapper's fit.

    held_out: mean log-likelihood a row on rows that it was not fitted to, less that of no tilt;
    error: standard error of its difference to the best wrapper's; p_value: of its goodness of fit.
    explained: see above, nan where the curve itself gains nothing.
    """

    fitted: Fitted
    held_out: float
    behind: float
    error: float
    p_value: float
    explained: float

    @property
    def name(self) -> str:
        return self.fitted.name

    @property
    def explains(self) -> bool:
        """Whether the rewards are as this wrapper would make them, as far as they can tell."""
        return self.p_value >= LEVEL

    @property
    def as_good(self) -> bool:
        """Whether it is no worse, held out, than the best, beyond two standard errors."""
        return self.behind <= 2 * self.error


@dataclass(frozen=True, eq=False)
class Wrappers:
    """All that were fitted, likeliest first; refused: name and reason of the others;
    held_out_rows: on which they are ranked."""

    candidates: tuple[Candidate, ...]
    refused: dict[str, str]
    held_out_rows: int

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    def of(self, name: str) -> Candidate | None:
        """The candidate of that name, if it was fitted."""
        return next((c for c in self.candidates if c.name == name), None)


def compare_wrappers(pooled: Pooled, names: Sequence[str] = ()) -> Wrappers:
    """Fit wrappers (all, unless named) and rank them by held-out likelihood.

    Raises:
        ValueError: an unknown name.
        NoFitError: no wrapper can be fitted, exp(a r) among them.
    """
    for name in names:
        check_choice("wrapper", name, FAMILIES)
    fits: list[tuple[Family, Fitted]] = []
    refused: dict[str, str] = {}
    for family in (FAMILIES[name] for name in (names or FAMILIES)):
        try:
            fits.append((family, family.fit(pooled)))
        except NoFitError as error:
            refused[family.name] = str(error)
    few = some_rows(pooled, MANY)
    folds = _folds(few)
    nothing = _held_out(few, folds, _no_tilt)
    rows: list[tuple[Family, Fitted, Array]] = []
    for family, fitted in fits:
        try:
            values = _held_out(few, folds, _of_family(family, few))
            rows.append((family, fitted, values - nothing))
        except NoFitError as error:
            refused[family.name] = f"held out: {error}"
    if not rows:
        raise NoFitError("; ".join(refused.values()))
    of_curve = float((_held_out(few, folds, _of_curve(few)) - nothing).sum())
    rows.sort(key=lambda row: -float(row[2].sum()))
    best, found, functions = rows[0][2], [], basis(pooled)
    clusters = like_these(pooled.sizes)
    for family, own, values in rows:
        gap = best - values
        if isinstance(family, Ranked):
            fit, fitted = rank_goodness(family, own, pooled)
        else:
            fit, fitted = goodness(own.fit, pooled, functions, clusters), own
        found.append(
            Candidate(
                fitted,
                float(values.mean()),
                float(gap.mean()),
                _error(gap, few),
                fit.p_value,
                float(values.sum()) / of_curve if of_curve > LEAST_GAIN else math.nan,
            )
        )
    return Wrappers(tuple(found), refused, len(few))


def _error(gap: Array, pooled: Pooled) -> float:
    """Standard error of a mean over rows, prompts being the units where there are enough."""
    if like_these(pooled.sizes):
        sums = pooled.sums(gap - gap.mean())
        count = pooled.count
        return math.sqrt(float((sums**2).sum()) * count / (count - 1)) / len(gap)
    return float(gap.std()) / math.sqrt(len(gap))


# --- held-out rows


@dataclass(frozen=True, eq=False)
class Fold:
    """train, test: rows to fit to and rows held out, of prompts that have both sides in them;
    kept, rows (N,): which of all rows they are. A row may be neither: its prompt has one side only
    in that part."""

    train: Pooled
    test: Pooled
    kept: NDArray[np.bool_]
    rows: NDArray[np.bool_]


def _folds(pooled: Pooled) -> list[Fold]:
    """Every prompt's base rows and tuned rows are dealt in turn, in an order drawn once; prompts
    that are too small to share, whole."""
    count = 2 if len(pooled) >= MANY // 2 else FOLDS
    rng = np.random.default_rng(0)
    if np.median(np.minimum(pooled.n0, pooled.n1)) < FOLDS and pooled.count >= LEAST_PROMPTS:
        turn = rng.permutation(pooled.count)[pooled.prompt] % count
    else:
        turn = _dealt(pooled, count, rng)
    parts = ((pooled.two_sided(turn == k), pooled.two_sided(turn != k)) for k in range(count))
    found = [
        Fold(pooled.take(rest), pooled.take(held), rest, held)
        for held, rest in parts
        if held.any() and rest.any()
    ]
    if not found:
        raise NoFitError("no prompt has samples enough on both sides to hold some out")
    return found


def _dealt(pooled: Pooled, count: int, rng: np.random.Generator) -> Whole:
    """(N,) the fold of each row: a prompt's base rows, then its tuned rows, in turn."""
    order = np.lexsort((rng.random(len(pooled)), pooled.label, pooled.prompt))
    turn = np.empty(len(pooled), dtype=np.int64)
    turn[order] = np.arange(len(pooled)) % count
    return turn


Attempt = Callable[[Fold], tuple[Evaluate, Array]]


def _held_out(pooled: Pooled, folds: Sequence[Fold], attempt: Attempt) -> Array:
    """(N,) what the rows' labels say of an attempt: for a fold (log Phi on its rows, theta from the
    others)."""
    values = np.zeros(len(pooled))
    for fold in folds:
        values[fold.rows] = row_values(*attempt(fold), fold.test)
    return values


def _of_family(family: Family, pooled: Pooled) -> Attempt:
    """The wrapper fitted; ranks are those among all base rows, a fold's own being too few."""
    if isinstance(family, Ranked):
        T, _ = family.statistic(pooled)
        return lambda fold: (
            times(T[fold.rows]),
            maximise(times(T[fold.kept]), ZERO, fold.train).theta,
        )
    return lambda fold: family.at(family.fit(fold.train).parameters, fold.test)


def _no_tilt(fold: Fold) -> tuple[Evaluate, Array]:
    return times(np.zeros(len(fold.test))), ZERO


def _of_curve(pooled: Pooled) -> Attempt:
    """The free curve; its ranks are those of all rows, which hold no labels."""
    functions = basis(pooled)
    return lambda fold: (
        linear(functions[fold.rows]),
        fit_curve(fold.train, functions[fold.kept]).theta,
    )
