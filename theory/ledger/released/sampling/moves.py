"""What samplers make of a field that was trained at some times only, on the named problems (N6)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from theory.ledger.core import Region
from theory.problems.problem import load_problem
from theory.released.times import (
    Between,
    KnownAtTimes,
    MapLaw,
    Sampler,
    laws,
    shifted_times,
    total_variation,
    uniform_times,
)

COUNT, FINE = 10, 40  # steps of the released code's sampler in training, and in its evaluation
GRID, SHIFTED = uniform_times(COUNT), shifted_times(COUNT)
TRAINING, EVALUATION = Sampler("euler", GRID), Sampler("euler", uniform_times(FINE))
HEUN, EULER_SHIFTED = Sampler("heun", GRID), Sampler("euler", SHIFTED)
DPM_SHIFTED = Sampler("dpm2", shifted_times(FINE))
FLOW = Sampler("ode", uniform_times(24))
OTHERS = (EVALUATION, HEUN, EULER_SHIFTED, DPM_SHIFTED, FLOW)
POINTS = 201  # of the starts, where laws are compared to two digits


@dataclass(frozen=True)
class Move:
    """What a sampler makes of the field known at some times, against v* at all times: TV of the two
    laws; mean rewards of both and of the base by the same sampler."""

    tv: float
    reward: float
    whole: float
    base: float

    @property
    def share(self) -> float:
        """The change of mean reward, of what fine-tuning gains."""
        return (self.reward - self.whole) / (self.whole - self.base)


@lru_cache(maxsize=64)
def reference(name: str, sampler: Sampler, points: int) -> tuple[MapLaw, float, float]:
    """(law of v*, its mean reward, the base's) by this sampler."""
    problem = load_problem(name)
    (whole,) = laws(sampler, problem.cumulant_field(problem.scale, 1), points=points)
    (base,) = laws(sampler, problem.base_field, points=points)
    return whole, whole.mean_reward(problem.reward), base.mean_reward(problem.reward)


@lru_cache(maxsize=256)
def move(
    name: str, sampler: Sampler, times: tuple[float, ...], between: Between, points: int = POINTS
) -> Move:
    """On a named problem at its own scale."""
    problem = load_problem(name)
    field = KnownAtTimes(problem.cumulant_field(problem.scale, 1), times, between)
    (law,) = laws(sampler, field, points=points)
    whole, reward, base = reference(name, sampler, points)
    return Move(total_variation(whole, law), law.mean_reward(problem.reward), reward, base)


def times_region(cells: int) -> Region:
    """TV of Euler's laws in 40 steps, over the number of uniform times and a = 2/nft_beta."""
    problem = load_problem("note_1d")
    counts = np.unique(np.geomspace(3, 36, cells).round().astype(int))
    scales = np.linspace(0.25, 4.0, cells)
    a = torch.as_tensor(scales)
    full = problem.cumulant_field(a, 1)
    whole = laws(EVALUATION, full, (len(a),), 241)
    errors = np.empty((len(counts), cells))
    for i, n in enumerate(counts.tolist()):
        known = laws(EVALUATION, KnownAtTimes(full, uniform_times(n)), (len(a),), 241)
        errors[i] = [total_variation(p, q, 801) for p, q in zip(whole, known, strict=True)]
    return Region(
        f"Euler {FINE}: step known at some times, linear in between, against v*",
        "number of times trained at",
        counts.astype(float),
        "inverse temperature a = 2/nft_beta",
        scales,
        errors,
        "TV",
        "x",
    )
