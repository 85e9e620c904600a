"""Where rows about rewards in [0, 1] are tried: bumps of either sign on a constant level.

r = low + (high - low) * (bumps / sum of heights), 0 <= low, high <= 1. The level is a bump without
a width, so that both routes take the problem as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from theory.ledger.oracle.instants import instant
from theory.ledger.settings.domain import Domain
from theory.ledger.settings.plane import PlaneProblem
from theory.ledger.settings.problems import BETAS, TIMES, Problems, Setting
from theory.ledger.settings.random import Shape, random_case, random_point

CONDITION = 100.0
LEAST_SPREAD = 0.02  # |high - low| of what is drawn
REST = (0.05, 1.5)


@dataclass(frozen=True)
class UnitRewards(Domain[Setting]):
    """Random line problems among independent other axes, with a reward in [0, 1].

    paths: their names. least: dimensions, at fewer of which nothing is drawn. Other axes have one
    standard deviation, from REST.
    """

    paths: tuple[str, ...] = ("rectified_flow",)
    least: int = 1

    def draw(self, dim: int, seed: int) -> Setting:
        dim = max(dim, self.least)
        rng = np.random.default_rng([seed, 17, dim])
        shape = Shape(
            dim=1,
            components=int(rng.integers(1, 5)),
            condition=float(np.exp(rng.uniform(0, np.log(CONDITION)))),
            kind="bumps",
            spread=1.0,
            bumps=int(rng.integers(1, 3)),
        )
        line = random_case(shape, int(rng.integers(2**32)))
        low, high = rng.uniform(0, 1, size=2)
        while abs(high - low) < LEAST_SPREAD:
            low, high = rng.uniform(0, 1, size=2)
        case = replace(
            levelled(line, float(low), float(high)),
            frame=np.eye(dim),
            rest_std=float(np.exp(rng.uniform(*np.log(REST)))),
        )
        t = float(rng.uniform(*TIMES))
        path = str(rng.choice(self.paths))
        beta = float(np.exp(rng.uniform(*np.log(BETAS))))
        return Setting(case, random_point(case, instant(path, t), rng), t, beta, 2 / beta, path)

    def nudge(self, setting: Setting, rng: np.random.Generator, step: float) -> Setting | None:
        case = setting.case
        moved = Problems(max_condition=CONDITION).nudge(setting, rng, step)
        if moved is None:
            return None
        heights = case.parameters["heights"]
        low, own = heights[-1], heights[:-1] * np.exp(step * rng.normal(size=len(heights) - 1))
        low = low + 0.3 * step * rng.normal()
        new = {**moved.case.parameters, "heights": np.append(own, low)}
        new["precisions"] = moved.case.parameters["precisions"].copy()
        new["precisions"][-1] = 0.0
        ends = low, low + own.sum()
        if min(ends) < 0 or max(ends) > 1:
            return None
        return replace(moved, case=replace(moved.case, parameters=new), a=2 / moved.nft_beta)


def levelled(case: PlaneProblem, low: float, high: float) -> PlaneProblem:
    """A bump problem with the reward low + (high - low) bumps / sum of heights."""
    heights, e = case.parameters["heights"], case.plane_dim
    parameters = {
        "heights": np.append((high - low) * heights / heights.sum(), low),
        "centres": np.concatenate([case.parameters["centres"], np.zeros((1, e))]),
        "precisions": np.concatenate([case.parameters["precisions"], np.zeros((1, e, e))]),
    }
    return replace(case, parameters=parameters)
