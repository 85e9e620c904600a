"""The wrappers Phi that an audit fits: what a tuned model may have made of the base's rewards.

    exponential      exp(a r)                          NFT (first order), Adjoint Matching, RWR
    linear           1 + a r                           reward-weighted losses, NFT read as 1 + a r
    truncated_2, _3  Taylor polynomials of exp(a r)    about r = 0, as the rewards are given
    power            r^b                               p R^b (nabla-GFlowNets), for r > 0
    clipped          min(exp(a r), w)                  DRWR with a cap on the weights
    best_of_n        F_g(r)^(n - 1), n real            best of n samples of a prompt
    rank             exp(a F_g(r))                     losses of ranks within a prompt

F_g is the cdf of the base's rewards in the prompt, from its base rows. A family gives log Phi and
its derivative at every row; most are one statistic times one parameter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.inputs import Array, Pooled
from theory.audit.fit.likelihood import Evaluate, Fit, NoFitError, maximise, value_at

LEAST_N, SMALL_TILT = 1e-3, 1e-8
LEAST_FOR_RANKS = 20  # base rows a prompt, else F_g is too coarse to take a logarithm of
ROUGH, FINE = 4_000, 20_000  # rows on which a region is looked for, and narrowed down
GRID, NEAR = 31, 0.2
FEW = 4  # rows of a side and prompt that are left at least, on average, where rows are left out
WIDEST = 40.0  # a times the spread of r, up to which it looks
INSIDE = 1e-6  # of an open range, kept from its ends
NEAR_END = 0.01  # of the range, where a parameter has run to its end


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
    """One form of Phi."""

    name: str
    formula: str

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


class OneStatistic(Family):
    """log Phi = theta T(r)."""

    parameter = "a"

    @abstractmethod
    def statistic(self, pooled: Pooled) -> tuple[Array, float]:
        """(T in a unit that suits Newton (N,), that unit in the parameter's own)."""

    def at(self, parameters: dict[str, float], pooled: Pooled) -> tuple[Evaluate, Array]:
        T, unit = self.statistic(pooled)
        return times(T), np.array([self._to_theta(parameters) * unit])

    def fit(self, pooled: Pooled) -> Fitted:
        T, unit = self.statistic(pooled)
        check_together(T, pooled)
        start, few = np.zeros(1), some_rows(pooled, FINE)
        if few is not pooled:
            start = maximise(times(self.statistic(few)[0]), start, few).theta
        evaluate = times(T)
        found = maximise(evaluate, start, pooled)
        parameters = self._from_theta(float(found.theta[0]) / unit)
        return Fitted(self.name, parameters, self.label(parameters), found, evaluate)

    def _to_theta(self, parameters: dict[str, float]) -> float:
        return parameters[self.parameter]

    def _from_theta(self, value: float) -> dict[str, float]:
        return {self.parameter: value}

    def label(self, parameters: dict[str, float]) -> str:
        return self.formula.replace(self.parameter, f"{parameters[self.parameter]:.3g}", 1)


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
        [np.maximum.reduceat(np.where(rows, sign * T, -np.inf), pooled.starts) * sign
         for rows in (base, ~base)]
        for sign in (1, -1)
    )  # fmt: skip
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


class Ranked(OneStatistic):
    """Wrappers of F_g(r): what they do does not depend on the rewards' law, and F_g is estimated
    (rank_fit.py)."""

    @abstractmethod
    def inverse(self, u: Array, parameters: dict[str, float]) -> Array:
        """Quantiles of the tuned law of F_g(r) at levels u."""

    def ranks(self, pooled: Pooled) -> Array:
        """F_g(r) of the base in the prompt, ties at the middle of their step; in (0, 1)."""
        least = int(pooled.n0.min())
        if least < LEAST_FOR_RANKS:
            raise NoFitError(
                f"ranks need {LEAST_FOR_RANKS} base samples in every prompt, the fewest are {least}"
            )
        found = np.empty(len(pooled))
        ends = np.append(pooled.starts[1:], len(pooled))
        for start, end in zip(pooled.starts, ends, strict=True):
            own = pooled.reward[start:end]
            base = np.sort(own[pooled.label[start:end] == 0])
            below = np.searchsorted(base, own, "left")
            upto = np.searchsorted(base, own, "right")
            found[start:end] = (0.5 * (below + upto) + 0.5) / (len(base) + 1)
        return found


