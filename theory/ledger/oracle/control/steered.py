"""One controlled trajectory in numpy, real or complex, and the gradient of its cost: no autograd.

A mixture with a reward is steered by u = theta tanh(W x + w + nu t) along STEPS kernels of the
rectified-flow path: Euler's with a constant g or the memoryless schedule with an offset, or
ancestral ones. Numbers are drawn from the time t of a setting, so that they come back with it. For
every move of a state or a parameter the path is simulated anew
(`theory.ledger.oracle.control.chain`); parameters ride along as coordinates that never move.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from theory.ledger.oracle.control import chain as control_chain
from theory.ledger.oracle.integrals import Array, PlaneNumbers

STEPS, FEATURES = 6, 2
SIGMA_END = 0.15
KINDS = ("constant", "offset", "ancestral")


def drawn(d: int, t: float) -> dict[str, Any]:
    """theta (d, FEATURES), W, w, nu, start (d,), xi (STEPS, d), level and kind of the kernels."""
    rng = np.random.default_rng(int(t * 2**40))
    return {
        "theta": 0.6 * rng.normal(size=(d, FEATURES)),
        "W": rng.normal(size=(FEATURES, d)),
        "w": rng.normal(size=FEATURES),
        "nu": rng.normal(size=FEATURES),
        "start": rng.normal(size=d),
        "xi": rng.normal(size=(STEPS, d)),
        "level": rng.uniform(0.5, 1.2, size=1),
        "kind": rng.integers(3, size=1),
    }


def resimulated(
    case: PlaneNumbers, t: float, complex_steps: bool = True, frozen: bool = False
) -> tuple[Array, Array]:
    """(d cost from k on / d x_k (T + 1, d), d cost / d theta flat)."""
    d = case.dim
    n = drawn(d, t)
    kind, level, theta = KINDS[int(n["kind"][0])], float(n["level"][0]), n["theta"].ravel()

    def control(z: np.ndarray, t: float) -> np.ndarray:
        x, own = z[:, :d], z[:, d:].reshape(len(z), d, FEATURES)
        u = np.einsum("ndf,nf->nd", own, np.tanh(x @ n["W"].T + n["w"] + n["nu"] * t))
        return np.concatenate([u, np.zeros_like(z[:, d:])], 1)

    def drift(z: np.ndarray, t: float) -> np.ndarray:
        mean = plain_kernel(case, kind, level, round(t * STEPS), z[:, :d])[0]
        return np.concatenate([(mean - z[:, :d]) * STEPS, np.zeros_like(z[:, d:])], 1)

    def noise(t: float) -> float:
        std = plain_kernel(case, kind, level, round(t * STEPS), np.zeros((1, d)))[1]
        return std * math.sqrt(STEPS)

    chain = control_chain.Chain(
        drift,
        control,
        noise,
        lambda z, t: np.zeros(len(z)),
        lambda z: -case.scale * case.reward((z[:, :d] @ case.frame)[:, : case.plane_dim]),
        np.arange(STEPS + 1) / STEPS,
    )
    start = np.concatenate([n["start"], theta])
    xi = np.concatenate([n["xi"], np.zeros((STEPS, len(theta)))], 1)
    found = control_chain.cost_gradient(
        chain, start, xi, frozen=frozen, complex_steps=complex_steps
    )
    return found[:, :d], found[0, d:]


def size(value: Array) -> float:
    """What errors are relative to: the largest number, and at least 1."""
    return max(1.0, float(np.abs(value).max()))


def resimulated_flat(case: PlaneNumbers, t: float, complex_steps: bool = True) -> Array:
    """Both in one vector, each relative to its own size (by complex steps)."""
    sizes = [size(part) for part in resimulated(case, t)]
    parts = resimulated(case, t, complex_steps)
    return np.concatenate([part.ravel() / s for part, s in zip(parts, sizes, strict=True)])


def frozen_states(case: PlaneNumbers, t: float) -> Array:
    """d cost / d x_k with the control's values held, flat, relative to their size."""
    states = resimulated(case, t, frozen=True)[0]
    return states.ravel() / size(states)


def plain_predictions(
    case: PlaneNumbers, x: np.ndarray, alpha: float, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """E[X_1 | x] and the score of X_t's law at x (n, d), real or complex, sigma > 0."""
    e = case.plane_dim
    y = x @ case.frame
    logs, means, scores = [], [], []
    for w, mu, cov in zip(case.weights, case.means, case.covs, strict=True):
        C = alpha**2 * cov + sigma**2 * np.eye(e)
        gap = y[:, :e] - alpha * mu
        white = gap @ np.linalg.inv(C)
        logs.append(math.log(w) - 0.5 * (white * gap).sum(1) - 0.5 * np.linalg.slogdet(C)[1])
        means.append(mu + alpha * white @ cov)
        scores.append(-white)
    log = np.array(logs)
    share = np.exp(log - log.real.max(0))
    share = share / share.sum(0)
    total = alpha**2 * case.rest_std**2 + sigma**2
    rest = y[:, e:]
    mean = np.einsum("kn,kne->ne", share, np.array(means))
    score = np.einsum("kn,kne->ne", share, np.array(scores))
    mean = np.concatenate([mean, alpha * case.rest_std**2 * rest / total], 1)
    score = np.concatenate([score, -rest / total], 1)
    return mean @ case.frame.T, score @ case.frame.T


def plain_kernel(
    case: PlaneNumbers, kind: str, level: float, k: int, x: np.ndarray
) -> tuple[np.ndarray, float]:
    """A kernel's mean (n, d) at x and its standard deviation, rectified-flow path."""
    h = 1 / STEPS
    t = k * h
    data, score = plain_predictions(case, x, t, 1 - t)
    if kind == "ancestral":  # Gaussian conditioning of X_{t + h} on X_t and the predicted data
        ahead, left = t + h, 1 - t - h if k < STEPS - 1 else SIGMA_END
        rho = t / ahead
        pull = left**2 * rho / (1 - t) ** 2
        variance = left**2 * ((1 - t) ** 2 - rho**2 * left**2) / (1 - t) ** 2
        return ahead * data + pull * (x - t * data), math.sqrt(variance)
    if kind == "constant":
        g2 = level**2
    else:
        offset = level / 2
        s = (t + offset) / (1 + 2 * offset)
        g2 = 2 * (1 - s) / s
    velocity = (data - x) / (1 - t)
    return x + h * (velocity + 0.5 * g2 * score), math.sqrt(g2 * h)
