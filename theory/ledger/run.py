"""Measure the ledger: rows side by side, each row's result as it comes.

The order of work does not change what is measured: every part has a seed of its own, made from the
row's id and the part's place.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context

import torch

from theory.common.checks import check_choice
from theory.common.signals import as_worker, end_workers
from theory.ledger.core import Claim, Context
from theory.ledger.core.claim import Profile, Result, is_extra
from theory.ledger.core.worst import recorded
from theory.ledger.domingo import rows as domingo
from theory.ledger.gflownet import rows as nabla
from theory.ledger.liu import rows as liu
from theory.ledger.released import rows as released
from theory.ledger.zhu import rows as zhu

SOURCES = {
    "liu": liu.ROWS,
    "zhu": zhu.ROWS,
    "released": released.ROWS,
    "domingo": domingo.ROWS,
    "nabla": nabla.ROWS,
}
# Longest first, so that two processes end together; the others in the ledger's order.
LONG = (
    "D6",
    "D5",
    "D3",
    "D11",
    "D8",
    "D7",
    "D13",
    "Z4",
    "Z5",
    "L8",
    "L1",
    "L6",
    "Z10",
    "Z7",
    "L10",
    "L9",
    "Z1",
    "Z8",
    "Z11",
)


def all_claims() -> tuple[Claim, ...]:
    """Every row, paper by paper."""
    return tuple(claim for rows in SOURCES.values() for claim in rows)


def select(only: Sequence[str] = (), source: str | None = None) -> tuple[Claim, ...]:
    """The rows named by id, or of one paper.

    Raises:
        ValueError: an unknown id or source, or an id that the source does not have.
    """
    if source is not None:
        check_choice("source", source, SOURCES)
    claims = SOURCES[source] if source else all_claims()
    by_id = {claim.id: claim for claim in claims}
    for name in only:
        check_choice("only", name, by_id)
    return tuple(by_id[name] for name in dict.fromkeys(only)) if only else claims


def measure(claim: Claim, profile: Profile) -> Result:
    """One row, part after part, and its map."""
    start = time.process_time()
    findings = tuple(
        part(
            Context(
                profile,
                seed=zlib.crc32(f"{claim.id}/{i}".encode()) % 2**20,
                recorded=recorded(claim.id, getattr(part, "name", "")),
            )
        )
        for i, part in enumerate(claim.parts)
        if profile.extras or not is_extra(part)
    )
    region = claim.region(profile.cells) if claim.region and profile.cells else None
    return Result(claim, findings, time.process_time() - start, region)


def _measure_by_id(name: str, profile: Profile) -> tuple[str, Result]:
    (claim,) = select([name])
    # Claims hold functions, which do not travel between processes.
    return name, replace(measure(claim, profile), claim=_EMPTY)


_EMPTY = Claim("", "", "", "", "", "", "", "", ())


def measure_all(
    claims: Sequence[Claim],
    profile: Profile,
    processes: int = 2,
    done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """All rows, in the order given; `done` is called with each as it is finished.

    Raises:
        Exception: whatever a row raises, with a note that names the row.
    """
    results: dict[str, Result] = {}
    with closing(_as_they_come(claims, profile, processes)) as found:
        for result in found:
            results[result.claim.id] = result
            done(result)
    return [results[claim.id] for claim in claims]


def _as_they_come(
    claims: Sequence[Claim], profile: Profile, processes: int
) -> Generator[Result, None, None]:
    by_id = {claim.id: claim for claim in claims}
    if processes == 1 or len(claims) == 1:
        for claim in claims:
            try:
                result = measure(claim, profile)
            except Exception as error:
                error.add_note(f"while measuring {claim.id}")
                raise
            yield result
        return
    order = sorted(by_id, key=lambda name: LONG.index(name) if name in LONG else len(LONG))
    # Forked where that is at home (one thread here, nothing to lock): imports cost seconds.
    start = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(processes, start, initializer=_worker) as pool:
        try:
            futures = {pool.submit(_measure_by_id, name, profile): name for name in order}
            for future in as_completed(futures):
                try:
                    name, result = future.result()
                except Exception as error:
                    error.add_note(f"while measuring {futures[future]}")
                    raise
                yield replace(result, claim=by_id[name])
        except BaseException:
            end_workers()  # a row takes up to half a minute, and the pool would wait for it
            raise


def _worker() -> None:
    as_worker()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
