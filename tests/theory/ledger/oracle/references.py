"""Further second routes, which tests alone use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from theory.ledger.oracle.control.line import Clock, Noise
from theory.ledger.oracle.control.linear import (
    LinearNumbers,
    Optimum,
    _joint,
    _point,
    _quadratic,
    dense_optimum,
    dense_path,
    tilt_factor,
    tilted_noise,
)
from theory.ledger.oracle.flow import Field
from theory.ledger.oracle.integrals.integrate import Array


class Simulation(NamedTuple):
    """Draws at the last time (n,), int 1/2 |u|^2 dt along each path (n,), and the paths at the
    times asked for (len(keep), n)."""

    ends: Array
    energy: Array
    kept: Array


def simulate_control(
    b: Field,
    u: Field,
    g: Noise,
    times: Array,
    start: Array,
    rng: np.random.Generator,
    keep: Sequence[float] = (),
) -> Simulation:
    """Euler and Maruyama for dX = (b + g u) dt + g dB over the times (n_t,), any increasing grid,
    from start (n,). u, b and g are taken at a step's beginning; keep: times of the grid.

    Raises ValueError for times that do not increase or a kept time that is not among them.
    """
    times, x = np.asarray(times, dtype=np.float64), np.array(start, dtype=np.float64)
    if times.ndim != 1 or len(times) < 2 or np.any(np.diff(times) <= 0):
        raise ValueError("times must be an increasing grid")
    if missing := [t for t in keep if t not in times]:
        raise ValueError(f"times to keep must be on the grid, {missing} are not")
    energy, kept = np.zeros(len(x)), {float(times[0]): x}
    for t, later in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        h, noise, control = later - t, g(t), u(x, t)
        energy = energy + 0.5 * h * control**2
        drift = b(x, t) + noise * control
        x = x + h * drift + noise * math.sqrt(h) * rng.standard_normal(len(x))
        if later in keep:
            kept[later] = x
    paths = np.array([kept[float(t)] for t in keep]).reshape(len(keep), len(x))
    return Simulation(x, energy, paths)


def discrete_optimum(numbers: LinearNumbers, x0: Array, n: int) -> Optimum:
    """The optimum of the Euler chain's control problem, exactly: the noise's mean is moved by the
    best open-loop control, and every noise's own effect on the cost is damped by the best response
    in the controls that come after it."""
    path, x0 = dense_path(numbers, n, "euler"), _point(numbers, x0)
    d = len(x0)
    gain, offset = tilted_noise(path, tilt_factor(path))
    moved = gain @ x0 + offset  # sqrt(h) u
    middle = path.response @ x0 + path.shift + path.noise @ moved
    value = _quadratic(x0, *path.first) + _quadratic(middle, path.hessian, path.gradient)
    value += 0.5 * float(moved @ moved)
    reply = np.zeros((n * d, n * d))  # of the later controls to each noise
    normal = np.eye(n * d) + path.noise.T @ path.hessian @ path.noise
    for k in range(n - 1):
        noises, later = slice(k * d, (k + 1) * d), slice((k + 1) * d, None)
        target = normal[later, noises]  # the later controls meet the noise's effect only
        reply[later, noises] = -np.linalg.solve(normal[later, later], target)
    effect = path.noise @ (np.eye(n * d) + reply)
    value += 0.5 * float((effect * (path.hessian @ effect)).sum() + (reply**2).sum())
    end = path.noise[-d:]
    mean_map = path.response[-d:] + end @ gain, path.shift[-d:] + end @ offset
    control = moved[:d] * math.sqrt(n)
    return Optimum(value, control, *_joint(numbers, *mean_map, effect[-d:] @ effect[-d:].T))


def dense_control(numbers: LinearNumbers, x0: Array, n: int, scheme: str = "euler") -> Array:
    """u(x_0, 0) (d,): the tilted mean of the first increment less the drift's, over g h. The Euler
    chain's optimal control exactly, the diffusion's to O(h) with either scheme."""
    return dense_optimum(numbers, x0, n, scheme).control


def log_clock(start: float) -> Clock:
    """t = start^(1 - w): equal steps of log t, for a drift like -x / t. ValueError for a start
    outside (0, 1)."""
    if not 0 < start < 1:
        raise ValueError(f"a logarithmic clock starts inside (0, 1), got {start}")
    return lambda w: np.asarray(start ** (1 - w))


def _odds(t: float) -> float:
    return math.log(t / (1 - t)) if t > 0 else -math.inf


def heun_steps(field: Field, x0: Array, times: Sequence[float]) -> Array:
    """Where Heun's steps between these times, from 0 on, and 1 take x_0 (n,)."""
    x = x0
    for t, stop in pairwise((*times, 1.0)):
        first = field(x, t)
        x = x + (stop - t) * (first + field(x + (stop - t) * first, stop)) / 2
    return x


def multistep(field: Field, x0: Array, times: Sequence[float]) -> Array:
    """DPM-Solver++ (2M): the data predicted at a step, extrapolated in log(t / (1 - t)) by the line
    through the last two predictions to the middle of the step; the first and the last step as they
    are. x at the next time solves dx/dl exactly for a prediction that stays, l the log-odds."""
    x, known = np.asarray(x0, dtype=np.float64), []
    grid = (*times, 1.0)
    for k, (t, stop) in enumerate(pairwise(grid)):
        data = x + (1 - t) * field(x, t)
        known.append((_odds(t), data))
        if k > 0 and stop < 1 and math.isfinite(known[-2][0]):
            (before, first), (here, last) = known[-2:]
            middle = (here + _odds(stop)) / 2
            data = first + (last - first) * (middle - before) / (here - before)
        x = data * stop + (1 - stop) * (x - t * data) / (1 - t)
    return np.asarray(x)
