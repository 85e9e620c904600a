"""The estimators on problems with known truth: what they cover, miss, find; and at what size.

    coverage     intervals of the tilt on exact tilts of named problems (closed form, exact draws)
    false_alarm  the conditional test on exact tilts of a mixture in 16 dimensions
    collapse     the same with one mode of 5 % of the mass gone, 4 standard deviations from its
                 neighbours, and the same law of rewards
    nft          NFT's exact law (no exact tilt): the likeliest tilt, what explains it
    best_of_n    best of n samples of a prompt

Features of the mixture: f = s + 4 b e_2, s ~ N(0, I_16), b Bernoulli(0.05); reward
r = s_1 + 0.3 (s_3^2 - 1), which does not know b. A tilt by exp(a r) draws s from base exp(a r).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from theory.audit.data.copies import distinct
from theory.audit.data.inputs import audit_data
from theory.audit.data.samples import Array, AuditData
from theory.audit.estimators.conditional import TooFewError, conditional_test, permute
from theory.audit.estimators.tilt import Interval, effective_tilt
from theory.audit.families.families import FAMILIES
from theory.problems.problem import Problem, load_problem
from theory.tilts.wrappers import Exponential

DIM, MODE, AWAY = 16, 0.05, 4.0
BENT = 0.3


# --- rewards of named problems


def tilted_rewards(problem: Problem, scale: float, n: int, seed: int) -> tuple[Array, Array]:
    """(base, tuned) rewards, n each, of base and base exp(scale r)/Z; exact draws.

    Raises:
        ValueError: the tilt has no closed form that can be drawn from.
    """
    law = problem.tilt(Exponential(scale)).law
    if law is None:
        raise ValueError(
            f"exp({scale:g} r) on {problem.name} must have a closed form to be drawn from"
        )
    base, tuned = (
        problem.reward(source.sample(n, torch.Generator().manual_seed(2 * seed + part))).numpy()
        for part, source in enumerate((problem.base, law))
    )
    return base, tuned


def tilt_interval(base: Array, tuned: Array) -> Interval:
    """The effective tilt of rewards of one prompt."""
    pooled = audit_data(base, tuned).pooled
    return effective_tilt(FAMILIES["exponential"].fit(pooled), pooled)


def coverage(problem: str, scale: float, n: int, repetitions: int) -> float:
    """The share of repetitions whose 95 % interval holds the true tilt."""
    known = load_problem(problem)
    hits = 0
    for seed in range(repetitions):
        found = tilt_interval(*tilted_rewards(known, scale, n, seed))
        hits += found.low <= scale <= found.high
    return hits / repetitions


# --- a mixture of features


@dataclass(frozen=True)
class Planted:
    """n samples a side in even prompts, tilted by exp(scale r); lost: the share of the small mode
    that is gone in the tuned ones; wrong_base: base samples of another model, moved along an axis
    that the reward does not know."""

    n: int
    scale: float = 0.7
    prompts: int = 1
    lost: float = 0.0
    wrong_base: float = 0.0

    def draw(self, seed: int) -> AuditData:
        rng = np.random.default_rng(seed)
        sides = [self._side(rng, 0.0, 0.0), self._side(rng, self.scale, self.lost)]
        sides[0][0][:, 4] += self.wrong_base
        who = np.arange(self.n) % self.prompts
        return audit_data(
            sides[0][1],
            sides[1][1],
            who,
            who,
            base_features=sides[0][0],
            tuned_features=sides[1][0],
        )

    def _side(self, rng: np.random.Generator, scale: float, lost: float) -> tuple[Array, Array]:
        """exp(a r) moves s_1 by a and widens s_3 to 1/sqrt(1 - 2 a c), r = s_1 + c (s_3^2 - 1)."""
        s = rng.normal(size=(self.n, DIM))
        s[:, 0] += scale
        s[:, 2] /= np.sqrt(1 - 2 * scale * BENT)
        reward = s[:, 0] + BENT * (s[:, 2] ** 2 - 1)
        in_mode = rng.random(self.n) < MODE * (1 - lost) / (1 - MODE * lost)
        s[:, 1] += AWAY * in_mode
        return s, reward


def alarm_rate(
    case: Planted,
    repetitions: int,
    permutations: int = 199,
    level: float = 0.05,
    first: int = 0,
    written: int = 1,
) -> float:
    """How often the conditional test rejects at the level; written: so often is every row there."""
    alarms = 0
    for seed in range(first, first + repetitions):
        data = case.draw(seed)
        if written > 1:
            copied = (np.repeat(np.arange(len(side)), written) for side in (data.base, data.tuned))
            data, _ = distinct(data.take(*copied))
        try:
            found = conditional_test(data, permute(data, seed, permutations), seed, second=False)
        except TooFewError:
            continue  # nothing is concluded, so nothing is alarmed
        alarms += found.p_value <= level
    return alarms / repetitions
