"""Where the pointwise lemma is tried: random vectors whose float64 values are exact rationals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from theory.laws.distances import Array
from theory.ledger.settings.domain import AnySetting, Domain

Rationals = list[Fraction]


@dataclass(frozen=True, eq=False)
class LemmaSetting(AnySetting):
    """v, y and two values of mu, (d,); r of any size and sign, b = nft_beta > 0."""

    v: Array
    y: Array
    mu: Array
    other: Array
    r: float
    b: float

    @property
    def dim(self) -> int:
        return len(self.v)

    @cached_property
    def exact(self) -> dict[str, Rationals]:
        """The vectors as rationals, without rounding."""
        return {
            n: [Fraction(float(q)) for q in getattr(self, n)] for n in ("v", "y", "mu", "other")
        }

    @property
    def scale(self) -> float:
        """The size of the terms that cancel."""
        step = self.b * np.abs([self.mu - self.v, self.other - self.v]).max()
        return float((1 + abs(self.r)) * (step + np.abs(self.v - self.y).max()) ** 2 * self.dim)

    def describe(self) -> str:
        return f"d = {self.dim}, r = {self.r:.3g}, beta = {self.b:.3g}"


@dataclass(frozen=True)
class Lemmas(Domain[LemmaSetting]):
    """Normal vectors of sizes from 1e-2 to 1e2, rewards inside and outside [0, 1]."""

    def draw(self, dim: int, seed: int) -> LemmaSetting:
        rng = np.random.default_rng([seed, 5, dim])
        sizes = 10.0 ** rng.uniform(-2, 2, size=(4, 1))
        r = float(rng.choice([0.0, 1.0, 0.5, rng.uniform(), 3 * rng.normal()]))
        v, y, mu, other = sizes * rng.normal(size=(4, dim))
        return LemmaSetting(v, y, mu, other, r, float(10 ** rng.uniform(-1, 1)))

    def nudge(
        self, setting: LemmaSetting, rng: np.random.Generator, step: float
    ) -> LemmaSetting | None:
        def moved(value: Array) -> Array:
            return np.asarray(value * np.exp(step * rng.normal(size=value.shape)))

        new = replace(
            setting,
            v=moved(setting.v),
            y=moved(setting.y),
            mu=moved(setting.mu),
            other=moved(setting.other),
            r=setting.r + step * rng.normal(),
            b=setting.b * float(np.exp(step * rng.normal())),
        )
        sizes = [np.abs(q).max() for q in (new.v, new.y, new.mu, new.other)]
        return new if max(sizes) < 1e3 and 0.05 < new.b < 20 and abs(new.r) < 10 else None
