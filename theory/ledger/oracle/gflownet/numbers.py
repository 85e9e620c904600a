r"""A denoising chain and its terminal weight as plain numbers.

States k = 0, ..., T of X_k = alpha_k X_1 + sigma_k X_0 with noise kernels between them,

    X_k | X_{k+1} = x' ~ N((alpha_k / alpha_{k+1}) x', forward_k I),
    forward_k = sigma_k^2 - (alpha_k / alpha_{k+1})^2 sigma_{k+1}^2.

The last state keeps noise and has the weight W = R^power, or R^power p_T with p_T its own law,
R = exp(r) (form "log") or R = r (form "plain"). p_T is the base with sigma_T^2 added to its
covariances, the one identity that is taken for granted here (a test holds it).

In R^d everything varies along a plane and along the other axes apart, so every integral is a
product of one over the plane and one for each other axis: `parts`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.instants import PATHS
from theory.ledger.oracle.integrals import (
    Array,
    Density,
    Exponent,
    Function,
    PlaneNumbers,
    Region,
)

FORMS = ("log", "plain")
_WIDE = 12.0  # standard deviations that a region reaches


class Part(NamedTuple):
    """log W along some of the rotated axes, where its mass is, and its least width."""

    axes: slice
    density: Density
    width: float


class Bridge(NamedTuple):
    """X_{k+1} given X_k = x and X_T = y: N(here x + end y, variance I)."""

    here: float
    end: float
    variance: float


@dataclass(frozen=True)
class FlowNumbers:
    """alpha, sigma (T + 1,): the last of them X_T's. prior: whether W has the factor p_T.
    reward_std: of R along the axes outside the plane, inf where it does not vary there."""

    case: PlaneNumbers
    alpha: Array
    sigma: Array
    power: float
    form: str = "log"
    prior: bool = True
    reward_std: float = math.inf

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {FORMS}, got {self.form!r}")
        if self.form == "plain" and self.case.kind != "bumps":
            raise ValueError(f"a plain R must be of bumps, got {self.case.kind}")
        if np.shape(self.alpha) != np.shape(self.sigma) or len(self.alpha) < 2:
            raise ValueError("alpha and sigma must have one shape (T + 1,), T >= 1")
        if np.any(self.forward <= 0):
            raise ValueError(f"every kernel must add noise, got variances {self.forward}")

    @property
    def steps(self) -> int:
        return len(self.alpha) - 1

    @property
    def ratio(self) -> Array:
        """alpha_k / alpha_{k+1}, (T,)."""
        return self.alpha[:-1] / self.alpha[1:]

    @property
    def forward(self) -> Array:
        """Variances of the noise kernels, (T,)."""
        return self.sigma[:-1] ** 2 - self.ratio**2 * self.sigma[1:] ** 2

    def noising(self, k: int) -> tuple[float, float]:
        """(rho, tau): X_k given X_T = y is N(rho y, tau^2 I), kernel by kernel from T down."""
        rho, variance = 1.0, 0.0
        for j in range(self.steps - 1, k - 1, -1):
            rho *= self.ratio[j]
            variance = self.ratio[j] ** 2 * variance + self.forward[j]
        return float(rho), math.sqrt(variance)

    def bridge(self, k: int) -> Bridge:
        """X_{k+1} between X_k and X_T, k < T - 1, by regression on both."""
        rho, tau = self.noising(k + 1)
        covariance = self.ratio[k] * tau**2  # of X_k and X_{k+1} given X_T
        here = covariance / (self.ratio[k] * covariance + self.forward[k])
        end = rho - here * self.ratio[k] * rho
        return Bridge(float(here), float(end), float(tau**2 - here * covariance))

    def without_reward(self) -> FlowNumbers:
        """W = p_T: the flows of the pretrained chain."""
        return replace(self, power=0.0, prior=True)

    # --- the terminal weight

    def log_reward(self, y: Array) -> Array:
        """log R in the plane, (n, e) -> (n,)."""
        if self.form == "log":
            return self.case.reward(y)
        p = self.case.parameters
        gaps = y[:, None] - p["centres"]
        logs = np.log(p["heights"]) - 0.5 * np.einsum(
            "nmi,mij,nmj->nm", gaps, p["precisions"], gaps
        )
        top = logs.max(axis=1)
        return np.asarray(top + np.log(np.exp(logs - top[:, None]).sum(axis=1)))

    @cached_property
    def last(self) -> PlaneNumbers:
        """p_T: the base with the noise that X_T keeps."""
        return self.noised(self.steps)

    def noised(self, k: int) -> PlaneNumbers:
        """The law of X_k on the path."""
        case, a, s = self.case, float(self.alpha[k]), float(self.sigma[k])
        return replace(
            case,
            means=a * case.means,
            covs=a**2 * case.covs + s**2 * np.eye(case.plane_dim),
            rest_std=math.hypot(a * case.rest_std, s),
        )

    def log_weight(self, y: Array) -> Array:
        """log W in the plane, (n, e) -> (n,)."""
        total = self.power * self.log_reward(y) if self.power else np.zeros(len(y))
        return np.asarray(total + self.last.log_density(y) if self.prior else total)

    def _log_weight_aside(self, z: Array) -> Array:
        """log W along one other axis, (n, 1) -> (n,)."""
        total = np.zeros(len(z))
        if self.power and math.isfinite(self.reward_std):
            total = total - 0.5 * self.power * (z[:, 0] / self.reward_std) ** 2
        if self.prior:
            s = self.last.rest_std
            total = total - 0.5 * (z[:, 0] / s) ** 2 - 0.5 * math.log(2 * math.pi * s**2)
        return np.asarray(total)

    @cached_property
    def parts(self) -> list[Part]:
        """The plane, then every other axis. Raises ValueError for a W without a finite integral."""
        e, d = self.case.plane_dim, self.case.dim
        centres, widths = self._mass()
        lower, upper = (centres - _WIDE * widths).min(0), (centres + _WIDE * widths).max(0)
        if self.power and self.case.kind == "bumps":
            centres = np.concatenate([centres, self.case.parameters["centres"]])
        region = Region(lower, upper, np.clip(centres, lower, upper))
        found = [Part(slice(0, e), Density(self.log_weight, region), self._least_width())]
        if d > e:
            width = min(
                self.last.rest_std if self.prior else math.inf,
                self.reward_std / math.sqrt(self.power) if self.power else math.inf,
            )
            if not math.isfinite(width):
                raise ValueError("W must decay along every axis: give a reward_std")
            line = Region(np.array([-_WIDE * width]), np.array([_WIDE * width]), np.zeros((1, 1)))
            aside = Density(self._log_weight_aside, line)
            found += [Part(slice(j, j + 1), aside, width) for j in range(e, d)]
        return found

    def _mass(self) -> tuple[Array, Array]:
        """Where W's mass is in the plane: centres (m, e) and widths around them (m, e)."""
        p = self.case.parameters
        if self.prior:
            centres, covs = self.last.means, self.last.covs
        elif self.power and self.form == "plain":
            centres, covs = p["centres"], np.asarray(np.linalg.inv(self.power * p["precisions"]))
        elif self.power and self.case.kind == "quadratic":
            covs = np.asarray(np.linalg.inv(-self.power * p["matrix"]))[None]
            if np.linalg.eigvalsh(covs).min() <= 0:
                raise ValueError("R must be integrable: its matrix must be negative definite")
            centres = (covs[0] @ (self.power * p["vector"]))[None]
        else:
            raise ValueError(f"W must be integrable: R of kind {self.case.kind} needs the prior")
        return centres, np.sqrt(np.diagonal(covs, axis1=1, axis2=2))

    def _least_width(self) -> float:
        least = math.inf
        if self.prior:
            least = math.sqrt(float(np.linalg.eigvalsh(self.last.covs).min()))
        if self.power and self.case.kind == "bumps":
            top = float(np.linalg.eigvalsh(self.case.parameters["precisions"]).max())
            least = min(least, 1 / math.sqrt(max(self.power, 1.0) * top))
        if self.power and self.case.kind == "quadratic":
            top = float(np.abs(np.linalg.eigvalsh(self.case.parameters["matrix"])).max())
            least = min(least, 1 / math.sqrt(max(self.power * top, 1e-300)))
        return least


