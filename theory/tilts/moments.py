"""E[r^j | x] and E[X_1 r^j | x] as power series, of bumps and of quadratic rewards."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from theory.laws.components import Components
from theory.laws.gaussians import GaussianSum
from theory.laws.posterior import Posterior, posterior
from theory.laws.rounding import UNIT, Rounding, refuse_lost
from theory.tilts.bump_rewards import BumpReward
from theory.tilts.bump_rounding import BumpRounding
from theory.tilts.bumps import Bumps, BumpsGiven
from theory.tilts.quadratic import QuadraticReward


@dataclass(frozen=True, eq=False)
class Series:
    """F (*b, n, J+1), N (*b, n, J+1, d) about the centre c (*b, n)."""

    F: Tensor
    N: Tensor
    centre: Tensor

    def uncentred(self) -> Series:
        """The same about c = 0: multiply both series by exp(a c)."""
        order = self.F.shape[-1] - 1
        powers = torch.stack(
            [self.centre**j / float(math.factorial(j)) for j in range(order + 1)], dim=-1
        )
        F = torch.stack([_convolve(powers, self.F, j) for j in range(order + 1)], dim=-1)
        N = torch.stack(
            [_convolve(powers[..., None], self.N, j, axis=-2) for j in range(order + 1)], dim=-2
        )
        return Series(F, N, torch.zeros_like(self.centre))

    def cumulants(self) -> Tensor:
        """kappa_j / j! in displacement units, (*b, n, J+1, d): the series N(a) / F(a).

        kappa_j is the joint cumulant of X_1 / sigma^2 with j copies of r given x (kappa_0 = 0:
        X_1 is measured from its posterior mean).
        """
        out: list[Tensor] = []
        for j in range(self.F.shape[-1]):
            term = self.N[..., j, :]
            for i, earlier in enumerate(out):
                term = term - earlier * self.F[..., j - i, None]
            out.append(term)
        return torch.stack(out, dim=-2)


def _convolve(a: Tensor, b: Tensor, j: int, axis: int = -1) -> Tensor:
    return (a.narrow(axis, 0, j + 1) * b.narrow(axis, 0, j + 1).flip(axis)).sum(axis)


class MomentSource(Protocol):
    """Gives the series of one reward under one base law, up to the order it was built for."""

    def series(self, post: Posterior, order: int) -> Series: ...

    def series_and_divergences(self, post: Posterior, order: int) -> tuple[Series, Tensor] | None:
        """The series and div N_j (*b, n, J+1), or None where there is no closed form."""


def blind_posterior(base: Components) -> Posterior:
    """The posterior at alpha = 0, sigma = 1: nothing is known about X_1."""
    at = torch.zeros(*base.batch_shape, 1, base.dim, dtype=base.dtype, device=base.mean.device)
    return posterior(base, at, at.new_zeros(()), at.new_ones(()))


def reward_moments(base: Components, moments: MomentSource) -> tuple[float, float]:
    """(mean, standard deviation) of r(X_1) under one base law."""
    series = moments.series(blind_posterior(base), 2)
    first, second = float(series.F[0, 1]), 2 * float(series.F[0, 2])
    return first + float(series.centre[0]), math.sqrt(max(second - first**2, 0.0))


@dataclass(frozen=True, eq=False)
class BumpMoments:
    """r^j is a signed sum of bumps, each met under every component in one piece
    (theory.tilts.bumps)."""

    base: GaussianSum
    reward: BumpReward
    _powers: list[tuple[Bumps, Tensor, Tensor]] = field(default_factory=list)

    def series(self, post: Posterior, order: int) -> Series:
        zeroth = torch.ones_like(post.log_abs), torch.zeros_like(post.points.mT)
        F, N = zip(zeroth, *self.parts(post, order, False), strict=True)
        return Series(torch.stack(F, -1), torch.stack(N, -2), torch.zeros_like(post.log_abs))

    def series_and_divergences(self, post: Posterior, order: int) -> tuple[Series, Tensor]:
        """The series, and div N_j (*b, n, J+1)."""
        alpha, zero = post.alpha, torch.zeros_like(post.log_abs)
        zeroth = torch.ones_like(post.log_abs), torch.zeros_like(post.points.mT), zero
        F, N, slopes = zip(zeroth, *self.parts(post, order, True), strict=True)
        series = Series(torch.stack(F, -1), torch.stack(N, -2), zero)
        return series, torch.stack(slopes, -1) * (alpha[..., 0, :, None] if alpha.ndim else alpha)

    def parts(self, post: Posterior, order: int, slope: bool) -> Iterator[tuple[Tensor, ...]]:
        """F_j, N_j and, if asked, div N_j / alpha, for j = 1 to order."""
        for j in range(1, order + 1):
            bumps, sign, log_coef = self.power(j)
            yield BumpsGiven.of(post, bumps).moments(sign, log_coef - math.lgamma(j + 1), slope)

    def log_moment(self, post: Posterior, j: int) -> tuple[Tensor, Tensor]:
        """(log|E[r^j | x]|, its sign), also where float64 cannot hold the moment itself."""
        bumps, sign, log_coef = self.power(j)
        return BumpsGiven.of(post, bumps).log_total(sign, log_coef)

    def check_rounding(self, post: Posterior) -> None:
        """E[r | x] keeps the quadrature_tight tier of the size of its terms.

        Raises:
            ValueError: the numbers that it is made of decide it to less.
        """
        bumps, sign, log_coef = self.power(1)
        error, size = BumpRounding(BumpsGiven.of(post, bumps), bumps).moment(sign, log_coef)
        refuse_lost("E[r | x]", error, size.clamp_min(torch.finfo(size.dtype).tiny))

    def check_log(self, post: Posterior) -> None:
        """log E[r | x] keeps the quadrature_tight tier of itself, of 1 where it is smaller.

        Raises:
            ValueError: the numbers that it is made of decide it to less.
        """
        bumps, sign, log_coef = self.power(1)
        rounding = BumpRounding(BumpsGiven.of(post, bumps), bumps)
        size = rounding.given.log_total(sign, log_coef)[0].abs()
        refuse_lost("log E[r | x]", rounding.log_moment(sign, log_coef), size.clamp_min(1))

    def power(self, j: int) -> tuple[Bumps, Tensor, Tensor]:
        """r^j as (bumps, signs, log|coefficients|)."""
        while len(self._powers) < j:
            indices = self.reward.indices(len(self._powers) + 1, self.base.n_components)
            self._powers.append(self.reward.expand(indices, None))
        return self._powers[j - 1]


@dataclass(frozen=True, eq=False)
class QuadraticMoments:
    """Power series in a of E_k[exp(a r)] and of the mean it tilts to.

    With g = H m + b at the component's posterior mean m and S = sigma^2 P its covariance,
    log E_k[exp(a r)] = sum_j lambda_j a^j: lambda_1 = r(m) + tr(S H)/2,
    lambda_j = g'(S H)^{j-2} S g / 2 + tr((S H)^j) / (2 j); the mean moves by sigma^2 sum_j a^j u_j,
    u_1 = P g, u_{j+1} = S H u_j.
    """

    reward: QuadraticReward

    def series(self, post: Posterior, order: int) -> Series:
        parts = self._parts(post, order)
        weights = post.weights  # (*b, K, n)
        logs = parts.log_terms
        centre = (weights * logs[0]).sum(-2)
        logs = [logs[0] - centre[..., None, :], *logs[1:]]
        own = [torch.ones_like(weights)]  # E_k[(r - c)^n] / n!: the series exp(sum lambda_j a^j)
        for n in range(1, order + 1):
            terms = [j * logs[j - 1] * own[n - j] for j in range(1, n + 1)]
            own.append(torch.stack(terms).sum(0) / n)
        F = [(weights * term).sum(-2) for term in own]
        N = [torch.zeros_like(post.points)]  # sum_k w_k (m_k - mean), exactly
        for n in range(1, order + 1):
            move = own[n][..., None, :] * post.component_displacements
            for j in range(1, n + 1):
                move = move + own[n - j][..., None, :] * parts.shifts[j - 1]
            N.append((weights[..., None, :] * move).sum(-3))
        return Series(torch.stack(F, -1), torch.stack([row.mT for row in N], -2), centre)

    def series_and_divergences(self, post: Posterior, order: int) -> tuple[Series, Tensor] | None:
        """The series and div N_j for order 1; None above.

        div N_1 = alpha sum_k w_k [(r_k - c)(|D_k|^2 + tau_k) + 2 u_k . D_k + tr(P_k H P_k)], with
        D_k the component's displacement and tau_k = tr P_k / sigma^2 up to a term common to all k.
        """
        if order > 1:
            return None
        series, parts = self.series(post, order), self._parts(post, order)
        D, gain = post.component_displacements, post.component_precision_gain
        offset = parts.log_terms[0] - series.centre[..., None, :]
        PHP = gain @ self.reward.matrix[..., None, None, :, :] @ gain
        total = (
            offset * ((D**2).sum(-2) + post.component_trace_excess)
            + 2 * (parts.shifts[0] * D).sum(-2)
            + PHP.diagonal(dim1=-2, dim2=-1).sum(-1)
        )
        alpha = post.alpha[..., 0, :] if post.alpha.ndim else post.alpha
        slope = alpha * (post.weights * total).sum(-2)
        return series, torch.stack([torch.zeros_like(slope), slope], -1)

    def check_rounding(self, post: Posterior) -> None:
        """E[r | x] keeps the quadrature_tight tier of itself or of r's deviation under the law.

        Raises:
            ValueError: the numbers that it is made of decide it to less.
        """
        own, rounding = self._parts(post, 1).log_terms[0], Rounding(post)
        average, error = (post.weights * own).sum(-2), self._value_error(post, rounding)
        total = (post.weights * error).sum(-2)
        total = total + (rounding.weights * (own - average[..., None, :]).abs()).sum(-2)
        _, spread = reward_moments(post.law, self)
        refuse_lost("E[r | x]", total, average.abs().clamp_min(max(spread, 1e-300)))

    def check_slope(self, post: Posterior) -> None:
        """Cov(X_1, r | x) keeps the quadrature_tight tier.

        Raises:
            ValueError: the numbers that it is made of decide it to less.
        """
        parts, rounding, w = self._parts(post, 1), Rounding(post), post.weights
        value, (move,) = parts.log_terms[0], parts.shifts
        offset = value - (w * value).sum(-2, keepdim=True)
        terms = offset[..., None, :] * post.component_displacements + move
        N = (w[..., None, :] * terms).sum(-3, keepdim=True)
        H, vector = self.reward.matrix, self.reward.vector
        size = (H.abs()[..., None, :, :] @ post.component_means.abs()).norm(dim=-2)
        size = size + vector.norm(dim=-1)[..., None, None]
        steep = torch.linalg.matrix_norm(H, 2)[..., None, None] * rounding.inside(1.0, 0.0)
        gain = (post.law.spectrum.variances[..., None] / post.variance).amax(-2)
        error = (
            self._value_error(post, rounding) * post.component_displacements.norm(dim=-2)
            + offset.abs() * rounding.displacements
            + rounding.precision_gain * self._gradients(post).norm(dim=-2)
            + gain * (steep + UNIT * size)
        )
        total = (rounding.weights * (terms - N).norm(dim=-2) + w * error).sum(-2)
        tiny = torch.finfo(total.dtype).tiny
        refuse_lost("grad m", total, N[..., 0, :, :].norm(dim=-2).clamp_min(tiny))

    def _value_error(self, post: Posterior, rounding: Rounding) -> Tensor:
        """What rounding does to E_k[r], (*b, K, n)."""
        mean, H, b = post.component_means, self.reward.matrix, self.reward.vector
        size = (
            0.5 * ((H.abs()[..., None, :, :] @ mean.abs()) * mean.abs()).sum(-2)
            + (b.abs()[..., None, :, None] * mean.abs()).sum(-2)
            + self.reward.constant[..., None, None].abs()
        )
        return UNIT * size + self._gradients(post).norm(dim=-2) * rounding.inside(1.0, 0.0)

    def _gradients(self, post: Posterior) -> Tensor:
        """grad r at every component's mean, (*b, K, d, n)."""
        return (
            self.reward.matrix[..., None, :, :] @ post.component_means
            + self.reward.vector[..., None, :, None]
        )

    def _parts(self, post: Posterior, order: int) -> _QuadraticParts:
        H, b = self.reward.matrix[..., None, :, :], self.reward.vector[..., None, :, None]
        mean = post.component_means  # (*b, K, d, n)
        gradient = self._gradients(post)
        shifts = [post.apply_precision_gain(gradient)]
        variance = post.sigma**2
        wide = variance[..., None, :] if variance.ndim else variance
        for _ in range(order - 1):
            shifts.append(wide * post.apply_precision_gain(H @ shifts[-1]))
        value = 0.5 * ((gradient + b) * mean).sum(-2) + self.reward.constant[..., None, None]
        spread = variance[..., None, None] if variance.ndim else variance
        SH = spread * post.component_precision_gain @ H[..., None, :, :]
        log_terms, power = [], SH
        for j in range(1, order + 1):
            trace = power.diagonal(dim1=-2, dim2=-1).sum(-1) / (2 * j)  # (*b, K, n|1)
            own = value if j == 1 else 0.5 * variance * (gradient * shifts[j - 2]).sum(-2)
            log_terms.append(own + trace)
            power = power @ SH
        return _QuadraticParts(log_terms, shifts)


@dataclass(frozen=True, eq=False)
class _QuadraticParts:
    """lambda_1.. (*b, K, n) and u_1.. (*b, K, d, n) of every component."""

    log_terms: list[Tensor]
    shifts: list[Tensor]
