"""Products of Gaussian bumps against Gaussians, in one piece: nothing cancels.

For X ~ N(m, S) and a bump b(y) = exp(-(y - c)' A (y - c) / 2), with e = c - m,

    E[b(X)]             = exp(-e' A (I + S A)^-1 e / 2) / sqrt(det(I + S A))
    mean under b        = m + S A (I + S A)^-1 e
    covariance under b  = S - S A (I + S A)^-1 S = (S^-1 + A)^-1

The exponent as a difference of two squares, e'Ae - (...), loses (|e| / width)^2 units of rounding.
With S = L L', A = R R' and singular values R'L = U g V' all of it is a sum of terms of one sign:

    exponent -|(1 + g^2)^{-1/2} U'R'e|^2 / 2,  shift L V g / (1 + g^2) U'R'e,
    covariance's root  (1 + g^2)^{-1/2} V' L'

and where S and A share their axes (one of them a multiple of I, both diagonal) it is one division.

Products of powers prod_i b_i^{n_i} are again bumps, times exp(-sum_i n_i |c_i - c|_{A_i}^2 / 2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from theory.laws.gaussians import GaussianSum
from theory.laws.posterior import Posterior
from theory.laws.spectrum import Spectrum


@dataclass(frozen=True, eq=False)
class Bumps:
    """T bumps sign_t exp(log_abs_t - (y - c_t)' A_t (y - c_t) / 2), A_t = Q diag(values) Q'.

    log_abs, sign: (*b, T); centre: (*b, T, d); values: (*b, T, d), or (*b, T, 1) where every A_t is
    a multiple of I; axes Q: (*b, T, d, d), None where every A_t is diagonal.
    """

    log_abs: Tensor
    sign: Tensor
    centre: Tensor
    values: Tensor
    axes: Tensor | None

    @classmethod
    def products(cls, n: Tensor, centres: Tensor, precisions: Tensor) -> Bumps:
        """prod_i b_i^{n_i} for every row of n (T, m); centres (*b, m, d), A_i (*b, m, d, d)."""
        spectrum = Spectrum.of(torch.einsum("tm,...mij->...tij", n, precisions))
        values, axes = spectrum.variances.clamp_min(0), spectrum.axes
        # From the centre of the bump that holds most of the precision, so that a wide bump far
        # away does not take the digits of a narrow one's place.
        own = n * precisions.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, :]  # (*b, T, m)
        first = own.argmax(-1)[..., None, None].expand(*own.shape[:-1], 1, centres.shape[-1])
        spread = centres[..., None, :, :].expand(*own.shape, centres.shape[-1])
        start = spread.gather(-2, first)[..., 0, :]
        pull = torch.einsum("tm,...mij,...tmj->...ti", n, precisions, spread - start[..., None, :])
        pull = pull if axes is None else (axes.mT @ pull[..., None])[..., 0]
        noise = centres.shape[-1] * torch.finfo(values.dtype).eps * values.amax(-1, keepdim=True)
        seen = values > (0 if axes is None else noise)
        move = torch.where(seen, pull / values.where(seen, 1), 0)
        centre = start + (move if axes is None else (axes @ move[..., None])[..., 0])
        apart = spread - centre[..., None, :]
        square = torch.einsum("...tmi,...mij,...tmj->...tm", apart, precisions, apart)
        log_abs = -0.5 * (n * square).sum(-1)
        return cls(log_abs, torch.ones_like(log_abs), centre, values, axes)

    def weighted(self, sign: Tensor, log_coef: Tensor) -> Bumps:
        """Every bump times sign_t exp(log_coef_t)."""
        return replace(self, log_abs=self.log_abs + log_coef, sign=self.sign * sign)

    @property
    def root(self) -> Tensor:
        """R' with A = R R', (*b, T, d, d)."""
        root = self.values.sqrt().expand(self.centre.shape)
        return torch.diag_embed(root) if self.axes is None else root[..., :, None] * self.axes.mT

    def shared_axes(self, spectrum: Spectrum) -> tuple[Tensor | None, bool]:
        """(axes (*b, K|1, T|1, d, d) in which all A_t and all C_k are diagonal, whether any are);
        None stands for the coordinates."""
        if spectrum.axes is None and self.axes is None:
            return None, True
        if self.axes is None and self.values.shape[-1] == 1:
            assert spectrum.axes is not None
            return spectrum.axes[..., :, None, :, :], True
        if spectrum.isotropic:
            assert self.axes is not None
            return self.axes[..., None, :, :, :], True
        return None, False


def times_bumps(law: GaussianSum, bumps: Bumps) -> GaussianSum:
    """S(x) times every bump: K T terms, the bumps' index last."""
    spectrum = law.spectrum
    gap = bumps.centre[..., None, :, :] - law.mean[..., :, None, :]  # (*b, K, T, d)
    log_abs = law.log_abs[..., :, None] + bumps.log_abs[..., None, :]
    sign = law.sign[..., :, None] * bumps.sign[..., None, :]
    axes, shared = bumps.shared_axes(spectrum)
    near, far = bumps.centre[..., None, :, :], law.mean[..., :, None, :]
    if shared:
        variance, precision = spectrum.variances[..., :, None, :], bumps.values[..., None, :, :]
        grown = (1 + variance * precision).expand(gap.shape)
        along = gap if axes is None else (axes.mT @ gap[..., None])[..., 0]
        log_abs = log_abs - 0.5 * (precision / grown * along**2 + grown.log()).sum(-1)
        left, own = (variance / grown).expand(gap.shape), variance * precision / grown
        if axes is None:
            mean = far / grown + own * near
        else:
            mean = ((axes / grown[..., None, :]) @ (axes.mT @ far[..., None]))[..., 0]
            mean = mean + ((axes * own[..., None, :]) @ (axes.mT @ near[..., None]))[..., 0]
            axes = axes.expand(*gap.shape, law.dim)
        moved = Spectrum(
            None if axes is None else axes.flatten(-4, -3), left.flatten(-3, -2), law.dim
        )
        cov = moved.matrix()
    else:
        factor = spectrum.factor()[..., :, None, :, :]
        U, g, Vh = torch.linalg.svd(bumps.root[..., None, :, :, :] @ factor)
        grown = 1 + g**2
        along = (U.mT @ (bumps.root[..., None, :, :, :] @ gap[..., None]))[..., 0]
        log_abs = log_abs - 0.5 * (along**2 / grown + grown.log()).sum(-1)
        step = (factor @ (Vh.mT @ (g / grown * along)[..., None]))[..., 0]
        white = torch.linalg.solve(factor, gap[..., None])
        rest = (factor @ (Vh.mT @ ((Vh @ white) / grown[..., None])))[..., 0]
        # From the bump where it is the narrower one in every direction.
        mean = torch.where((g > 1).all(-1, keepdim=True), near - rest, far + step)
        root = grown.rsqrt()[..., None] * (Vh @ factor.mT)
        exact = spectrum.keeps_digits and bumps.axes is None
        moved = Spectrum.of_root(root.flatten(-4, -3), exact)
        cov = (root.mT @ root).flatten(-4, -3)
    signs = sign.expand(log_abs.shape).flatten(-2)
    return GaussianSum(log_abs.flatten(-2), signs, mean.flatten(-3, -2), cov).with_spectrum(moved)


@dataclass(frozen=True, eq=False)
class BumpsGiven:
    """Every bump of `Bumps` under every component of X_1 given x.

    log_factor: log of b_t's own factor, (*b, 1, T, 1); log_mean: log E_k[b_t] less that, tiny where
    b_t is flat and so kept apart, (*b, K, T, n); push: (mean under b_t - m_k) / sigma^2,
    (*b, K, T, d, n); narrowing: tr(S_k - covariance under b_t) / sigma^4, (*b, K, T, n|1).
    """

    post: Posterior
    log_factor: Tensor
    log_mean: Tensor
    push: Tensor
    narrowing: Tensor
    root: tuple[Tensor | None, Tensor]

    @property
    def log_value(self) -> Tensor:
        """log E_k[b_t] without its sign, (*b, K, T, n)."""
        return self.log_factor + self.log_mean

    def half_covariance(self) -> Tensor:
        """A root of the covariance under b_t over sigma, (*b, K, T, n|1, d, d)."""
        axes, scale = self.root
        return torch.diag_embed(scale) if axes is None else axes * scale[..., None, :]

    @classmethod
    def of(cls, post: Posterior, bumps: Bumps) -> BumpsGiven:
        spectrum, sigma = post.law.spectrum, post.sigma
        gain = spectrum.variances[..., None] / post.variance  # S_k / sigma^2: (*b, K, d|1, n|1)
        e = bumps.centre[..., None, :, :, None] - post.component_means[..., :, None, :, :]
        square = (sigma**2)[..., None, None, :] if sigma.ndim else sigma**2
        log_factor = bumps.log_abs[..., None, :, None]
        axes, shared = bumps.shared_axes(spectrum)
        if shared:
            precision, gain = bumps.values[..., None, :, :, None], gain[..., :, None, :, :]
            slope = precision / (1 + square * gain * precision)
            along = e if axes is None else axes.mT @ e
            log_det = torch.log1p(square * gain * precision)
            size = (*log_det.shape[:-2], e.shape[-2], log_det.shape[-1])
            log_mean = -0.5 * ((slope * along**2).sum(-2) + log_det.expand(size).sum(-2))
            narrowing = (gain**2 * slope).expand(size).sum(-2)
            push = gain * slope * along
            push = push if axes is None else axes @ push
            left = (gain / (1 + square * gain * precision)).sqrt().mT
            left = left.expand(*left.shape[:-1], spectrum.dim)
            turn = None if axes is None else axes[..., None, :, :]
            return cls(post, log_factor, log_mean, push, narrowing, (turn, left))
        scale = gain.sqrt().expand(*gain.shape[:-2], spectrum.dim, gain.shape[-1]).mT
        own = torch.eye(spectrum.dim, dtype=gain.dtype, device=gain.device)
        own = own if spectrum.axes is None else spectrum.axes[..., None, :, :]
        factor = (own * scale[..., None, :])[..., :, None, :, :, :]  # (*b, K, 1, n|1, d, d)
        root = bumps.root[..., None, :, None, :, :]  # (*b, 1, T, 1, d, d)
        U, g, Vh = torch.linalg.svd(root @ factor)
        wide = (sigma**2)[..., None, :, None] if sigma.ndim else square
        excess = wide * g**2
        log_det = torch.log1p(excess).sum(-1)
        seen, back = U.mT @ root, factor @ Vh.mT
        narrowing = ((back * (g / (1 + excess).sqrt())[..., None, :]) ** 2).sum((-1, -2))
        if g.shape[-2] == 1:  # one time for all points
            along, shrunk = seen[..., 0, :, :] @ e, 1 / (1 + excess.mT)  # (*b, K, T, d, n)
            square = (along**2 * shrunk).sum(-2)
            push = back[..., 0, :, :] @ (g.mT * shrunk * along)
        else:
            along = (seen @ e.mT[..., None])[..., 0]  # (*b, K, T, n, d)
            square = (along**2 / (1 + excess)).sum(-1)
            push = (back @ (g / (1 + excess) * along)[..., None])[..., 0].mT
        log_mean, half = -0.5 * (square + log_det), (back, (1 + excess).rsqrt())
        return cls(post, log_factor, log_mean, push, narrowing, half)

    def moments(self, sign: Tensor, log_coef: Tensor, slope: bool) -> tuple[Tensor, ...]:
        """(F, N) of sum_t sign_t exp(log_coef_t) b_t: its mean given x (*b, n), its covariance with
        X_1 / sigma^2 (*b, n, d); with `slope` also the divergence of N in x over alpha (*b, n).

        sign, log_coef: (*b, T). Values of components differ from the heaviest's by expm1 where they
        are near it, so that a bump that is flat over all components keeps its slope.
        """
        post, log_value = self.post, self.log_value + log_coef[..., None, :, None]
        sign = sign[..., None, :, None]
        value = sign * log_value.exp()  # (*b, K, T, n)
        weights, D = post.weights, post.component_displacements
        pushed = (value[..., None, :] * self.push).sum(-3)  # (*b, K, d, n)
        apart = None if post.law.n_components == 1 else self._apart(value)  # (*b, K, n)
        moved = pushed if apart is None else apart[..., None, :] * D + pushed
        F = (weights * value.sum(-2)).sum(-2)
        N = (weights[..., None, :] * moved).sum(-3).mT
        if not slope:
            return F, N
        change = (value * ((self.push**2).sum(-2) - self.narrowing)).sum(-2)
        if apart is not None:
            change = change + apart * ((D**2).sum(-2) + post.component_trace_excess)
            change = change + 2 * (pushed * D).sum(-2)
        return F, N, (weights * change).sum(-2)

    def _apart(self, value: Tensor) -> Tensor:
        """E_k less the average over the components, summed over the bumps."""
        weights = self.post.weights
        heaviest = weights.detach().argmax(-2, keepdim=True)[..., None, :]
        index = heaviest.expand(*value.shape[:-3], 1, *value.shape[-2:])
        first = value.gather(-3, index)
        ratio = self.log_mean - self.log_mean.gather(-3, index)
        near = first * torch.expm1(ratio.nan_to_num(0.0).clamp(-1, 1))  # nan: both are exp(-inf)
        apart = torch.where(ratio.abs() < 1, near, value - first).sum(-2)
        return apart - (weights * apart).sum(-2, keepdim=True)

    def log_total(self, sign: Tensor, log_coef: Tensor) -> tuple[Tensor, Tensor]:
        """(log|F|, its sign), each (*b, n), also where F underflows."""
        parts = self.log_value + log_coef[..., None, :, None]
        parts = parts + self.post.log_weights[..., :, None, :]
        top = parts.amax((-2, -3), keepdim=True)
        top = torch.where(top.isinf(), 0.0, top)
        total = (sign[..., None, :, None] * (parts - top).exp()).sum((-2, -3))
        return total.abs().log() + top[..., 0, 0, :], total.sign()
