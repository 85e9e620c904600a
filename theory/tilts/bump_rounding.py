"""What rounding can do to moments of bumps under a posterior (theory.laws.rounding)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from theory.laws.posterior import inner
from theory.laws.rounding import UNIT, Rounding
from theory.tilts.bumps import Bumps, BumpsGiven


@dataclass(frozen=True, eq=False)
class BumpRounding:
    """First-order bounds on errors of bumps under one posterior's components."""

    given: BumpsGiven
    bumps: Bumps

    @cached_property
    def log_values(self) -> Tensor:
        """Of log E_k[b_t], (*b, K, T, n).

        With y = A (I + S A)^-1 e, the exponent -e'y / 2 moves by y'de, y'dS y / 2 and f'dA f / 2,
        f the centre less the mean under the bump; matrices that are not diagonal are known to
        rounding of their largest eigenvalue, S being (sigma^2 / V) dC (sigma^2 / V) through C.
        """
        given, bumps, post = self.given, self.bumps, self.given.post
        # Over (K, d, n) or, bumps in d's place, over (K, T, n).
        spectrum, sigma, alpha = post.law.spectrum, inner(post.sigma), inner(post.alpha)
        variances, V = spectrum.variances[..., None], post.variance
        e = bumps.centre[..., None, :, :, None] - post.component_means[..., :, None, :, :]
        y = (V / variances)[..., :, None, :, :] * self._unrotated(given.push)
        square = (self._unrotated(e) * y).sum(-2).abs()
        log_det = (-2 * given.log_mean - square).clamp_min(0)
        slope = y.norm(dim=-2)
        gain = alpha * variances / V
        size = (post.component_means.abs() + gain * post.points.abs()[..., None, :, :])[
            ..., :, None, :, :
        ] + bumps.centre.abs()[..., None, :, :, None]
        error = slope * size.norm(dim=-2) + square + log_det + 1
        most = bumps.values.amax(-1)[..., None, :, None]
        cov = sigma**2 * variances / V
        if spectrum.axes is not None:
            share = (sigma**2 / V)[..., :, None, :, :]
            seen = (share * y.abs()).sum(-2)
            pull = (post.eigen_offsets.abs() / V).sum(-2)[..., :, None, :]
            flat = (cov.sqrt() / variances)[..., :, None, :, :]
            bend = torch.minimum(share * most[..., None, :].sqrt(), flat).sum(-2)
            own = 0.5 * seen**2 + alpha * seen * pull + 0.5 * bend**2
            error = error + variances.amax(-2)[..., :, None, :] * own
        if spectrum.axes is not None or bumps.axes is not None:
            left = (e - inner(sigma) ** 2 * given.push).square().sum(-2)
            half = given.half_covariance().square().sum((-1, -2))
            error = error + 0.5 * most * (left + sigma**2 * half)
            error = error + cov.amax(-2)[..., :, None, :] * slope**2
        return UNIT * error

    def _unrotated(self, vectors: Tensor) -> Tensor:
        axes = self.given.post.law.spectrum.axes
        return vectors if axes is None else axes[..., :, None, :, :].mT @ vectors

    def moment(self, sign: Tensor, log_coef: Tensor) -> tuple[Tensor, Tensor]:
        """Of sum_t sign_t exp(log_coef_t) E[b_t | x], and the size of its terms, each (*b, n)."""
        post = self.given.post
        size = (self.given.log_value + log_coef[..., None, :, None]).exp()
        parts = post.weights[..., :, None, :] * size
        own = Rounding(post).weights[..., :, None, :] * size
        return (own + parts * self.log_values).sum((-2, -3)), parts.sum((-2, -3))

    def log_moment(self, sign: Tensor, log_coef: Tensor) -> Tensor:
        """Of log|sum_t sign_t exp(log_coef_t) E[b_t | x]|, (*b, n), also where that underflows."""
        post = self.given.post
        parts = self.given.log_value + log_coef[..., None, :, None]
        parts = (parts + post.log_weights[..., :, None, :]).movedim(-1, 0).flatten(-2)
        share = parts.softmax(-1).unflatten(-1, self.log_values.shape[-3:-1]).movedim(0, -1)
        total = (sign[..., None, :, None] * share).sum((-2, -3)).abs()
        errors = self.log_values + Rounding(post).log_weights[..., :, None, :]
        return (share * errors).sum((-2, -3)) / total
