"""The exponential that is flat beyond a reward."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.audit.data.samples import Array, Pooled
from theory.audit.families.family import (
    FINE,
    ROUGH,
    Family,
    Fitted,
    check_together,
    some_rows,
    times,
)
from theory.audit.fit.likelihood import Evaluate, Fit, NoFitError, maximise


class ClippedFamily(Family):
    """min(exp(a r), w), w = exp(a c): exp(a r) up to the reward c, flat beyond; of a < 0 the
    maximum."""

    name, formula = "clipped", "min(exp(a r), w)"
    levels = np.linspace(0.05, 0.995, 20)

    def fit(self, pooled: Pooled) -> Fitted:
        check_together(pooled.z, pooled)
        rough, finer = some_rows(pooled, ROUGH), some_rows(pooled, FINE)
        cuts = np.unique(np.quantile(pooled.z, self.levels))
        cuts = cuts[cuts > float(pooled.z.min())]
        if not len(cuts):
            raise NoFitError("the rewards take too few values to be clipped")
        values = [self._value(cut, rough) for cut in cuts]
        if not np.isfinite(values).any():
            raise NoFitError("the labels are separated at every level of the clip")
        best = int(np.argmax(values))
        # Between the neighbours of the best one: where the curve bends is a soft matter.
        low, high = cuts[max(best - 1, 0)], cuts[min(best + 1, len(cuts) - 1)]
        cut = _golden(lambda c: self._value(c, finer), float(low), float(high))
        found = self._at_cut(cut, pooled, self._at_cut(cut, finer).theta)
        a = float(found.theta[0]) / pooled.spread
        cap = pooled.centre + pooled.spread * cut
        return Fitted(
            self.name,
            {"a": a, "cap": cap},
            f"exp({a:.3g} r), flat beyond r = {cap:.3g}",
            found,
            times(np.minimum(pooled.z, cut)),
        )

    def _value(self, cut: float, pooled: Pooled) -> float:
        """l at the best a; of a cut below all tuned rewards, which separates them: -inf."""
        try:
            return self._at_cut(cut, pooled).value
        except NoFitError:
            return -math.inf

    def _at_cut(self, cut: float, pooled: Pooled, start: Array | None = None) -> Fit:
        T = np.minimum(pooled.z, cut)
        check_together(T, pooled)
        return maximise(times(T), np.zeros(1) if start is None else start, pooled)

    def at(self, parameters: dict[str, float], pooled: Pooled) -> tuple[Evaluate, Array]:
        cut = (parameters["cap"] - pooled.centre) / pooled.spread
        return times(np.minimum(pooled.z, cut)), np.array([parameters["a"] * pooled.spread])


def _golden(value: Any, low: float, high: float, steps: int = 8) -> float:
    ratio = (math.sqrt(5) - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    values = [value(x) for x in inner]
    for _ in range(steps):
        if values[0] >= values[1]:
            high = inner[1]
            inner = [high - ratio * (high - low), inner[0]]
            values = [value(inner[0]), values[0]]
        else:
            low = inner[0]
            inner = [inner[1], low + ratio * (high - low)]
            values = [values[1], value(inner[1])]
    return inner[int(np.argmax(values))]
