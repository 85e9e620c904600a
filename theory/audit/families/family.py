"""The wrappers Phi that an audit fits, each one form.

A family gives log Phi and its derivative at every row; most are one statistic times one parameter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from theory.audit.data.samples import Array, Pooled
from theory.audit.fit.likelihood import Evaluate, Fit, NoFitError, maximise

ROUGH, FINE = 4_000, 20_000  # rows on which a region is looked for, and narrowed down
FEW = 4  # rows of a side and prompt that are left at least, on average, where rows are left out


@dataclass(frozen=True, eq=False)
class Fitted:
    """A family's fit: parameters in the reward's units, by name; the fit itself; label: Phi in
    words."""

    name: str
    parameters: dict[str, float]
    label: str
    fit: Fit
    evaluate: Evaluate


class Family(ABC):
    """One form of Phi; parameter: the one in its formula."""

    name: str
    formula: str
    parameter = "a"

    @abstractmethod
    def fit(self, pooled: Pooled) -> Fitted:
        """The most likely Phi of this form.

        Raises:
            NoFitError: it does not apply to these rewards (why), or has no maximum.
        """

    @abstractmethod
    def at(self, parameters: dict[str, float], pooled: Pooled) -> tuple[Evaluate, Array]:
        """The form on other rows, and where these parameters lie in it; for held-out rows.

        Raises:
            NoFitError: Phi is not positive there.
        """

    def label(self, parameters: dict[str, float]) -> str:
        """Phi with its parameter's value."""
        return self.formula.replace(self.parameter, f"{parameters[self.parameter]:.3g}", 1)


class OneStatistic(Family):
    """log Phi = theta T(r)."""

    shift = 0.0  # theta is the parameter less it

    @abstractmethod
    def statistic(self, pooled: Pooled) -> tuple[Array, float]:
        """(T in a unit that suits Newton (N,), that unit in the parameter's own)."""

    def at(self, parameters: dict[str, float], pooled: Pooled) -> tuple[Evaluate, Array]:
        T, unit = self.statistic(pooled)
        return times(T), np.array([(parameters[self.parameter] - self.shift) * unit])

    def fit(self, pooled: Pooled) -> Fitted:
        T, unit = self.statistic(pooled)
        check_together(T, pooled)
        start, few = np.zeros(1), some_rows(pooled, FINE)
        if few is not pooled:
            start = maximise(times(self.statistic(few)[0]), start, few).theta
        evaluate = times(T)
        found = maximise(evaluate, start, pooled)
        parameters = {self.parameter: float(found.theta[0]) / unit + self.shift}
        return Fitted(self.name, parameters, self.label(parameters), found, evaluate)


def check_together(T: Array, pooled: Pooled) -> None:
    """Base and tuned rows overlap in a statistic, in some prompt or between prompts' orders.

    Raises:
        NoFitError: T is constant; or in every prompt all tuned rows lie on one side of all base
            rows: the more tilt, the likelier.
    """
    if np.ptp(T) == 0:
        raise NoFitError("the rewards are constant")
    base = pooled.is_base
    top, low = (
        [
            np.maximum.reduceat(np.where(rows, sign * T, -np.inf), pooled.starts) * sign
            for rows in (base, ~base)
        ]
        for sign in (1, -1)
    )
    if bool((top[0] <= low[1]).all()) or bool((top[1] <= low[0]).all()):
        raise NoFitError("the labels are separated: the more tilt, the likelier")


def times(T: Array) -> Evaluate:
    """theta T."""
    column = T[:, None]
    return lambda theta: (theta[0] * T, column)


class ExponentialFamily(OneStatistic):
    name, formula = "exponential", "exp(a r)"

    def statistic(self, pooled: Pooled) -> tuple[Array, float]:
        return pooled.z, pooled.spread


class PowerFamily(OneStatistic):
    name, formula, parameter = "power", "r^b", "b"

    def statistic(self, pooled: Pooled) -> tuple[Array, float]:
        least = float(pooled.reward.min())
        if least <= 0:
            raise NoFitError(f"r^b needs rewards > 0, the smallest is {least:.4g}")
        T = np.log(pooled.reward)
        return T - T.mean(), 1.0


def some_rows(pooled: Pooled, most: int) -> Pooled:
    """About that many rows, in the units of all: every so many of a prompt's base rows and of its
    tuned rows, or every so many prompts where they are small."""
    if len(pooled) <= most:
        return pooled
    step = math.ceil(len(pooled) / most)
    if min(pooled.n0.mean(), pooled.n1.mean()) < FEW * step:
        keep = pooled.prompt % step == 0
    else:
        turn = np.arange(len(pooled))
        first = np.flatnonzero(np.diff(2 * pooled.prompt + pooled.label, prepend=-1))
        keep = (turn - np.repeat(first, np.diff(np.append(first, len(pooled))))) % step == 0
    return pooled.take(pooled.two_sided(keep))
