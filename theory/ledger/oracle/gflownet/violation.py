r"""A pretrained chain with Gaussian kernels against detailed balance, by adaptive quadrature.

Its kernel is N(x'; m_k(x), s_k^2 I): X_{k+1} given X_k = x and X_1 is normal with a mean that is
linear in X_1, and m_k has E[X_1 | X_k = x] in its place. With F#_k the path's own law of X_k,

    log h(x, x') = log P#(x' | x) + log F#_k(x) - log P_B(x | x') - log F#_{k+1}(x')

is how far it is from detailed balance; 0 for the chain that goes back exactly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.gflownet import flows
from theory.ledger.oracle.gflownet.numbers import FlowNumbers, shifts
from theory.ledger.oracle.integrals import Array, Density, Law, Region, slope


class Plugged(NamedTuple):
    """m_k(x) = here x + data E[X_1 | X_k = x], and the kernel's variance."""

    here: float
    data: float
    variance: float


class Scores(NamedTuple):
    """Gradients in x' and in x, each (d,)."""

    next: Array
    here: Array


def plugged(n: FlowNumbers, k: int) -> Plugged:
    """X_{k+1} by regression on X_k and X_1."""
    covariance = n.ratio[k] * n.sigma[k + 1] ** 2  # of X_k and X_{k+1} given X_1
    here = covariance / n.sigma[k] ** 2
    data = n.alpha[k + 1] - here * n.alpha[k]
    return Plugged(float(here), float(data), float(n.sigma[k + 1] ** 2 - here * covariance))


def plugged_mean(n: FlowNumbers, k: int, x: Array) -> Array:
    """m_k(x), (d,)."""
    kernel, data = plugged(n, k), [mean for mean, _ in _data(n, k, x)]
    return np.asarray(kernel.here * x + kernel.data * n.case.frame @ np.concatenate(data))


def log_plugged(n: FlowNumbers, k: int, x: Array, x_next: Array) -> float:
    """log P#(x' | x) of the Gaussian kernel."""
    variance = plugged(n, k).variance
    gap = x_next - plugged_mean(n, k, x)
    return float(-0.5 * gap @ gap / variance - 0.5 * len(x) * math.log(2 * math.pi * variance))


def log_violation(n: FlowNumbers, k: int, x: Array, x_next: Array) -> float:
    """log h(x, x')."""
    base = n.without_reward()
    back = flows.log_backward(base, k, x, x_next) + flows.log_flow(base, k + 1, x_next)
    return log_plugged(n, k, x, x_next) + flows.log_flow(base, k, x) - back


def violation_scores(n: FlowNumbers, k: int, x: Array, x_next: Array) -> Scores:
    """Its gradients in x' and in x, each (d,)."""
    base, kernel = n.without_reward(), plugged(n, k)
    gap = x_next - plugged_mean(n, k, x)
    noise = (x - n.ratio[k] * x_next) / n.forward[k]  # minus log P_B's gradient in x
    late = -gap / kernel.variance - n.ratio[k] * noise - flows.flow_score(base, k + 1, x_next)
    blocks = [slopes for _, slopes in _data(n, k, x)]
    pull = n.case.frame.T @ gap / kernel.variance
    turned, start = np.empty(len(x)), 0
    for block in blocks:
        stop = start + len(block)
        turned[start:stop] = kernel.here * pull[start:stop]
        turned[start:stop] += kernel.data * block @ pull[start:stop]
        start = stop
    early = n.case.frame @ turned + flows.flow_score(base, k, x) + noise
    return Scores(late, early)


def _data(n: FlowNumbers, k: int, x: Array) -> list[tuple[Array, Array]]:
    """For every part of the axes: E[X_1 | X_k = x] (e,), and its slopes (e, e): row j is along
    a move of x_j."""
    rotated, e, s = n.case.frame.T @ x, n.case.plane_dim, n.case.rest_std
    line = Region(np.array([-12 * s]), np.array([12 * s]), np.zeros((1, 1)))
    aside = Density(lambda z: -0.5 * (z[:, 0] / s) ** 2, line)
    pieces = [(n.case.density(), rotated[:e])]
    pieces += [(aside, rotated[j : j + 1]) for j in range(e, len(x))]
    return [_mean_and_slopes(n, k, density, at) for density, at in pieces]


def _mean_and_slopes(n: FlowNumbers, k: int, density: Density, at: Array) -> tuple[Array, Array]:
    rho, tau = float(n.alpha[k]), float(n.sigma[k])
    law = Law(density, None, at, rho, tau)
    level = law.charts[0].centre
    radii, _, means = flows.stencilled(law, shifts(at, rho, tau), tau, lambda y: y - level)
    slopes = np.array([slope(m, r) for m, r in zip(means, radii, strict=True)])
    return level + law.mean(lambda y: y - level).value, slopes
