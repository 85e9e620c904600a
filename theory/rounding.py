"""What rounding can do to a value, and its refusal by name.

The closed forms lose no digits that the numbers they are given have. What is left is how far those
numbers, rounded to float64, decide the value: a component that is 1e-7 wide at a distance of 1 has
its weight known to 1e-9 only. These are first-order bounds on that error, with every product's and
every difference's rounding added up; they are worked out only where a glance at the largest
numbers (`Extent`) cannot exclude a loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from theory.tolerances import QUADRATURE_TIGHT

if TYPE_CHECKING:
    from theory.bumps import Bumps, BumpsGiven
    from theory.posterior import Posterior, Spectrum

UNIT = torch.finfo(torch.float64).eps
# Units of rounding in a difference, a square or an eigenvalue: measured errors stay below.
STEPS = 1.0


@dataclass(frozen=True)
class Extent:
    """The largest |mean|, and the smallest and largest variance of a law."""

    reach: float
    least: float
    most: float
    turned: bool

    def may_lose(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> bool:
        """Whether a value at points x may have lost digits beyond the quadrature_tight tier."""
        if x.dtype != torch.float64 or x.device.type == "meta" or not x.numel():
            return False
        size = float(x.detach().abs().max()) + self.reach
        least = float((alpha.min() ** 2 * self.least + sigma.min() ** 2).clamp_min(1e-300))
        ratio = size**2 / least
        if self.turned:
            ratio *= max(1.0, float(alpha.max()) ** 2 * self.most / least)
        return not UNIT * x.shape[-1] * ratio <= QUADRATURE_TIGHT.rtol / 8


@dataclass(frozen=True, eq=False)
class Rounding:
    """First-order bounds on errors at one posterior; axes (*b, K, d, n) as there."""

    post: Posterior

    @cached_property
    def offset(self) -> Tensor:
        """Of z = Q'(x - alpha mu), (*b, K, d, n)."""
        post = self.post
        size = (
            post.points.abs()[..., None, :, :] + _wide(post.alpha) * post.law.mean.abs()[..., None]
        )
        if post.law.spectrum.axes is not None:
            size = size.norm(dim=-2, keepdim=True).expand(size.shape)
        return STEPS * UNIT * size

    @cached_property
    def own(self) -> Tensor:
        """Of a variance l, absolute, (*b, K, d|1, 1)."""
        return variance_error(self.post.law.spectrum)[..., None]

    @cached_property
    def relative(self) -> Tensor:
        """Of V = alpha^2 l + sigma^2, relative."""
        own = _wide(self.post.alpha) ** 2 * self.own
        return STEPS * UNIT + own / self.post.variance

    @cached_property
    def log_parts(self) -> Tensor:
        """Of the components' log-densities, (*b, K, n)."""
        z, V = self.post.eigen_offsets, self.post.variance
        return (z.abs() / V * self.offset + 0.5 * (z**2 / V + 1) * self.relative).sum(-2)

    @cached_property
    def weights(self) -> Tensor:
        """Of the components' weights, (*b, K, n)."""
        w, error = self.post.weights.abs(), self.log_parts
        return w * ((1 - w).clamp_min(0) * error + (w * error).sum(-2, keepdim=True) - w * error)

    def _slope(self, p: Tensor | float, q: Tensor | float) -> tuple[Tensor, Tensor]:
        """The slope of p m_k - q s_k along z, and its error."""
        post, p_, q_ = self.post, _wide(p), _wide(q)
        pull = p_ * _wide(post.alpha)
        slope = (pull * post.law.spectrum.variances[..., None] + q_) / post.variance
        steep = slope.abs() * self.relative + abs(pull) * self.own / post.variance
        size = post.eigen_offsets.shape
        return slope.expand(size), steep.expand(size)

    def inside(self, p: Tensor | float, q: Tensor | float) -> Tensor:
        """Of p m_k - q s_k, its norm, (*b, K, n)."""
        slope, steep = self._slope(p, q)
        own = slope.abs() * self.offset + steep * self.post.eigen_offsets.abs()
        return own.norm(dim=-2)

    def _apart(self, p: Tensor | float, q: Tensor | float) -> Tensor:
        """p m_k - q s_k less its average, (*b, K, d, n)."""
        post = self.post
        value = _wide(p) * post.component_means - _wide(q) * post.component_scores
        return value - (post.weights[..., None, :] * value).sum(-3, keepdim=True)

    def combination(self, p: Tensor | float, q: Tensor | float) -> Tensor:
        """Of `Posterior.combine(p, q)`, (*b, n)."""
        between = (self.weights * self._apart(p, q).norm(dim=-2)).sum(-2)
        return between + (self.post.weights.abs() * self.inside(p, q)).sum(-2)

    def divergence(self, p: Tensor | float, q: Tensor | float) -> tuple[Tensor, Tensor]:
        """Of `Posterior.combine_divergence(p, q)`, and the size of its terms, each (*b, n)."""
        (slope, steep), apart = self._slope(p, q), self._apart(p, q).norm(dim=-2)
        spread = self._apart(0.0, 1.0).norm(dim=-2)
        terms = slope.abs().sum(-2) + apart * spread
        inside = steep.sum(-2) + self.inside(p, q) * spread + apart * self.inside(0.0, 1.0)
        w = self.post.weights.abs()
        return (self.weights * terms + w * inside).sum(-2), (w * terms).sum(-2)


