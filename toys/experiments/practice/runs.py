"""`python -m toys practice`: what users of the released DiffusionNFT code get, on toy networks.

tilt    the tilt that an epoch of online NFT takes (`toys.experiments.practice.tilt`)
times   what training at some times only costs (`toys.experiments.practice.times`)

Runs, and what was measured on them, are kept: the same command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from theory.common.checks import check_choice
from theory.common.identity import digest_of, plumbline_code
from theory.common.progress import Progress
from toys.experiments.practice.tilt import TiltPlan, measure_tilt
from toys.experiments.practice.times import TimesPlan, measure_times
from toys.training.config import RunConfig
from toys.training.files import keep, kept, write_json
from toys.training.runs import Run
from toys.training.schedule import train

PARTS = ("tilt", "times")


def practice(
    out: Path,
    only: str | None = None,
    *,
    processes: int = 2,
    tilt: TiltPlan | None = None,
    times: TimesPlan | None = None,
) -> dict[str, Any]:
    """Train what is missing, measure what has not been, and write OUT/practice.json.

    only: one of PARTS, or both. Raises ValueError for another one, and what training raises.
    """
    if only is not None:
        check_choice("only", only, PARTS)
    work = [
        *(_tilts(out, tilt or TiltPlan()) if only in (None, "tilt") else ()),
        *(_times(out, times or TimesPlan()) if only in (None, "times") else ()),
    ]
    train(out, [config for _, configs, *_ in work for config in configs], processes=processes)
    found: dict[str, Any] = {}
    with Progress(len(work), "measuring") as progress:
        for i, (name, configs, plan, measure) in enumerate(work):
            progress.update(name, 0, name)
            path = out / "practice" / f"{name.replace(' ', '-')}.json"
            key = measuring_key(plan, configs)
            found[name] = kept(path, key)
            if found[name] is None:
                found[name] = measure()
                keep(path, key, found[name])
            progress.update(name, 1, f"{i + 1} of {len(work)}")
    write_json(out / "practice.json", found)
    return found


def measuring_key(plan: object, configs: Sequence[RunConfig]) -> str:
    """Names the plan, the runs, and the code that measures."""
    return digest_of([repr(plan), plumbline_code(__name__), *(c.digest for c in configs)])


# Its name, runs, plan, and what measures them.
Part = tuple[str, list[RunConfig], object, Callable[[], dict[str, Any]]]


def _tilts(out: Path, plan: TiltPlan) -> list[Part]:
    runs = [(Run(out, plan.config(problem)), largest) for problem, largest in plan.problems]
    return [
        (
            f"tilt {run.config.problem}", [run.config], plan,
            partial(measure_tilt, run, largest, plan),
        )
        for run, largest in runs
    ]  # fmt: skip


def _times(out: Path, plan: TimesPlan) -> list[Part]:
    return [("times", list(plan.configs().values()), plan, partial(measure_times, out, plan))]