def levels(path: str, steps: int, sigma_end: float, first_time: float = 0.0) -> tuple[Array, Array]:
    """alpha and sigma (T + 1,) of a chain with states at first_time + (1 - first_time) k / T, the
    last of which keeps the noise sigma_end. KeyError for a path of another name."""
    coefficients = PATHS[path]
    times = [first_time + (1 - first_time) * k / steps for k in range(steps)]
    pairs = [coefficients(complex(t)) for t in times]
    alpha = [a.real for a, _ in pairs] + [coefficients(1.0 + 0j)[0].real]
    return np.array(alpha), np.array([s.real for _, s in pairs] + [sigma_end])


def moves(gap: Function, size: float, rate: float) -> Exponent:
    """Exponents by which log N(gap; 0, size^2) changes along one axis as gap moves by rate s:
    y (n, e), s (J,) -> (n, J)."""

    def exponent(y: Array, s: Array) -> Array:
        step = rate * s / size
        return np.asarray(-gap(y)[:, None] / size * step - 0.5 * step**2)

    return exponent


def shifts(x: Array, rho: float, tau: float) -> list[Exponent]:
    """Those of log N(x; rho y, tau^2 I) as each coordinate of x (e,) moves."""

    def along(j: int) -> Exponent:
        return moves(lambda y: np.asarray(x[j] - rho * y[:, j]), tau, 1.0)

    return [along(j) for j in range(len(x))]
