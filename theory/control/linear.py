"""Linear-quadratic control: Riccati equations, continuous and on a time grid, any schedule.

    dX = (A X + a + g u) dt + g dB,   X_0 ~ N(m, S),
    min E [int_0^1 |u|^2/2 + X'F X/2 + f'X dt + X_1'Q X_1/2 + q'X_1 + c]

V = x'P x/2 + p'x + rho with P(1), p(1), rho(1) = Q, q, c and

    -P'   = A'P + P A - g^2 P P + F
    -p'   = (A - g^2 P)'p + P a + f
    -rho' = a'p + g^2 (tr P - |p|^2)/2,           u* = -g (P x + p).

On a grid t_k with Euler-Maruyama's kernels (controls held over a step, their noise as it is) the
optimum is another one, an order dt away: with M = I + dt A, s^2 = g^2 dt, K = (I + s^2 P)^-1,

    P_k = dt F + M'P K M,   p_k = dt f + M'K (p + dt P a),   u*_k = -g K (P (M x + dt a) + p),

P, p those of k + 1. What a trained control can reach is the second, what theory names the first:
an error floor is told from an error by having both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch
from scipy.integrate import OdeSolution, solve_ivp

from theory.common.checks import check_finite, check_shape
from theory.fields.diffusion import Diffusion
from theory.laws.distances import Array
from theory.problems.problem import Problem
from theory.tilts.quadratic import QuadraticReward

RTOL, ATOL = 1e-11, 1e-13
Matrix = Callable[[float], Array]


@dataclass(frozen=True, eq=False)
class LinearQuadratic:
    """The problem above. matrix, shift: A (d, d) and a (d,) at t; noise: g at t > start.

    running_matrix, running_vector: F, f; final_matrix, final_vector, final_constant: Q, q, c; mean,
    cov: of X_start.
    start: where time begins (a schedule may be infinite before).

    Raises:
        ValueError: shapes that do not fit, matrices that are not symmetric, or V not finite on the
            way (Q or F too negative for this noise).
    """

    matrix: Matrix
    shift: Callable[[float], Array]
    noise: Callable[[float], float]
    final_matrix: Array
    final_vector: Array
    mean: Array
    cov: Array
    running_matrix: Array = field(default_factory=lambda: np.zeros((0, 0)))
    running_vector: Array = field(default_factory=lambda: np.zeros(0))
    final_constant: float = 0.0
    start: float = 0.0
    name: str = "linear-quadratic"

    def __post_init__(self) -> None:
        d = len(self.mean)
        if self.running_matrix.size == 0:
            object.__setattr__(self, "running_matrix", np.zeros((d, d)))
        if self.running_vector.size == 0:
            object.__setattr__(self, "running_vector", np.zeros(d))
        for name in ("final_matrix", "running_matrix", "cov", "final_vector", "running_vector"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} must hold finite numbers")
        for name in ("final_matrix", "running_matrix", "cov"):
            value = getattr(self, name)
            if value.shape != (d, d) or not np.allclose(value, value.T, rtol=0, atol=1e-12):
                raise ValueError(
                    f"{name} must be a symmetric ({d}, {d}) matrix, got shape {value.shape}"
                )
        for name in ("final_vector", "running_vector"):
            check_shape(name, getattr(self, name), (d,))

    @property
    def dim(self) -> int:
        return len(self.mean)

    # --- the continuous optimum

    @cached_property
    def _riccati(self) -> OdeSolution:
        d = self.dim

        def rate(tau: float, state: Array) -> Array:
            t, g2 = 1 - tau, self.noise(1 - tau) ** 2
            P, p = state[: d * d].reshape(d, d), state[d * d : -1]
            A, a = self.matrix(t), self.shift(t)
            dP = A.T @ P + P @ A - g2 * P @ P + self.running_matrix
            dp = A.T @ p - g2 * P @ p + P @ a + self.running_vector
            drho = a @ p + 0.5 * g2 * (np.trace(P) - p @ p)
            return np.concatenate([dP.ravel(), dp, [drho]])

        end = np.concatenate([self.final_matrix.ravel(), self.final_vector, [self.final_constant]])
        found = solve_ivp(
            rate,
            (0.0, 1 - self.start),
            end,
            method="DOP853",
            rtol=RTOL,
            atol=ATOL,
            dense_output=True,
        )
        if not found.success or not np.isfinite(found.y).all():
            raise ValueError(
                f"{self.name}: the value function is not finite before t = {1 - found.t[-1]:.4g} "
                f"({found.message}): costs must be bounded below enough for the noise"
            )
        assert found.sol is not None
        return found.sol

    def coefficients(self, t: float) -> tuple[Array, Array, float]:
        """(P, p, rho) at t in [start, 1]."""
        if not self.start <= t <= 1:
            raise ValueError(f"t must be a time in [{self.start:g}, 1], got {t:g}")
        state, d = self._riccati(1 - t), self.dim
        return state[: d * d].reshape(d, d), state[d * d : -1], float(state[-1])

    def value(self, x: Array, t: float) -> Array:
        """V(x, t), x (n, d) -> (n,)."""
        P, p, rho = self.coefficients(t)
        return np.asarray(0.5 * np.einsum("ni,ij,nj->n", x, P, x) + x @ p + rho)

    def gradient(self, x: Array, t: float) -> Array:
        """grad V, (n, d)."""
        P, p, _ = self.coefficients(t)
        return np.asarray(x @ P + p)

    def control(self, x: Array, t: float) -> Array:
        """u* = -g grad V, (n, d)."""
        return -self.noise(t) * self.gradient(x, t)

    def expected_value(self) -> float:
        """E V(X_start): the optimal value."""
        P, p, rho = self.coefficients(self.start)
        return self._expected(P, p, self.mean, self.cov) + rho

    def law(self) -> tuple[Array, Array]:
        """(mean (2d,), covariance (2d, 2d)) of (X_start, X_1) under the optimal control."""
        return self.steered(lambda t: self.coefficients(t)[:2])

    def steered(self, feedback: Callable[[float], tuple[Array, Array]]) -> tuple[Array, Array]:
        """The same under u = -g (P x + p) with any (P, p) at t; zeros give the base process."""
        d = self.dim

        def rate(t: float, state: Array) -> Array:
            g2 = self.noise(t) ** 2
            P, p = feedback(t)
            B, b = self.matrix(t) - g2 * P, self.shift(t) - g2 * p
            m, S = state[:d], state[d : d + d * d].reshape(d, d)
            cross = state[d + d * d :].reshape(d, d)
            moved = B @ S
            return np.concatenate(
                [B @ m + b, (moved + moved.T + g2 * np.eye(d)).ravel(), (cross @ B.T).ravel()]
            )

        begin = np.concatenate([self.mean, self.cov.ravel(), self.cov.ravel()])
        found = solve_ivp(rate, (self.start, 1.0), begin, method="DOP853", rtol=RTOL, atol=ATOL)
        end = found.y[:, -1]
        mean, cov = end[:d], end[d : d + d * d].reshape(d, d)
        cross = end[d + d * d :].reshape(d, d)
        return np.concatenate([self.mean, mean]), np.block([[self.cov, cross], [cross.T, cov]])

    def control_energy(self, feedback: Callable[[float], tuple[Array, Array]]) -> float:
        """E int |u|^2/2 dt of u = -g (P x + p): the KL to the base process (Girsanov)."""
        return self._costs(feedback)[0]

    def cost(self, feedback: Callable[[float], tuple[Array, Array]]) -> float:
        """E [int |u|^2/2 + f dt + c] of u = -g (P x + p)."""
        energy, running, mean, cov = self._costs(feedback)
        final = self._expected(self.final_matrix, self.final_vector, mean, cov)
        return energy + running + final + self.final_constant

    @staticmethod
    def _expected(matrix: Array, vector: Array, mean: Array, cov: Array) -> float:
        return float(0.5 * (mean @ matrix @ mean + np.trace(matrix @ cov)) + vector @ mean)

    def _costs(
        self, feedback: Callable[[float], tuple[Array, Array]]
    ) -> tuple[float, float, Array, Array]:
        """Control and state costs, mean and covariance of X_1."""
        d = self.dim

        def rate(t: float, state: Array) -> Array:
            g2 = self.noise(t) ** 2
            P, p = feedback(t)
            B, b = self.matrix(t) - g2 * P, self.shift(t) - g2 * p
            m, S = state[:d], state[d:-2].reshape(d, d)
            moved, mean = B @ S, P @ m + p
            energy = 0.5 * g2 * (mean @ mean + np.trace(P @ S @ P.T))
            running = self._expected(self.running_matrix, self.running_vector, m, S)
            spread = moved + moved.T + g2 * np.eye(d)
            return np.concatenate([B @ m + b, spread.ravel(), [energy, running]])

        begin = np.concatenate([self.mean, self.cov.ravel(), [0.0, 0.0]])
        found = solve_ivp(rate, (self.start, 1.0), begin, method="DOP853", rtol=RTOL, atol=ATOL)
        end = found.y[:, -1]
        return float(end[-2]), float(end[-1]), end[:d], end[d:-2].reshape(d, d)

    # --- the optimum on a time grid

    def discrete(self, times: Sequence[float]) -> DiscreteOptimum:
        """The exact optimum of Euler-Maruyama's chain on times (t_0 = start, ..., t_n = 1)."""
        grid = np.asarray(times, dtype=float)
        if (
            len(grid) < 2
            or (np.diff(grid) <= 0).any()
            or not np.allclose(grid[[0, -1]], (self.start, 1.0), rtol=0, atol=1e-12)
        ):
            raise ValueError(
                f"times must ascend from {self.start:g} and end at 1, got {list(times)!r}"
            )
        P, p, rho = self.final_matrix, self.final_vector, self.final_constant
        eye = np.eye(self.dim)
        gains: list[Array] = []
        offsets: list[Array] = []
        for k in range(len(grid) - 2, -1, -1):
            t, dt = float(grid[k]), float(grid[k + 1] - grid[k])
            g = self.noise(t)
            s2, M, drift = g**2 * dt, eye + dt * self.matrix(t), dt * self.shift(t)
            least = float(np.linalg.eigvalsh(eye + s2 * P).min())
            if least <= 0:
                raise ValueError(
                    f"{self.name}: 1 + g² dt P must stay above 0, so that a least cost exists, got "
                    f"{least:.3g} at t = {t:g}; use shorter steps or a larger final_matrix"
                )
            K = np.linalg.inv(eye + s2 * P)
            gains.insert(0, -g * K @ P @ M)
            offsets.insert(0, -g * K @ (P @ drift + p))
            PK = P @ K
            rho = (
                rho
                + 0.5 * drift @ PK @ drift
                + p @ K @ drift
                - 0.5 * s2 * p @ K @ p
                + 0.5 * s2 * np.trace(P)
            )
            p = M.T @ (PK @ drift + K @ p) + dt * self.running_vector
            P = M.T @ PK @ M + dt * self.running_matrix
            P = 0.5 * (P + P.T)
        return DiscreteOptimum(self, grid, np.array(gains), np.array(offsets), P, p, float(rho))