class BestOfN(Ranked):
    name, formula, parameter = "best_of_n", "F(r)^(n-1)", "n"

    def statistic(self, pooled: Pooled) -> tuple[Array, float]:
        return np.log(self.ranks(pooled)), 1.0

    def inverse(self, u: Array, parameters: dict[str, float]) -> Array:
        return np.asarray(u ** (1 / max(parameters["n"], LEAST_N)))

    def _to_theta(self, parameters: dict[str, float]) -> float:
        return parameters["n"] - 1

    def _from_theta(self, value: float) -> dict[str, float]:
        return {"n": value + 1}

    def label(self, parameters: dict[str, float]) -> str:
        return f"best of n, n = {parameters['n']:.3g}"


class RankFamily(Ranked):
    name, formula = "rank", "exp(a F(r))"

    def statistic(self, pooled: Pooled) -> tuple[Array, float]:
        return self.ranks(pooled) - 0.5, 1.0

    def inverse(self, u: Array, parameters: dict[str, float]) -> Array:
        a = parameters["a"]
        return u if abs(a) < SMALL_TILT else np.log1p(u * np.expm1(a)) / a


# --- families that are not concave: a region by a grid on some rows, then Newton on all


@dataclass(frozen=True)
class Range:
    """An open range of one parameter, and places in it to start from."""

    low: float
    high: float

    def grid(self) -> Array:
        """Even in arsinh: fine about zero, where most tilts are."""
        ends = np.arcsinh([self.low / NEAR, self.high / NEAR])
        places = np.linspace(float(ends[0]), float(ends[1]), GRID + 2)[1:-1]
        return np.asarray(NEAR * np.sinh(places))


class Curved(Family):
    """log Phi of one parameter, not a multiple of it, on an open range."""

    @abstractmethod
    def range(self, pooled: Pooled) -> Range:
        """Where Phi > 0 at all rows."""

    def searched(self, pooled: Pooled) -> Range:
        """Where in it the likeliest is looked for."""
        return self.range(pooled)

    @abstractmethod
    def evaluate(self, pooled: Pooled) -> Evaluate: ...

    @abstractmethod
    def parameters(self, theta: float, pooled: Pooled) -> dict[str, float]: ...

    @abstractmethod
    def label(self, parameters: dict[str, float]) -> str: ...

    @abstractmethod
    def theta(self, parameters: dict[str, float], pooled: Pooled) -> float: ...

    def fit(self, pooled: Pooled) -> Fitted:
        check_together(pooled.z, pooled)
        where = self.searched(pooled)
        rough = some_rows(pooled, ROUGH)
        begin = best_start(self.evaluate(rough), where, rough)
        start, ends = np.array([begin]), (np.array([where.low]), np.array([where.high]))
        few = some_rows(pooled, FINE)
        if few is not pooled:
            start = maximise(self.evaluate(few), start, few, *ends).theta
        evaluate = self.evaluate(pooled)
        found = maximise(evaluate, start, pooled, *ends)
        parameters = self.parameters(float(found.theta[0]), pooled)
        return Fitted(self.name, parameters, self.label(parameters), found, evaluate)

    def at(self, parameters: dict[str, float], pooled: Pooled) -> tuple[Evaluate, Array]:
        where, theta = self.range(pooled), self.theta(parameters, pooled)
        if not where.low <= theta <= where.high:
            raise NoFitError("Phi is not positive at all rewards")
        return self.evaluate(pooled), np.array([theta])


def best_start(evaluate: Evaluate, where: Range, pooled: Pooled) -> float:
    """The likeliest place of a grid."""
    places = where.grid()
    values = [value_at(evaluate, np.array([place]), pooled) for place in places]
    return float(places[int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))])


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
        sizes = np.diff(np.append(first, len(pooled)))
        keep = (turn - np.repeat(first, sizes)) % step == 0
    return pooled.take(pooled.two_sided(keep))


class LinearFamily(Curved):
    """1 + a r, up to a factor: cos(theta) + sin(theta) z, z the standardised reward; so that every
    line that is positive at all rows is in it, those with 1 + a r < 0 at r = 0 too."""

    name, formula = "linear", "1 + a r"

    def range(self, pooled: Pooled) -> Range:
        low, high = float(pooled.z.min()), float(pooled.z.max())
        # cos + sin z > 0 at both ends: tan(theta) in (-1/high, -1/low).
        if not low < 0 < high:
            raise NoFitError("the rewards are constant")
        ends = -math.atan(1 / high), math.atan(1 / -low)
        inside = INSIDE * (ends[1] - ends[0])
        return Range(ends[0] + inside, ends[1] - inside)

    def evaluate(self, pooled: Pooled) -> Evaluate:
        z = pooled.z

        def values(theta: Array) -> tuple[Array, Array]:
            c, s = math.cos(theta[0]), math.sin(theta[0])
            phi = c + s * z
            return np.log(phi), ((c * z - s) / phi)[:, None]

        return values

    def parameters(self, theta: float, pooled: Pooled) -> dict[str, float]:
        # cos + sin (r - c)/s = constant + slope r
        slope = math.sin(theta) / pooled.spread
        constant = math.cos(theta) - slope * pooled.centre
        return {"constant": constant, "slope": slope}

    def theta(self, parameters: dict[str, float], pooled: Pooled) -> float:
        slope = parameters["slope"] * pooled.spread
        return math.atan2(slope, parameters["constant"] + parameters["slope"] * pooled.centre)

    def label(self, parameters: dict[str, float]) -> str:
        constant, slope = parameters["constant"], parameters["slope"]
        if constant > 0:
            return f"1 {'+' if slope >= 0 else '-'} {abs(slope) / constant:.3g} r"
        if constant == 0:
            return "r" if slope > 0 else "-r"
        zero = -constant / slope
        inner = f"r - {zero:.3g}" if zero >= 0 else f"r + {-zero:.3g}"
        return inner if slope > 0 else f"-({inner})"


