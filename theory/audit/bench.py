"""The audit's floors, for `python -m theory bench --only audit`: coverage, alarms, power."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from theory.audit.validate import Planted, alarm_rate, coverage

# (problem, scale, n, repetitions): tilts of 0.3 to 1.6 standard deviations of the reward.
COVERAGE = (
    ("note_1d", 2.0, 1000, 1000),
    ("linear_1d", 1.0, 1000, 1000),
    ("bumps_1d", 3.0, 1000, 1000),
    ("linear_2d", 1.0, 1000, 1000),
    ("note_1d", 2.0, 100_000, 200),
    ("linear_1d", 1.0, 100_000, 200),
)
ALARMS = (Planted(1000), Planted(1000, prompts=20))
FALSE_ALARMS, COLLAPSES = 500, 200
COLLAPSE = Planted(10_000, lost=1.0)
NOMINAL, LEVEL, ROOM, FOUND = 0.95, 0.05, 0.02, 0.9
PARTS = 20  # of a rate's repetitions, for two processes


@dataclass(frozen=True)
class Rate:
    """A measured rate: how far from what it should be (None: the more the better), and the room."""

    what: str
    rate: float
    nominal: float | None
    room: float

    @property
    def higher_is_better(self) -> bool:
        return self.nominal is None

    @property
    def distance(self) -> float:
        return self.rate if self.nominal is None else abs(self.rate - self.nominal)

    @property
    def note(self) -> str:
        return f"{100 * self.rate:.1f} %"


def measure() -> list[Rate]:
    """Every floor, on two processes."""
    # Spawned: a fork of a process whose torch has threads may hang.
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        covers = [pool.submit(coverage, *case) for case in COVERAGE]
        alarms = [_parts(pool, case, FALSE_ALARMS) for case in ALARMS]
        found = _parts(pool, COLLAPSE, COLLAPSES)
        rows = [
            Rate(f"|coverage - 95 %|: {name}, a = {a:g}, n = {n}, {k} repetitions",
                 share.result(), NOMINAL, ROOM)
            for (name, a, n, k), share in zip(COVERAGE, covers, strict=True)
        ]  # fmt: skip
        rows += [
            Rate(f"|false alarms - 5 %|: n = {case.n}, {case.prompts} prompts, "
                 f"{FALSE_ALARMS} repetitions", _mean(parts), LEVEL, ROOM)
            for case, parts in zip(ALARMS, alarms, strict=True)
        ]  # fmt: skip
        what = f"planted collapse found: n = {COLLAPSE.n}, {COLLAPSES} repetitions"
        rows.append(Rate(what, _mean(found), None, FOUND))
    return rows


def _parts(pool: ProcessPoolExecutor, case: Planted, repetitions: int) -> list:
    size = repetitions // PARTS
    return [pool.submit(alarm_rate, case, size, first=i * size) for i in range(PARTS)]


def _mean(parts: list) -> float:
    return sum(part.result() for part in parts) / len(parts)
