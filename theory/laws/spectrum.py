"""Covariances by eigenvectors and eigenvalues, found once a law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Spectrum:
    """C_k = axes diag(variances) axes'; axes None where every C_k is diagonal.

    variances: (*b, K, d), or (*b, K, 1) where every C_k is a multiple of I; from_roots: whether
    they are squares of singular values.
    """

    axes: Tensor | None
    variances: Tensor
    dim: int
    from_roots: bool = False

    @classmethod
    def of(cls, cov: Tensor) -> Spectrum:
        dim = cov.shape[-1]
        diagonal = cov.diagonal(dim1=-2, dim2=-1)
        if not torch.equal(cov, torch.diag_embed(diagonal)):
            variances, axes = torch.linalg.eigh(cov)
            return cls(axes, variances, dim)
        return cls._diagonal(diagonal)

    @classmethod
    def of_root(cls, root: Tensor, exact: bool) -> Spectrum:
        """Of R'R for roots R (*b, K, d, d), by their singular values: the small ones keep digits
        that R'R has rounded away, where the roots themselves have them (exact)."""
        diagonal = root.diagonal(dim1=-2, dim2=-1)
        if torch.equal(root, torch.diag_embed(diagonal)):
            return cls._diagonal(diagonal**2)
        _, values, axes = torch.linalg.svd(root)
        return cls(axes.mT, values**2, root.shape[-1], exact)

    @classmethod
    def _diagonal(cls, diagonal: Tensor) -> Spectrum:
        dim = diagonal.shape[-1]
        if bool((diagonal == diagonal[..., :1]).all()):
            diagonal = diagonal[..., :1]
        return cls(None, diagonal.contiguous(), dim)

    @property
    def keeps_digits(self) -> bool:
        """Whether the small variances are as exact as the large ones' roots allow."""
        return self.axes is None or self.from_roots

    @property
    def isotropic(self) -> bool:
        return self.axes is None and self.variances.shape[-1] == 1

    def to(self, dtype: torch.dtype | None, device: torch.device | str | None) -> Spectrum:
        axes = None if self.axes is None else self.axes.to(dtype=dtype, device=device)
        return replace(self, axes=axes, variances=self.variances.to(dtype=dtype, device=device))

    def expanded(self, batch: Sequence[int]) -> Spectrum:
        axes, variances = self.axes, self.variances
        axes = None if axes is None else axes.expand(*batch, *axes.shape[-3:])
        return replace(self, axes=axes, variances=variances.expand(*batch, *variances.shape[-2:]))

    @staticmethod
    def cat(parts: Sequence[Spectrum]) -> Spectrum:
        """Of the components of several sums of one dimension, one after the other."""
        dim, bare = parts[0].dim, all(p.axes is None for p in parts)
        short = bare and all(p.isotropic for p in parts)
        sizes = [p.variances.shape[:-1] for p in parts]
        variances = [
            p.variances if short else p.variances.expand(*size, dim)
            for p, size in zip(parts, sizes, strict=True)
        ]
        if bare:
            return Spectrum(None, torch.cat(variances, -2), dim)
        eye = torch.eye(dim, dtype=variances[0].dtype, device=variances[0].device)
        axes = [
            eye.expand(*size, dim, dim) if p.axes is None else p.axes
            for p, size in zip(parts, sizes, strict=True)
        ]
        exact = all(p.keeps_digits for p in parts)
        return Spectrum(torch.cat(axes, -3), torch.cat(variances, -2), dim, exact)

    def factor(self) -> Tensor:
        """A square root of every C_k, (*b, K, d, d)."""
        std = self.variances.sqrt().expand(*self.variances.shape[:-1], self.dim)
        return torch.diag_embed(std) if self.axes is None else self.axes * std[..., None, :]

    def matrix(self) -> Tensor:
        """Every C_k, (*b, K, d, d)."""
        full = self.variances.expand(*self.variances.shape[:-1], self.dim)
        if self.axes is None:
            return torch.diag_embed(full)
        half = self.factor()
        return half @ half.mT

    def rotate(self, z: Tensor) -> Tensor:
        """Eigen-coordinates to coordinates, (*b, K, d, n)."""
        return z if self.axes is None else self.axes @ z

    def unrotate(self, y: Tensor) -> Tensor:
        """Coordinates to eigen-coordinates, (*b, K, d, n)."""
        return y if self.axes is None else self.axes.mT @ y
