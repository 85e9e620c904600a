"""Kernels of a denoising chain: policies by their log-density, and the noising kernels P_B.

Time runs from noise to data, k = 0 .. T: a policy is a law of X_{k+1} given X_k, forward in a
GFlowNet's words, and P_B(x | x') = N(ratio_k x', variance_k I) noises X_{k+1} = x' to X_k = x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from theory.common.checks import check_order
from theory.fields.mixture import VelocityModel
from theory.samplers.chain import Chain


class Kernels(Protocol):
    """A policy: the law of X_{k+1} given X_k = x."""

    def log_density(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """log P(x_next | x) at x, x_next (n, d), as (n,); differentiable in both."""


@dataclass(frozen=True, eq=False)
class GaussianKernels:
    """N(mean_k(x), s_k^2 I): the chain's kernels with a velocity as their mean."""

    chain: Chain
    model: VelocityModel

    def log_density(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        check_order("k", k, 0, self.chain.steps - 1)
        variance = self.chain.coefficients(x)[2][k] ** 2
        return _log_normal(x_next - self.chain.mean(self.model, k, x), variance)

    def log_pairs(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """log P(x_next_j | x_i) of x (n, d) and x_next (m, d), (n, m)."""
        check_order("k", k, 0, self.chain.steps - 1)
        variance = self.chain.coefficients(x)[2][k] ** 2
        return _log_normal(x_next - self.chain.mean(self.model, k, x)[:, None], variance)


@dataclass(frozen=True)
class NoisingKernels:
    """P_B of a chain."""

    chain: Chain

    def log_density(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """log P_B(x | x_next), (n,)."""
        ratio, variance = self._rows(k, x)
        return _log_normal(x - ratio * x_next, variance)

    def scores(self, k: int, x: Tensor, x_next: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of log P_B(x | x_next) in x and in x_next, each (n, d)."""
        ratio, variance = self._rows(k, x)
        white = (x - ratio * x_next) / variance
        return -white, ratio * white

    def _rows(self, k: int, like: Tensor) -> tuple[Tensor, Tensor]:
        check_order("k", k, 0, self.chain.steps - 1)
        ratio, variance = (row[k].to(like) for row in self.chain.noising)
        return ratio, variance


def log_start(chain: Chain, x: Tensor) -> Tensor:
    """log P_0, the density of the chain's X_0, at x (n, d), as (n,)."""
    std = chain.start(torch.ones(1, dtype=x.dtype))
    return _log_normal(x, std**2)


def kernel_scores(kernels: Kernels, k: int, x: Tensor, x_next: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of log P(x_next | x) in x and in x_next, each (n, d)."""
    with torch.enable_grad():
        points = x.detach().requires_grad_(), x_next.detach().requires_grad_()
        value = kernels.log_density(k, *points)
        before, after = torch.autograd.grad(value.sum(), points)
    return before, after


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """grad f_i(x_i) of values (n,), each of its own point, (n, d); differentiable where x is."""
    with torch.enable_grad():
        point = x if x.requires_grad else x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(point).sum(), point, create_graph=x.requires_grad)
    return slope


def _log_normal(offset: Tensor, variance: Tensor) -> Tensor:
    square = (offset**2).sum(-1)
    return -0.5 * (square / variance + offset.shape[-1] * (2 * math.pi * variance).log())


# --- section 2.1 as it is printed


@dataclass(frozen=True)
class PrintedNoising:
    """The noising of section 2.1 as printed, next to what is meant: a signal level alpha_t (the
    square of a state's signal coefficient) that rises to alpha_T <= 1 at the data.

    One step     N(sqrt(alpha_{t-1}/alpha_t) x_t, sqrt(1 - alpha_{t-1}/alpha_t) I)
    From data    N(sqrt(alpha_T - alpha_t) x_T, sqrt(1 - alpha_T - alpha_t) I)

    signal: (T + 1,).
    """

    signal: Tensor

    def step(self) -> tuple[Tensor, Tensor]:
        """One step's coefficient and covariance as printed, each (T,)."""
        share = self.signal[:-1] / self.signal[1:]
        return share.sqrt(), (1 - share).sqrt()

    def from_data(self) -> tuple[Tensor, Tensor]:
        """Coefficient and covariance of x_t given x_T as printed, each (T + 1,); nan where the root
        of a negative number is taken."""
        last = self.signal[-1]
        return (last - self.signal).sqrt(), (1 - last - self.signal).sqrt()

    def meant(self) -> tuple[Tensor, Tensor]:
        """One step's coefficient and variance for which x_t = sqrt(alpha_t) data + sqrt(1 -
        alpha_t) noise, each (T,)."""
        share = self.signal[:-1] / self.signal[1:]
        return share.sqrt(), 1 - share


def composed(coefficients: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficient and variance of X_k given X_T of one-step kernels N(c_k x, v_k I), (T + 1,) each:
    what their composition is."""
    mean, variance = [torch.ones_like(coefficients[0])], [torch.zeros_like(variances[0])]
    for c, v in zip(coefficients.flip(0), variances.flip(0), strict=True):
        mean.insert(0, c * mean[0])
        variance.insert(0, c**2 * variance[0] + v)
    return torch.stack(mean), torch.stack(variance)
