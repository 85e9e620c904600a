"""Zeros of a matching loss's gradient in a family of controls on the line that holds u*.

u = u* + sum theta_j phi_j(x, t), phi products of 1, cos, sin (two frequencies) in x and 1, t, t^2.
Everything is a sum over the grid: kernels are matrices, so that one gradient is a few products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from scipy.optimize import least_squares, root

from theory.common.tolerances import ALGEBRA
from theory.laws.distances import Array
from theory.ledger.domingo.line_chain import Adjoint, LineChain

SPREADS = (0.3, 1.0, 2.5)  # of a start's rms control, over u*'s
SETTLED = 1e-9  # of the gradient, over its size at the starts
SAME = 1e-4  # E|u - u*|^2 over E|u*|^2 at which a control is u*: more than the grid leaves


@dataclass(frozen=True)
class Search:
    """zeros: starts that ended at u*; others at a zero elsewhere, of which `distinct` differ;
    stalled where the gradient's norm is least nearby and not zero; lost: unsettled. least: of
    |G|^2 over E|u*|^2 among the others. wrong: whether u* is no zero with half the adjoint."""

    zeros: int
    others: int
    distinct: int
    stalled: int
    lost: int
    least: float
    wrong: bool


@dataclass(frozen=True, eq=False)
class Family:
    """On a line chain, around the means (T, N) of u*."""

    line: LineChain
    means: Array
    adjoint: Adjoint

    PARAMETERS: ClassVar[int] = 15

    @cached_property
    def _features(self) -> tuple[Array, Array]:
        """phi and d phi/dx, (15, T, N)."""
        x, T = self.line.axis, self.line.steps
        w = 2 * math.pi / 8.0
        rows = [(np.ones_like(x), np.zeros_like(x))]
        for j in (1, 2):
            rows.append((np.cos(j * w * x), -j * w * np.sin(j * w * x)))
            rows.append((np.sin(j * w * x), j * w * np.cos(j * w * x)))
        t = np.arange(T) / T
        powers = np.array([t**j for j in range(3)])
        values, slopes = (np.array([r[i] for r in rows]) for i in (0, 1))
        shape = (self.PARAMETERS, T, len(x))
        phi, dphi = (np.einsum("fn,pt->fptn", v, powers).reshape(shape) for v in (values, slopes))
        return phi, dphi

    @cached_property
    def _slopes(self) -> Array:
        return np.array([self.line._derivative(row) for row in self.means])

    @cached_property
    def _end(self) -> Array:
        return self.line.final_slope(self.line.axis)

    def fields(self, theta: Array, share: float = 1.0) -> tuple[Array, Array]:
        """(G, p), each (T, N); share: of the adjoint that is kept, 1 but for a wrong version."""
        line, s = self.line, self.line.std[:, None]
        phi, dphi = self._features
        means = self.means + s * np.einsum("j,jtn->tn", theta, phi)
        slopes = self._slopes + s * np.einsum("j,jtn->tn", theta, dphi)
        u = line.controls(means)
        kernel = np.exp(-0.5 * ((line.axis - means[:, :, None]) / s[:, :, None]) ** 2)
        kernel /= np.maximum(kernel.sum(-1, keepdims=True), 1e-300)
        a, G = self._end, np.empty_like(means)
        for k in range(line.steps - 1, -1, -1):
            H = kernel[k] @ a
            G[k] = u[k] + share * s[k] * H
            base = line.base_slopes[k]
            if self.adjoint == "full":
                a = slopes[k] * H + (slopes[k] - base) * u[k] / s[k]
            else:
                a = base * H
        law = [line.start / line.start.sum()]
        for k in range(line.steps - 1):
            law.append(law[-1] @ kernel[k])
        return G, np.array(law)

    def gradient(self, theta: Array, share: float = 1.0) -> Array:
        """sum_k E[G_k phi_jk], (15,)."""
        G, p = self.fields(theta, share)
        return np.asarray(np.einsum("jtn,tn->j", self._features[0], G * p))

    def search(self, starts: int, seed: int) -> Search:
        """Roots of the gradient from random starts.

        Where Powell's method and Levenberg's and Marquardt's find none, a trust region from the
        same start; where that settles at a least norm that is not zero, there is none nearby.
        """
        rng = np.random.default_rng([seed, 12])
        size = self.energy
        zeros = others = stalled = lost = 0
        least = math.inf
        found: list[Array] = []
        for i in range(starts):
            theta = rng.normal(size=self.PARAMETERS)
            theta *= SPREADS[i % len(SPREADS)] * math.sqrt(size) / np.linalg.norm(theta)
            done = root(self.gradient, theta, method="hybr", options={"maxfev": 150})
            enough = SETTLED * max(1.0, math.sqrt(size))
            if np.abs(done.fun).max() > enough:
                done = root(self.gradient, done.x, method="lm", options={"maxiter": 100})
            if np.abs(done.fun).max() > enough:
                done = least_squares(
                    self.gradient, theta, xtol=ALGEBRA.rtol, ftol=ALGEBRA.rtol, max_nfev=300
                )
            if np.abs(done.fun).max() > enough:
                # Status 1: the slope of the squared norm vanishes; a small step alone says nothing.
                stalled += done.status == 1
                lost += done.status != 1
            elif self.distance(done.x) <= SAME * size:
                zeros += 1
            else:
                others += 1
                G, p = self.fields(done.x)
                least = min(least, float((p * G**2).sum()) / size)
                if all(self.distance(done.x - f) > SAME * size for f in found):
                    found.append(done.x)
        wrong = np.abs(self.gradient(np.zeros(self.PARAMETERS), 0.5)).max() > ALGEBRA.rtol
        return Search(zeros, others, len(found), stalled, lost, least, bool(wrong))

    def distance(self, theta: Array) -> float:
        """sum_k E|u_k - u*_k|^2 under u*."""
        return float((self._law * np.einsum("j,jtn->tn", theta, self._features[0]) ** 2).sum())

    @cached_property
    def _law(self) -> Array:
        return self.fields(np.zeros(self.PARAMETERS))[1]

    @cached_property
    def energy(self) -> float:
        """sum_k E|u*_k|^2."""
        return float((self._law * self.line.controls(self.means) ** 2).sum())
