"""Posterior moments of (X_1, r) given X_t = x on the Eulerian grids, and the fields made of them.

For one law q, with bars for posterior means and sigma = 1 - t,

    u = (E[X_1] - x)/sigma           div u = (t tr Cov(X_1)/sigma^2 - d)/sigma
    C = Cov(X_1, r)/sigma            div C = t E[|X_1 - mean|^2 (r - m)]/sigma^3
    s = (t E[X_1] - x)/sigma^2       grad m = t C/sigma

In local nodes X_1 = z + tau xi, z = x/t, the same without loss of digits near t = 1:
u = z + E[xi]/t, div u = (tr Cov(xi)/t - d)/sigma, C = Cov(xi, r)/t,
div C = E[|xi - mean|^2 (r - m)]/(t sigma), s = E[xi]/sigma. At t = 1: u = x, C = 0, s = grad log q.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from theory.recursion.grid import (
    GHOST,
    LOG_STENCIL,
    MARGIN,
    Array,
    Axis,
    Clock,
    extend,
)
from theory.tilts.rewards import Reward

# exp() of less than this is no normal number; deeper tails are flattened in the early sums.
FLOOR = -600.0
FAR = -120.0
TINY = 1e-300
TOGETHER = 16  # early times at once: temporaries that stay in cache
# Local nodes: a fine trapezoidal rule in d = 1, Gauss-Hermite per axis in d = 2.
XI_SPACING, XI_HALF = 0.7, 11
GAUSS_NODES = 9


@dataclass(frozen=True)
class Fields:
    """On the x grids of all stage times: vectors (T, *m, d), scalars (T, *m).

    u, cov = Cov(X_1 - X_0, r | x), their divergences, score, mean = E[r | x], and grad_mean.
    """

    u: Array
    div_u: Array
    cov: Array
    div_cov: Array
    score: Array
    mean: Array
    grad_mean: Array


def combine(sums: list[Array], d: int) -> tuple[Array, ...]:
    """(E[X] (*m, d), tr Cov X, m, Cov(X, r) (*m, d), E[|X - mean|^2 (r - m)]).

    sums: [1, X_1..X_d, |X|^2, r, r X_1.., r |X|^2], each (*m).
    """
    moments = [value / sums[0] for value in sums[1:]]
    x, square, r = np.stack(moments[:d], -1), moments[d], moments[d + 1]
    rx, r_square = np.stack(moments[d + 2 : 2 * d + 2], -1), moments[2 * d + 2]
    cov = rx - r[..., None] * x
    return x, square - (x * x).sum(-1), r, cov, r_square - r * square - 2 * (x * cov).sum(-1)


class Tables:
    """All that depends on grid, times and reward but on no law; made once.

    axes: uniform data axes; clock: the stage times. `fields(log q)` is the work of an epoch.
    """

    def __init__(self, axes: tuple[Array, ...], clock: Clock, reward: Reward) -> None:
        self.axes = [Axis(nodes) for nodes in axes]
        self.clock, self.dim = clock, len(axes)
        self.origin, self.spacing = self._grids(clock.times)
        self.shape = tuple(axis.size for axis in self.axes)
        self.late = [
            k for k, t in enumerate(clock.times) if t < 1 and all(a.is_late(t) for a in self.axes)
        ]
        self.early = [k for k, t in enumerate(clock.times) if t < 1 and k not in self.late]
        if self.dim == 1:
            self.xi: Array = XI_SPACING * np.arange(-XI_HALF, XI_HALF + 1.0)
            weight = np.exp(-0.5 * self.xi**2)
        else:
            nodes, weight = np.polynomial.hermite_e.hermegauss(GAUSS_NODES)
            self.xi = np.asarray(nodes, dtype=float)
        self.xi_weight = weight / weight.sum()
        self._prepare(reward)

    def _grids(self, times: Array) -> tuple[Array, Array]:
        """Origins and spacings of the x grids, each (T, d)."""
        grids = [axis.grids(times) for axis in self.axes]
        return np.stack([g[0] for g in grids], -1), np.stack([g[1] for g in grids], -1)

    def x_axes(self, k: int) -> list[Array]:
        """The x grid at time k, per axis."""
        return [
            self.origin[k, i] + self.spacing[k, i] * np.arange(m) for i, m in enumerate(self.shape)
        ]

    def x_points(self, k: int) -> Array:
        """The same as points (*m, d)."""
        return np.stack(np.meshgrid(*self.x_axes(k), indexing="ij"), -1)

    def _prepare(self, reward: Reward) -> None:
        def value(axes: list[Array]) -> Array:
            points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
            flat = torch.as_tensor(points.reshape(-1, self.dim), dtype=torch.float64)
            return reward(flat).numpy().reshape(points.shape[:-1])

        extended = [axis.extended for axis in self.axes]
        y = np.meshgrid(*extended, indexing="ij")
        square = reduce(np.add, [c**2 for c in y])
        plain = [np.ones_like(square), *y, square]
        self.columns = np.stack(plain + [value(extended) * c for c in plain])
        self.reward_nodes = value([axis.nodes for axis in self.axes])
        times = self.clock.times
        # Early times by the stride of their sums: (stride, times, kernels per axis, points).
        self.early_groups: list[tuple[int, list[int], list[Array], Array]] = []
        for stride in (1, 2):
            ks = [k for k in self.early if self.axes[0].stride(times[k]) == stride]
            for some in (ks[i : i + TOGETHER] for i in range(0, len(ks), TOGETHER)):
                kernels = [
                    np.stack([a.kernel(times[k], self.x_axes(k)[i]) for k in some])
                    for i, a in enumerate(self.axes)
                ]
                if self.dim == 1:  # (data nodes, times x nodes): twice as quick to multiply by
                    kernels = [kernels[0].reshape(-1, kernels[0].shape[-1]).T.copy()]
                points = np.stack([self.x_points(k) for k in some])
                self.early_groups.append((stride, some, kernels, points))
        if self.dim == 1:
            windows = [self.axes[0].local(times[k], self.xi) for k in self.late]
            self.windows_1d = np.concatenate(windows).T.copy()
        self.late_reward, self.late_matrix = [], []
        for k in self.late:
            tau = (1 - times[k]) / times[k]
            spots = [(x / times[k])[:, None] + tau * self.xi for x in self.x_axes(k)]
            self.late_reward.append(
                value([s.ravel() for s in spots]).reshape([n for s in spots for n in s.shape])
            )
            if self.dim == 2:
                self.late_matrix.append([self._banded(a, times[k]) for a in self.axes])

    def _banded(self, axis: Axis, t: float) -> Array:
        """(m K, N): log q on the extended axis -> at every node's local nodes."""
        local = axis.local(t, self.xi)
        matrix = np.zeros((axis.size, len(self.xi), len(axis.extended)))
        for i in range(axis.size):
            matrix[i, :, i : i + local.shape[1]] = local
        return matrix.reshape(-1, matrix.shape[-1])

    # --- an epoch

    def fields(self, log_q: Array, whole: bool = True) -> Fields:
        """Posterior moments of the law with this log-density on the data nodes.

        whole: everywhere; else (d = 1) without nodes deeper than FAR, which is quicker and right
        wherever trajectories of carried nodes pass.
        """
        full, d = extend(log_q), self.dim
        shape = (len(self.clock.times), *self.shape)
        vector, scalar = (*shape, d), shape
        out = Fields(
            *(np.zeros(s) for s in (vector, scalar, vector, scalar, vector, scalar, vector))
        )
        self._early(full, out, whole)
        self._late(full, out)
        out.u[0] = self.x_points(0)
        out.div_u[0] = d
        out.score[0] = _gradient(full, [a.step for a in self.axes])
        out.mean[0] = np.nan  # r itself; nothing uses it: every field is x at t = 1
        return out

    def _early(self, full: Array, out: Fields, whole: bool) -> None:
        d, weights = self.dim, np.exp(np.maximum(full - full.max(), FLOOR))
        loaded = self.columns * weights
        for stride, ks, kernels, x in self.early_groups:
            cut = loaded[(slice(None), *[slice(None, None, stride)] * d)]
            if d == 1:
                near = [0, -1] if whole else np.flatnonzero(full[::stride] > full.max() + FAR)
                part = slice(int(near[0]), cut.shape[1] if whole else int(near[-1]) + 1)
                sums = list((cut[:, part] @ kernels[0][part]).reshape(len(cut), len(ks), -1))
            else:
                a, b = kernels
                sums = list(np.stack([u @ cut @ v.T for u, v in zip(a, b, strict=True)], 1))
            sums[0] = np.maximum(sums[0], TINY)
            t = self.clock.times[ks].reshape(-1, *[1] * d)
            sigma = 1 - t
            mean, trace, r, cov, third = combine(sums, d)
            out.u[ks] = (mean - x) / sigma[..., None]
            out.div_u[ks] = (t * trace / sigma**2 - d) / sigma
            out.cov[ks], out.div_cov[ks] = cov / sigma[..., None], t * third / sigma**3
            out.score[ks] = (t[..., None] * mean - x) / sigma[..., None] ** 2
            out.mean[ks], out.grad_mean[ks] = r, (t / sigma**2)[..., None] * cov

    def _late(self, full: Array, out: Fields) -> None:
        d, xi = self.dim, self.xi
        if d == 1:
            half = GHOST - MARGIN
            windows = np.lib.stride_tricks.sliding_window_view(full, 2 * half + 1)
            logs = windows @ self.windows_1d - full[half : len(full) - half, None]
            weights = np.exp(np.minimum(logs, -FLOOR)).reshape(len(logs), len(self.late), len(xi))
            weights = weights * self.xi_weight
        for j, k in enumerate(self.late):
            t = self.clock.times[k]
            sigma, r = 1 - t, self.late_reward[j]
            if d == 1:
                powers = np.stack([np.ones_like(xi), xi, xi**2], -1)
                w = weights[:, j]
                parts = [*(w @ powers).T, *((w * r) @ powers).T]
            else:
                parts = self._local_sums(full, j)
            mean, trace, rbar, cov, third = combine(parts, d)
            out.u[k] = self.x_points(k) / t + mean / t
            out.div_u[k] = (trace / t - d) / sigma
            out.cov[k], out.div_cov[k] = cov / t, third / (t * sigma)
            out.score[k] = mean / sigma
            out.mean[k], out.grad_mean[k] = rbar, cov / sigma

    def _local_sums(self, full: Array, j: int) -> list[Array]:
        a, b = self.late_matrix[j]
        half, m, n = GHOST - MARGIN, len(self.xi), self.shape
        logs = (a @ full @ b.T).reshape(n[0], m, n[1], m)
        centre = full[half : half + n[0], half : half + n[1]]
        w = np.exp(np.minimum(logs - centre[:, None, :, None], -FLOOR))
        w = w * self.xi_weight[:, None, None] * self.xi_weight
        powers = np.vander(self.xi, 3, increasing=True)
        result = []
        for load in (w, w * self.late_reward[j]):
            # Over the second axis's nodes first, then the first's.
            sums = np.einsum("iajp,aq->qpij", load @ powers, powers)
            result += [sums[0, 0], sums[1, 0], sums[0, 1], sums[2, 0] + sums[0, 2]]
        return result


def _gradient(full: Array, steps: list[float]) -> Array:
    """grad log q on the late x grid's nodes, by a central stencil."""
    half, reach = GHOST - MARGIN, LOG_STENCIL // 2
    offsets = np.arange(-reach, reach + 1, dtype=float)
    # d/ds at 0 of the Lagrange polynomials of these offsets.
    slopes = np.linalg.solve(np.vander(offsets, increasing=True).T, np.eye(len(offsets))[1])
    parts = []
    for axis, h in enumerate(steps):
        total = np.zeros([n - 2 * half for n in full.shape])
        for offset, weight in zip(offsets.astype(int), slopes, strict=True):
            cut = [
                slice(half + (offset if i == axis else 0), n - half + (offset if i == axis else 0))
                for i, n in enumerate(full.shape)
            ]
            total += weight / h * full[tuple(cut)]
        parts.append(total)
    return np.stack(parts, -1)
