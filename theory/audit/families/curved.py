"""Wrappers whose logarithm is not linear in its parameter: a region by a grid on some rows, then
Newton on all."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.audit.data.samples import Array, Pooled
from theory.audit.families.family import FINE, ROUGH, Family, Fitted, check_together, some_rows
from theory.audit.fit.likelihood import Evaluate, NoFitError, maximise, value_at

GRID, NEAR = 31, 0.2


WIDEST = 40.0  # a times the spread of r, up to which it looks


INSIDE = 1e-6  # of an open range, kept from its ends


NEAR_END = 0.01  # of the range, where a parameter has run to its end


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
        return {"constant": math.cos(theta) - slope * pooled.centre, "slope": slope}

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
        slope = float((pooled.label - pooled.over_rows(pooled.n1 / pooled.sizes)) @ pooled.z)
        return (
            Range(max(where.low, 0.0), where.high)
            if slope >= 0
            else Range(where.low, min(where.high, 0.0))
        )

    def evaluate(self, pooled: Pooled) -> Evaluate:
        r = _scaled(pooled)
        above, below = _coefficients(self.order), _coefficients(self.order - 1)

        def values(theta: Array) -> tuple[Array, Array]:
            u = theta[0] * r
            phi = np.polynomial.polynomial.polyval(u, above)
            return np.log(phi), (r * np.polynomial.polynomial.polyval(u, below) / phi)[:, None]

        return values

    def parameters(self, theta: float, pooled: Pooled) -> dict[str, float]:
        return {"a": theta / pooled.spread}

    def theta(self, parameters: dict[str, float], pooled: Pooled) -> float:
        return parameters["a"] * pooled.spread


def _scaled(pooled: Pooled) -> Array:
    """Rewards over their standard deviation, zero where they had it."""
    return np.asarray(pooled.reward / pooled.spread)


def _coefficients(order: int) -> NDArray[Any]:
    return np.array([1 / math.factorial(j) for j in range(order + 1)])


def _root(order: int) -> float:
    """The size of the one real root, which is negative, of a polynomial of odd degree."""
    roots = np.roots(_coefficients(order)[::-1])
    return -float(roots[int(np.argmin(np.abs(roots.imag)))].real)
