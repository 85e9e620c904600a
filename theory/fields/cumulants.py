"""The Taylor expansion in a of the velocity of base exp(a r) / Z, to any order.

d/da E_a[X_1 | x] = Cov_a(X_1, r | x) (liu, Theorem 1.3), and in general the n-th derivative at
a = 0 is the mixed cumulant kappa(X_1, r, ..., r | x) with n copies of r. So

    v^a = v0 + a k_1 + a^2/2 k_2 + ...,   k_n = kappa(X_1 - X_0, r, ..., r | X_t = x),

and the coefficients are those of the quotient E[X_1 exp(a r) | x] / E[exp(a r) | x] of two power
series. DiffusionNFT's optimum is the first-order field at a = 2/nft_beta, its perturbations those
at a = 2 and a = -2 (liu, Theorem 1.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.common.checks import check_order, check_scale, check_time
from theory.fields.mixture import DisplacedField, MixtureField
from theory.fields.paths import column
from theory.laws.posterior import Posterior
from theory.laws.rounding import is_bounded
from theory.tilts.moments import BumpMoments, MomentSource, QuadraticMoments
from theory.tilts.wrappers import MAX_ORDER, Scale


@dataclass(frozen=True, eq=False)
class CumulantDisplacement:
    """e = sum_{n=1}^{order} scale^n kappa_n / n!, kappa_n in displacement units."""

    moments: MomentSource
    scale: Scale
    order: int

    def __call__(self, post: Posterior) -> Tensor:
        terms = self.moments.series(post, self.order).cumulants()
        a = torch.as_tensor(self.scale, dtype=terms.dtype, device=terms.device)[..., None, None]
        total = torch.zeros_like(terms[..., 0, :])
        for n in range(self.order, 0, -1):
            total = a * (terms[..., n, :] + total)
        return total

    def with_divergence(self, post: Posterior) -> tuple[Tensor, Tensor] | None:
        """(e, div e), or None where the moment source knows no divergences.

        div of kappa_n/n! = N_n - sum_{i<n} kappa_i/i! F_{n-i}, with grad F_j = alpha N_j.
        """
        known = self.moments.series_and_divergences(post, self.order)
        if known is None:
            return None
        series, div_n = known
        alpha = post.alpha[..., 0, :] if post.alpha.ndim else post.alpha
        terms, slopes = series.cumulants(), [torch.zeros_like(post.log_abs)]
        for n in range(1, self.order + 1):
            slope = div_n[..., n]
            for i in range(1, n):
                slope = slope - slopes[i] * series.F[..., n - i]
                slope = slope - alpha * (terms[..., i, :] * series.N[..., n - i, :]).sum(-1)
            slopes.append(slope)
        a = torch.as_tensor(self.scale, dtype=terms.dtype, device=terms.device)[..., None]
        move, spread = torch.zeros_like(terms[..., 0, :]), torch.zeros_like(slopes[0])
        for n in range(self.order, 0, -1):
            move = a[..., None] * (terms[..., n, :] + move)
            spread = a * (slopes[n] + spread)
        return move, spread


def cumulant_field(
    base: MixtureField, moments: MomentSource, scale: Scale, order: int
) -> DisplacedField:
    """v0 + a k_1 + ... + a^order / order! k_order at a = scale (a number or a batch)."""
    check_scale("scale", scale)
    check_order("order", order, 1, MAX_ORDER)
    return DisplacedField(base, CumulantDisplacement(moments, scale, order))


@dataclass(frozen=True, eq=False)
class ConditionalReward:
    """The conditional law of r given X_t = x, as far as a moment series tells it."""

    base: MixtureField
    moments: MomentSource

    def mean(self, x: Tensor, t: Tensor | float) -> Tensor:
        """m_t(x) = E[r(X_1) | X_t = x], (*b, n)."""
        series = self.moments.series(self._posterior(x, t), 1)
        return series.centre + series.F[..., 1]

    def log_mean(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(log|m_t(x)|, its sign), each (*b, n); for bumps also where m_t itself underflows."""
        if isinstance(self.moments, BumpMoments):
            post = self._posterior(x, t)
            if self._is_bounded(x):
                self.moments.check_log(post)
            return self.moments.log_moment(post, 1)
        mean = self.mean(x, t)
        return mean.abs().log(), mean.sign()

    def gradient(self, x: Tensor, t: Tensor | float) -> Tensor:
        """grad m_t(x) = (alpha / sigma^2) Cov(X_1, r | x), (*b, n, d); finite at t = 0 and 1."""
        return column(self.base.path.alpha(check_time(t, x))) * self._cumulants(x, t, 1)[..., 1, :]

    def covariance(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Cov(V, r | X_t = x), V = alpha' X_1 + sigma' X_0 (X_1 - X_0 on the RF path)."""
        return self.mixed_cumulant(1, x, t)

    def mixed_cumulant(self, order: int, x: Tensor, t: Tensor | float) -> Tensor:
        """kappa(V, r, ..., r | X_t = x) with `order` copies of r, (*b, n, d); order >= 1."""
        check_order("order", order, 1, MAX_ORDER)
        terms = self._cumulants(x, t, order)[..., order, :] * math.factorial(order)
        return column(self.base.path.gain(check_time(t, x))) * terms

    def _cumulants(self, x: Tensor, t: Tensor | float, order: int) -> Tensor:
        post = self._posterior(x, t)
        if isinstance(self.moments, QuadraticMoments) and self._is_bounded(x):
            self.moments.check_slope(post)
        return self.moments.series(post, order).cumulants()

    def _posterior(self, x: Tensor, t: Tensor | float) -> Posterior:
        """The base's, where rounding leaves E[r | x] its digits."""
        post = self.base.posterior(x, t)
        if self._is_bounded(x) and isinstance(self.moments, BumpMoments | QuadraticMoments):
            self.moments.check_rounding(post)
        return post

    def _is_bounded(self, x: Tensor) -> bool:
        """Whether rounding is bounded here: one law, float64 numbers that can be read."""
        return not self.base.law.batch_shape and is_bounded(x)
