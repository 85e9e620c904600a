"""Signed, unnormalised sums of Gaussians: S(x) = sum_k c_k N(x; mu_k, C_k).

The family is closed under addition, products, integer powers, marginals, affine maps, convolution
with noise and multiplication by exp(quadratic). Everything in `theory` that has a closed form is a
ratio of two such sums (DESIGN: "the algebra that makes everything closed form").

The components and how they are kept: `theory.laws.components`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from theory.common.checks import (
    as_parameter,
    check_batch,
    check_dim,
    check_dtype,
    check_order,
    check_points,
    check_positive_definite,
    check_shape,
    check_squares,
    check_weights,
)
from theory.laws.components import Components, check_terms
from theory.laws.posterior import Posterior, posterior
from theory.laws.spectrum import Spectrum


@dataclass(frozen=True, eq=False)
class GaussianSum(Components):
    """sum_k sign_k exp(log_abs_k) N(x; mean_k, cov_k).

    log_abs, sign: (*b, K); mean: (*b, K, d); cov: (*b, K, d, d). Build one with `mixture` (checked
    weights, a density) or by the operations below; the bare constructor checks nothing.
    """

    # --- construction

    @classmethod
    def mixture(
        cls,
        weights: Tensor | Sequence[float],
        means: Tensor | Sequence[Any],
        *,
        covs: Tensor | Sequence[Any] | None = None,
        stds: Tensor | Sequence[Any] | None = None,
    ) -> GaussianSum:
        """A mixture density: weights (*b, K), means (*b, K, d), and one of covs (*b, K, d, d)
        or stds ((*b, K) isotropic, or (*b, K, d) along the axes).

        Raises:
            ValueError: weights negative or not summing to one, anything not a finite number,
                shapes that do not match, covs not symmetric positive definite, stds not
                positive, both or neither of covs and stds.
        """
        w = as_parameter("weights", weights, 1, "(..., K)")
        mu = as_parameter("means", means, 2, "(..., K, d)").to(w.dtype)
        check_weights(w)
        if mu.shape[:-1] != w.shape:
            raise ValueError(
                f"means must have shape (..., K, d) with (..., K) = {tuple(w.shape)}, the shape of "
                f"weights, got {tuple(mu.shape)}"
            )
        if (covs is None) == (stds is None):
            raise ValueError(
                f"exactly one of covs and stds must be given, got covs = {covs!r} and stds = "
                f"{stds!r}"
            )
        if covs is not None:
            cov = as_parameter("covs", covs, 3, "(..., K, d, d)").to(w.dtype)
            check_shape("covs", cov, (*mu.shape, mu.shape[-1]))
            check_positive_definite("covs", cov)
            cov = 0.5 * (cov + cov.mT)
        else:
            std = as_parameter("stds", stds, 1, "(..., K) or (..., K, d)").to(w.dtype)
            check_shape("stds", std, w.shape, mu.shape)
            check_squares("stds", std)
            along = std if std.shape == mu.shape else std[..., None].expand(mu.shape)
            cov = torch.diag_embed(along**2)
        return cls(w.log(), torch.ones_like(w), mu, cov)

    # --- evaluation

    def noised(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Posterior:
        """X_1 given alpha X_1 + sigma X_0 = x, and the density of that sum; x: (*b, n, d)."""
        check_points(x, self.dim, self.dtype, self.batch_shape)
        as_is: dict[str, Any] = {"dtype": x.dtype, "device": x.device}
        return posterior(self, x, torch.as_tensor(alpha, **as_is), torch.as_tensor(sigma, **as_is))

    def log_abs_density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(log|S(x)|, sign S(x)), each (*b, n), at x (*b, n, d)."""
        post = self.noised(x, 1.0, 0.0)
        return post.log_abs, post.sign

    def log_density(self, x: Tensor) -> Tensor:
        """log S(x), (*b, n); nan where S is negative."""
        log_abs, sign = self.log_abs_density(x)
        return log_abs if self.is_positive else torch.where(sign > 0, log_abs, torch.nan)

    def density(self, x: Tensor) -> Tensor:
        """S(x), (*b, n)."""
        log_abs, sign = self.log_abs_density(x)
        return sign * log_abs.exp()

    def score(self, x: Tensor) -> Tensor:
        """grad log|S(x)|, (*b, n, d)."""
        return self.noised(x, 1.0, 0.0).score

    def cdf(self, x: Tensor) -> Tensor:
        """int_{-inf}^x S, for d = 1; x: (*b, n) -> (*b, n)."""
        check_dim("cdf", self.dim)
        check_dtype("x", x, self.dtype, "the law")
        if x.ndim < 1:
            raise ValueError(f"x must have shape (..., n), got {tuple(x.shape)}")
        check_batch(x, 1, self.batch_shape, "the law")
        z = (x[..., None, :] - self.mean) / self.cov[..., 0].sqrt()
        return ((self.sign * self.log_abs.exp())[..., None] * torch.special.ndtr(z)).sum(-2)

    # --- totals and moments

    def total(self) -> tuple[Tensor, Tensor]:
        """(log|int S|, its sign), each of the batch's shape."""
        top = self.log_abs.amax(-1, keepdim=True)
        top = torch.where(top == -math.inf, 0.0, top)
        mass = (self.sign * (self.log_abs - top).exp()).sum(-1)
        return mass.abs().log() + top[..., 0], mass.sign()

    def normalised(self) -> GaussianSum:
        """S / int S.

        Raises:
            ValueError: the integral is zero, negative or not finite.
        """
        log_mass, sign = self.total()
        if not bool((torch.isfinite(log_mass) & (sign > 0)).all()):
            raise ValueError(
                f"total mass must be positive and finite, got log size {log_mass.tolist()} and "
                f"sign {sign.tolist()}"
            )
        return self.scaled(-log_mass)

    def _weights(self) -> Tensor:
        log_mass, sign = self.total()
        return (sign[..., None] * self.sign) * (self.log_abs - log_mass[..., None]).exp()

    def expectation(self) -> Tensor:
        """Mean of S / int S, (*b, d)."""
        return (self._weights()[..., None] * self.mean).sum(-2)

    def covariance(self) -> Tensor:
        """Covariance of S / int S, (*b, d, d)."""
        offset = self.mean - self.expectation()[..., None, :]
        second = self.cov + offset[..., :, None] * offset[..., None, :]
        return (self._weights()[..., None, None] * second).sum(-3)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent draws, (*b, n, d).

        Raises:
            ValueError: S has negative coefficients, or n is no whole number >= 1.
        """
        check_order("n", n, 1)
        if not self.is_positive:
            raise ValueError(
                "a sum with negative coefficients cannot be sampled: must be a mixture"
            )
        batch, (k, d) = self.batch_shape, self.mean.shape[-2:]
        probabilities = self._weights().reshape(-1, k)
        which = torch.multinomial(probabilities, n, replacement=True, generator=generator)
        index = which.reshape(*batch, n, 1).expand(*batch, n, d)
        noise = torch.randn(
            *batch, n, d, dtype=self.dtype, device=self.mean.device, generator=generator
        )
        factor = self.spectrum.factor()
        rows = torch.stack(
            [(factor[..., i, :, :] @ noise.mT).mT for i in range(k)], dim=-2
        )  # (*b, n, K, d): every component's draw; one is kept
        return self.mean.gather(-2, index) + rows.gather(-2, index[..., None, :])[..., 0, :]

    # --- algebra

    @staticmethod
    def sum_of(parts: Sequence[GaussianSum]) -> GaussianSum:
        """The sum of several, all of one batch shape, dimension and dtype."""
        for part in parts:
            _check_alike("sum", parts[0], part)
        known = any("spectrum" in part.__dict__ for part in parts)
        return GaussianSum(
            torch.cat([p.log_abs for p in parts], -1),
            torch.cat([p.sign for p in parts], -1),
            torch.cat([p.mean for p in parts], -2),
            torch.cat([p.cov for p in parts], -3),
        ).with_spectrum(Spectrum.cat([p.spectrum for p in parts]) if known else None)

    def product(self, other: GaussianSum) -> GaussianSum:
        """S(x) T(x): K_S K_T terms.

        N(x; m, C) N(x; n, D) = N(m; n, C + D) N(x; G n + (I - G) m, G D), G = C (C + D)^-1.

        Raises:
            ValueError: dimensions differ, or more than MAX_TERMS terms.
            TypeError: dtypes differ.
        """
        _check_alike("product", self, other)
        check_terms("product", self.n_components * other.n_components)
        m, c = self.mean[..., :, None, :], self.cov[..., :, None, :, :]
        n, d = other.mean[..., None, :, :], other.cov[..., None, :, :, :]
        factor = torch.linalg.cholesky(c + d)
        gap = (n - m).expand(factor.shape[:-1])
        white = torch.linalg.solve_triangular(factor, gap[..., None], upper=False)[..., 0]
        log_overlap = -0.5 * (white**2).sum(-1) - _half_log_det(factor) - _log_norm(self.dim)
        gain = torch.cholesky_solve(c.expand(factor.shape), factor).mT
        rest = torch.cholesky_solve(d.expand(factor.shape), factor).mT
        # Not m + G (n - m), which takes the digits of n where G is near I and m far away.
        mean = (gain @ n[..., None] + rest @ m[..., None])[..., 0]
        cov = gain @ d
        size = self.log_abs[..., :, None] + other.log_abs[..., None, :] + log_overlap
        sign = self.sign[..., :, None] * other.sign[..., None, :]
        return GaussianSum(
            size.flatten(-2),
            sign.expand(size.shape).flatten(-2),
            mean.flatten(-3, -2),
            (0.5 * (cov + cov.mT)).flatten(-4, -3),
        )

    def power(self, n: int) -> GaussianSum:
        """S(x)^n for a whole n >= 1: K^n terms."""
        check_order("power", n, 1, 64)
        check_terms("power", self.n_components**n)
        result = self
        for _ in range(n - 1):
            result = result.product(self)
        return result

    def marginal(self, axes: Sequence[int]) -> GaussianSum:
        """The law of the coordinates named in `axes`, in that order."""
        index = list(axes)
        if not index or any(not 0 <= i < self.dim for i in index) or len(set(index)) != len(index):
            raise ValueError(f"axes must be distinct numbers in [0, {self.dim - 1}], got {index}")
        return replace(self, mean=self.mean[..., index], cov=self.cov[..., index, :][..., :, index])

    def affine(self, matrix: Tensor, shift: Tensor | None = None) -> GaussianSum:
        """The law of A x + b; matrix A: (*b, e, d) of full row rank, shift b: (*b, e)."""
        check_dtype("matrix", matrix, self.dtype, "the law")
        if matrix.ndim < 2 or matrix.shape[-1] != self.dim:
            raise ValueError(
                f"matrix must have shape (..., e, {self.dim}), got {tuple(matrix.shape)}"
            )
        on_meta = matrix.device.type == "meta"
        rank = torch.zeros(()) if on_meta else torch.linalg.matrix_rank(matrix.detach())
        if not on_meta and bool((rank < matrix.shape[-2]).any()):
            raise ValueError(
                f"matrix must have full row rank, {matrix.shape[-2]}, else the image has no "
                f"density, got rank {rank.min().item()} of {matrix.tolist()}"
            )
        A = matrix[..., None, :, :]
        mean = (A @ self.mean[..., None])[..., 0]
        if shift is not None:
            check_dtype("shift", shift, self.dtype, "the law")
            if shift.shape[-1:] != matrix.shape[-2:-1]:
                raise ValueError(
                    f"shift must have shape (..., {matrix.shape[-2]}), for a matrix of shape "
                    f"{tuple(matrix.shape)}, got {tuple(shift.shape)}"
                )
            mean = mean + shift[..., None, :]
        cov = A @ self.cov @ A.mT
        return replace(self, mean=mean, cov=0.5 * (cov + cov.mT))

    def convolved(self, alpha: float, sigma: float) -> GaussianSum:
        """The law of alpha x + sigma N(0, I)."""
        eye = torch.eye(self.dim, dtype=self.dtype, device=self.mean.device)
        return replace(self, mean=alpha * self.mean, cov=alpha**2 * self.cov + sigma**2 * eye)

    def times_exp_quadratic(
        self,
        matrix: Tensor,
        vector: Tensor,
        constant: Tensor,
        name: str = "the quadratic",
        about: Tensor | None = None,
    ) -> GaussianSum:
        """S(x) exp(x' H x / 2 + b' x + c); one quadratic, or one a component.

        about: a point p (*b, K|1, d) in whose x - p it is written, the origin by default.

        matrix H: (*b, K|1, d, d) symmetric; vector b: (*b, K|1, d); constant c: (*b, K|1).
        With C = L L', C_new = L (I - L' H L)^-1 L'; with g = H mu + b (the gradient at mu),
        mu_new = mu + C_new g and log c_new = log c + q(mu) + g' C_new g / 2
        - log det(I - L' H L) / 2.

        Raises:
            ValueError: some I - L' H L is not positive definite: the integral does not exist.
        """
        factor = torch.linalg.cholesky(self.cov)
        eye = torch.eye(self.dim, dtype=self.dtype, device=self.mean.device)
        inner = eye - factor.mT @ matrix @ factor
        inner_factor, failed = torch.linalg.cholesky_ex(inner)
        if bool((failed != 0).any()):
            least = torch.linalg.eigvalsh(inner).min().item()
            raise ValueError(
                f"the normaliser does not exist: {name} outgrows the Gaussian tails (smallest "
                f"eigenvalue of I - L'HL is {least:g}); must be a quadratic whose tilt keeps every "
                "precision positive definite"
            )
        root = torch.linalg.solve_triangular(inner_factor, factor.mT, upper=False)
        place = self.mean if about is None else self.mean - about
        bend = (matrix @ place[..., None])[..., 0]
        value = 0.5 * (bend * place).sum(-1) + (vector * place).sum(-1) + constant
        white = (root @ (bend + vector)[..., None])[..., 0]
        log_abs = self.log_abs + value + 0.5 * (white**2).sum(-1) - _half_log_det(inner_factor)
        mean = self.mean + (root.mT @ white[..., None])[..., 0]
        tilted = GaussianSum(log_abs, self.sign.expand(log_abs.shape), mean, root.mT @ root)
        if root.device.type == "meta":
            return tilted
        return tilted.with_spectrum(Spectrum.of_root(root, self.spectrum.keeps_digits))


def _half_log_det(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _log_norm(dim: int) -> float:
    return 0.5 * dim * math.log(2 * math.pi)


def _check_alike(what: str, one: GaussianSum, other: GaussianSum) -> None:
    if one.dim != other.dim:
        raise ValueError(f"{what} needs laws in one d, got d = {one.dim} and d = {other.dim}")
    if one.dtype != other.dtype:
        raise TypeError(f"{what} needs laws of one dtype, got {one.dtype} and {other.dtype}")
