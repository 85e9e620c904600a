"""Gaussian components with signed coefficients, as `theory.laws.gaussians` adds them up.

Coefficients are kept as sign and log|c_k|: products of many terms neither overflow nor lose the
sign. Every parameter may carry leading batch axes (*b); a batch is many laws evaluated at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from theory.common.tolerances import QUADRATURE_TIGHT
from theory.laws.spectrum import Spectrum

UNIT = torch.finfo(torch.float64).eps
MAX_TERMS = 100_000


def _beneath(x: Tensor) -> Tensor:
    """The values beneath torch.func's transforms, of all rows that vmap goes through."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


@dataclass(frozen=True)
class Extent:
    """The largest |mean|, and the smallest and largest variance of a law."""

    reach: float
    least: float
    most: float
    off_axes: bool

    def may_lose(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> bool:
        """Whether a value at points x may have lost digits beyond the quadrature_tight tier."""
        x, alpha, sigma = map(_beneath, (x, alpha, sigma))
        size = float(x.detach().abs().max()) + self.reach
        least = float((alpha.min() ** 2 * self.least + sigma.min() ** 2).clamp_min(1e-300))
        ratio = size**2 / least
        if self.off_axes:
            ratio *= max(1.0, float(alpha.max()) ** 2 * self.most / least)
        return not UNIT * x.shape[-1] * ratio <= QUADRATURE_TIGHT.rtol / 8


@dataclass(frozen=True, eq=False)
class Components:
    """sign_k exp(log_abs_k) N(x; mean_k, cov_k), k = 1 to K.

    log_abs, sign: (*b, K); mean: (*b, K, d); cov: (*b, K, d, d).
    """

    log_abs: Tensor
    sign: Tensor
    mean: Tensor
    cov: Tensor

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    @property
    def n_components(self) -> int:
        return self.mean.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        return self.log_abs.shape[:-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Self:
        """The same law in another dtype or on another device.

        The spectra of the covariances are computed first, in the precision at hand, so that a
        float32 copy has rounded, not recomputed, eigenvalues. So are the signs: what is moved
        never reads a value from its new device.
        """
        parts = (self.log_abs, self.sign, self.mean, self.cov)
        moved = type(self)(*(p.to(dtype=dtype, device=device) for p in parts))
        moved.__dict__["spectrum"] = self.spectrum.to(dtype, device)
        moved.__dict__["is_positive"] = self.is_positive
        return moved

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigenvectors and eigenvalues of every covariance, computed once."""
        return Spectrum.of(self.cov)

    @cached_property
    def extent(self) -> Extent:
        """The law's largest and smallest numbers."""
        variances = self.spectrum.variances
        least, most = float(variances.min()), float(variances.max())
        return Extent(float(self.mean.abs().max()), least, most, self.spectrum.axes is not None)

    @cached_property
    def is_positive(self) -> bool:
        """Whether no coefficient is negative."""
        return bool((self.sign > 0).all())

    def scaled(self, log_abs: Tensor | float, sign: Tensor | float = 1.0) -> Self:
        """S times the constant sign exp(log_abs)."""
        size = torch.as_tensor(log_abs, dtype=self.dtype, device=self.mean.device)
        direction = torch.as_tensor(sign, dtype=self.dtype, device=self.mean.device)
        log_abs, sign = self.log_abs + size[..., None], self.sign * direction[..., None]
        scaled = replace(self, log_abs=log_abs, sign=sign)
        return scaled.with_spectrum(self.__dict__.get("spectrum")).expanded(log_abs.shape[:-1])

    def expanded(self, batch: torch.Size | Sequence[int]) -> Self:
        """The same law as a batch of this shape."""
        k, d = self.mean.shape[-2:]
        expanded = type(self)(
            self.log_abs.expand(*batch, k),
            self.sign.expand(*batch, k),
            self.mean.expand(*batch, k, d),
            self.cov.expand(*batch, k, d, d),
        )
        known = self.__dict__.get("spectrum")
        return expanded.with_spectrum(None if known is None else known.expanded(batch))

    def with_spectrum(self, spectrum: Spectrum | None) -> Self:
        """The law itself, which keeps a spectrum that is known better than from its covariances."""
        if spectrum is not None:
            self.__dict__["spectrum"] = spectrum
        return self


def check_terms(name: str, count: int) -> None:
    if count > MAX_TERMS:
        raise ValueError(
            f"{name} must have at most {MAX_TERMS} Gaussian terms, got {count}; use "
            "route='quadrature' (d <= 2)"
        )