@dataclass(frozen=True, eq=False)
class DiscreteOptimum:
    """u_k = gains_k x + offsets_k, k = 0 .. n - 1, and V_0 = x'P x/2 + p'x + rho."""

    problem: LinearQuadratic
    times: Array
    gains: Array
    offsets: Array
    matrix: Array
    vector: Array
    constant: float

    def control(self, x: Array, k: int) -> Array:
        """u*_k, (n, d)."""
        return np.asarray(x @ self.gains[k].T + self.offsets[k])

    def value(self, x: Array) -> Array:
        """V_0, (n,)."""
        quadratic = 0.5 * np.einsum("ni,ij,nj->n", x, self.matrix, x)
        return np.asarray(quadratic + x @ self.vector + self.constant)

    def distance(self) -> float:
        """E int |u_continuous - u_k|^2 / E int |u_k|^2 along the chain's optimal law, u of both at
        the grid's times: the error floor of comparing the one with the other."""
        lq, d = self.problem, self.problem.dim
        m, S, gap, size = lq.mean, lq.cov, 0.0, 0.0
        for k, (t, dt) in enumerate(zip(self.times[:-1], np.diff(self.times), strict=True)):
            P, p, _ = lq.coefficients(float(t))
            g = lq.noise(float(t))
            own, shift = self.gains[k], self.offsets[k]
            other, moved = -g * P - own, -g * p - shift
            size += dt * float(np.sum((own @ m + shift) ** 2) + np.trace(own @ S @ own.T))
            gap += dt * float(np.sum((other @ m + moved) ** 2) + np.trace(other @ S @ other.T))
            step = np.eye(d) + dt * (lq.matrix(float(t)) + g * own)
            m = step @ m + dt * (lq.shift(float(t)) + g * shift)
            S = step @ S @ step.T + g**2 * dt * np.eye(d)
        return gap / size


