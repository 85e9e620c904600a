"""Where claims about linear-quadratic control are tried: random problems, a feedback, a point."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from theory.control.linear import LinearQuadratic
from theory.laws.distances import Array
from theory.ledger.oracle.control.linear import LinearNumbers
from theory.ledger.settings.domain import AnySetting, Domain

ARRAYS = ("A", "B", "shift", "F", "f", "Q", "q", "mean", "cov", "P", "p", "x")
LARGEST = 4.0  # of any entry: stiffer problems need more steps than the second route takes
NOISE = (0.4, 1.7)
STRONGEST = 0.8  # |P|: a feedback that drives X away makes Euler's steps too coarse to extrapolate


@dataclass(frozen=True, eq=False)
class LinearSetting(AnySetting):
    """dX = ((A + t B) X + (1 - t) shift + g u) dt + g dB, g = g0 + g1 t; costs F, f and Q, q; X_0 ~
    N(mean, cov); a feedback u = -g ((1 + t) P x + (1 - t/2) p) that is no optimum; a point x, t."""

    A: Array
    B: Array
    shift: Array
    g0: float
    g1: float
    F: Array
    f: Array
    Q: Array
    q: Array
    mean: Array
    cov: Array
    P: Array
    p: Array
    x: Array
    t: float

    @property
    def dim(self) -> int:
        return len(self.mean)

    # --- first route

    @cached_property
    def problem(self) -> LinearQuadratic:
        return LinearQuadratic(
            matrix=lambda t: self.A + t * self.B,
            shift=lambda t: (1 - t) * self.shift,
            noise=lambda t: self.g0 + self.g1 * t,
            running_matrix=self.F,
            running_vector=self.f,
            final_matrix=self.Q,
            final_vector=self.q,
            mean=self.mean,
            cov=self.cov,
        )

    def feedback(self, t: float) -> tuple[Array, Array]:
        """(P, p) at t."""
        return (1 + t) * self.P, (1 - 0.5 * t) * self.p

    # --- second route

    def numbers(self, with_feedback: bool = False) -> LinearNumbers:
        """The plain numbers; with_feedback: of the drift too."""

        def square(t: float) -> float:
            return (self.g0 + self.g1 * t) ** 2 if with_feedback else 0.0

        return LinearNumbers(
            lambda t: self.A + t * self.B - square(t) * (1 + t) * self.P,
            lambda t: (1 - t) * self.shift - square(t) * (1 - 0.5 * t) * self.p,
            lambda t: self.g0 + self.g1 * t,
            lambda t: self.F,
            lambda t: self.f,
            self.Q,
            self.q,
            self.mean,
            self.cov,
        )

    # --- tables

    def describe(self) -> str:
        return (
            f"linear-quadratic, d = {self.dim}, |A| = {np.linalg.norm(self.A, 2):.2g}, "
            f"g = {self.g0:.2g} to {self.g0 + self.g1:.2g}, "
            f"|Q| = {np.linalg.norm(self.Q, 2):.2g}, t = {self.t:.3g}"
        )


@dataclass(frozen=True)
class LinearProblems(Domain[LinearSetting]):
    """Random ones: A not normal, costs full and positive, entries up to LARGEST."""

    def draw(self, dim: int, seed: int) -> LinearSetting:
        rng = np.random.default_rng([seed, dim, 31])

        def full(size: float) -> Array:
            return np.asarray(size * rng.normal(size=(dim, dim)) / math.sqrt(dim))

        def definite(size: float) -> Array:
            root = rng.normal(size=(dim, dim)) / math.sqrt(dim)
            return np.asarray(size * (root @ root.T + 0.2 * np.eye(dim)))

        g0, g1 = float(rng.uniform(0.4, 0.9)), float(rng.uniform(0.0, 0.8))
        return LinearSetting(
            full(0.6) - 0.4 * np.eye(dim),
            full(0.4),
            0.5 * rng.normal(size=dim),
            g0,
            g1,
            definite(0.5),
            0.4 * rng.normal(size=dim),
            definite(0.8),
            0.6 * rng.normal(size=dim),
            0.5 * rng.normal(size=dim),
            definite(0.6),
            full(0.2),
            0.4 * rng.normal(size=dim),
            rng.normal(size=dim),
            float(rng.uniform(0.05, 0.95)),
        )

    def nudge(
        self, setting: LinearSetting, rng: np.random.Generator, step: float
    ) -> LinearSetting | None:
        moved = {}
        for name in ARRAYS:
            value = getattr(setting, name)
            change = step * (0.1 + np.abs(value)) * rng.normal(size=value.shape)
            if name in ("F", "Q", "cov"):
                change = 0.5 * (change + change.T)
            moved[name] = value + change
        g0 = setting.g0 * math.exp(step * rng.normal())
        t = min(max(setting.t + step * rng.normal(), 0.05), 0.95)
        new = replace(setting, **moved, g0=g0, t=t)
        definite = all(np.linalg.eigvalsh(moved[k]).min() > 0.02 for k in ("F", "Q", "cov"))
        small = all(np.abs(value).max() <= LARGEST for value in moved.values())
        small = small and float(np.linalg.norm(moved["P"], 2)) <= STRONGEST
        inside = NOISE[0] <= g0 and g0 + setting.g1 <= NOISE[1]
        return new if definite and small and inside else None
