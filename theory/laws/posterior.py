"""X_1 given alpha X_1 + sigma X_0 = x, when X_1 follows a sum of Gaussians: the one operation.

Component k has X_1 | x ~ N(m_k, S_k). With C_k = Q diag(l) Q', V = alpha^2 l + sigma^2 and
z = Q'(x - alpha mu_k):

    log-density of x   -sum(z^2 / V + log 2 pi V) / 2
    posterior mean     m_k = mu_k + Q (alpha l z / V)
    score              s_k = -Q (z / V)
    posterior cov      S_k = Q diag(l sigma^2 / V) Q'

and the sum's values are averages over the (signed) weights w_k(x). Nothing is divided by sigma or
alpha, so times t = 0 and t = 1 are ordinary. The eigenvectors are found once per law: any t, also
one per point, then costs a diagonal.

Differences between two posterior means vanish like sigma^2 at the data end; there they are taken
from the scores (Tweedie: m = (x + sigma^2 s) / alpha), so that `displacement` = difference of
means / sigma^2 keeps its digits at both ends.

Inside, axes run (*b, K, d, n): the points last, where vector units want them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from theory.laws.components import Components

# Above this dimension |x - mu|^2 of isotropic components is expanded into a matrix product.
MAX_DIM_DIFFERENCES = 8
# A divisor in the branch that a `where` discards.
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Posterior:
    """The conditional law at the points x (*b, n, d); shapes of results are (*b, n, ...)."""

    law: Components
    points: Tensor  # (*b, d, n)
    alpha: Tensor  # broadcasts to (*b, K, n)
    sigma: Tensor
    variance: Tensor  # V: (*b, K, d|1, n|1)
    log_abs: Tensor  # log|density of x|, (*b, n)
    sign: Tensor  # its sign
    weights: Tensor  # w_k(x), (*b, K, n), sum to one over K
    log_parts: Tensor  # log|component's share of the density of x|, (*b, K, n)

    @property
    def log_weights(self) -> Tensor:
        """log|w_k(x)|, (*b, K, n), also where w_k underflows."""
        return self.log_parts - self.log_abs[..., None, :]

    # --- averages over the components

    def combine(self, p: Tensor | float, q: Tensor | float) -> Tensor:
        """p E[X_1 | x] - q score(x), (*b, n, d); p, q broadcast to (*b, K, n).

        Both are mu_k plus a multiple of z, so that one weighted sum yields any combination: the
        velocity is p = alpha', q = sigma sigma'.
        """
        spectrum, mean = self.law.spectrum, self.law.mean
        if spectrum.isotropic:
            ratio = 1 / self.variance[..., 0, :]
            slope = self.weights * ((p * self.alpha * spectrum.variances + q) * ratio)  # (*b, K, n)
            toward = p * self.weights - self.alpha * slope
            total = slope.sum(-2)[..., None] * self.points.mT
            line = spectrum.dim == 1
            return total + ((toward * mean).sum(-2)[..., None] if line else toward.mT @ mean)
        p_, q_ = inner(p), inner(q)
        slope = (p_ * inner(self.alpha) * spectrum.variances[..., None] + q_) / self.variance
        parts = p_ * mean[..., None] + spectrum.rotate(slope * self.eigen_offsets)
        return (self.weights[..., None, :] * parts).sum(-3).mT

    @cached_property
    def mean(self) -> Tensor:
        """E[X_1 | x], (*b, n, d)."""
        return self.combine(1.0, 0.0)

    @cached_property
    def score(self) -> Tensor:
        """grad log|density of x|, (*b, n, d)."""
        return self.combine(0.0, -1.0)

    def covariance(self) -> Tensor:
        """Cov(X_1 | x), (*b, n, d, d)."""
        spectrum = self.law.spectrum
        within = inner(self.sigma) ** 2 * spectrum.variances[..., None] / self.variance
        within = within.expand(*self.eigen_offsets.shape).mT  # (*b, K, n, d)
        if spectrum.axes is None:
            own = torch.diag_embed(within)
        else:
            axes = spectrum.axes[..., None, :, :]
            own = (axes * within[..., None, :]) @ axes.mT
        gap = self.component_means.mT - self.mean[..., None, :, :]
        total = own + gap[..., :, None] * gap[..., None, :]
        return (self.weights[..., None, None] * total).sum(-4)

    def combine_divergence(self, p: Tensor | float, q: Tensor | float) -> Tensor:
        """Divergence in x of `combine(p, q)`, (*b, n): trace plus covariance with the score."""
        p_, q_ = inner(p), inner(q)
        slope = (p_ * inner(self.alpha) * self.law.spectrum.variances[..., None] + q_) / (
            self.variance
        )
        trace = slope.expand(self.eigen_offsets.shape).sum(-2)
        value = p_ * self.component_means - q_ * self.component_scores
        centre = (self.weights[..., None, :] * value).sum(-3, keepdim=True)
        spread = self.component_scores - self.score.mT[..., None, :, :]
        return (self.weights * (trace + ((value - centre) * spread).sum(-2))).sum(-2)

    # --- one value a component, (*b, K, d, n)

    @cached_property
    def eigen_offsets(self) -> Tensor:
        """z = Q'(x - alpha mu_k)."""
        offset = self.points[..., None, :, :] - inner(self.alpha) * self.law.mean[..., None]
        return self.law.spectrum.unrotate(offset)

    @cached_property
    def component_means(self) -> Tensor:
        """m_k."""
        slope = inner(self.alpha) * self.law.spectrum.variances[..., None] / self.variance
        return self.law.mean[..., None] + self.law.spectrum.rotate(slope * self.eigen_offsets)

    @cached_property
    def component_scores(self) -> Tensor:
        """s_k."""
        return -self.law.spectrum.rotate(self.eigen_offsets / self.variance)

    @cached_property
    def component_displacements(self) -> Tensor:
        """(m_k - E[X_1 | x]) / sigma^2: from the heaviest component, then less the average, so that
        one component alone gives zero and not the rounding of its mean over sigma^2."""
        if self.law.n_components == 1:
            return torch.zeros_like(self.component_means)
        heaviest = self.weights.detach().argmax(-2, keepdim=True)[..., None, :]

        def from_heaviest(values: Tensor) -> Tensor:
            index = heaviest.expand(*values.shape[:-3], 1, *values.shape[-2:])
            return values - values.gather(-3, index)

        gap = _displacement(
            lambda: from_heaviest(self.component_means),
            lambda: from_heaviest(self.component_scores),
            inner(self.alpha),
            inner(self.sigma),
        )
        return gap - (self.weights[..., None, :] * gap).sum(-3, keepdim=True)

    @cached_property
    def component_precision_gain(self) -> Tensor:
        """S_k / sigma^2 = Q diag(l / V) Q', (*b, K, n|1, d, d)."""
        spectrum = self.law.spectrum
        gain = (spectrum.variances[..., None] / self.variance).mT
        gain = gain.expand(*gain.shape[:-1], spectrum.dim)
        if spectrum.axes is None:
            return torch.diag_embed(gain)
        axes = spectrum.axes[..., None, :, :]
        return (axes * gain[..., None, :]) @ axes.mT

    def apply_precision_gain(self, vectors: Tensor) -> Tensor:
        """S_k / sigma^2 applied to vectors (*b, K, d, n)."""
        spectrum = self.law.spectrum
        slope = spectrum.variances[..., None] / self.variance
        return spectrum.rotate(slope * spectrum.unrotate(vectors))

    @property
    def component_trace_excess(self) -> Tensor:
        """tr(S_k) / sigma^4 up to a term common to all k, (*b, K, n|1), without cancellation:
        tr S_k / sigma^2 = (d - sigma^2 tr V^-1) / alpha^2."""
        dim, variance = self.law.spectrum.dim, self.variance
        shape = (*variance.shape[:-2], dim, variance.shape[-1])
        inverse = (1 / variance).expand(shape).sum(-2)
        gain = (self.law.spectrum.variances[..., None] / variance).expand(shape).sum(-2)
        return _displacement(
            lambda: gain, lambda: -inverse / self.alpha.clamp_min(_TINY), self.alpha, self.sigma
        )

    def of(self, law: Components) -> Posterior:
        """Another law's posterior at the same points and time."""
        return _posterior(law, self.points, self.alpha, self.sigma)

    def displacement_from(self, other: Posterior) -> Tensor:
        """(E[X_1 | x] - other's) / sigma^2, (*b, n, d), at the same points and time."""
        return _displacement(
            lambda: self.mean - other.mean,
            lambda: self.score - other.score,
            _outer(self.alpha),
            _outer(self.sigma),
        )


