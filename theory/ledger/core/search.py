"""The search for the worst problem of an exact part: climb the error from many random starts.

From each start a (1 + 1) evolution strategy nudges mixture, reward, point, time and parameters
together, keeps what raises the error, and adapts its step. What it finds is put on record, so that
quicker profiles can try the same places again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from theory.ledger.core.claim import Profile
from theory.ledger.core.identity import Identity

DIMS = (1, 1, 1, 1, 1, 1, 1, 1, 1, 2)  # quadrature is ten times as fast on the line
KEPT = 3
GROWTH, SHRINK = 1.6, 0.8


@dataclass(frozen=True)
class Found:
    """The worst settings of a search, worst first, as JSON, with their errors.

    gave_up: of the evaluations, those where the second route could not say.
    """

    name: str
    starts: int
    evaluations: int
    gave_up: int
    errors: tuple[float, ...]
    settings: tuple[dict[str, Any], ...]


def search(identity: Identity, profile: Profile, seed: int = 0) -> Found:
    """profile.starts climbs of profile.steps steps each."""
    ends: list[tuple[float, dict[str, Any]]] = []
    tried: list[float] = []
    dims = [d for d in DIMS if d in identity.dims] or [min(identity.dims)]

    def error_at(setting: Any) -> float:
        tried.append(identity.compare(setting, with_mutants=False).error)
        return tried[-1]

    for start in range(profile.starts):
        rng = np.random.default_rng([seed, start])
        setting = identity.domain.draw(dims[start % len(dims)], int(rng.integers(2**31)))
        error, step = error_at(setting), 0.2
        for _ in range(profile.steps):
            moved = identity.domain.nudge(setting, rng, step)
            trial = math.nan if moved is None else error_at(moved)
            if trial > error or (np.isnan(error) and not np.isnan(trial)):
                setting, error, step = moved, trial, step * GROWTH
            else:
                step *= SHRINK
        if not np.isnan(error):
            ends.append((error, setting.pack()))
    kept = sorted(ends, key=lambda pair: -pair[0])[:KEPT]
    return Found(
        identity.name,
        profile.starts,
        len(tried),
        int(np.isnan(tried).sum()),
        tuple(e for e, _ in kept),
        tuple(s for _, s in kept),
    )
