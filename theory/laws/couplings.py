"""Couplings of noise and data that need not be independent: the RF velocity and its slope.

A family gamma^a(x_0, x_1) = sum_k w_k(a) N(u; M_k(a), L_k(a) L_k(a)') over u = (x_0, x_1), with
logits, means and factors linear in a. Conditioned on X_t = t X_1 + (1 - t) X_0 = x, component k has
u | x ~ N(u_k, S_k); with e = u - M,

    d/da log N_k = D' Sigma^-1 e - tr(L^-1 E) + e' Sigma^-1 E L^-1 e,   M' = D, L' = E,

is quadratic in u, so that the covariance of liu's Theorem 1.3,

    d/da v^a(x, t) = Cov_a(X_1 - X_0, d/da log gamma^a(X_0, X_1) | X_t = x),

has a closed form. Shapes: points (n, d); K components of u in R^(2d), x_0's coordinates first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.common.checks import check_finite, check_points, check_shape, check_time


@dataclass(frozen=True, eq=False)
class CouplingFamily:
    """logits (K,), means (K, 2d), factors (K, 2d, 2d) with L L' the covariances, and their rates.

    Raises:
        ValueError: shapes that do not fit, a singular factor.
    """

    logits: Tensor
    means: Tensor
    factors: Tensor
    logit_rates: Tensor
    mean_rates: Tensor
    factor_rates: Tensor

    def __post_init__(self) -> None:
        k, width = self.means.shape
        wanted = {
            "logits": (k,),
            "logit_rates": (k,),
            "mean_rates": (k, width),
            "factors": (k, width, width),
            "factor_rates": (k, width, width),
        }
        for name, shape in wanted.items():
            check_shape(name, getattr(self, name), shape)
        if width % 2:
            raise ValueError(f"means must have shape (K, 2d), got ({k}, {width})")
        check_invertible(self.factors, "factors")

    @property
    def dim(self) -> int:
        return self.means.shape[1] // 2

    def velocity(self, x: Tensor, t: float, a: float) -> Tensor:
        """v^a(x, t) = E_a[X_1 - X_0 | X_t = x], (n, d)."""
        parts = self._condition(x, t, a)
        return (parts.weights[..., None] * parts.move).sum(0)

    def velocity_slope(self, x: Tensor, t: float, a: float) -> Tensor:
        """d/da v^a(x, t) as the conditional covariance of Theorem 1.3 (liu), (n, d)."""
        parts = self._condition(x, t, a)
        inverse = torch.linalg.inv(parts.factors)  # L^-1, (K, 2d, 2d)
        precision = inverse.mT @ inverse
        logits = self.logits + a * self.logit_rates
        rates = self.logit_rates - (torch.softmax(logits, 0) * self.logit_rates).sum()
        trace = (inverse @ self.factor_rates).diagonal(dim1=-2, dim2=-1).sum(-1)
        square = precision @ self.factor_rates @ inverse
        square = 0.5 * (square + square.mT)
        gap = parts.mean - parts.centre[:, None, :]  # e at u_k, (K, n, 2d)
        linear = (precision @ self.mean_rates[..., None])[..., 0][:, None, :]
        value = (
            (rates - trace)[:, None]
            + (linear * gap).sum(-1)
            + ((gap @ square) * gap).sum(-1)
            + (square * parts.cov).sum((-2, -1))[:, None]
        )
        slope = linear + 2 * gap @ square  # gradient of the quadratic at u_k
        with_move = value[..., None] * parts.move + slope @ parts.cov @ parts.difference.mT
        mean_move = (parts.weights[..., None] * parts.move).sum(0)
        mean_value = (parts.weights * value).sum(0)
        return (parts.weights[..., None] * with_move).sum(0) - mean_move * mean_value[:, None]

    def _condition(self, x: Tensor, t: float, a: float) -> _Conditioned:
        check_points(x, self.dim, self.means.dtype)
        check_finite("a", a)
        time = check_time(t, x)
        factors = self.factors + a * self.factor_rates
        check_invertible(factors, f"factors at a = {a:g}")
        centre = self.means + a * self.mean_rates
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        observe = torch.cat([(1 - time) * eye, time * eye], -1)  # (d, 2d)
        difference = torch.cat([-eye, eye], -1)
        cov = factors @ factors.mT
        spread = observe @ cov @ observe.mT
        gain = torch.linalg.solve(spread, observe @ cov).mT  # (K, 2d, d)
        gap = x - (centre @ observe.mT)[:, None, :]  # (K, n, d)
        mean = centre[:, None, :] + gap @ gain.mT
        root = torch.linalg.cholesky(spread)
        white = torch.linalg.solve_triangular(root, gap.mT, upper=False)
        log_parts = (
            torch.log_softmax(self.logits + a * self.logit_rates, 0)[:, None]
            - 0.5 * (white**2).sum(-2)
            - 0.5 * self.dim * math.log(2 * math.pi)
            - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
        )
        weights = torch.softmax(log_parts, 0)
        left = cov - gain @ observe @ cov
        return _Conditioned(
            weights, mean, 0.5 * (left + left.mT), mean @ difference.mT, difference, centre, factors
        )


@dataclass(frozen=True, eq=False)
class _Conditioned:
    """Component by component, given X_t = x: weights (K, n), u_k (K, n, 2d), S_k (K, 2d, 2d),
    E_k[X_1 - X_0] (K, n, d)."""

    weights: Tensor
    mean: Tensor
    cov: Tensor
    move: Tensor
    difference: Tensor
    centre: Tensor
    factors: Tensor


def check_invertible(factors: Tensor, name: str) -> None:
    """Raises ValueError where a factor is singular."""
    least = torch.linalg.svdvals(factors)[..., -1].min().item()
    if not least > 1e-6:
        raise ValueError(
            f"{name} must have singular values above 1e-6, else the coupling has no density, got "
            f"{least:g}"
        )
