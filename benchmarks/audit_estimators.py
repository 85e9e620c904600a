"""The audit's floors: `python -m benchmarks theory --only audit` (alarms, power, exact tilts of
named problems) and `--only coverage` (intervals, whatever the spread of rows over prompts)."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context

from benchmarks.rows import Row
from theory.audit.coverage import SPREADS, Cell, count
from theory.audit.known_truth import Planted, alarm_rate, coverage
from theory.common.progress import Progress

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
TWICE = Planted(300)
FALSE_ALARMS, FALSE_ALARMS_TWICE, COLLAPSES = 500, 2000, 200
COLLAPSE = Planted(10_000, lost=1.0)
NOMINAL, LEVEL, ROOM, FOUND = 0.95, 0.05, 0.02, 0.9
PARTS = 20  # of a rate's repetitions, for two processes


def near(what: str, rate: float, nominal: float, room: float) -> Row:
    """A rate that is to be no further than `room` from its nominal one."""
    return Row.at_most(what, abs(rate - nominal), room, f"{100 * rate:.1f} %")


def often(what: str, rate: float, floor: float) -> Row:
    """A rate that is to be no lower."""
    return Row.at_least(what, rate, floor, f"{100 * rate:.1f} %")


def measure() -> list[Row]:
    """Every floor, on two processes."""
    # Spawned: a fork of a process whose torch has threads may hang.
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        covers = [pool.submit(coverage, *case) for case in COVERAGE]
        alarms = [_parts(pool, case, FALSE_ALARMS) for case in ALARMS]
        twice = _parts(pool, TWICE, FALSE_ALARMS_TWICE, written=2)
        found = _parts(pool, COLLAPSE, COLLAPSES)
        rows = [
            near(f"|coverage - 95 %|: {name}, a = {a:g}, n = {n}, {k} repetitions",
                 share.result(), NOMINAL, ROOM)
            for (name, a, n, k), share in zip(COVERAGE, covers, strict=True)
        ]  # fmt: skip
        rows += [
            near(f"|false alarms - 5 %|: n = {case.n}, {case.prompts} prompts, "
                 f"{FALSE_ALARMS} repetitions", _mean(parts), LEVEL, ROOM)
            for case, parts in zip(ALARMS, alarms, strict=True)
        ]  # fmt: skip
        rows += [
            near(f"|false alarms - 5 %|: every row written twice, n = {TWICE.n}, "
                 f"{FALSE_ALARMS_TWICE} repetitions", _mean(twice), LEVEL, ROOM),
            often(f"planted collapse found: n = {COLLAPSE.n}, {COLLAPSES} repetitions",
                  _mean(found), FOUND),
        ]  # fmt: skip
    return rows


def _parts(pool: ProcessPoolExecutor, case: Planted, repetitions: int, written: int = 1) -> list:
    size = repetitions // PARTS
    return [
        pool.submit(alarm_rate, case, size, first=i * size, written=written) for i in range(PARTS)
    ]


def _mean(parts: list) -> float:
    return sum(part.result() for part in parts) / len(parts)


# --- coverage, whatever the spread

PROMPTS = {10: 1000, 50: 1000, 2000: 300}  # of a cell: its repetitions
CELLS = (
    *(
        Cell(spread, prompts, tilt, differ)
        for prompts, spread, differ, tilt in product(PROMPTS, SPREADS, (0.0, 0.3), (0.0, 1.0))
    ),
    Cell("alone", 1, 0.0),
    Cell("alone", 1, 1.0),
)
# Where 1,000 (300) repetitions of an exact interval lie.
RANGE, WIDE_RANGE, ALL = (0.927, 0.973), (0.91, 0.985), (0.94, 0.96)
CONCLUDES, WIDTH, SMALL_KL = 0.99, 1.1, 0.95
LEAST_JUDGED = 0.5  # of the repetitions, to speak of a rate


def measure_coverage() -> list[Row]:
    """Of every cell: how often the intervals hold the truth, and how often there is one. Where KL
    has one in a part of the repetitions, more are drawn: a rate of few says little."""
    counts: dict[Cell, Counter[str]] = {cell: Counter() for cell in CELLS}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        _draw(pool, counts, {cell: PROMPTS.get(cell.prompts, 1000) for cell in CELLS}, "coverage")
        more = {
            cell: found["drawn"] * (found["drawn"] - found["kl"]) // found["kl"]
            for cell, found in counts.items()
            if found["drawn"] > found["kl"] >= LEAST_JUDGED * found["drawn"]
        }
        _draw(pool, counts, more, "coverage of KL")
    every = sum(counts.values(), Counter[str]())
    return [
        *(row for cell, found in counts.items() for row in _rates(cell, found)),
        _within("tilt, all cells together", every, "holds", "concludes", ALL),
        _within("one tilt, stated, all cells together", every, "one holds", "one", ALL),
        *_widths(counts),
    ]


def _draw(
    pool: ProcessPoolExecutor, counts: dict[Cell, Counter[str]], times: dict[Cell, int], what: str
) -> None:
    """So many more repetitions of each cell, PARTS parts of them or one more."""
    parts = {}
    for cell, n in times.items():
        first, size = counts[cell]["drawn"], max(n // PARTS, 1)
        for i in range(0, n, size):
            parts[pool.submit(count, cell, first + i, min(size, n - i))] = cell
    with Progress(len(parts), what) as progress:
        for done, part in enumerate(as_completed(parts), 1):
            counts[parts[part]] += part.result()
            progress.update("all", done, str(parts[part]))


def _rates(cell: Cell, found: Counter[str]) -> list[Row]:
    bounds = WIDE_RANGE if cell.prompts == 2000 else RANGE
    rows = [
        _within(f"{what}: {cell}", found, held, there, bounds)
        for what, held, there in (
            ("tilt", "holds", "concludes"),
            ("one tilt, stated", "one holds", "one"),
            ("KL", "kl holds", "kl"),
        )
        if found[there] >= LEAST_JUDGED * found["drawn"]
    ]
    if found["small"] >= LEAST_JUDGED * found["drawn"]:
        share = found["small holds"] / found["small"]
        rows.append(often(f"KL is at most: {cell}", share, SMALL_KL))
    if cell.ordinary:
        rows.append(often(f"concludes: {cell}", found["concludes"] / found["drawn"], CONCLUDES))
    return rows


def _within(
    what: str, found: Counter[str], held: str, there: str, bounds: tuple[float, float]
) -> Row:
    middle, room = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
    what = f"{what}: in {100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %, of {found[there]}"
    return near(what, found[held] / found[there], middle, room)


def _widths(counts: dict[Cell, Counter[str]]) -> list[Row]:
    """Of intervals for prompts like these, equal spreads, over the efficient one that is told
    every variance: by the number of prompts, and all together."""
    rows = []
    for prompts in (*PROMPTS, None):
        ratios = [
            found["width"] / found["efficient"]
            for cell, found in counts.items()
            if cell.spread == "equal" and prompts in (None, cell.prompts)
        ]
        who = "all" if prompts is None else f"{prompts} prompts"
        what = f"width over the efficient one's, equal spread, {who}"
        rows.append(Row.at_most(what, sum(ratios) / len(ratios), WIDTH))
    return rows