def posterior(law: Components, x: Tensor, alpha: Tensor, sigma: Tensor) -> Posterior:
    """Condition `law` on alpha X_1 + sigma X_0 = x.

    x: (*b, n, d); alpha, sigma: scalars or (*b, n). Shapes and dtypes are the caller's duty.
    """
    return _posterior(law, x.mT, inner(alpha), inner(sigma))


def _posterior(law: Components, points: Tensor, alpha: Tensor, sigma: Tensor) -> Posterior:
    spectrum, dim = law.spectrum, law.dim
    variance = inner(alpha) ** 2 * spectrum.variances[..., None] + inner(sigma) ** 2
    if spectrum.isotropic:
        square = _square_distances(points, law.mean, alpha, dim)
        own = variance[..., 0, :]
        log_parts = -0.5 * (square / own) - 0.5 * dim * own.log()
    else:
        z = spectrum.unrotate(points[..., None, :, :] - inner(alpha) * law.mean[..., None])
        log_det = variance.log().expand(*variance.shape[:-2], dim, variance.shape[-1]).sum(-2)
        log_parts = -0.5 * (z**2 / variance).sum(-2) - 0.5 * log_det
    log_parts = log_parts + (law.log_abs[..., None] - 0.5 * dim * math.log(2 * math.pi))
    top = log_parts.detach().amax(-2, keepdim=True)
    parts = (log_parts - top).exp()
    if not law.is_positive:
        parts = law.sign[..., None] * parts
    total = parts.sum(-2, keepdim=True)
    size = total if law.is_positive else total.abs()
    return Posterior(
        law=law,
        points=points,
        alpha=alpha,
        sigma=sigma,
        variance=variance,
        log_abs=(size.log() + top)[..., 0, :],
        sign=total.sign()[..., 0, :],
        weights=parts / total,
        log_parts=log_parts,
    )


