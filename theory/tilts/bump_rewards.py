"""Rewards that are sums of Gaussian bumps: a Gaussian sum times their powers is one again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from theory.common.checks import (
    as_parameter,
    check_order,
    check_points,
    check_shape,
    check_squares,
    check_symmetric,
    tolerance,
)
from theory.laws.components import check_terms
from theory.laws.gaussians import GaussianSum
from theory.tilts.bumps import Bumps, times_bumps
from theory.tilts.rewards import Reward, check_reward

# exp(a r) of a bump with a h < 0 is an alternating series, whose relative error grows like
# exp(2 |a h|). Largest error measured, at a h = -5: 6e-11, -6: 4.6e-10, -6.5: 1.1e-9, -8: 1.5e-8.
# Beyond -6 it misses the quadrature_tight tier (1e-9).
MAX_NEGATIVE_EXPONENT = 6.0


SERIES_REMAINDER = 1e-17


PRECISION_TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False)
class BumpReward(Reward):
    """r(x) = sum_i h_i exp(-(x - c_i)' A_i (x - c_i) / 2).

    heights h (*b, m) of any sign, centres c (*b, m, d), precisions A (*b, m, d, d) positive
    semi-definite.
    """

    heights: Tensor
    centres: Tensor
    precisions: Tensor

    def __post_init__(self) -> None:
        shape = self.centres.shape
        if self.heights.shape != shape[:-1] or self.precisions.shape != (*shape, shape[-1]):
            raise ValueError(
                "heights, centres, precisions must have shapes (..., m), (..., m, d), (..., m, d, "
                f"d), got {tuple(self.heights.shape)}, {tuple(self.centres.shape)}, "
                f"{tuple(self.precisions.shape)}"
            )
        check_symmetric("precisions", self.precisions)
        least = torch.linalg.eigvalsh(self.precisions)
        slack = tolerance(PRECISION_TOLERANCE, least.dtype)
        if bool((least[..., 0] < -slack * least[..., -1].abs()).any()):
            raise ValueError(
                "precisions must hold positive semi-definite matrices, got smallest eigenvalue "
                f"{least.min().item():g}"
            )

    @property
    def dim(self) -> int:  # type: ignore[override]
        return self.centres.shape[-1]

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.centres.dtype

    @property
    def n_bumps(self) -> int:
        return self.heights.shape[-1]

    def __call__(self, x: Tensor) -> Tensor:
        check_points(x, self.dim, self.dtype, self.heights.shape[:-1], "the reward")
        offset = x[..., None, :, :] - self.centres[..., None, :]  # (*b, m, n, d)
        square = ((offset @ self.precisions) * offset).sum(-1)
        return (self.heights[..., None] * torch.exp(-0.5 * square)).sum(-2)

    def bounds(self) -> tuple[float, float]:
        return self._bounds

    @cached_property
    def _bounds(self) -> tuple[float, float]:
        h = self.heights.double()
        low, high = float(h.clamp_max(0).sum(-1).min()), float(h.clamp_min(0).sum(-1).max())
        if self.n_bumps == 1 or self.heights.ndim > 1:
            return low, high
        # Overlapping bumps of several heights: climb from every centre.
        best = [0.0, 0.0]
        for i, sign in enumerate((1.0, -1.0)):
            for start in self.centres.double().cpu().numpy():
                found = minimize(
                    lambda y, s=sign: s * self._value(y),
                    start,
                    method="Nelder-Mead",
                    options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 4000},
                )
                best[i] = min(best[i], float(found.fun))
        return max(low, best[0]), min(high, -best[1])

    def _value(self, y: np.ndarray) -> float:
        point = torch.as_tensor(y, dtype=self.centres.dtype, device=self.centres.device)
        return float(self(point[None, :])[0])

    def power_terms(self, base: GaussianSum, order: int) -> GaussianSum:
        """base(x) r(x)^order as a sum of K C(order + m - 1, m - 1) Gaussians (multinomial)."""
        check_order("order", order, 0, 64)
        return self._terms(base, self.indices(order, base.n_components), None)

    def exponential_tilt(self, base: GaussianSum, scale: float | Tensor) -> GaussianSum:
        """base(x) exp(scale r(x)) by the power series, to SERIES_REMAINDER relative to exp.

        Raises:
            ValueError: more than MAX_TERMS terms, or scale * heights below
                -MAX_NEGATIVE_EXPONENT, where the alternating series loses the quadrature_tight
                tier.
        """
        a = torch.as_tensor(scale, dtype=base.dtype, device=base.mean.device)
        exponents = a[..., None] * self.heights
        negative = float(exponents.clamp_max(0).sum(-1).min())
        if negative < -MAX_NEGATIVE_EXPONENT:
            raise ValueError(
                f"scale * heights must be at least {-MAX_NEGATIVE_EXPONENT:g} in its negative part "
                f"for the closed form, whose series alternates, got {negative:g}; use "
                "route='quadrature' (d <= 2)"
            )
        order = _series_order(float(exponents.abs().sum(-1).max()), base.n_components)
        check_terms(
            "the closed form", math.comb(order + self.n_bumps, self.n_bumps) * base.n_components
        )
        indices = [index for degree in range(order + 1) for index in self.indices(degree, 1)]
        return self._terms(base, indices, a)

    def indices(self, degree: int, per_index: int) -> list[tuple[int, ...]]:
        """All n in N^m with sum n = degree.

        Raises:
            ValueError: more than MAX_TERMS of them times per_index.
        """
        m = self.n_bumps
        check_terms("the closed form", math.comb(degree + m - 1, m - 1) * per_index)
        if m == 1:
            return [(degree,)]
        bars = combinations(range(degree + m - 1), m - 1)  # stars and bars
        edges = ((-1, *places, degree + m - 1) for places in bars)
        return [tuple(b - a - 1 for a, b in pairwise(edge)) for edge in edges]

    def expand(
        self, indices: list[tuple[int, ...]], scale: Tensor | None
    ) -> tuple[Bumps, Tensor, Tensor]:
        """(prod_i bump_i^n_i for every multi-index n, sign and log of |coef_n|, each (*b, T)).

        coef_n = (sum n)! / prod n_i! prod h_i^n_i (a power), or prod (a h_i)^n_i / n_i! (the
        exponential series) where `scale` a is given.
        """
        n = torch.tensor(indices, dtype=self.dtype, device=self.centres.device)  # (T, m)
        heights = self.heights if scale is None else scale[..., None] * self.heights
        powers = torch.where(n > 0, n * heights.abs()[..., None, :].log(), 0.0)
        log_coef = powers.sum(-1) - torch.lgamma(n + 1).sum(-1)
        if scale is None:
            log_coef = log_coef + torch.lgamma(n.sum(-1) + 1)
        odd = (heights < 0)[..., None, :] & (n % 2 == 1)
        sign = 1.0 - 2.0 * (odd.sum(-1) % 2).to(n.dtype)
        return Bumps.products(n, self.centres, self.precisions), sign, log_coef

    def _terms(
        self, base: GaussianSum, indices: list[tuple[int, ...]], scale: Tensor | None
    ) -> GaussianSum:
        """sum over multi-indices n of coef_n base(x) prod_i bump_i(x)^n_i."""
        check_reward(self, base)
        bumps, sign, log_coef = self.expand(indices, scale)
        return times_bumps(base, bumps.weighted(sign, log_coef))


def bump_reward(
    height: float,
    centre: Sequence[float] | Tensor,
    *,
    width: float | Sequence[float] | None = None,
    precision: Sequence[Any] | Tensor | None = None,
) -> BumpReward:
    """One bump h exp(-|x - c|^2 / (2 width^2)), or with a full precision matrix A."""
    return bumps_reward(
        [height],
        [centre],
        widths=None if width is None else [width],
        precisions=None if precision is None else [precision],
    )


def bumps_reward(
    heights: Sequence[float] | Tensor,
    centres: Sequence[Any] | Tensor,
    *,
    widths: Sequence[Any] | Tensor | None = None,
    precisions: Sequence[Any] | Tensor | None = None,
) -> BumpReward:
    """A sum of m bumps; widths (m,) or (m, d), or precisions (m, d, d).

    Raises:
        ValueError: a number that is not finite, a width that is not positive, both or neither of
            widths and precisions, shapes that do not match.
    """
    h = as_parameter("heights", heights, 1, "(..., m)")
    if isinstance(centres, (list, tuple)):
        centres = [c.tolist() if isinstance(c, Tensor) else c for c in centres]
    c = as_parameter("centres", centres, 2, "(..., m, d)").to(h.dtype)
    if c.shape[:-1] != h.shape:
        raise ValueError(
            f"centres must have shape (..., m, d) with (..., m) = {tuple(h.shape)}, the shape of "
            f"heights, got {tuple(c.shape)}"
        )
    if (widths is None) == (precisions is None):
        raise ValueError(
            f"exactly one of widths and precisions must be given, got widths = {widths!r} and "
            f"precisions = {precisions!r}"
        )
    if widths is not None:
        w = as_parameter("widths", widths, 1, "(..., m) or (..., m, d)").to(h.dtype)
        check_squares("widths", w)
        check_shape("widths", w, h.shape, c.shape)
        w = w if w.shape == c.shape else w[..., None].expand(c.shape)
        return BumpReward(h, c, torch.diag_embed(w**-2))
    return BumpReward(h, c, as_parameter("precisions", precisions, 3, "(..., m, d, d)").to(h.dtype))


def _series_order(size: float, components: int) -> int:
    """Smallest K with size^{K+1}/(K+1)! <= SERIES_REMAINDER: exp's remainder, relative to exp.

    Raises:
        ValueError: the series up to it has more than MAX_TERMS terms, with so many components.
    """
    if size == 0:
        return 0
    order = 0
    while (order + 1) * math.log(size) - math.lgamma(order + 2) > math.log(SERIES_REMAINDER):
        order += 1
        if order % 1024 == 0:  # every term is a sum of Gaussians: no need to count to the end
            check_terms("the closed form", order * components)
    return order