@dataclass(frozen=True, eq=False)
class BumpRounding:
    """First-order bounds on errors of bumps under one posterior's components."""

    given: BumpsGiven
    bumps: Bumps

    @cached_property
    def log_values(self) -> Tensor:
        """Of log E_k[b_t], (*b, K, T, n)."""
        given, post = self.given, self.given.post
        size = self.bumps.centre.abs()[..., None, :, :, None]
        size = size + post.component_means.abs()[..., :, None, :, :] + self._spread
        linear, square, grown = given.exponent
        relative = STEPS * UNIT * (1 + self._turned)
        return (
            STEPS * UNIT * linear * size.norm(dim=-2) + relative * (square + grown) + STEPS * UNIT
        )

    @cached_property
    def _spread(self) -> Tensor:
        """|alpha l x / V|: what the posterior mean is a sum of."""
        post = self.given.post
        gain = _wide(post.alpha) * post.law.spectrum.variances[..., None] / post.variance
        return (gain * post.points.abs()[..., None, :, :])[..., :, None, :, :]

    @cached_property
    def _turned(self) -> Tensor:
        """How far eigenvalues of rotated matrices are less exact than their entries."""
        post, spectrum, values = self.given.post, self.given.post.law.spectrum, self.bumps.values
        total = torch.zeros_like(self.given.log_value)
        square, most = _wide(post.sigma) ** 2, values.amax(-1)
        variances = spectrum.variances[..., None]
        cov = square * variances / post.variance  # of S_k: (*b, K, d|1, n|1)
        if spectrum.axes is not None:  # d S / d l = (sigma^2 / V)^2, over S + 1 / A
            error = (square / post.variance) ** 2 * variances.amax(-2, keepdim=True)
            wide = 1 / most.clamp_min(torch.finfo(most.dtype).tiny)[..., None, :, None, None]
            ratio = error[..., :, None, :, :] / (cov[..., :, None, :, :] + wide)
            total = total + ratio.amax(-2)
        if self.bumps.axes is not None:  # d (1 / A) = 1 / A^2, over S + 1 / A
            small = values.clamp_min(torch.finfo(most.dtype).eps * most[..., None])
            grown = 1 + cov.amin(-2)[..., :, None, None, :] * small[..., None, :, :, None]
            ratio = (most[..., None] / small)[..., None, :, :, None] / grown
            total = total + ratio.amax(-2)
        return total

    def moment(self, sign: Tensor, log_coef: Tensor) -> tuple[Tensor, Tensor]:
        """Of sum_t sign_t exp(log_coef_t) E[b_t | x], and the size of its terms, each (*b, n)."""
        post = self.given.post
        size = (self.given.log_value + log_coef[..., None, :, None]).exp()
        parts = post.weights[..., :, None, :] * size
        own = Rounding(post).weights[..., :, None, :] * size
        return (own + parts * self.log_values).sum((-2, -3)), parts.sum((-2, -3))


def variance_error(spectrum: Spectrum) -> Tensor:
    """Of the variances l, absolute: eigenvalues are known to rounding of the largest."""
    variances = spectrum.variances
    size = variances if spectrum.axes is None else variances.amax(-1, keepdim=True)
    return (STEPS * UNIT * size).expand(variances.shape)


def _wide(value: Tensor | float) -> Tensor | float:
    """A coefficient over (K, n) as one over (K, d, n)."""
    return value[..., None, :] if isinstance(value, Tensor) and value.ndim else value


def refuse_lost(what: str, error: Tensor, size: Tensor) -> None:
    """Refuse where a bound on the error exceeds the tier of the size.

    Raises:
        ValueError: it does; the message says by how much.
    """
    ratio = error.detach() / size.detach()
    worst = float(ratio.max())
    if not worst <= QUADRATURE_TIGHT.rtol:
        digits = math.inf if math.isnan(worst) else worst
        raise ValueError(
            f"{what} has lost digits: its inputs, rounded to float64, decide it to {digits:.1e} "
            f"only: allowed is {QUADRATURE_TIGHT.rtol:g}; scales lie too far apart here (a point, "
            "a mean or a centre far away in units of the narrowest width)"
        )
