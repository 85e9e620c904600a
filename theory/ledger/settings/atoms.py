"""Where densities are replaced by atoms: rewards and two references on a few states."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from theory.laws.distances import Array
from theory.ledger.settings.domain import AnySetting, Domain


@dataclass(frozen=True, eq=False)
class AtomSetting(AnySetting):
    """m, p_k, p_0 on n states, the strengths of the two penalties, and a number of epochs."""

    m: Array
    p_k: Array
    p_0: Array
    eta_1: float
    eta_0: float
    epochs: int

    @property
    def share(self) -> float:
        """w = eta_0 / (eta_0 + eta_1)."""
        return self.eta_0 / (self.eta_0 + self.eta_1)

    def describe(self) -> str:
        return (
            f"{len(self.m)} states, eta_0 = {self.eta_0:.3g}, eta_1 = {self.eta_1:.3g}, "
            f"{self.epochs} epochs, spread of m {self.m.std():.2g}"
        )


@dataclass(frozen=True)
class Atoms(Domain[AtomSetting]):
    """2 to 40 states, softmax references, strengths from 0.1 to 10."""

    def draw(self, dim: int, seed: int) -> AtomSetting:
        rng = np.random.default_rng([seed, 13])
        n = int(rng.integers(2, 41))
        eta_1, eta_0 = np.exp(rng.uniform(np.log(0.1), np.log(10.0), size=2))
        return AtomSetting(
            rng.normal(size=n) * np.exp(rng.uniform(-2, 0.7)),
            softmax(2 * rng.normal(size=n)),
            softmax(2 * rng.normal(size=n)),
            float(eta_1),
            float(eta_0),
            int(rng.integers(1, 7)),
        )

    def nudge(
        self, setting: AtomSetting, rng: np.random.Generator, step: float
    ) -> AtomSetting | None:
        def moved(p: Array) -> Array:
            return softmax(np.log(p) + step * rng.normal(size=p.shape))

        eta_1, eta_0 = np.array([setting.eta_1, setting.eta_0]) * np.exp(step * rng.normal(size=2))
        new = replace(
            setting,
            m=setting.m + step * rng.normal(size=setting.m.shape),
            p_k=moved(setting.p_k),
            p_0=moved(setting.p_0),
            eta_1=float(eta_1),
            eta_0=float(eta_0),
        )
        inside = min(eta_1, eta_0) > 0.05 and max(eta_1, eta_0) < 20 and np.abs(new.m).max() < 6
        return new if inside and min(new.p_k.min(), new.p_0.min()) > 1e-8 else None