def combine_by_matmul(
    law: Components, x: Tensor, alpha: Tensor, sigma: Tensor, p: Tensor, q: Tensor
) -> Tensor:
    """`Posterior.combine(p, q)` for an isotropic mixture at one time: a softmax between two GEMMs.

    log w_k = x . (alpha mu_k / V_k) - |x|^2 / (2 V_k) + const_k, and the result is
    sum_k w_k (p - alpha g_k) mu_k + x sum_k w_k g_k with g_k = (p alpha l_k + q) / V_k.
    """
    variances = law.spectrum.variances[..., 0]
    V = alpha**2 * variances + sigma**2
    constant = law.log_abs - 0.5 * law.dim * V.log() - 0.5 * alpha**2 * (law.mean**2).sum(-1) / V
    own = torch.linalg.vector_norm(x, dim=-1)[..., None, :] ** 2
    logits = (alpha / V[..., None] * law.mean) @ x.mT + constant[..., None]  # (*b, K, n)
    weights = torch.softmax(torch.addcmul(logits, own, -0.5 / V[..., None]), -2)
    slope = (p * alpha * variances + q) / V
    toward = weights.mT @ ((p - alpha * slope)[..., None] * law.mean)
    return torch.addcmul(toward, weights.mT @ slope[..., None], x)


def _square_distances(points: Tensor, mean: Tensor, alpha: Tensor, dim: int) -> Tensor:
    """|x - alpha mu_k|^2, (*b, K, n)."""
    if dim <= MAX_DIM_DIFFERENCES:
        square = (points[..., None, 0, :] - alpha * mean[..., 0, None]) ** 2
        for i in range(1, dim):
            square = square + (points[..., None, i, :] - alpha * mean[..., i, None]) ** 2
        return square
    own = (points**2).sum(-2, keepdim=True)
    square = own - 2 * alpha * (mean @ points) + alpha**2 * (mean**2).sum(-1, keepdim=True)
    return square.clamp_min(0)


def inner(value: Any) -> Any:
    """A coefficient over (K, n) as one over (K, d, n)."""
    return value[..., None, :] if isinstance(value, Tensor) and value.ndim else value


def _outer(value: Tensor) -> Tensor:
    """A coefficient over (K, n) with K = 1 as one over (n, d)."""
    return value.mT if value.ndim else value


def _displacement(
    mean_gap: Callable[[], Tensor],
    score_gap: Callable[[], Tensor],
    alpha: Tensor,
    sigma: Tensor,
) -> Tensor:
    """The gap of means / sigma^2, from scores (/ alpha) where alpha >= sigma."""
    late = alpha >= sigma
    if late.ndim == 0 and late.device.type != "meta":
        return score_gap() / alpha if bool(late) else mean_gap() / sigma**2
    one = torch.ones_like(alpha)
    from_scores = score_gap() / torch.where(late, alpha, one)
    return torch.where(late, from_scores, mean_gap() / torch.where(late, one, sigma**2))
