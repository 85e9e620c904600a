"""Work side by side in a few processes of one thread each; they die with their parent, and where
it is stopped by a signal they save what they have first."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from theory.common import signals

POLL_SECONDS = 0.2
# What workers have to save their state; then they are killed.
END_SECONDS = 8.0
FROM_OUTSIDE = (
    "a worker process was ended from outside (out of memory?): what it had saved is kept; "
    "the same command goes on, in one process it needs half the memory"
)

# Where a part of the work is: (part's name, units done, what to show).
Update = Callable[[str, int, str], None]
Item = TypeVar("Item")
Result = TypeVar("Result")

_events: Any = None
_stop: Any = None
_begun: Any = None


@dataclass(frozen=True)
class _Ended:
    """In place of a result: a signal ended the work, which says where it stands."""

    notes: tuple[str, ...] = ()


def side_by_side(
    work: Callable[[Item, Update], Result], items: Sequence[Item], processes: int, update: Update
) -> list[Result]:
    """[work(item, update) for item in items], in up to `processes` processes.

    Every item is tried; then the first error, if any, is raised. A signal ends all of it, each
    worker's work by `signals.Stopped`; what that says is said by this process's own.
    """
    if processes == 1 or len(items) <= 1:
        return _one_by_one(work, items, update)
    context = multiprocessing.get_context("spawn")
    events, stop, begun = context.Queue(), context.Event(), context.Value("i", 0)
    shared = (events, stop, begun)
    pool = ProcessPoolExecutor(min(processes, len(items)), context, _start, shared)
    futures: list[Future[Result | _Ended]] = []
    try:
        # A worker begins with the signals blocked, until it knows what to do with them.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.CAUGHT)
        try:
            futures += [pool.submit(_work, work, item) for item in items]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.CAUGHT)
        pending = set(futures)
        while pending:
            _, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
            with suppress(queue.Empty):
                while True:
                    update(*events.get_nowait())
    except BaseException as error:
        stop.set()
        for note in _end(pool, futures, begun):
            error.add_note(note)
        raise
    pool.shutdown()
    results: list[Result] = []
    try:
        for future in futures:
            result = future.result()
            if isinstance(result, _Ended):
                raise OSError(FROM_OUTSIDE)
            results.append(result)
    except BrokenProcessPool as error:
        raise OSError(FROM_OUTSIDE) from error
    return results


def _end(pool: ProcessPoolExecutor, futures: Sequence[Future[Any]], begun: Any) -> list[str]:
    """Stop the workers: those at work save what they have, and say so; others are not waited for
    (they may still be at their imports)."""
    workers, start = multiprocessing.active_children(), time.monotonic()
    running = [future for future in futures if not future.cancel()]
    signals.end_workers()
    while sum(f.done() for f in running) < begun.value and time.monotonic() - start < END_SECONDS:
        time.sleep(POLL_SECONDS / 4)
    ended = [f.result() for f in running if f.done() and f.exception() is None]
    for worker in workers:
        worker.kill()
    pool.shutdown(cancel_futures=True)
    return [note for one in ended if isinstance(one, _Ended) for note in one.notes]


def _one_by_one(
    work: Callable[[Item, Update], Result], items: Sequence[Item], update: Update
) -> list[Result]:
    results, errors = [], []
    for item in items:
        try:
            results.append(work(item, update))
        except (ValueError, OSError) as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return results


def keep_heap() -> None:
    """Let the C library keep the memory of large arrays.

    glibc gives it back to the system at every step, and page faults then cost more than the
    arithmetic.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            libc = ctypes.CDLL(None)
            libc.mallopt(-3, 2**30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def one_thread() -> None:
    """Of torch, also where it is imported later; two OpenMP threads on a busy machine can be 30-100
    times slower."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _start(events: Any, stop: Any, begun: Any) -> None:
    global _events, _stop, _begun
    _events, _stop, _begun = events, stop, begun
    signals.as_worker()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # to the idle, `stop` says it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.CAUGHT)
    keep_heap()
    one_thread()


def _work(work: Callable[[Item, Update], Result], item: Item) -> Result | _Ended:
    def update(part: str, done: int, text: str) -> None:
        _events.put((part, done, text))

    with _begun.get_lock():
        _begun.value += 1
    try:
        with signals.stoppable():
            return _Ended() if _stop.is_set() else work(item, update)
    except signals.Stopped as stopped:
        _stop.set()
        return _Ended(tuple(getattr(stopped, "__notes__", ())))
