r"""What a tilt exp(B R) does to rewards: of a problem in closed form or on the line, of samples.

Every prompt p keeps its own normaliser: q_p = base_p exp(B R)/Z_p, one B for all. Batch-wide

    S^2 = mean over prompts of Var_p R + variance over prompts of E_p R,    prompts equally often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from theory.methods.matching.reward_mapping import CLIP, STD_FLOOR
from theory.problems.problem import Problem
from theory.tilts.conditional import moments_of
from theory.tilts.moments import reward_moments
from theory.tilts.wrappers import Exponential

Array = NDArray[np.float64]
LEAST_ESS = 200.0  # of all samples
MOST_TAIL = 0.5  # of the Pareto index of the weights: beyond, their variance is infinite
LEAST_PROMPT_ESS = 10.0  # of a prompt's, on average
CARRIED = 0.9  # of the weight
REACH, NODES = 60.0, 12001  # of the line, in standard deviations of the base
LEAST_NODES = 20.0  # that hold a law on the line
EDGE = 1e-8  # weight at an end of the line


@dataclass(frozen=True)
class Tilted:
    """Rewards under base exp(B R)/Z.

    mean, std: of the whole batch; within: root of the prompts' mean variance; kl: to the base, mean
    over prompts, nats; clip: what the advantage's clip leaves of the slope (None: not looked at);
    spread: standard deviation of the law of X_1, root of the mean variance over axes (None: not
    known); ess, carriers: effective sample size, and the share of the samples that carry 9/10 of
    the weight (None: no samples); doubt: why these numbers are not to be used, or "".
    """

    mean: float
    std: float
    within: float
    kl: float
    clip: float | None = None
    spread: float | None = None
    ess: float | None = None
    carriers: float | None = None
    doubt: str = ""


class Rewards(Protocol):
    """Where the rewards come from."""

    @property
    def data_std(self) -> float | None:
        """Standard deviation of X_1 along an axis, where it is known."""

    def at(self, tilt: float) -> Tilted:
        """Rewards under the tilt. Raises ValueError where it does not exist."""


@dataclass(frozen=True, eq=False)
class _Weighted:
    """Rewards (n,) with log-weights (n,) and the prompt (n,) of each; the advantage's clip."""

    rewards: Array
    log_weights: Array
    prompts: NDArray[np.int64]
    clip: float = CLIP

    @cached_property
    def count(self) -> int:
        return int(self.prompts.max()) + 1

    def _shares(self, tilt: float) -> tuple[Array, Array]:
        """(weights (n,) that add up to 1 in every prompt, log of their sum before (P,))."""
        logs = self.log_weights + tilt * self.rewards
        top = np.full(self.count, -np.inf)
        np.maximum.at(top, self.prompts, logs)
        parts = np.exp(logs - top[self.prompts])
        total = np.bincount(self.prompts, parts, self.count)
        return parts / total[self.prompts], top + np.log(total)

    def moments(self, tilt: float) -> tuple[Tilted, Array]:
        """What both sources share, and the weights."""
        w, log_z = self._shares(tilt)
        p, count = self.prompts, self.count
        means = np.bincount(p, w * self.rewards, count)
        gap = self.rewards - means[p]
        within = float(np.bincount(p, w * gap**2, count).mean())
        std = math.sqrt(within + float(means.var()))
        kl = float((tilt * means - log_z + self._base_log_z).mean())
        clip = 1.0
        if within > 0:
            size = std + STD_FLOOR
            mapped = np.clip(gap / size, -self.clip, self.clip)
            clip = float(np.bincount(p, w * mapped * gap, count).mean() * size / within)
        return Tilted(float(means.mean()), std, math.sqrt(within), max(kl, 0.0), clip), w

    @cached_property
    def _base_log_z(self) -> Array:
        return self._shares(0.0)[1]


@dataclass(frozen=True, eq=False)
class SampledRewards:
    """Rewards (n,) of samples of the base, reweighted; prompts (n,): whole numbers from 0."""

    rewards: Array
    prompts: NDArray[np.int64]
    data_std: float | None = None
    clip: float = CLIP

    @cached_property
    def _weighted(self) -> _Weighted:
        return _Weighted(self.rewards, np.zeros(len(self.rewards)), self.prompts, self.clip)

    def without_parts(self, count: int, seed: int = 0) -> Iterator[SampledRewards]:
        """The samples less one of `count` random parts of every prompt's, part by part."""
        shuffled = np.random.default_rng(seed).permutation(len(self.rewards))
        by_prompt = shuffled[np.argsort(self.prompts[shuffled], kind="stable")]
        part = np.empty(len(self.rewards), dtype=np.int64)
        part[by_prompt] = np.arange(len(self.rewards)) % count
        for k in range(count):
            kept = part != k
            prompts = np.unique(self.prompts[kept], return_inverse=True)[1].astype(np.int64)
            yield SampledRewards(self.rewards[kept], prompts, self.data_std, self.clip)

    def at(self, tilt: float) -> Tilted:
        base, w = self._weighted.moments(tilt)
        ess_of = 1 / np.bincount(self.prompts, w**2, self._weighted.count)
        ess, per_prompt = float(ess_of.sum()), float(ess_of.mean())
        falling = np.sort(w)[::-1].cumsum() / self._weighted.count
        carriers = float(np.searchsorted(falling, CARRIED - 1e-12) + 1) / len(w)
        doubt, tail = "", tail_index(w)
        if tail > MOST_TAIL:
            doubt = (
                f"the largest weights fall off like a power with index k = {tail:.2f} (Pareto fit; "
                f"at most {MOST_TAIL:g} is trusted): rewards that the samples miss would decide"
            )
        elif ess < LEAST_ESS or per_prompt < LEAST_PROMPT_ESS:
            doubt = (
                f"effective sample size {ess:.0f} of {len(w)}, {per_prompt:.1f} a prompt: needed "
                f"are {LEAST_ESS:g} and {LEAST_PROMPT_ESS:g}"
            )
        return Tilted(
            base.mean,
            base.std,
            base.within,
            base.kl,
            base.clip,
            None,
            ess,
            min(carriers, 1.0),
            doubt,
        )


