r"""Where residual nabla-DB with output regularisation settles: one Gaussian, a linear log R.

The pretrained chain has Gaussian kernels N(J_k x + const, s_k^2 I); the policy moves their means by
s_k^2 u_k, and its flows have the scores h_0, ..., h_T, none of which depend on x. With log R of
slope w per unit of beta the losses, averaged over any data, are

    sum_k w_F |u_k - h_{k+1}|^2 + w_B |h_k - J_k' u_k|^2 + lambda |s_k^2 u_k / gain_k - anchor_k|^2
    + w_T |h_T - beta w|^2,

gain_k the mean's response to the network's output. Dense least squares in all u and h at once; the
smallest solution where several are (w_B = 0 leaves flows without a reason). anchor 0: the
pretrained model. An anchor at the last step's output is a proximal step, and many of them are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.integrals import Array


@dataclass(frozen=True)
class AnchoredNumbers:
    """One Gaussian N(mean, cov), log R = w . x, and weights; alpha and sigma (T + 1,)."""

    mean: Array
    cov: Array
    w: Array
    power: float
    alpha: Array
    sigma: Array
    gains: Array
    strength: float
    w_forward: float = 1.0
    w_backward: float = 1.0
    w_terminal: float = 1.0

    @property
    def steps(self) -> int:
        return len(self.alpha) - 1

    def kernel(self, k: int) -> tuple[Array, Array, float]:
        """J_k, the constant, s_k^2 of the pretrained kernel: X_{k+1} by regression on X_k and X_1,
        with E[X_1 | X_k] in X_1's place."""
        a, s, a_next, s_next = self.alpha[k], self.sigma[k], self.alpha[k + 1], self.sigma[k + 1]
        shared = float(a / a_next * s_next**2)  # covariance of X_k and X_{k+1} given X_1
        here = shared / float(s**2)
        joint = a**2 * self.cov + s**2 * np.eye(len(self.mean))
        guess = a * np.linalg.solve(joint, self.cov).T  # of X_1 on X_k
        data = a_next - here * a
        slope = here * np.eye(len(self.mean)) + data * guess
        constant = data * (self.mean - guess @ (a * self.mean))
        return slope, constant, float(s_next**2 - here * shared)


class Settled(NamedTuple):
    """u (T, d), h (T + 1, d), and the mean (d,) of X_T that they give."""

    shifts: Array
    scores: Array
    mean: Array


def settled(n: AnchoredNumbers) -> Settled:
    """The least squares' own solution, anchored at the pretrained model."""
    return _solved(n, np.zeros((n.steps, len(n.mean))))


def after_rounds(n: AnchoredNumbers, rounds: int) -> Settled:
    """That many rounds, each anchored at the last one's output, from the pretrained model on."""
    shifts = np.zeros((n.steps, len(n.mean)))
    for _ in range(rounds):
        found = _solved(n, shifts)
        shifts = found.shifts
    return found


def law_of(n: AnchoredNumbers, shifts: Array) -> tuple[Array, Array]:
    """Mean and covariance of X_T under the kernels with means moved by s_k^2 shifts[k], from
    N(0, sigma_0^2 I), step by step."""
    mean, cov = np.zeros(len(n.mean)), n.sigma[0] ** 2 * np.eye(len(n.mean))
    for k in range(n.steps):
        slope, constant, variance = n.kernel(k)
        mean = slope @ mean + constant + variance * shifts[k]
        cov = slope @ cov @ slope.T + variance * np.eye(len(mean))
    return mean, cov


def _solved(n: AnchoredNumbers, anchor: Array) -> Settled:
    d, t = len(n.mean), n.steps
    eye, rows, right = np.eye(d), [], []

    def block(weight: float, parts: dict[int, Array], value: Array) -> None:
        """weight |sum of parts[i] z_i - value|^2 over blocks z of the unknowns u, then h."""
        row = np.zeros((d, (2 * t + 1) * d))
        for i, matrix in parts.items():
            row[:, i * d : (i + 1) * d] = matrix
        rows.append(np.sqrt(weight) * row)
        right.append(np.sqrt(weight) * value)

    for k in range(t):
        slope, _, variance = n.kernel(k)
        block(n.w_forward, {k: eye, t + k + 1: -eye}, np.zeros(d))
        block(n.w_backward, {t + k: eye, k: -slope.T}, np.zeros(d))
        unit = variance / n.gains[k]
        block(n.strength * unit**2, {k: eye}, anchor[k])
    block(n.w_terminal, {2 * t: eye}, n.power * n.w)
    solution = np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=1e-12)[0]
    parts = solution.reshape(2 * t + 1, d)
    return Settled(parts[:t], parts[t:], law_of(n, parts[:t])[0])
