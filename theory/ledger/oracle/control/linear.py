r"""Linear-quadratic control by dense linear algebra on whole paths: no Riccati equation.

    dX = (A(t) X + a(t) + g(t) u) dt + g(t) dB,   f = x'F x / 2 + f'x,   c = x'Q x / 2 + q'x.

n steps make the uncontrolled path (x_1, ..., x_n) = G x_0 + m + L xi with one vector of standard
noise xi (n d,), L block-triangular. The cost of a path is a quadratic form, so that exp(-cost)
tilts the Gaussian law of xi to another, found by one Cholesky factor of I + L'HL. The tilt is that
given x_0, which keeps its law N(mean, cov): the path measure of the optimal control.

Schemes of a step: "exact", the linear SDE's own transition (its moments by fine Runge-Kutta steps)
with the running cost by the trapezoidal rule, errors h^2, h^4, ...; and "euler", Euler and Maruyama
with the running cost at the step's beginning, errors h, h^2, ... .

On Euler chains, x_{k+1} = x_k + h (A x_k + a + g u_k) + g sqrt(h) xi_k with the cost
sum_k h (|u_k|^2 / 2 + f(x_k)) + c(x_n), controls shift the noise but cannot shrink it. The tilted
law's first control and means are exactly those of this problem's optimum; its value and covariances
are not: with P the next step's Hessian of the value, a step adds log det(I + h g^2 P) / 2 to the
tilt's value and h g^2 tr P / 2 to the chain's, in all O(h) apart.

Everything raises ValueError for numbers of the wrong shape, n < 1, g = 0 or an exponent that is not
integrable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag, cho_factor, cho_solve, solve_triangular

from theory.ledger.oracle.integrals.integrate import Array

Coefficient = Callable[[float], Array]
SCHEMES = ("exact", "euler")
_SUBSTEPS = 8  # of Runge and Kutta within an exact step


class LinearNumbers(NamedTuple):
    """A(t) (d, d), a(t) (d,), g(t); F(t) (d, d), f(t) (d,); Q (d, d), q (d,); N(mean, cov) at 0."""

    matrix: Coefficient
    shift: Coefficient
    noise: Callable[[float], float]
    running_matrix: Coefficient
    running_vector: Coefficient
    final_matrix: Array
    final_vector: Array
    mean: Array
    cov: Array


class DensePath(NamedTuple):
    """(x_1, ..., x_n) = response x_0 + shift + noise xi: (n d, d), (n d,), (n d, n d); the cost is
    x'hessian x / 2 + gradient'x of this vector, and that of x_0 alone the pair `first`."""

    response: Array
    shift: Array
    noise: Array
    hessian: Array
    gradient: Array
    first: tuple[Array, Array]


class Optimum(NamedTuple):
    """At x_0: the value and the first control (d,). With x_0 ~ N(mean, cov): mean (2 d,) and
    covariance (2 d, 2 d) of (X_0, X_1) under the optimal law."""

    value: float
    control: Array
    mean: Array
    cov: Array


def dense_value(numbers: LinearNumbers, x0: Array, n: int, scheme: str = "exact") -> float:
    """V(x_0, 0) = -log E[exp(-int f dt - c) | X_0 = x_0]."""
    return dense_optimum(numbers, x0, n, scheme).value


def dense_optimum(numbers: LinearNumbers, x0: Array, n: int, scheme: str = "exact") -> Optimum:
    """The optimum by the tilted Gaussian law of the noise."""
    path, x0 = dense_path(numbers, n, scheme), _point(numbers, x0)
    factor, d = tilt_factor(path), len(x0)
    gain, offset = tilted_noise(path, factor)
    middle = path.response @ x0 + path.shift
    push = path.noise.T @ (path.hessian @ middle + path.gradient)
    value = (
        _quadratic(x0, *path.first)
        + _quadratic(middle, path.hessian, path.gradient)
        - 0.5 * float(push @ cho_solve(factor, push))
        + float(np.log(np.diag(factor[0])).sum())
    )
    spread = path.noise @ cho_solve(factor, path.noise.T)
    end, start = path.noise[-d:], gain @ x0 + offset
    mean_map = path.response[-d:] + end @ gain, path.shift[-d:] + end @ offset
    control = path.noise[:d] @ start / (numbers.noise(0.0) / n)
    return Optimum(value, control, *_joint(numbers, *mean_map, spread[-d:, -d:]))


def girsanov_kl(
    first: LinearNumbers, second: LinearNumbers, n: int, scheme: str = "euler"
) -> float:
    """KL(P_1 | P_2) of the uncontrolled paths (x_0, ..., x_n) of two linear SDEs, from the two big
    Gaussian laws, both from first's N(mean, cov) with a positive definite cov. Costs play no part.
    With "euler" exactly sum_k h E_1 |b_1 - b_2|^2(x_k) / (2 g^2), errors h, h^2, ... from the
    diffusions'; with "exact" that of the diffusions seen at n + 1 times. Raises ValueError for
    another g."""
    if any(first.noise(k / n) != second.noise(k / n) for k in range(n)):
        raise ValueError("the two SDEs must have the same g: their laws are singular otherwise")
    means, factors = [], []
    start: Array = np.asarray(np.linalg.cholesky(first.cov), dtype=np.float64)
    for numbers in (first, second):
        path = dense_path(numbers, n, scheme)
        means.append(np.concatenate([first.mean, path.response @ first.mean + path.shift]))
        factors.append(stacked_root(start, path.response, path.noise))
    white = solve_triangular(factors[1], factors[0], lower=True)
    gap = solve_triangular(factors[1], means[0] - means[1], lower=True)
    spread = (white**2).sum() - len(gap) - 2 * np.log(np.abs(np.diag(white))).sum()
    return 0.5 * float(spread + gap @ gap)


def stacked_root(start: Array, response: Array, noise: Array) -> Array:
    """A root of the covariance of (x_0, response x_0 + noise xi), `start` one of x_0's."""
    above = np.hstack([start, np.zeros((len(start), noise.shape[1]))])
    return np.vstack([above, np.hstack([response @ start, noise])])


