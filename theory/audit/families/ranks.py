"""Wrappers of a reward's rank among the base's samples of its prompt."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from theory.audit.data.samples import Array, Pooled
from theory.audit.families.family import OneStatistic
from theory.audit.fit.likelihood import NoFitError

LEAST_N, SMALL_TILT = 1e-3, 1e-8


LEAST_FOR_RANKS = 20  # base rows a prompt, else F_g is too coarse to take a logarithm of


class Ranked(OneStatistic):
    """Wrappers of F_g(r): what they do does not depend on the rewards' law, and F_g is estimated
    (rank_fit.py)."""

    @abstractmethod
    def inverse(self, u: Array, parameters: dict[str, float]) -> Array:
        """Quantiles of the tuned law of F_g(r) at levels u."""

    def ranks(self, pooled: Pooled) -> Array:
        """F_g(r) of the base in the prompt, ties at the middle of their step; in (0, 1)."""
        least = int(pooled.n0.min())
        if least < LEAST_FOR_RANKS:
            raise NoFitError(
                f"ranks need {LEAST_FOR_RANKS} base samples in every prompt, the fewest are {least}"
            )
        found = np.empty(len(pooled))
        ends = np.append(pooled.starts[1:], len(pooled))
        for start, end in zip(pooled.starts, ends, strict=True):
            own = pooled.reward[start:end]
            base = np.sort(own[pooled.label[start:end] == 0])
            below = np.searchsorted(base, own, "left")
            upto = np.searchsorted(base, own, "right")
            found[start:end] = (0.5 * (below + upto) + 0.5) / (len(base) + 1)
        return found


class BestOfN(Ranked):
    name, formula, parameter, shift = "best_of_n", "F(r)^(n-1)", "n", 1.0

    def statistic(self, pooled: Pooled) -> tuple[Array, float]:
        return np.log(self.ranks(pooled)), 1.0

    def inverse(self, u: Array, parameters: dict[str, float]) -> Array:
        return np.asarray(u ** (1 / max(parameters["n"], LEAST_N)))

    def label(self, parameters: dict[str, float]) -> str:
        return f"best of n, n = {parameters['n']:.3g}"


class RankFamily(Ranked):
    name, formula = "rank", "exp(a F(r))"

    def statistic(self, pooled: Pooled) -> tuple[Array, float]:
        return self.ranks(pooled) - 0.5, 1.0

    def inverse(self, u: Array, parameters: dict[str, float]) -> Array:
        a = parameters["a"]
        return u if abs(a) < SMALL_TILT else np.log1p(u * np.expm1(a)) / a
