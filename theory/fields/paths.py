"""Interpolation paths X_t = alpha_t X_1 + sigma_t X_0, X_0 ~ N(0, I), t = 0 noise, t = 1 data.

Everything a network may predict at (x, t) is linear in x_1 = E[X_1 | X_t = x] and
eps = E[X_0 | X_t = x], and x = alpha x_1 + sigma eps holds for the two. So each prediction is a row
(p, q) of p x_1 + q eps, and any conversion solves one 2 x 2 system:

    x1           ( 1,       0     )
    eps          ( 0,       1     )
    score        ( 0,      -1/sigma )    gradient of the log-density of X_t (Tweedie)
    velocity     ( alpha',  sigma')    time derivative along this path
    v            (-sigma,   alpha )    v-prediction of Salimans and Ho (2022), of VP models
    rf_velocity  ( 1,      -1     )    velocity of the rectified flow at `rf_point`

Conversions live here and nowhere else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from theory.common.checks import (
    check_choice,
    check_like,
    check_positive,
    check_time,
    is_finite_number,
)

Prediction = Literal["x1", "eps", "score", "velocity", "v", "rf_velocity"]


class Path(ABC):
    """alpha_t, sigma_t and their time derivatives; t is a tensor of any shape, in [0, 1]."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Coefficient of the data X_1."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Coefficient of the noise X_0."""

    @abstractmethod
    def dalpha(self, t: Tensor) -> Tensor:
        """d alpha / dt."""

    @abstractmethod
    def dsigma(self, t: Tensor) -> Tensor:
        """d sigma / dt."""

    def eta(self, t: Tensor) -> Tensor:
        """eta_t = sigma (sigma alpha'/alpha - sigma'): v = (alpha'/alpha) x + eta * score.

        The memoryless diffusion coefficient is g^2 = 2 eta. Infinite where alpha = 0.
        """
        return self.gain(t) / self.alpha(t)

    def sigma_dsigma(self, t: Tensor) -> Tensor:
        """sigma sigma' = (sigma^2)'/2, finite also where sigma' is not."""
        return self.sigma(t) * self.dsigma(t)

    def gain(self, t: Tensor) -> Tensor:
        """sigma (alpha' sigma - alpha sigma') = alpha eta, finite at both ends (1 - t for RF).

        A change of E[X_1 | x] by sigma^2 e changes the velocity by gain * e and the score by
        alpha * e.
        """
        return self.dalpha(t) * self.sigma(t) ** 2 - self.alpha(t) * self.sigma_dsigma(t)

    def sde_drift(self, velocity: Tensor, score: Tensor, g: Tensor | float) -> Tensor:
        """Drift of dX = (v + g^2/2 score) dt + g dB: the ODE's marginals at every g(t)."""
        return velocity + 0.5 * g**2 * score

    def rf_point(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(y, s) with y = x/(alpha+sigma), s = alpha/(alpha+sigma): X_t seen on the RF path."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        total = alpha + sigma
        return x / column(total), alpha / total

    def convert(
        self, value: Tensor, x: Tensor, t: Tensor | float, source: Prediction, target: Prediction
    ) -> Tensor:
        """Turn a prediction of kind `source` at (x, t) into the one of kind `target`.

        value, x: (..., d); t: scalar or the shape of x without its last axis.

        Raises:
            ValueError: unknown kind, shapes of value and x that differ, t outside [0, 1], or a
                time at which `source` does not determine the rest (eps at alpha = 0, say) or
                either is infinite (the score at sigma = 0).
            TypeError: dtypes of value, x and t differ.
        """
        check_choice("source", source, get_args(Prediction))
        check_choice("target", target, get_args(Prediction))
        check_like("value", value, "x", x)
        t = check_time(t, x)
        p, q = self._row(source, t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        determinant = p * sigma - q * alpha
        solvable = torch.isfinite(determinant) & (determinant != 0)
        if not bool(solvable.all()):
            raise ValueError(
                f"source = {source!r} does not determine {target!r} at t = {_first(t, ~solvable)}, "
                "where alpha or sigma vanishes: must be times inside (0, 1)"
            )
        determinant, p, q = column(determinant), column(p), column(q)
        x1 = (column(sigma) * value - q * x) / determinant
        eps = (p * x - column(alpha) * value) / determinant
        a, b = self._row(target, t)
        finite = torch.isfinite(a) & torch.isfinite(b)
        if not bool(finite.all()):
            raise ValueError(
                f"target = {target!r} is infinite at t = {_first(t, ~finite)}: must be times "
                "inside (0, 1)"
            )
        return column(a) * x1 + column(b) * eps

    def _row(self, kind: Prediction, t: Tensor) -> tuple[Tensor, Tensor]:
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        return {
            "x1": (one, zero),
            "eps": (zero, one),
            "score": (zero, -1 / sigma),
            "velocity": (self.dalpha(t), self.dsigma(t)),
            "v": (-sigma, alpha),
            "rf_velocity": (one, -one),
        }[kind]


def _first(t: Tensor, where: Tensor) -> str:
    return f"{t[where].flatten()[0].item():g}"


def column(value: Tensor) -> Tensor:
    """A per-point coefficient (n,) as (n, 1), so that it multiplies points (n, d); scalars pass."""
    return value[..., None] if value.ndim else value


@dataclass(frozen=True)
class RectifiedFlow(Path):
    """alpha = t, sigma = 1 - t."""

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def dalpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def dsigma(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)


@dataclass(frozen=True)
class Trigonometric(Path):
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2) (TrigFlow, with t in [0, 1])."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)

    def sigma(self, t: Tensor) -> Tensor:
        # sin of the complement: exactly zero at t = 1, where cos(pi/2) is 6e-17.
        return torch.sin(0.5 * math.pi * (1 - t))

    def dalpha(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * self.sigma(t)

    def dsigma(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi * self.alpha(t)


@dataclass(frozen=True)
class VariancePreserving(Path):
    """DDPM's continuous limit (Song et al. 2021, VP-SDE), time reversed to t = 1 data.

    alpha_t = exp(-B(1 - t)/2), B(s) = beta_min s + (beta_max - beta_min) s^2 / 2,
    sigma_t^2 = 1 - alpha_t^2. At t = 0 alpha is exp(-B(1)/2) (0.0066 by default), not zero. At
    t = 1 sigma' is infinite, but sigma sigma' is not, so exact fields are finite there; only
    `convert` between eps and velocity is refused.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        check_positive("beta_min", self.beta_min)
        check_positive("beta_max", self.beta_max)

    def _exponent(self, t: Tensor) -> Tensor:
        s = 1 - t
        return self.beta_min * s + 0.5 * (self.beta_max - self.beta_min) * s**2

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._exponent(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._exponent(t)))

    def dalpha(self, t: Tensor) -> Tensor:
        rate = self.beta_min + (self.beta_max - self.beta_min) * (1 - t)
        return 0.5 * rate * self.alpha(t)

    def dsigma(self, t: Tensor) -> Tensor:
        return self.sigma_dsigma(t) / self.sigma(t)

    def sigma_dsigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.dalpha(t)


@dataclass(frozen=True)
class VarianceExploding(Path):
    """alpha = 1, sigma_t geometric or EDM-like from sigma_max (t = 0) to 0 (t = 1).

    sigma_t = sigma_max (1 - t)^rho; rho = 7 is the spacing of Karras et al. (2022) with
    sigma_min = 0. X_0 sigma_max at t = 0 stands for the law of X_0 in the sampler.
    """

    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_positive("sigma_max", self.sigma_max)
        if not (is_finite_number(self.rho) and self.rho >= 1):
            raise ValueError(f"rho must be a finite number >= 1, got {self.rho!r}")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * (1 - t) ** self.rho

    def dalpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def dsigma(self, t: Tensor) -> Tensor:
        return -self.sigma_max * self.rho * (1 - t) ** (self.rho - 1)


PATHS: dict[str, type[Path]] = {
    "rectified_flow": RectifiedFlow,
    "trigonometric": Trigonometric,
    "variance_preserving": VariancePreserving,
    "variance_exploding": VarianceExploding,
}

RECTIFIED_FLOW = RectifiedFlow()
