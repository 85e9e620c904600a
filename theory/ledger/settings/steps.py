"""Where a few steps of gradient descent are followed: numbers with few bits, so that they can be
followed in rationals too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from theory.laws.distances import Array
from theory.ledger.oracle.released.steps import Numbers
from theory.ledger.settings.domain import AnySetting, Domain

BITS = 2.0**10
MOST = 8.0
_ARRAYS = ("x", "y", "r", "W", "A", "B")


@dataclass(frozen=True, eq=False)
class StepSetting(AnySetting):
    """A batch x, y (n, d), r (n,); a student W x + B A x, W (d, d) frozen, B (d, k) and A (k, d)
    trained; nft_beta, the learning rate, and the number of steps."""

    x: Array
    y: Array
    r: Array
    W: Array
    A: Array
    B: Array
    nft_beta: float
    rate: float
    steps: int

    @property
    def dim(self) -> int:
        return len(self.W)

    @cached_property
    def numbers(self) -> Numbers:
        """As the second route takes them."""
        return Numbers(self.x, self.y, self.r, self.W, self.A, self.B)

    def describe(self) -> str:
        return (
            f"d = {self.dim}, {len(self.x)} rows, LoRA of rank {len(self.A)}, {self.steps} steps "
            f"of {self.rate:.2g}, nft_beta = {self.nft_beta:.3g}"
        )


def _short(value: Array) -> Array:
    """Rounded to 10 binary places."""
    return np.asarray(np.round(np.asarray(value) * BITS) / BITS)


@dataclass(frozen=True)
class Steps(Domain[StepSetting]):
    """2 to 4 rows, rank 1, 2 or 3 steps; rewards in [0, 1], at its ends and beyond."""

    def draw(self, dim: int, seed: int) -> StepSetting:
        rng = np.random.default_rng([seed, 43, dim])
        n = int(rng.integers(2, 5))
        x, y = _short(rng.normal(size=(2, n, dim)))
        r = _short(rng.choice([0.0, 1.0, rng.uniform(), 0.4, 0.6, 2 * rng.normal()], size=n))
        own = 0.5 * rng.normal(size=(2, dim))
        return StepSetting(
            x,
            y,
            r,
            _short(rng.normal(size=(dim, dim))),
            _short(own[:1]),
            _short(own[1:].T),
            float(_short(np.exp(rng.uniform(-2, 1.5)))),
            float(rng.choice([1, 2, 4])) / 128,
            int(rng.integers(2, 4 if dim == 1 else 3)),
        )

    def nudge(
        self, setting: StepSetting, rng: np.random.Generator, step: float
    ) -> StepSetting | None:
        moved: dict[str, Any] = {
            n: _short(v + step * rng.normal(size=v.shape))
            for n in _ARRAYS
            for v in [getattr(setting, n)]
        }
        beta = float(_short(setting.nft_beta * np.exp(step * rng.normal())))
        inside = max(np.abs(v).max() for v in moved.values()) < MOST and 0.05 < beta < 10
        return replace(setting, **moved, nft_beta=beta) if inside else None
