"""domingo, D10 and D12 in continuous time: linear-quadratic problems, where expectations are exact.

Under linear feedback everything random is a quadratic form of the noise, so that its mean over the
2 D points +- sqrt(D) e_i (D noise numbers) is its expectation, exactly, whatever the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from theory.common.tolerances import QUADRATURE_TIGHT
from theory.control.adjoints import (
    Place,
    Process,
    control_gradient,
    full_adjoint,
    lean_adjoint,
    rollout,
)
from theory.control.linear import LinearQuadratic
from theory.ledger.core import Array, Context, Finding, Region, Slope, fit_slope, number

CONSTANT = 0.8
OFFSETS = {"g = 0.8": 0.0, "memoryless, offset 0.3": 0.3}
STEPS = (12, 16, 20, 24, 32, 48)
MORE_STEPS = (12, 16, 24, 32, 48, 64, 96)
STEP = 0.02  # of the central difference of sixth order
WEIGHTS = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
FLOOR = 1e-11
VISIBLE = 0.01  # of the gradient: what wrong versions leave


def linear_case(dim: int, label: str, seed: int = 0, constant: float = CONSTANT) -> LinearQuadratic:
    """A Gaussian base N(mu, C), full covariance, on the rectified-flow path, and a quadratic cost
    that is not aligned with it."""
    rng = np.random.default_rng([seed, dim, 5])
    eye = np.eye(dim)
    root = 0.3 * rng.normal(size=(dim, dim)) + np.diag(rng.uniform(0.6, 1.1, dim))
    turn, mu, C = rng.normal(size=(dim, dim)), 0.8 * rng.normal(size=dim), root @ root.T + 0.2 * eye
    offset = OFFSETS[label]

    def squared(t: float) -> float:
        s = (t + offset) / (1 + 2 * offset)
        return 2 * (1 - s) / s if offset else constant**2

    def matrix(t: float) -> Array:
        """v + (g^2/2) score = v(t mu) + this (x - t mu)."""
        slope = t * C - (1 - t) * eye - 0.5 * squared(t) * eye
        return np.asarray(slope @ np.linalg.inv(t**2 * C + (1 - t) ** 2 * eye))

    return LinearQuadratic(
        matrix=matrix,
        shift=lambda t: mu - matrix(t) @ (t * mu),
        noise=lambda t: math.sqrt(squared(t)),
        final_matrix=0.3 * (turn + turn.T) / math.sqrt(dim) + 0.4 * eye,
        final_vector=rng.normal(size=dim),
        mean=np.zeros(dim),
        cov=eye,
        name=f"Gaussian, d = {dim}, {label}",
    )


@dataclass(frozen=True, eq=False)
class Feedback:
    """u = -g ((P_0 + t P_1) x + p_0 + t p_1), its parameters theta (2, d, d + 1)."""

    lq: LinearQuadratic
    seed: int = 0

    @cached_property
    def theta(self) -> Array:
        d, rng = self.lq.dim, np.random.default_rng([self.seed, 6])
        return 0.4 * rng.normal(size=(2, d, d + 1)) / math.sqrt(d)

    def continuous(self) -> Array:
        """d/dtheta of E[int |u|^2/2 dt + c(X_1)], flat: differences of the moment equations'
        solution, all moves of all parameters at once."""
        lq, d, eye = self.lq, self.lq.dim, np.eye(self.theta.size)
        moves = np.concatenate([sign * j * STEP * eye for j in WEIGHTS for sign in (1, -1)])
        own = self.theta + moves.reshape(-1, *self.theta.shape)
        n, cut = len(own), [d, d + d * d]

        def split(state: Array) -> tuple[Array, Array]:
            m, S, _ = np.split(state.reshape(n, -1), cut, axis=1)
            return m, S.reshape(n, d, d)

        def rate(t: float, state: Array) -> Array:
            m, S = split(state)
            both, g2 = own[:, 0] + t * own[:, 1], lq.noise(t) ** 2
            P, p = both[:, :, :-1], both[:, :, -1]
            mean = np.einsum("nij,nj->ni", P, m) + p
            drift = m @ lq.matrix(t).T + lq.shift(t) - g2 * mean
            moved = (lq.matrix(t) - g2 * P) @ S
            spread = moved + np.swapaxes(moved, 1, 2) + g2 * np.eye(d)
            energy = 0.5 * g2 * ((mean**2).sum(1) + ((P @ S) * P).sum((1, 2)))
            return np.concatenate([drift, spread.reshape(n, -1), energy[:, None]], 1).ravel()

        start = np.concatenate([lq.mean, lq.cov.ravel(), [0.0]])
        done = solve_ivp(
            rate, (0.0, 1.0), np.tile(start, n), method="DOP853", rtol=1e-11, atol=1e-12
        )
        m, S = split(done.y[:, -1])
        Q, q = lq.final_matrix, lq.final_vector
        final = 0.5 * (((m @ Q) * m).sum(1) + np.einsum("ij,nji->n", Q, S)) + m @ q
        cost = (done.y[:, -1].reshape(n, -1)[:, -1] + final).reshape(-1, 2, self.theta.size)
        return np.asarray(np.array(list(WEIGHTS.values())) / STEP @ (cost[:, 0] - cost[:, 1]))

    def process(self, theta: Tensor) -> Process:
        lq = self.lq
        Q, q = torch.as_tensor(lq.final_matrix), torch.as_tensor(lq.final_vector)

        def drift(x: Tensor, t: float) -> Tensor:
            return x @ torch.as_tensor(lq.matrix(t)).T + torch.as_tensor(lq.shift(t))

        def control(x: Tensor, t: float) -> Tensor:
            both = theta[0] + t * theta[1]
            return -lq.noise(t) * (x @ both[:, :-1].T + both[:, -1])

        return Process(drift, control, lq.noise, lambda x: 0.5 * ((x @ Q) * x).sum(-1) + x @ q)

    def discrete(self, n: int, wrong: bool) -> dict[str, Array]:
        """Expected gradients with n steps: discrete adjoint, continuous one
        (Heun's rule, left-point sum), and wrong versions of the latter."""
        lq, d = self.lq, self.lq.dim
        D = d * (n + 1)
        z = math.sqrt(D) * torch.eye(D, dtype=torch.float64)
        z = torch.cat([z, -z]).reshape(2 * D, n + 1, d)
        start = torch.as_tensor(lq.mean) + z[:, 0] @ torch.as_tensor(np.linalg.cholesky(lq.cov)).T
        theta = torch.as_tensor(self.theta).requires_grad_(True)
        process = self.process(theta)
        times = torch.arange(n + 1, dtype=torch.float64) / n
        states = rollout(process, times, start, z[:, 1:])
        quiet = Process(
            process.drift,
            process.control,
            process.noise,
            process.final,
            lambda x, t: -0.5 * (process.control(x, t) ** 2).sum(-1),
        )
        heun = full_adjoint(process, times, states, "heun")
        adjoints: dict[str, tuple[Tensor, Place]] = {
            "discrete": (full_adjoint(process, times, states), "next"),
            "continuous": (heun, "own"),
        }
        if wrong:
            adjoints |= {
                "sign of the adjoint": (-heun, "own"),
                "lean for full": (lean_adjoint(process, times, states, "heun"), "own"),
                "without grad |u|^2/2": (full_adjoint(quiet, times, states, "heun"), "own"),
            }
        return {
            name: control_gradient(process, times, states, a, [theta], place).numpy()
            for name, (a, place) in adjoints.items()
        }


def step_region(cells: int) -> Region:
    """How far the continuous adjoint's gradient is from the discrete one's, over g and steps."""
    levels = np.geomspace(0.2, 2.0, cells)
    steps = np.unique(np.round(np.geomspace(64, 4, cells)).astype(int))[::-1]
    errors = np.empty((len(levels), len(steps)))
    for i, g in enumerate(levels):
        feedback = Feedback(linear_case(1, "g = 0.8", constant=float(g)))
        for j, n in enumerate(steps):
            found = feedback.discrete(int(n), wrong=False)
            gap = found["continuous"] - found["discrete"]
            errors[i, j] = np.linalg.norm(gap) / np.linalg.norm(found["discrete"])
    return Region(
        "continuous against discrete adjoint, one Gaussian, d = 1",
        "g",
        levels,
        "1/steps",
        1 / steps,
        errors,
        "relative gap of gradients",
        log_axes="xy",
    )


def meets_the_continuous(context: Context) -> Finding:
    """Expected gradients of both adjoints against that of the continuous cost, over steps."""
    counts = context.choose(STEPS, MORE_STEPS)
    slopes: dict[str, Slope] = {}
    sizes: dict[str, float] = {}
    killed: dict[str, bool] = {}
    for dim in context.choose((1, 2), (1, 2, 5)):
        for label in context.choose(list(OFFSETS)[2 - dim :][:1], list(OFFSETS)):
            # Fixed cases: where the leading terms of an error happen to cancel no order is seen.
            feedback = Feedback(linear_case(dim, label))
            limit = feedback.continuous()
            rows = [feedback.discrete(n, wrong=dim == 1) for n in counts]
            found = {k: np.array([r[k] for r in rows]) for k in rows[0]}
            gaps = {
                "continuous to limit": found["continuous"] - limit,
                "discrete to limit": found["discrete"] - limit,
                "between the two": found["continuous"] - found["discrete"],
            }
            size = float(np.linalg.norm(limit))
            for name, gap in gaps.items():
                errors = np.linalg.norm(gap, axis=1) / size
                key = f"d = {dim}, {label}: {name}"
                slopes[key] = fit_slope(1 / np.array(counts), errors, FLOOR)
                sizes[key] = float(errors[-1])
            for name in list(found)[2:]:
                # Extrapolated to dt = 0, an error is left that the right one does not have.
                half = counts.index(counts[-1] // 2)
                left, right = (
                    float(np.linalg.norm(2 * found[k][-1] - found[k][half] - limit)) / size
                    for k in (name, "continuous")
                )
                killed[name] = killed.get(name, False) or (left > VISIBLE and left > 10 * right)
    far = max(slopes, key=lambda k: abs(slopes[k].slope - 1))
    return Finding(
        name=(
            "continuous adjoint = discrete adjoint = gradient of the continuous cost, in the limit"
        ),
        role="claim",
        kind="order",
        holds=all(s.is_order and s.order == 1 for s in slopes.values()),
        figure=f"slopes {min(s.slope for s in slopes.values()):.3f} to "
        f"{max(s.slope for s in slopes.values()):.3f} in dt over {len(slopes)} fits; at "
        f"{counts[-1]} steps errors up to {number(max(sizes.values()))} of the gradient",
        numbers={"slopes": {k: str(s) for k, s in slopes.items()}, "last_errors": sizes},
        worst=f"{far}: {slopes[far]}",
        order=1,
        mutants=killed,
    )


def lean_mean(lq: LinearQuadratic, share: float, x: Array, t: float) -> Array:
    """E[lean a(t) | X_t = x] under u = -share g (P x + p), (d,): two ODEs, no Riccati but in u."""
    d = lq.dim

    def forward(s: float, state: Array) -> Array:
        P, p, _ = lq.coefficients(s)
        g2, m, flow = lq.noise(s) ** 2, state[:d], state[d:].reshape(d, d)
        A = lq.matrix(s)
        move = A @ m + lq.shift(s) - share * g2 * (P @ m + p)
        # The lean adjoint is c' carried back by the base's own linear flow.
        return np.concatenate([move, (A @ flow).ravel()])

    begin = np.concatenate([x, np.eye(d).ravel()])
    end = solve_ivp(forward, (t, 1.0), begin, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    flow = end[d:].reshape(d, d)
    return np.asarray(flow.T @ (lq.final_matrix @ end[:d] + lq.final_vector))


def dropped_terms_linear(context: Context) -> Finding:
    """(grad u)'(g E[a | X_t = x] + u) at u*, in continuous time, against its two terms' size."""
    shares = {"u*": 1.0, "u*/2": 0.5, "2 u*": 2.0}
    most = dict.fromkeys(shares, 0.0)
    worst, rng = "", np.random.default_rng([context.seed, 8])
    for dim in context.choose((1, 2), (1, 2, 5)):
        for label in OFFSETS:
            lq = linear_case(dim, label, context.seed)
            for t in context.choose((0.1, 0.9), (0.1, 0.5, 0.9)):
                x = rng.normal(size=dim)
                g, (P, p, _) = lq.noise(t), lq.coefficients(t)
                for name, share in shares.items():
                    a = lean_mean(lq, share, x, t)
                    u = -share * g * (P @ x + p)
                    slope = -share * g * P
                    error = np.abs(slope.T @ (g * a + u)).max() / max(
                        np.abs(slope.T @ u).max(), np.abs(slope.T @ (g * a)).max()
                    )
                    if name == "u*" and error > most[name]:
                        worst = f"{lq.name}, t = {t:g}"
                    most[name] = max(most[name], float(error))
    tier = QUADRATURE_TIGHT
    return Finding(
        name="zero conditional mean, linear-quadratic, continuous time",
        role="claim",
        kind="exact",
        holds=most["u*"] <= tier.rtol,
        figure=f"{number(most['u*'])} of the terms' size ({tier.name} {tier.rtol:g}); at u*/2 "
        f"{number(most['u*/2'])}, at 2 u* {number(most['2 u*'])}",
        numbers={"error": most["u*"], "shares": most},
        worst=worst,
        mutants={k: v > tier.rtol for k, v in most.items() if k != "u*"},
    )
