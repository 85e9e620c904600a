"""Controlled Euler chains in numpy: simulation, and gradients of a path's cost, no autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.control.line import Noise
from theory.ledger.oracle.integrals.integrate import Array

ComplexField = Callable[[np.ndarray, float], np.ndarray]  # x (n, d), t -> (n, d)
ComplexRate = Callable[[np.ndarray, float], np.ndarray]  # x (n, d), t -> (n,)
_STEP = 1e-30  # a complex step has no cancellation
_CENTRAL = 1e-3  # of a central difference, of fourth order


class Chain(NamedTuple):
    """x_{k+1} = x_k + h (b + g u) + g sqrt(h) xi_k at (x_k, t_k), and the cost

    sum_k h (|u|^2 / 2 + f)(x_k, t_k) + c(x_n). cost: (n, d), t -> (n,); final: (n, d) -> (n,).
    """

    drift: ComplexField
    control: ComplexField
    noise: Noise
    cost: ComplexRate
    final: Callable[[np.ndarray], np.ndarray]
    times: Array


def chain_path(chain: Chain, start: Array, xi: Array) -> Array:
    """x_0, ..., x_n of one path (n + 1, d), from start (d,) with the noise xi (n, d). Raises
    ValueError for noise that does not fit the times and start."""
    shape = len(chain.times) - 1, *np.shape(start)
    if np.shape(xi) != shape or len(shape) != 2:
        raise ValueError(f"xi must have shape {shape}, got {np.shape(xi)}")
    path = [np.array(start, dtype=np.float64)]
    for k in range(len(xi)):
        x, t = path[-1][None], float(chain.times[k])
        path.append(_advance(chain, x, chain.control(x, t), xi, k)[0])
    return np.array(path)


def cost_gradient(
    chain: Chain, start: Array, xi: Array, *, frozen: bool = False, complex_steps: bool = True
) -> Array:
    """d (cost from k on) / d x_k for all k along one path, (n + 1, d): every x_k is moved and the
    rest of the path simulated anew from the same noise.

    frozen: the values of u stay those of the unmoved path (then |u|^2 / 2 does not move: the lean
    adjoint), else u follows x (the full one). With complex steps exact to rounding, for callables
    that are analytic and take complex x; otherwise central differences of fourth order, whose error
    was below 1e-11 of the cost where measured. Raises ValueError
    as `chain_path` does.
    """
    path = chain_path(chain, start, xi)
    n, d = np.shape(xi)
    if complex_steps:
        moves, weights = np.array([1j * _STEP]), np.array([1 / _STEP])
    else:
        moves = _CENTRAL * np.array([2.0, 1.0, -1.0, -2.0])
        weights = np.array([-1.0, 8.0, -8.0, 1.0]) / (12 * _CENTRAL)
    starts = (moves[:, None, None] * np.eye(d)).reshape(-1, d)  # (moves d, d)
    moved = np.empty((0, d), dtype=starts.dtype)
    cost = np.empty(0, dtype=starts.dtype)
    for k in range(n):
        x, t = path[k : k + 1], float(chain.times[k])
        h = float(chain.times[k + 1]) - t
        moved = np.concatenate([moved, x + starts])  # block j: x_j was moved
        cost = np.concatenate([cost, np.zeros(len(starts))])
        u = (
            np.broadcast_to(chain.control(x, t), moved.shape)
            if frozen
            else (chain.control(moved, t))
        )
        cost = cost + h * ((u**2).sum(axis=1) / 2 + chain.cost(moved, t))
        moved = _advance(chain, moved, u, xi, k)
    moved = np.concatenate([moved, path[n:] + starts])
    cost = np.concatenate([cost, np.zeros(len(starts))]) + chain.final(moved)
    part = cost.imag if complex_steps else cost
    return np.asarray(np.einsum("kmd,m->kd", part.reshape(n + 1, len(moves), d), weights))


def _advance(chain: Chain, x: np.ndarray, u: np.ndarray, xi: Array, k: int) -> np.ndarray:
    t = float(chain.times[k])
    h, g = float(chain.times[k + 1]) - t, chain.noise(t)
    return np.asarray(x + h * (chain.drift(x, t) + g * u) + g * math.sqrt(h) * xi[k])
