"""Wrappers Phi: the factor Phi(r) by which a target reweights the base law.

    Exponential(a)             exp(a r)
    TruncatedExponential(a, n) sum_{j <= n} (a r)^j / j!      (n = 1 is 1 + a r)
    Power(b)                   r^b, b a whole number
    ClippedExponential(a, w)   min(exp(a r), w)

`scale` is the inverse temperature: the papers' alpha (liu), 2/beta (zhu), beta (nabla). It may be a
tensor of the problem's batch shape (not for the clipped exponential).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from theory.common.checks import check_finite, check_order, check_positive, check_scale

MAX_ORDER = 32
Scale = float | Tensor


class Wrapper(ABC):
    """Phi as a function of reward values (*b, n)."""

    @abstractmethod
    def __call__(self, r: Tensor) -> Tensor:
        """Phi(r)."""

    @property
    @abstractmethod
    def label(self) -> str:
        """How tables and legends name it."""

    def log_abs(self, r: Tensor) -> Tensor:
        """log|Phi(r)|."""
        return self(r).abs().log()

    @abstractmethod
    def log_difference(self, r: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """(log|Phi(r + step) - Phi(r)|, its sign), without cancellation; r, step: (*b, n)."""

    @property
    def coefficients(self) -> list[Scale] | None:
        """[c_0, c_1, ...] with Phi(r) = sum c_j r^j, or None where Phi is no polynomial."""
        return None

    @abstractmethod
    def least(self, low: float, high: float) -> float:
        """The minimum of Phi over reward values in [low, high] (ends may be infinite)."""


def _point(value: Scale, r: Tensor) -> Scale:
    """A batch of coefficients (*b,) as (*b, 1), to multiply values (*b, n)."""
    return value[..., None] if isinstance(value, Tensor) and value.ndim else value


@dataclass(frozen=True)
class Exponential(Wrapper):
    """exp(scale r)."""

    scale: Scale = 1.0

    def __post_init__(self) -> None:
        check_scale("scale", self.scale)

    def __call__(self, r: Tensor) -> Tensor:
        return torch.exp(_point(self.scale, r) * r)

    def log_abs(self, r: Tensor) -> Tensor:
        return _point(self.scale, r) * r

    def log_difference(self, r: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        exponent = _point(self.scale, r) * step
        return self.log_abs(r) + _log_abs_expm1(exponent), exponent.sign()

    @property
    def label(self) -> str:
        return f"exp({_number(self.scale)}r)"

    def least(self, low: float, high: float) -> float:
        return 0.0


class Polynomial(Wrapper):
    """Wrappers that are polynomials in r."""

    @property
    @abstractmethod
    def coefficients(self) -> list[Scale]: ...

    def __call__(self, r: Tensor) -> Tensor:
        result = torch.zeros_like(r)
        for c in reversed(self.coefficients):
            result = result * r + _point(c, r)
        return result

    def log_difference(self, r: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        after, power, slope = r + step, torch.ones_like(r), torch.zeros_like(r)
        total = torch.zeros_like(r)
        for c in self.coefficients[1:]:  # slope = (after^j - r^j) / step
            slope, power = after * slope + power, power * r
            total = total + _point(c, r) * slope
        total = total * step
        return total.abs().log(), total.sign()

    def least(self, low: float, high: float) -> float:
        rows = torch.broadcast_tensors(
            *(torch.as_tensor(c, dtype=torch.float64) for c in self.coefficients)
        )
        table = torch.stack(rows, -1).reshape(-1, len(rows)).cpu().numpy()
        return min(_least_of_polynomial(np.trim_zeros(row, "b"), low, high) for row in table)


def _least_of_polynomial(coefficients: np.ndarray, low: float, high: float) -> float:
    poly = np.polynomial.Polynomial(coefficients if len(coefficients) else [0.0])
    roots = [complex(z) for z in poly.deriv().roots()]
    turning = [z.real for z in roots if abs(z.imag) <= 1e-9 * (1 + abs(z))]
    values: list[float] = [float(poly(z)) for z in turning if low < z < high]
    for end, direction in ((low, -1.0), (high, 1.0)):
        if math.isfinite(end):
            values.append(float(poly(end)))
        elif poly.degree() > 0:
            leading = float(poly.coef[-1]) * direction ** poly.degree()
            values.append(math.copysign(math.inf, leading))
    return min(values) if values else float(poly(0.0))


@dataclass(frozen=True)
class TruncatedExponential(Polynomial):
    """The Taylor polynomial of exp(scale r) of degree `order`."""

    scale: Scale = 1.0
    order: int = 1

    def __post_init__(self) -> None:
        check_scale("scale", self.scale)
        check_order("order", self.order, 1, MAX_ORDER)

    @property
    def coefficients(self) -> list[Scale]:
        return [self.scale**j / math.factorial(j) for j in range(self.order + 1)]

    @property
    def label(self) -> str:
        a = _number(self.scale)
        terms = [f"1{a}r" if a.startswith("-") else f"1+{a}r", f"({a}r)²/2", f"({a}r)³/6"]
        short = "+".join(terms[: self.order])
        return short if self.order <= len(terms) else f"exp({a}r) to order {self.order}"


@dataclass(frozen=True)
class Power(Polynomial):
    """r^exponent, for rewards that are densities up to a factor (p R^b)."""

    exponent: int = 1

    def __post_init__(self) -> None:
        check_order("exponent", self.exponent, 1, MAX_ORDER)

    @property
    def coefficients(self) -> list[Scale]:
        return [*[0.0] * self.exponent, 1.0]

    def log_abs(self, r: Tensor) -> Tensor:
        return self.exponent * r.abs().log()

    @property
    def label(self) -> str:
        return "r" if self.exponent == 1 else f"r^{self.exponent}"


@dataclass(frozen=True)
class ClippedExponential(Wrapper):
    """min(exp(scale r), max_weight): the weights of DRWR-type methods with a cap."""

    scale: float = 1.0
    max_weight: float = 10.0

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)
        check_positive("max_weight", self.max_weight)

    def __call__(self, r: Tensor) -> Tensor:
        return self.log_abs(r).exp()

    def log_abs(self, r: Tensor) -> Tensor:
        return (self.scale * r).clamp_max(math.log(self.max_weight))

    def log_difference(self, r: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        room = math.log(self.max_weight) - self.scale * r  # negative: above the cap
        own = self.scale * step
        exponent = torch.where(room >= 0, own.minimum(room), (own - room).clamp_max(0))
        return self.log_abs(r) + _log_abs_expm1(exponent), exponent.sign()

    @property
    def threshold(self) -> float:
        """The reward at which the cap begins; infinite where it never does (scale = 0)."""
        return math.log(self.max_weight) / self.scale if self.scale else math.inf

    @property
    def label(self) -> str:
        return f"min(exp({_number(self.scale)}r), {self.max_weight:g})"

    def least(self, low: float, high: float) -> float:
        return 0.0


def _log_abs_expm1(u: Tensor) -> Tensor:
    """log|exp(u) - 1|, also where exp(u) overflows."""
    return u.clamp_min(0) + (-torch.expm1(-u.abs())).log()


def _number(value: Scale) -> str:
    if isinstance(value, Tensor) and value.numel() > 1:
        return "a·"
    number = float(value)
    return "" if number == 1 else f"{number:.4g}"
