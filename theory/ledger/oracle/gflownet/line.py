r"""Policies of short chains on the line, and what they sample, by sums over uniform grids.

A policy is what its factors make of it, P(x' | x) = K(x' | x) f_{k+1}(x') / C_k(x), with C_k that
sums it to 1, whatever the f are. With K the noise kernel P_B it is a GFlowNet's forward policy,
with K a power of the pretrained kernel a residual one; its law from any first law N(0, s_0^2) is
what the kernels give when they are multiplied out, and nothing telescopes here.

Sums are trapezoidal, spectrally accurate for features no narrower than FINE grid steps. Logs of
kernels are tables (rows x, columns x'). A grid reaches FAR standard deviations past everything.

Raises ValueError for a problem that is not on the line, or that needs more than MOST points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import logsumexp

from theory.ledger.oracle.gflownet.numbers import FlowNumbers
from theory.ledger.oracle.gflownet.violation import plugged
from theory.ledger.oracle.integrals import Array

FINE, FAR, MOST = 8.0, 9.0, 12_000
Factor = Callable[[int, Array, Array], Array]  # k, x (m,), x' (p,) -> (m, p), logs


class Line:
    """A chain's states on uniform axes. widest_start: the largest s_0 that will be asked for;
    sharpest: the largest power that kernels will be raised to."""

    def __init__(self, n: FlowNumbers, widest_start: float = 0.0, sharpest: float = 1.0) -> None:
        if n.case.dim != 1:
            raise ValueError(f"tables need d = 1, got d = {n.case.dim}")
        self.n = n
        part, base = n.parts[0], n.without_reward().parts[0]
        boxes = [part.density.region, base.density.region]
        low = min(float(b.lower[0]) for b in boxes)
        high = max(float(b.upper[0]) for b in boxes)
        data_width = math.sqrt(float(n.case.covs.min()))
        end_width = min(part.width / math.sqrt(2.0), base.width / math.sqrt(2.0), data_width)
        self.axes: list[Array] = []
        for k in range(n.steps + 1):
            rho, tau = n.noising(k)
            start = FAR * max(widest_start, float(n.sigma[0]))
            below = min(rho * low - FAR * tau, -start if k == 0 else math.inf)
            above = max(rho * high + FAR * tau, start if k == 0 else -math.inf)
            widths = [math.hypot(rho * end_width, tau)]
            if k:
                widths.append(math.sqrt(plugged(n, k - 1).variance))
            if k < n.steps:
                widths.append(math.sqrt(float(n.forward[k])))
            step = min(widths) / FINE / math.sqrt(max(sharpest, 1.0))
            count = math.ceil((above - below) / step) + 1
            if count > MOST:
                raise ValueError(f"state {k} must need at most {MOST} points, got {count}")
            self.axes.append(np.linspace(below, above, count))

    def spacing(self, k: int) -> float:
        return float(self.axes[k][1] - self.axes[k][0])

    # --- factors

    def noise(self, k: int, x: Array, x_next: Array) -> Array:
        """log P_B(x | x')."""
        return _log_normal(x[:, None] - self.n.ratio[k] * x_next, float(self.n.forward[k]))

    def gaussian(self, k: int, x: Array, x_next: Array) -> Array:
        """log P#(x' | x) of the pretrained chain with Gaussian kernels."""
        n, kernel = self.n, plugged(self.n, k)
        y = self.axes[-1]
        logs = n.case.log_density(y[:, None])
        logs = logs + _log_normal(x[:, None] - n.alpha[k] * y, float(n.sigma[k]) ** 2)
        shares = np.exp(logs - logsumexp(logs, axis=1, keepdims=True))
        mean = kernel.here * x + kernel.data * shares @ y
        return _log_normal(x_next - mean[:, None], kernel.variance)

    def back(self, k: int, x: Array, x_next: Array) -> Array:
        """log of the kernel of the pretrained chain that goes back exactly."""
        base = self.n.without_reward()
        late = self.log_flow(base, k + 1, x_next)
        return self.noise(k, x, x_next) + late - self.log_flow(base, k, x)[:, None]

    # --- flows

    def log_flow(self, n: FlowNumbers, k: int, x: Array) -> Array:
        """log F_k at x (m,), (m,), of the weight of n."""
        if k == n.steps:
            return n.log_weight(x[:, None])
        y, (rho, tau) = self.axes[-1], n.noising(k)
        logs = n.log_weight(y[:, None]) + _log_normal(x[:, None] - rho * y, tau**2)
        return _summed(logs, self.spacing(n.steps))

    def flows(self, n: FlowNumbers) -> list[Array]:
        """log F_k on the axes of states 1 to T - 1, as a policy's f."""
        return [self.log_flow(n, k, self.axes[k]) for k in range(1, n.steps)]

    def pulled(self, factor: Factor, power: float = 1.0) -> list[Array]:
        """log Ft_k on the axes of states 0 to T - 1, Ft_T = R^beta and Ft_k(x) the sum over x' of
        K(x' | x)^power Ft_{k+1}(x'): what residual conditions ask of the flow."""
        late = self.log_reward(self.axes[-1])
        found: list[Array] = []
        for k in range(self.n.steps - 1, -1, -1):
            table = power * factor(k, self.axes[k], self.axes[k + 1]) + late
            late = _summed(table, self.spacing(k + 1))
            found.insert(0, late)
        return found

    def log_reward(self, x: Array) -> Array:
        """beta log R, (m,)."""
        return np.asarray(self.n.power * self.n.log_reward(x[:, None]))

    # --- laws

    def policy_law(
        self,
        factor: Factor,
        f: Sequence[Array],
        terminal: Callable[[Array], Array],
        start_std: float,
        points: Array,
        power: float = 1.0,
    ) -> Array:
        """log-density of X_T at points (m,) under P(x' | x) = K(x' | x)^power f(x') / C(x).

        f: logs on the axes of states 1 to T - 1; terminal: log of f_T at any x (m,).
        """
        axes, steps = self.axes, self.n.steps
        density = _log_normal(axes[0], start_std**2)
        for k in range(steps):
            last = k == steps - 1
            table = power * factor(k, axes[k], axes[k + 1])
            table = table + (terminal(axes[-1]) if last else f[k])
            size = _summed(table, self.spacing(k + 1))
            mass = density - size + math.log(self.spacing(k))
            if last:
                table = power * factor(k, axes[k], points) + terminal(points)
            density = np.asarray(logsumexp(table + mass[:, None], axis=0))
        return density

    def kernels_law(self, factor: Factor, start_std: float, points: Array) -> Array:
        """log-density of X_T of kernels as they are, normalised by themselves."""
        ones = [np.zeros(len(axis)) for axis in self.axes[1:-1]]
        return self.policy_law(factor, ones, lambda x: np.zeros(len(x)), start_std, points)

    def target(self, factor: Factor, power: float, start_std: float, points: Array) -> Array:
        """log of R^beta P#(x_T)^power / Z at points (m,), P# the law of the kernels: (10)."""

        def logs(x: Array) -> Array:
            return self.log_reward(x) + power * self.kernels_law(factor, start_std, x)

        return logs(points) - float(_summed(logs(self.axes[-1])[None], self.spacing(-1))[0])

    def residual_law(self, factor: Factor, power: float, start_std: float, points: Array) -> Array:
        """log-density of X_T of P = K^power Ft' / Ft: what (11)-(14) sample."""
        f = self.pulled(factor, power)[1:]
        return self.policy_law(factor, f, self.log_reward, start_std, points, power)


def total_variation(one: Array, other: Array, spacing: float) -> float:
    """Half of int |p - q| on a grid, from logs (m,). The kinks leave errors of order spacing^2."""
    return float(0.5 * np.abs(np.exp(one) - np.exp(other)).sum() * spacing)


def _summed(logs: Array, spacing: float) -> Array:
    """log of the sum over columns times the spacing, (m,)."""
    return np.asarray(logsumexp(logs, axis=1) + math.log(spacing))


def _log_normal(gap: Array, variance: float) -> Array:
    return np.asarray(-0.5 * gap**2 / variance - 0.5 * math.log(2 * math.pi * variance))
