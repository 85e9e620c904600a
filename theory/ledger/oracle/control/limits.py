r"""Linear-quadratic control in continuous time: dense path laws, their steps extrapolated to 0.

Everything is a whole path as one Gaussian vector (`theory.ledger.oracle.control.linear`), or a
linear equation solved by scipy; nothing is a Riccati equation. Also KL(p exp(a r)/Z | p) of a plane
problem by adaptive quadrature.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import solve_triangular

from theory.ledger import oracle
from theory.ledger.oracle.control.line import extrapolated
from theory.ledger.oracle.control.linear import (
    LinearNumbers,
    dense_optimum,
    dense_path,
    dense_value,
    girsanov_kl,
    stacked_root,
    tilt_factor,
    tilted_noise,
)
from theory.ledger.oracle.integrals import Array, PlaneNumbers

STEPS, LEVELS = 8, 4  # exact transitions: errors have even powers of the step
EULER_STEPS, EULER_LEVELS, EULER_POWERS = 32, 5, (1, 2, 3, 4)
ROUNDS, SETTLED = 40, 1e-12
RTOL, ATOL = 1e-11, 1e-13


def path_kl(first: LinearNumbers, second: LinearNumbers) -> Array:
    """KL(P_1 | P_2) of two linear diffusions with one g, both from first's start law."""
    return extrapolated(
        lambda n: np.array(girsanov_kl(first, second, n)),
        EULER_STEPS,
        EULER_LEVELS,
        EULER_POWERS,
    ).value


def kl_to_tilted(steered: LinearNumbers, base: LinearNumbers) -> Array:
    """KL(P^u | P exp(-cost)/Z(X_0)): the base's big Gaussian tilted given x_0, against that of the
    steered process, both from base's N(mean, cov)."""

    def once(n: int) -> Array:
        start: Array = np.asarray(np.linalg.cholesky(base.cov), dtype=np.float64)
        path, other = dense_path(base, n, "euler"), dense_path(steered, n, "euler")
        factor = tilt_factor(path)
        gain, offset = tilted_noise(path, factor)
        # factor is that of I + L'HL, the precision of the tilted noise.
        lower = np.tril(factor[0]) if factor[1] else np.triu(factor[0]).T
        root = solve_triangular(lower, np.eye(len(lower)), lower=True).T  # root root' = covariance
        response = path.response + path.noise @ gain
        shift = path.shift + path.noise @ offset
        means = [
            np.concatenate([base.mean, other.response @ base.mean + other.shift]),
            np.concatenate([base.mean, response @ base.mean + shift]),
        ]
        roots = [
            stacked_root(start, other.response, other.noise),
            stacked_root(start, response, path.noise @ root),
        ]
        # The second root is not triangular: make it so by QR.
        triangular = np.asarray(np.linalg.qr(roots[1].T)[1]).T
        white = solve_triangular(triangular, roots[0], lower=True)
        gap = solve_triangular(triangular, means[0] - means[1], lower=True)
        logs = np.linalg.slogdet(roots[0])[1] - np.log(np.abs(np.diag(triangular))).sum()
        return np.array(0.5 * float((white**2).sum() - len(gap) + gap @ gap) - float(logs))

    return extrapolated(once, EULER_STEPS, EULER_LEVELS, EULER_POWERS).value


def tilted_moments(numbers: LinearNumbers) -> Array:
    """Mean (2 d,) and covariance (2 d, 2 d), flat, of (X_0, X_1) under P exp(-cost)/Z(X_0)."""

    def once(n: int) -> Array:
        best = dense_optimum(numbers, numbers.mean, n)
        return np.concatenate([best.mean, best.cov.ravel()])

    return extrapolated(once, STEPS, LEVELS).value


def normaliser_value(numbers: LinearNumbers, x0: Array) -> Array:
    """-log Z(x_0) = -log E[exp(-cost) | X_0 = x_0]."""
    return extrapolated(lambda n: np.array(dense_value(numbers, x0, n)), STEPS, LEVELS).value


def gaussian_tilt(mean: Array, cov: Array, Q: Array, q: Array) -> Array:
    """Mean and covariance, flat, of N(mean, cov) exp(-x'Q x/2 - q'x)/Z."""
    middle = np.linalg.solve(np.eye(len(mean)) + cov @ Q, np.column_stack([mean - cov @ q, cov]))
    return np.concatenate([middle[:, 0], middle[:, 1:].ravel()])


