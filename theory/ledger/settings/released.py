"""Where the identities about the released code's reward mapping are tried."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from theory.laws.distances import Array
from theory.ledger.settings.domain import AnySetting, Domain

GROUP = 24  # rows of a prompt in the released configurations

GROUPS = (0, 2, 3, 4, 8, 24)  # rows of a prompt in a batch; 0: infinitely many
BETAS = (0.05, 5.0)


# --- prompts with mixtures of rewards, in a large batch


@dataclass(frozen=True, eq=False)
class PromptSetting(AnySetting):
    """Rewards of P prompts, mixtures of K Gaussians: weights, means, stds (P, K); the rows of a
    prompt in the batch; nft_beta."""

    weights: Array
    means: Array
    stds: Array
    group: int
    nft_beta: float

    def describe(self) -> str:
        return (
            f"{len(self.weights)} prompts of {self.weights.shape[1]} Gaussians, group of "
            f"{self.group or 'infinitely many'}, nft_beta = {self.nft_beta:.3g}"
        )


@dataclass(frozen=True)
class Prompts(Domain[PromptSetting]):
    """1 to 3 prompts, some with rare rewards far out, where the clip acts.

    alike: every prompt has mean 0 and standard deviation 1, and the group is infinite.
    """

    alike: bool = False

    def draw(self, dim: int, seed: int) -> PromptSetting:
        rng = np.random.default_rng([seed, 17])
        shape = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        weights = softmax(rng.uniform(1.0, 4.0) * rng.normal(size=shape), axis=-1)
        stds = np.exp(rng.uniform(-1.0, 0.7, size=shape))
        means = rng.normal(size=shape) * np.exp(rng.uniform(-1.0, 2.2, size=shape))
        group = 0 if self.alike else int(rng.choice(GROUPS))
        beta = math.exp(rng.uniform(*np.log(BETAS)))
        return self._made(PromptSetting(weights, means, stds, group, beta))

    def nudge(
        self, setting: PromptSetting, rng: np.random.Generator, step: float
    ) -> PromptSetting | None:
        shape = setting.weights.shape
        new = self._made(
            replace(
                setting,
                weights=softmax(np.log(setting.weights) + step * rng.normal(size=shape), axis=-1),
                means=setting.means + step * rng.normal(size=shape),
                stds=setting.stds * np.exp(step * rng.normal(size=shape)),
                nft_beta=setting.nft_beta * math.exp(step * rng.normal()),
            )
        )
        inside = (
            new.weights.min() > 1e-6
            and np.abs(new.means).max() < 30
            and new.stds.min() > 0.02
            and new.stds.max() < 20 * new.stds.min()
            and BETAS[0] <= new.nft_beta <= BETAS[1]
        )
        return new if inside else None

    def _made(self, setting: PromptSetting) -> PromptSetting:
        if not self.alike:
            return setting
        w, m, s = setting.weights, setting.means, setting.stds
        centre = (w * m).sum(1, keepdims=True)
        size = np.sqrt((w * (s**2 + (m - centre) ** 2)).sum(1, keepdims=True))
        return replace(setting, means=(m - centre) / size, stds=s / size)


# --- finite batches


@dataclass(frozen=True)
class BatchSetting(AnySetting):
    """`prompts` groups of `group` rows."""

    group: int
    prompts: int

    def describe(self) -> str:
        return f"{self.prompts} prompts with {self.group} rows each"


@dataclass(frozen=True)
class Batches(Domain[BatchSetting]):
    """Groups of 2 to 64, 1 to 64 prompts."""

    def draw(self, dim: int, seed: int) -> BatchSetting:
        rng = np.random.default_rng([seed, 19])
        group, prompts = np.exp(rng.uniform([math.log(2), 0.0], math.log(64)))
        return BatchSetting(round(group), round(prompts))

    def nudge(
        self, setting: BatchSetting, rng: np.random.Generator, step: float
    ) -> BatchSetting | None:
        group = round(setting.group * math.exp(2 * step * rng.normal()))
        prompts = round(setting.prompts * math.exp(2 * step * rng.normal()))
        return BatchSetting(group, prompts) if 2 <= group <= 64 and 1 <= prompts <= 64 else None


@dataclass(frozen=True, eq=False)
class AtomBatch(AnySetting):
    """Rewards of P prompts on k atoms: x their values and m their chances, (P, k); `group` rows
    each."""

    x: Array
    m: Array
    group: int

    def describe(self) -> str:
        prompts, k = self.x.shape
        return f"{prompts} prompts of {k} atoms, {self.group} rows each"


# (prompts, rows, atoms): no |A| reaches the clip, and all batches can be listed
SMALL = ((1, 2, 3), (1, 3, 4), (1, 4, 3), (2, 2, 3), (2, 3, 2), (3, 2, 2), (3, 2, 3))


@dataclass(frozen=True)
class AtomBatches(Domain[AtomBatch]):
    """Batches that can be listed: at most 3 prompts, 4 rows a prompt, 4 atoms."""

    def draw(self, dim: int, seed: int) -> AtomBatch:
        rng = np.random.default_rng([seed, 23])
        prompts, group, k = SMALL[int(rng.integers(len(SMALL)))]
        x = rng.normal(size=(prompts, k)) + 2 * rng.normal(size=(prompts, 1))
        return AtomBatch(x, softmax(1.5 * rng.normal(size=(prompts, k)), axis=-1), group)

    def nudge(self, setting: AtomBatch, rng: np.random.Generator, step: float) -> AtomBatch | None:
        x = setting.x + step * rng.normal(size=setting.x.shape)
        m = softmax(np.log(setting.m) + step * rng.normal(size=setting.m.shape), axis=-1)
        mean = (m * x).sum(1, keepdims=True)
        least = (m * (x - mean) ** 2).sum(1).min()
        inside = np.abs(x).max() < 20 and m.min() > 1e-4 and least > 1e-3
        return AtomBatch(x, m, setting.group) if inside else None