def tail_index(weights: Array) -> float:
    """k of the generalised Pareto law of the largest weights' excesses; 0.0 for fewer than 5 of
    them, or none that differ. Above 1/2 their variance is infinite, above 0.7 weighted means do not
    settle.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry (Pareto smoothed importance sampling); the fit is
    Zhang and Stephens' (2009).
    """
    n = len(weights)
    count = int(min(0.2 * n, 3 * math.sqrt(n)))
    if count < 5:
        return 0.0
    top = np.sort(weights)[n - count - 1 :]
    x = top[1:] - top[0]
    if x[-1] <= 0:
        return 0.0
    m = 30 + int(math.sqrt(count))
    quarter = max(float(x[int(count / 4 + 0.5) - 1]), 1e-12 * float(x[-1]))
    b = 1 / x[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * quarter)
    k = np.log1p(-b[:, None] * x).mean(1)
    score = count * (np.log(-b / k) - k - 1)
    share = np.exp(score - score.max())
    mean_b = float(b @ share / share.sum())
    k_hat = float(np.log1p(-mean_b * x).mean())
    return (count * k_hat + 5) / (count + 10)  # a weak prior about 1/2, as in the source


@dataclass(frozen=True, eq=False)
class LineRewards:
    """A problem in d = 1, by sums on the line."""

    problem: Problem
    clip: float = CLIP

    @cached_property
    def data_std(self) -> float:
        return float(self.problem.base.covariance()[0, 0].sqrt())

    @cached_property
    def _line(self) -> tuple[Array, _Weighted]:
        centre = float(self.problem.base.expectation()[0])
        y = centre + self.data_std * np.linspace(-REACH, REACH, NODES)
        points = torch.as_tensor(y)[:, None]
        log_p = self.problem.base.log_density(points).numpy()
        rewards = self.problem.reward(points).numpy()
        return y, _Weighted(rewards, log_p, np.zeros(len(y), dtype=np.int64), self.clip)

    def at(self, tilt: float) -> Tilted:
        y, weighted = self._line
        base, w = weighted.moments(tilt)
        mean = float(w @ y)
        doubt = ""
        if max(w[0], w[-1]) > EDGE:
            doubt = f"the tilt {tilt:.4g} has mass more than {REACH:g} standard deviations out"
        elif 1 / float(w @ w) < LEAST_NODES:
            doubt = f"the tilt {tilt:.4g} is too narrow for the line's nodes"
        spread = math.sqrt(max(float(w @ (y - mean) ** 2), 0.0))
        return Tilted(base.mean, base.std, base.within, base.kl, base.clip, spread, doubt=doubt)


@dataclass(frozen=True, eq=False)
class ClosedRewards:
    """A problem in any dimension whose exponential tilts are Gaussian sums."""

    problem: Problem

    @cached_property
    def data_std(self) -> float:
        return _axis_std(self.problem.base.covariance())

    def at(self, tilt: float) -> Tilted:
        result = self.problem.tilt(Exponential(tilt)) if tilt else None
        law = self.problem.base if result is None else result.law
        if law is None:
            raise ValueError(
                "problem must have an exponential tilt that is a Gaussian sum, or d = 1, got "
                f"{self.problem.name!r}"
            )
        mean, std = reward_moments(law, moments_of(law, self.problem.reward))
        log_z = 0.0 if result is None else float(result.log_z)
        kl = max(tilt * mean - log_z, 0.0) + 0.0  # no -0.0
        return Tilted(mean, std, std, kl, None, _axis_std(law.covariance()))


def _axis_std(covariance: torch.Tensor) -> float:
    return math.sqrt(float(covariance.diagonal().mean()))


def rewards_of(problem: Problem, clip: float = CLIP) -> Rewards:
    """The source that fits the problem; clip: of the advantage."""
    return LineRewards(problem, clip) if problem.dim == 1 else ClosedRewards(problem)
