"""Where the identities about the released KL term are tried."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from theory.ledger.oracle.integrals.plane import PlaneNumbers
from theory.ledger.settings.atoms import Atoms, AtomSetting
from theory.ledger.settings.domain import AnySetting, Domain, values
from theory.ledger.settings.problems import BETAS, Problems, Setting

PULLS = (0.01, 30.0)  # of the penalty's curvature over (1-t)^2


@dataclass(frozen=True, eq=False)
class PenalisedSetting(Setting):
    """A problem's setting with a kl_weight and the normaliser's size."""

    kl: float = 1e-4
    size: float = 1.0

    def describe(self) -> str:
        return f"{super().describe()}, kl_weight = {self.kl:.3g}, size = {self.size:.3g}"


@dataclass(frozen=True)
class Penalised(Domain[PenalisedSetting]):
    """Random problems with penalties that count at their time."""

    def draw(self, dim: int, seed: int) -> PenalisedSetting:
        plain = Problems().draw(dim, seed)
        rng = np.random.default_rng([seed, 29, dim])
        pull = math.exp(rng.uniform(*np.log(PULLS)))
        size = math.exp(rng.uniform(-2.0, 1.0))
        return PenalisedSetting(**values(plain, Setting), kl=pull * (1 - plain.t) ** 2, size=size)

    def nudge(
        self, setting: PenalisedSetting, rng: np.random.Generator, step: float
    ) -> PenalisedSetting | None:
        moved = Problems().nudge(setting, rng, step)
        if moved is None:
            return None
        kl = setting.kl * math.exp(step * rng.normal())
        size = setting.size * math.exp(step * rng.normal())
        inside = PULLS[0] <= kl / (1 - moved.t) ** 2 <= PULLS[1] and 0.05 <= size <= 5
        return PenalisedSetting(**values(moved, Setting), kl=kl, size=size) if inside else None


@dataclass(frozen=True, eq=False)
class TimedAtoms(AtomSetting):
    """Two penalties on a few states, as the penalised loss has them at time t."""

    t: float = 0.5

    def describe(self) -> str:
        return f"{super().describe()}, t = {self.t:.3g}"


@dataclass(frozen=True)
class AtomsInTime(Domain[TimedAtoms]):
    """`Atoms`, with a time in [0, 0.99]."""

    def draw(self, dim: int, seed: int) -> TimedAtoms:
        t = float(np.random.default_rng([seed, 31]).uniform(0.0, 0.99))
        return TimedAtoms(**values(Atoms().draw(dim, seed), AtomSetting), t=t)

    def nudge(
        self, setting: TimedAtoms, rng: np.random.Generator, step: float
    ) -> TimedAtoms | None:
        moved = Atoms().nudge(setting, rng, step)
        t = float(np.clip(setting.t + 0.3 * step * rng.normal(), 0.0, 0.99))
        return None if moved is None else TimedAtoms(**values(moved, AtomSetting), t=t)


@dataclass(frozen=True, eq=False)
class LineSetting(AnySetting):
    """A Gaussian N(x, v^2) with the reward b times the place, nft_beta, a kl_weight."""

    x: float
    v: float
    b: float
    nft_beta: float
    kl: float

    @property
    def case(self) -> PlaneNumbers:
        return PlaneNumbers(
            np.ones(1),
            np.array([[self.x]]),
            np.array([[[self.v**2]]]),
            "linear",
            {"vector": np.array([self.b]), "constant": np.asarray(0.5)},
            1.0,
            np.eye(1),
        )

    def describe(self) -> str:
        return (
            f"N({self.x:.3g}, {self.v:.3g}^2), r = {self.b:.3g} x + 1/2, "
            f"nft_beta = {self.nft_beta:.3g}, kl_weight = {self.kl:.3g}"
        )


@dataclass(frozen=True)
class Lines(Domain[LineSetting]):
    """Means within 2, standard deviations 0.4 to 2.5, kl_weight 1e-3 to 10."""

    def draw(self, dim: int, seed: int) -> LineSetting:
        rng = np.random.default_rng([seed, 37])
        beta, kl = np.exp(rng.uniform([math.log(BETAS[0]), math.log(1e-3)], np.log([5.0, 10.0])))
        std = math.exp(rng.uniform(math.log(0.4), math.log(2.5)))
        return LineSetting(
            float(rng.uniform(-2, 2)), std, float(rng.uniform(0.1, 0.8)), float(beta), float(kl)
        )

    def nudge(
        self, setting: LineSetting, rng: np.random.Generator, step: float
    ) -> LineSetting | None:
        grow = np.exp(step * rng.normal(size=4))
        new = LineSetting(
            setting.x + step * float(rng.normal()),
            setting.v * float(grow[0]),
            setting.b * float(grow[1]),
            setting.nft_beta * float(grow[2]),
            setting.kl * float(grow[3]),
        )
        inside = (
            abs(new.x) < 3
            and 0.3 < new.v < 3
            and 0.02 < new.b < 1
            and BETAS[0] <= new.nft_beta <= BETAS[1]
            and 1e-4 < new.kl < 30
        )
        return new if inside else None