def gaussian_with_memory(mean: Array, cov: Array, Q: Array, q: Array, g: float) -> Array:
    """The same of X_1 under P exp(-x_1'Q x_1/2 - q'x_1)/Z(X_0): P the rectified flow's generative
    SDE of N(mean, cov) with a constant g, from N(0, I)."""
    d = len(mean)
    eye = np.eye(d)

    @lru_cache(maxsize=4)
    def matrix(t: float) -> Array:
        """v + (g^2/2) s = mean + this (x - t mean)."""
        spread = t**2 * cov + (1 - t) ** 2 * eye
        return np.asarray((t * cov - (1 - t) * eye - 0.5 * g**2 * eye) @ np.linalg.inv(spread))

    numbers = LinearNumbers(
        matrix,
        lambda t: mean - matrix(t) @ (t * mean),
        lambda t: g,
        lambda t: np.zeros((d, d)),
        lambda t: np.zeros(d),
        Q,
        q,
        np.zeros(d),
        eye,
    )

    def once(n: int) -> Array:
        best = dense_optimum(numbers, numbers.mean, n)
        return np.concatenate([best.mean[d:], best.cov[d:, d:].ravel()])

    return extrapolated(once, 2 * STEPS, LEVELS).value


Feedback = Callable[[float], tuple[Array, Array]]  # t -> (P, p): u = -g (P x + p)


def _mean_adjoint(numbers: LinearNumbers, feedback: Feedback, lean: bool) -> Feedback:
    """t -> (Pi, pi): the adjoint's conditional mean Pi x + pi under u = -g (P x + p). With
    B = A - g^2 P and b = a - g^2 p for the motion, linear equations:

        full   -Pi' = B'Pi + Pi B + g^2 P'P + F,   -pi' = B'pi + Pi b + g^2 P'p + f
        lean   -Pi' = A'Pi + Pi B + F,             -pi' = A'pi + Pi b + f

    and Pi(1) = Q, pi(1) = q.
    """
    d = len(numbers.mean)

    def rate(tau: float, state: Array) -> Array:
        s = 1 - tau
        P, p = feedback(s)
        g2, A = numbers.noise(s) ** 2, numbers.matrix(s)
        B, b = A - g2 * P, numbers.shift(s) - g2 * p
        big, small = state[: d * d].reshape(d, d), state[d * d :]
        back = (A if lean else B).T
        rise, lift = back @ big + big @ B, back @ small + big @ b
        if not lean:
            rise, lift = rise + g2 * P.T @ P, lift + g2 * P.T @ p
        rise, lift = rise + numbers.running_matrix(s), lift + numbers.running_vector(s)
        return np.concatenate([rise.ravel(), lift])

    start = np.concatenate([numbers.final_matrix.ravel(), numbers.final_vector])
    run = solve_ivp(
        rate, (0.0, 1.0), start, method="DOP853", rtol=RTOL, atol=ATOL, dense_output=True
    )

    def found(s: float) -> tuple[Array, Array]:
        state = run.sol(1 - s)
        return state[: d * d].reshape(d, d), state[d * d :]

    return found


def _fixed_point(numbers: LinearNumbers, x: Array, t: float) -> Feedback:
    """Where u <- -g E[a(.; X^u) | X] settles, from u = 0 on; judged at (x, t) and at t = 0.

    Raises ValueError where the rounds do not settle.
    """
    d = len(x)
    feedback: Feedback = lambda s: (np.zeros((d, d)), np.zeros(d))  # noqa: E731
    before = np.full(2 * d, np.inf)
    for _ in range(ROUNDS):
        feedback = _mean_adjoint(numbers, feedback, lean=False)
        now = np.concatenate([P @ x + p for P, p in (feedback(t), feedback(0.0))])
        if np.abs(now - before).max() <= SETTLED * (1 + np.abs(now).max()):
            return feedback
        before = now
    raise ValueError(f"the fixed point did not settle in {ROUNDS} rounds")


def mean_adjoint_control(numbers: LinearNumbers, x: Array, t: float) -> Array:
    """The fixed point of u <- -g E[a(.; X^u) | X] with the full adjoint, at (x, t). Raises
    ValueError where the rounds do not settle."""
    P, p = _fixed_point(numbers, x, t)(t)
    return np.asarray(-numbers.noise(t) * (P @ x + p))


def mean_lean_adjoint(numbers: LinearNumbers, x: Array, t: float) -> Array:
    """E[lean adjoint | X_t = x] under that fixed point. Raises ValueError as above."""
    P, p = _mean_adjoint(numbers, _fixed_point(numbers, x, t), lean=True)(t)
    return np.asarray(P @ x + p)


def tilt_kl(case: PlaneNumbers, a: float) -> Array:
    """KL(p exp(a r)/Z | p) = a E[r] under the tilt - log Z."""
    density = case.density()

    def weight(y: Array) -> Array:
        return np.asarray(np.exp(a * case.reward(y)))

    log_z = float(np.log(oracle.normaliser(density, weight).value))
    log_z -= float(np.log(oracle.normaliser(density).value))
    mean = oracle.expectation(density, lambda y: case.reward(y)[:, None], weight).value
    return np.array(a * float(np.ravel(mean)[0]) - log_z)