def of_gaussian(problem: Problem, scale: float, schedule: Diffusion) -> LinearQuadratic:
    """Fine-tuning a single Gaussian base with a linear or quadratic reward, any path and schedule.

    Raises:
        ValueError: the base is not one Gaussian, or the reward not quadratic.
    """
    check_finite("scale", scale)
    base, reward = problem.base, problem.reward
    if len(base.log_abs) != 1 or not isinstance(reward, QuadraticReward):
        raise ValueError(
            f"problem {problem.name!r} must be one Gaussian with a linear or quadratic reward, got "
            f"{len(base.log_abs)} Gaussians and a {type(reward).__name__}"
        )
    mean, cov, path, eye = base.mean[0].numpy(), base.cov[0].numpy(), problem.path, np.eye(base.dim)

    @lru_cache(maxsize=4)
    def parts(t: float) -> tuple[Array, Array, float, float]:
        """Velocity and score are slope (x - alpha mean): v = alpha' mean + first, s = second."""
        s = torch.tensor(t, dtype=torch.float64)
        alpha, dalpha = float(path.alpha(s)), float(path.dalpha(s))
        inverse = np.linalg.inv(alpha**2 * cov + float(path.sigma(s)) ** 2 * eye)
        first = (alpha * dalpha * cov + float(path.sigma_dsigma(s)) * eye) @ inverse
        g2 = schedule.squared(path, s)
        return first - 0.5 * float(g2) * inverse, alpha * mean, dalpha, float(g2.sqrt())

    def shift(t: float) -> Array:
        slope, centre, dalpha, _ = parts(t)
        return dalpha * mean - slope @ centre

    begin = torch.tensor(schedule.start, dtype=torch.float64)
    return LinearQuadratic(
        matrix=lambda t: parts(t)[0],
        shift=shift,
        noise=lambda t: parts(t)[3],
        final_matrix=-scale * reward.matrix.numpy(),
        final_vector=-scale * reward.vector.numpy(),
        final_constant=-scale * float(reward.constant),
        mean=float(path.alpha(begin)) * mean,
        cov=float(path.alpha(begin)) ** 2 * cov + float(path.sigma(begin)) ** 2 * eye,
        start=schedule.start,
        name=f"{problem.name}, {schedule.label}",
    )
