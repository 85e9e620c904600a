"""What rounding can do to a value, and its refusal by name.

The closed forms lose no digits that the numbers they are given have. What is left is how far those
numbers, rounded to float64, decide the value: a component that is 1e-7 wide at a distance of 1 has
its weight known to 1e-9 only. These are first-order bounds on that error, with every product's and
every difference's rounding added up; they are worked out only where a glance at the largest
numbers (`theory.laws.components.Extent`) cannot exclude a loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from theory.common.tolerances import QUADRATURE_TIGHT
from theory.laws.components import UNIT
from theory.laws.posterior import Posterior, inner
from theory.laws.spectrum import Spectrum

# Units of rounding in a difference, a square or an eigenvalue: measured errors stay below.
STEPS = 1.0


@dataclass(frozen=True, eq=False)
class Rounding:
    """First-order bounds on errors at one posterior; axes (*b, K, d, n) as there."""

    post: Posterior

    @cached_property
    def offset(self) -> Tensor:
        """Of z = Q'(x - alpha mu), (*b, K, d, n)."""
        post = self.post
        size = (
            post.points.abs()[..., None, :, :] + inner(post.alpha) * post.law.mean.abs()[..., None]
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
        return STEPS * UNIT + inner(self.post.alpha) ** 2 * self.own / self.post.variance

    @cached_property
    def log_parts(self) -> Tensor:
        """Of the components' log-densities, (*b, K, n)."""
        z, V = self.post.eigen_offsets, self.post.variance
        return (z.abs() / V * self.offset + 0.5 * (z**2 / V + 1) * self.relative).sum(-2)

    @cached_property
    def log_weights(self) -> Tensor:
        """Of the logarithms of the components' weights, (*b, K, n)."""
        w, error = self.post.weights.abs(), self.log_parts
        return (1 - w).clamp_min(0) * error + (w * error).sum(-2, keepdim=True) - w * error

    @property
    def weights(self) -> Tensor:
        """Of the components' weights, (*b, K, n)."""
        return self.post.weights.abs() * self.log_weights

    def _slope(self, p: Tensor | float, q: Tensor | float) -> tuple[Tensor, Tensor]:
        """The slope of p m_k - q s_k along z, and its error."""
        post, p_, q_ = self.post, inner(p), inner(q)
        pull = p_ * inner(post.alpha)
        slope = (pull * post.law.spectrum.variances[..., None] + q_) / post.variance
        steep = slope.abs() * self.relative + abs(pull) * self.own / post.variance
        size = post.eigen_offsets.shape
        return slope.expand(size), steep.expand(size)

    def inside(self, p: Tensor | float, q: Tensor | float) -> Tensor:
        """Of p m_k - q s_k, its norm, (*b, K, n)."""
        slope, steep = self._slope(p, q)
        return (slope.abs() * self.offset + steep * self.post.eigen_offsets.abs()).norm(dim=-2)

    def _apart(self, p: Tensor | float, q: Tensor | float) -> Tensor:
        """p m_k - q s_k less its average, (*b, K, d, n)."""
        post = self.post
        value = inner(p) * post.component_means - inner(q) * post.component_scores
        return value - (post.weights[..., None, :] * value).sum(-3, keepdim=True)

    def combination(self, p: Tensor | float, q: Tensor | float) -> Tensor:
        """Of `Posterior.combine(p, q)`, (*b, n)."""
        between = (self.weights * self._apart(p, q).norm(dim=-2)).sum(-2)
        return between + (self.post.weights.abs() * self.inside(p, q)).sum(-2)

    def divergence(self, p: Tensor | float, q: Tensor | float) -> Tensor:
        """Of `Posterior.combine_divergence(p, q)`, (*b, n)."""
        (slope, steep), apart = self._slope(p, q), self._apart(p, q).norm(dim=-2)
        spread = self._apart(0.0, 1.0).norm(dim=-2)
        terms = slope.abs().sum(-2) + apart * spread
        inside = steep.sum(-2) + self.inside(p, q) * spread + apart * self.inside(0.0, 1.0)
        return (self.weights * terms + self.post.weights.abs() * inside).sum(-2)

    @cached_property
    def displacements(self) -> Tensor:
        """Of `Posterior.component_displacements`, their norm, (*b, K, n): as scores or as means, as
        they are found there; either for all components, whose common part cancels."""
        post, w = self.post, self.post.weights.abs()
        one, late = torch.ones_like(post.sigma), post.alpha >= post.sigma
        own = torch.where(
            late,
            self.inside(0.0, 1 / torch.where(late, post.alpha, one)),
            self.inside(1 / torch.where(late, one, post.sigma**2), 0.0),
        )
        between = self.weights * post.component_displacements.norm(dim=-2) + w * own
        return own + between.sum(-2, keepdim=True)

    @cached_property
    def precision_gain(self) -> Tensor:
        """Of P_k = S_k / sigma^2, its largest eigenvalue, (*b, K, n): l / V moves with l by
        sigma^2 / V^2."""
        V, noise = self.post.variance, inner(self.post.sigma) ** 2
        gain = self.post.law.spectrum.variances[..., None] / V
        return (2 * STEPS * UNIT * gain + noise * self.own / V**2).amax(-2)


def variance_error(spectrum: Spectrum) -> Tensor:
    """Of the variances l, absolute: eigenvalues are known to rounding of the largest, singular
    values of roots likewise."""
    variances = spectrum.variances
    if spectrum.axes is None:
        return STEPS * UNIT * variances
    most = variances.amax(-1, keepdim=True).expand(variances.shape)
    return STEPS * UNIT * ((most * variances).sqrt() if spectrum.from_roots else most)


def is_bounded(x: Tensor) -> bool:
    """Whether errors at points x are bounded at all: float64 numbers that can be read."""
    return x.dtype == torch.float64 and x.device.type != "meta" and x.numel() > 0


def refuse_lost(what: str, error: Tensor, size: Tensor) -> None:
    """Refuse where a bound on the error exceeds the tier of the size.

    Raises:
        ValueError: it does; the message says by how much.
    """
    worst = float((error.detach() / size.detach()).max())
    if not worst <= QUADRATURE_TIGHT.rtol:
        digits = math.inf if math.isnan(worst) else worst
        raise ValueError(
            f"{what} has lost digits: its inputs, rounded to float64, must decide it to "
            f"{QUADRATURE_TIGHT.rtol:g}, got {digits:.1e}; scales lie too far apart here (a point, "
            "a mean or a centre far away in units of the narrowest width)"
        )
