"""Where the identities about the released advantage modes are tried."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

import numpy as np

from theory.laws.distances import Array
from theory.ledger.settings.domain import AnySetting, Domain, values
from theory.ledger.settings.problems import Problems, Setting
from theory.ledger.settings.released import Prompts, PromptSetting

# --- advantages alone


@dataclass(frozen=True, eq=False)
class AdvantageSetting(AnySetting):
    """Advantages A (n,), 0 and both sides of the clip among them, and the clip."""

    A: Array
    size: float

    @cached_property
    def exact(self) -> tuple[list[Fraction], Fraction]:
        """A and the clip as rationals, without rounding."""
        return [Fraction(float(a)) for a in self.A], Fraction(self.size)

    def describe(self) -> str:
        return f"{len(self.A)} advantages up to {np.abs(self.A).max():.3g}, clip {self.size:.3g}"


@dataclass(frozen=True)
class Advantages(Domain[AdvantageSetting]):
    """16 advantages and the clip, from 1 to 10."""

    def draw(self, dim: int, seed: int) -> AdvantageSetting:
        rng = np.random.default_rng([seed, 31])
        clip = float(rng.choice([1.0, 5.0, math.exp(rng.uniform(0.0, 2.3))]))
        a = np.concatenate(
            [[0.0, clip, -clip], 3 * rng.normal(size=10), 3 * clip * rng.normal(size=3)]
        )
        return AdvantageSetting(a, clip)

    def nudge(
        self, setting: AdvantageSetting, rng: np.random.Generator, step: float
    ) -> AdvantageSetting | None:
        clip = setting.size * math.exp(step * rng.normal())
        moved = setting.A * np.exp(step * rng.normal(size=setting.A.shape))
        return (
            AdvantageSetting(moved, clip) if 0.5 < clip < 20 and np.abs(moved).max() < 1e3 else None
        )


# --- prompts in a large batch


@dataclass(frozen=True)
class GaussianPrompts(Domain[PromptSetting]):
    """1 to 3 prompts with rewards N(0, 1), infinite groups, any nft_beta."""

    def draw(self, dim: int, seed: int) -> PromptSetting:
        return self._plain(Prompts(alike=True).draw(dim, seed))

    def nudge(
        self, setting: PromptSetting, rng: np.random.Generator, step: float
    ) -> PromptSetting | None:
        moved = Prompts(alike=True).nudge(setting, rng, step)
        return None if moved is None else self._plain(moved)

    def _plain(self, setting: PromptSetting) -> PromptSetting:
        shape = (len(setting.weights), 1)
        return replace(setting, weights=np.ones(shape), means=np.zeros(shape), stds=np.ones(shape))


# --- given X_t = x


@dataclass(frozen=True, eq=False)
class ModeSetting(Setting):
    """A linear reward on the line; A = (R - centre)/size; v_old is `gap` away from the velocity of
    the data, r is moved by `shift`."""

    centre: float = 0.0
    size: float = 1.0
    gap: float = 0.0
    shift: float = 0.0


@dataclass(frozen=True)
class ModePoints(Domain[ModeSetting]):
    """Random problems on the line with linear rewards; advantages up to a few standard deviations
    from 0, some of them beyond the clip."""

    problems: Problems = field(default_factory=lambda: Problems(kinds=("linear",)))

    def draw(self, dim: int, seed: int) -> ModeSetting:
        plain = self.problems.draw(1, seed)
        rng = np.random.default_rng([seed, 41])
        raw = float(plain.case.reward(plain.case.means).mean())
        return ModeSetting(
            **values(plain, Setting),
            centre=raw + plain.spread * float(rng.normal()),
            size=plain.spread * math.exp(rng.uniform(-1.5, 0.5)),
            gap=float(rng.normal()),
            shift=0.2 * float(rng.normal()),
        )

    def nudge(
        self, setting: ModeSetting, rng: np.random.Generator, step: float
    ) -> ModeSetting | None:
        plain = self.problems.nudge(Setting(**values(setting, Setting)), rng, step)
        if plain is None:
            return None
        centre = setting.centre + step * setting.size * rng.normal()
        size = setting.size * math.exp(step * rng.normal())
        if not 0.1 * plain.spread < size < 3 * plain.spread:
            return None
        return ModeSetting(
            **values(plain, Setting),
            centre=float(centre),
            size=size,
            gap=setting.gap,
            shift=setting.shift,
        )
