"""One controlled trajectory by two routes: what D10 and D11 compare.

A random problem is steered by u = theta tanh(W x + w + nu t) along a few kernels (constant g, the
memoryless schedule with an offset, or ancestral), noise and start drawn from the setting. First
route: theory's fields, chains and `theory.control.adjoints` (autograd). Second: the same written
out in numpy for complex numbers, simulated anew for every move of a state or a parameter
(`theory.oracle.control_chain`); parameters ride along as coordinates that never move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.chains import Chain
from theory.claims.settings import Setting
from theory.control.adjoints import Process, chain_process, rollout
from theory.oracle import control_chain
from theory.oracle.integrate import Array
from theory.oracle.plane import PlaneNumbers
from theory.problem import Problem
from theory.schedules import Diffusion

STEPS, FEATURES = 6, 2
SIGMA_END = 0.15
KINDS = ("constant", "offset", "ancestral")


@dataclass(frozen=True, eq=False)
class Steered:
    """The numbers that both routes start from: drawn from the setting's time, so that they come
    back with it."""

    setting: Setting

    @cached_property
    def rng_numbers(self) -> dict[str, Any]:
        d = self.setting.dim
        rng = np.random.default_rng(int(self.setting.t * 2**40))
        return {
            "theta": 0.6 * rng.normal(size=(d, FEATURES)), "W": rng.normal(size=(FEATURES, d)),
            "w": rng.normal(size=FEATURES), "nu": rng.normal(size=FEATURES),
            "start": rng.normal(size=d), "xi": rng.normal(size=(STEPS, d)),
            "level": rng.uniform(0.5, 1.2, size=1), "kind": rng.integers(3, size=1),
        }  # fmt: skip

    @property
    def kind(self) -> str:
        return KINDS[int(self.rng_numbers["kind"][0])]

    @property
    def level(self) -> float:
        """g of the constant schedule; half of it is the offset."""
        return float(self.rng_numbers["level"][0])

    # --- first route

    @cached_property
    def chain(self) -> Chain:
        schedule = {
            "constant": Diffusion.of_constant(self.level),
            "offset": Diffusion.of_offset(self.level / 2),
            "ancestral": None,
        }[self.kind]
        return Chain(STEPS, sigma_end=SIGMA_END, schedule=schedule)

    @cached_property
    def theta(self) -> Tensor:
        return torch.as_tensor(self.rng_numbers["theta"]).requires_grad_(True)

    @cached_property
    def process(self) -> Process:
        n, problem = {k: torch.as_tensor(v) for k, v in self.rng_numbers.items()}, self.problem
        scale = self.setting.case.scale
        plain, _ = chain_process(
            self.chain, problem.base_field, problem.base_field, lambda x: -scale * problem.reward(x)
        )

        def control(x: Tensor, t: float) -> Tensor:
            return torch.tanh(x @ n["W"].T + n["w"] + n["nu"] * t) @ self.theta.T

        return replace(plain, control=control)

    @cached_property
    def problem(self) -> Problem:
        return self.setting.problem

    @cached_property
    def times(self) -> Tensor:
        return torch.arange(STEPS + 1, dtype=torch.float64) / STEPS

    @cached_property
    def states(self) -> Tensor:
        """(1, T + 1, d)."""
        n = {k: torch.as_tensor(v) for k, v in self.rng_numbers.items()}
        return rollout(self.process, self.times, n["start"][None], n["xi"][None])

    # --- second route

    def second(self, complex_steps: bool = True, frozen: bool = False) -> tuple[Array, Array]:
        """(d cost from k on / d x_k (T + 1, d), d cost / d theta flat)."""
        n, d, case = self.rng_numbers, self.setting.dim, self.setting.case
        theta = n["theta"].ravel()

        def control(z: np.ndarray, t: float) -> np.ndarray:
            x, own = z[:, :d], z[:, d:].reshape(len(z), d, FEATURES)
            u = np.einsum("ndf,nf->nd", own, np.tanh(x @ n["W"].T + n["w"] + n["nu"] * t))
            return np.concatenate([u, np.zeros_like(z[:, d:])], 1)

        def drift(z: np.ndarray, t: float) -> np.ndarray:
            mean = plain_kernel(case, self.kind, self.level, round(t * STEPS), z[:, :d])[0]
            return np.concatenate([(mean - z[:, :d]) * STEPS, np.zeros_like(z[:, d:])], 1)

        def noise(t: float) -> float:
            at = np.zeros((1, d))
            std = plain_kernel(case, self.kind, self.level, round(t * STEPS), at)[1]
            return std * math.sqrt(STEPS)

        chain = control_chain.Chain(
            drift, control, noise, lambda z, t: np.zeros(len(z)),
            lambda z: -case.scale * plain_reward(case, z[:, :d]), np.arange(STEPS + 1) / STEPS,
        )  # fmt: skip
        start = np.concatenate([n["start"], theta])
        xi = np.concatenate([n["xi"], np.zeros((STEPS, len(theta)))], 1)
        found = control_chain.cost_gradient(
            chain, start, xi, frozen=frozen, complex_steps=complex_steps
        )
        return found[:, :d], found[0, d:]


@lru_cache(maxsize=4)
def steered(setting: Setting) -> Steered:
    """Made once for the claims and their wrong versions."""
    return Steered(setting)


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


def plain_reward(case: PlaneNumbers, x: np.ndarray) -> np.ndarray:
    """r at x (n, d), real or complex."""
    y, p = (x @ case.frame)[:, : case.plane_dim], case.parameters
    if case.kind == "bumps":
        rows = zip(p["heights"], p["centres"], p["precisions"], strict=True)
        return np.asarray(
            sum(h * np.exp(-0.5 * (((y - c) @ A) * (y - c)).sum(1)) for h, c, A in rows)
        )
    value = y @ p["vector"] + float(p["constant"])
    if case.kind == "quadratic":
        value = value + 0.5 * ((y @ p["matrix"]) * y).sum(1)
    return np.asarray(value)
