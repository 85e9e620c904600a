"""Where the identities about the old copy's averages are tried."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from theory.laws.distances import Array
from theory.ledger.settings.domain import AnySetting, Domain

# (flat, rate, most) of the released code
RELEASED = ((0, 0.0, 0.0), (0, 0.001, 0.5), (75, 0.0075, 0.999))


@dataclass(frozen=True)
class ScheduleSetting(AnySetting):
    """min(rate (k - flat), most) from step `flat` on; epochs of `steps` optimiser steps; an anchor
    that leaves `share`; the tilt's step `scale`."""

    flat: int
    rate: float
    most: float
    epochs: int
    steps: int
    share: float
    scale: float

    def describe(self) -> str:
        return (
            f"min({self.rate:.3g} (k - {self.flat}), {self.most:.3g}), {self.epochs} epochs of "
            f"{self.steps} steps, omega = {self.share:.4g}"
        )


@dataclass(frozen=True)
class Schedules(Domain[ScheduleSetting]):
    """The released schedules and others like them, 1 to 250 epochs of 1 to 4 steps."""

    def draw(self, dim: int, seed: int) -> ScheduleSetting:
        rng = np.random.default_rng([seed, 41])
        flat, rate, most = RELEASED[int(rng.integers(len(RELEASED)))]
        if rng.uniform() < 0.5:
            flat = int(rng.integers(0, 120))
            rate, most = float(np.exp(rng.uniform(-8, -2))), float(rng.uniform(0.05, 0.999))
        share = 1 - math.exp(rng.uniform(math.log(1e-4), math.log(0.5)))
        return ScheduleSetting(
            flat,
            rate,
            most,
            int(rng.integers(1, 251)),
            int(rng.integers(1, 5)),
            share,
            math.exp(rng.uniform(-3, 1)),
        )

    def nudge(
        self, setting: ScheduleSetting, rng: np.random.Generator, step: float
    ) -> ScheduleSetting | None:
        left = (1 - setting.share) * math.exp(step * rng.normal())
        new = replace(
            setting,
            flat=max(0, round(setting.flat + 40 * step * rng.normal())),
            rate=setting.rate * math.exp(step * rng.normal()),
            most=float(np.clip(setting.most + 0.5 * step * rng.normal(), 0.0, 0.999)),
            epochs=round(setting.epochs * math.exp(step * rng.normal())),
            share=1 - left,
        )
        return new if 1 <= new.epochs <= 300 and 1e-5 < left < 0.9 else None


@dataclass(frozen=True, eq=False)
class FactorSetting(AnySetting):
    """LoRA factors of the old copy's start and of the student after every epoch, A (E + 1, r, n),
    B (E + 1, m, r), and the decays (E,)."""

    A: Array
    B: Array
    decays: Array

    def describe(self) -> str:
        epochs, (m, r), n = len(self.decays), self.B.shape[1:], self.A.shape[2]
        return f"rank {r}, {m} x {n}, {epochs} epochs"


@dataclass(frozen=True)
class Factors(Domain[FactorSetting]):
    """Rank 1 to 4, sides 2 to 12, 1 to 6 epochs."""

    def draw(self, dim: int, seed: int) -> FactorSetting:
        rng = np.random.default_rng([seed, 43])
        epochs, r = int(rng.integers(1, 7)), int(rng.integers(1, 5))
        m, n = rng.integers(2, 13, size=2)
        return FactorSetting(
            rng.normal(size=(epochs + 1, r, n)),
            rng.normal(size=(epochs + 1, m, r)),
            rng.uniform(0.0, 0.99, size=epochs),
        )

    def nudge(
        self, setting: FactorSetting, rng: np.random.Generator, step: float
    ) -> FactorSetting | None:
        decays = np.clip(
            setting.decays + 0.3 * step * rng.normal(size=len(setting.decays)), 0, 0.99
        )
        return FactorSetting(
            setting.A + step * rng.normal(size=setting.A.shape),
            setting.B + step * rng.normal(size=setting.B.shape),
            decays,
        )