@dataclass(frozen=True)
class TruncatedFamily(Curved):
    """The Taylor polynomial of exp(a r) of degree `order`, as r is given."""

    order: int

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"truncated_{self.order}"

    @property
    def formula(self) -> str:  # type: ignore[override]
        return f"exp(a r) to order {self.order}"

    def range(self, pooled: Pooled) -> Range:
        r = _scaled(pooled)
        low, high = -WIDEST, WIDEST
        if self.order % 2:  # its one real root, at a r = -root
            root = _root(self.order)
            for end in (float(r.min()), float(r.max())):
                if end < 0:
                    high = min(high, root / -end)
                elif end > 0:
                    low = max(low, -root / end)
        inside = INSIDE * (high - low)
        return Range(low + inside, high - inside)

    def fit(self, pooled: Pooled) -> Fitted:
        found = super().fit(pooled)
        if abs(float(found.fit.theta[0])) > (1 - NEAR_END) * WIDEST:
            raise NoFitError(f"r^{self.order} alone is likelier than any exp(a r) to that order")
        return found

    def searched(self, pooled: Pooled) -> Range:
        """a of the exponential tilt's sign: beyond its least value a polynomial of even order rises
        with -a r, and would pass for a tilt of the other way. That sign is the likelihood's slope's
        at no tilt, where all rows of a prompt have one chance."""
        where = self.range(pooled)
        chance = pooled.n1 / pooled.sizes
        slope = float((pooled.label - pooled.spreaded(chance)) @ pooled.z)
        return Range(max(where.low, 0.0), where.high) if slope >= 0 else Range(
            where.low, min(where.high, 0.0)
        )  # fmt: skip

    def evaluate(self, pooled: Pooled) -> Evaluate:
        r = _scaled(pooled)
        above, below = _coefficients(self.order), _coefficients(self.order - 1)

        def values(theta: Array) -> tuple[Array, Array]:
            u = theta[0] * r
            phi = np.polynomial.polynomial.polyval(u, above)
            slope = r * np.polynomial.polynomial.polyval(u, below) / phi
            return np.log(phi), slope[:, None]

        return values

    def parameters(self, theta: float, pooled: Pooled) -> dict[str, float]:
        return {"a": theta / pooled.spread}

    def theta(self, parameters: dict[str, float], pooled: Pooled) -> float:
        return parameters["a"] * pooled.spread

    def label(self, parameters: dict[str, float]) -> str:
        return self.formula.replace("a r", f"{parameters['a']:.3g} r")


def _scaled(pooled: Pooled) -> Array:
    """Rewards over their standard deviation, zero where they had it."""
    return np.asarray(pooled.reward / pooled.spread)


def _coefficients(order: int) -> NDArray[Any]:
    return np.array([1 / math.factorial(j) for j in range(order + 1)])


def _root(order: int) -> float:
    """The size of the one real root, which is negative, of a polynomial of odd degree."""
    roots = np.roots(_coefficients(order)[::-1])
    return -float(roots[int(np.argmin(np.abs(roots.imag)))].real)


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
        parameters = {"a": a, "cap": cap}
        return Fitted(
            self.name, parameters, f"exp({a:.3g} r), flat beyond r = {cap:.3g}", found,
            times(np.minimum(pooled.z, cut)),
        )  # fmt: skip

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
        T = np.minimum(pooled.z, cut)
        return times(T), np.array([parameters["a"] * pooled.spread])


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


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        ExponentialFamily(), LinearFamily(), TruncatedFamily(2), TruncatedFamily(3), PowerFamily(),
        ClippedFamily(), BestOfN(), RankFamily(),
    )
}  # fmt: skip