def dense_path(numbers: LinearNumbers, n: int, scheme: str) -> DensePath:
    """The uncontrolled path as one Gaussian vector, and its cost."""
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    d, h = len(numbers.mean), 1 / n
    step = _exact_step if scheme == "exact" else _euler_step
    response, shift, noise = [np.eye(d)], [np.zeros(d)], [np.zeros((d, n * d))]
    for k in range(n):
        matrix, move, factor = step(numbers, k * h, h)
        response.append(matrix @ response[-1])
        shift.append(matrix @ shift[-1] + move)
        row = matrix @ noise[-1]
        row[:, k * d : (k + 1) * d] += factor
        noise.append(row)
    weights = np.full(n + 1, h)
    weights[-1] = 0.0
    if scheme == "exact":
        weights[[0, -1]] = h / 2
    hessians = [w * numbers.running_matrix(k * h) for k, w in enumerate(weights)]
    gradients = [w * numbers.running_vector(k * h) for k, w in enumerate(weights)]
    hessians[-1] = hessians[-1] + numbers.final_matrix
    gradients[-1] = gradients[-1] + numbers.final_vector
    return DensePath(
        np.concatenate(response[1:]),
        np.concatenate(shift[1:]),
        np.concatenate(noise[1:]),
        block_diag(*hessians[1:]),
        np.concatenate(gradients[1:]),
        (hessians[0], gradients[0]),
    )


def _euler_step(numbers: LinearNumbers, t: float, h: float) -> tuple[Array, Array, Array]:
    eye = np.eye(len(numbers.mean))
    return (
        eye + h * numbers.matrix(t),
        h * numbers.shift(t),
        _positive(numbers.noise(t), t) * math.sqrt(h) * eye,
    )


def _exact_step(numbers: LinearNumbers, t: float, h: float) -> tuple[Array, Array, Array]:
    """Matrix, shift and noise factor of the SDE over [t, t + h], by Runge and Kutta's fourth order,
    extrapolated once, for d/ds (M, m, C) = (A M, A m + a, A C + C A' + g^2 I)."""
    d = len(numbers.mean)

    def rates(s: float, state: Array) -> Array:
        matrix, cov = numbers.matrix(s), state[:, d + 1 :]
        out = matrix @ state
        out[:, d] += numbers.shift(s)
        out[:, d + 1 :] += cov @ matrix.T + _positive(numbers.noise(s), s) ** 2 * np.eye(d)
        return np.asarray(out)

    def solve(substeps: int) -> Array:
        state, step = np.hstack([np.eye(d), np.zeros((d, 1 + d))]), h / substeps
        for j in range(substeps):
            s = t + j * step
            one = rates(s, state)
            two = rates(s + step / 2, state + step / 2 * one)
            three = rates(s + step / 2, state + step / 2 * two)
            four = rates(s + step, state + step * three)
            state = state + step / 6 * (one + 2 * two + 2 * three + four)
        return state

    state = (16 * solve(2 * _SUBSTEPS) - solve(_SUBSTEPS)) / 15
    factor = np.asarray(np.linalg.cholesky(state[:, d + 1 :]), dtype=np.float64)
    return state[:, :d], state[:, d], factor


def _positive(g: float, t: float) -> float:
    if not g > 0:
        raise ValueError(f"g must be positive, got {g} at t = {t}")
    return g


def _point(numbers: LinearNumbers, x0: Array) -> Array:
    x0 = np.asarray(x0, dtype=np.float64)
    if x0.shape != np.shape(numbers.mean):
        raise ValueError(f"x0 must have shape {np.shape(numbers.mean)}, got {x0.shape}")
    return x0


def tilt_factor(path: DensePath) -> tuple[Array, bool]:
    """The Cholesky factor of the tilted noise's precision I + L'HL, lower."""
    precision = np.eye(len(path.noise)) + path.noise.T @ path.hessian @ path.noise
    try:
        factor, lower = cho_factor(precision, lower=True)
    except np.linalg.LinAlgError as error:
        raise ValueError("exp(-cost) is not integrable under the uncontrolled law") from error
    return factor, bool(lower)


def tilted_noise(path: DensePath, factor: tuple[Array, bool]) -> tuple[Array, Array]:
    """The tilted mean of xi as gain x_0 + offset, (n d, d) and (n d,)."""
    gain = -cho_solve(factor, path.noise.T @ path.hessian @ path.response)
    offset = -cho_solve(factor, path.noise.T @ (path.hessian @ path.shift + path.gradient))
    return np.asarray(gain), np.asarray(offset)


def _quadratic(x: Array, hessian: Array, gradient: Array) -> float:
    return float(0.5 * x @ hessian @ x + gradient @ x)


def _joint(numbers: LinearNumbers, matrix: Array, shift: Array, cov: Array) -> tuple[Array, Array]:
    """Mean and covariance of (X_0, X_1) with X_1 = matrix X_0 + shift + N(0, cov)."""
    mean = np.concatenate([numbers.mean, matrix @ numbers.mean + shift])
    across = matrix @ numbers.cov
    return mean, np.block([[numbers.cov, across.T], [across, across @ matrix.T + cov]])
