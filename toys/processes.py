"""Work side by side in a few processes of one thread each; they die with their parent."""

from __future__ import annotations

import ctypes
import multiprocessing
import queue
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any, TypeVar

import torch

POLL_SECONDS = 0.2

# Where a part of the work is: (part's name, units done, what to show).
Update = Callable[[str, int, str], None]
Item = TypeVar("Item")
Result = TypeVar("Result")

_events: Any = None


def side_by_side(
    work: Callable[[Item, Update], Result], items: Sequence[Item], processes: int, update: Update
) -> list[Result]:
    """[work(item, update) for item in items], in up to `processes` processes.

    Every item is tried; then the first error, if any, is raised.
    """
    if processes == 1 or len(items) <= 1:
        return _one_by_one(work, items, update)
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    pool = ProcessPoolExecutor(min(processes, len(items)), context, _start, (events,))
    try:
        futures = [pool.submit(_work, work, item) for item in items]
        pending: set[Future[Result]] = set(futures)
        while pending:
            _, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
            with suppress(queue.Empty):
                while True:
                    update(*events.get_nowait())
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    try:
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process was ended from outside (out of memory?): what it had saved is kept; "
            "the same command goes on, in one process it needs half the memory"
        ) from error


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


def _start(events: Any) -> None:
    global _events
    _events = events
    keep_heap()
    torch.set_num_threads(1)  # two OpenMP threads on a busy machine can be 30-100 times slower
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _work(work: Callable[[Item, Update], Result], item: Item) -> Result:
    def update(part: str, done: int, text: str) -> None:
        _events.put((part, done, text))

    return work(item, update)
