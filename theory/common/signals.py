"""SIGINT (Ctrl-C) and SIGTERM (batch systems) are one orderly end: `finally` blocks run, one line
says where one stands, and the exit status is 130 or 143.

A `__main__.py` ends with

    if __name__ == "__main__":
        sys.exit(signals.run_main(main))

(its imports are light, and main's that take seconds stand in `at_once`: there a signal ends the
process with its line; a module that imports much at its head calls `catch()` before). In main a
signal raises `Stopped`. It is no Exception, so that `except Exception` lets it pass; `finally`
saves what there is; and the code that it passes through may say what was kept:

    try: ...
    except signals.Stopped as stop:
        stop.add_note("step 12 of 50 is saved in runs/a; the same command goes on from there")
        raise

Standard library only: this is imported first. Signals within SAVING_SECONDS of the first do not
break the saving that it began (launchers send several); later ones raise again.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

CAUGHT = (signal.SIGINT, signal.SIGTERM)
SAVING_SECONDS = 10.0


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; its notes (`add_note`) say where one stands."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status, 128 + the signal's number: 130 or 143."""
        return 128 + self.number

    @property
    def line(self) -> str:
        """What to say, in one line."""
        return "; ".join([f"stopped by {self}", *getattr(self, "__notes__", ())])


_running = False  # inside run_main: a signal raises Stopped
_holds = 0
_waiting: int | None = None  # the signal that came inside `held`
_since = -float("inf")  # when the end began


def catch() -> None:
    """Catch both signals; until `run_main` there is nothing to unwind, and they exit at once."""
    for number in CAUGHT:
        signal.signal(number, _on_signal)


def run_main(main: Callable[[], int]) -> int:
    """main() with both signals caught; where one arrives: its line on stderr, and 130 or 143."""
    global _running
    catch()
    _running = True
    try:
        return main()
    except Stopped as stop:
        print(stop.line, file=sys.stderr, flush=True)
        return stop.status
    finally:
        _running = False


@contextmanager
def at_once() -> Iterator[None]:
    """Inside `run_main`, around imports that take seconds: a signal ends the process at once."""
    global _running
    before, _running = _running, False
    try:
        yield
    finally:
        _running = before


@contextmanager
def held() -> Iterator[None]:
    """A signal that arrives inside (a step, a file that is written) raises at its end instead."""
    global _holds
    _holds += 1
    try:
        yield
    finally:
        _holds -= 1
        if not _holds:
            release()


def release() -> None:
    """Raise for the signal that `held` keeps back, if there is one.

    Raises:
        Stopped: there is.
    """
    global _waiting
    if _waiting is not None:
        number, _waiting = _waiting, None
        raise Stopped(number)


def waiting() -> int:
    """The number of the signal that `held` keeps back, or 0: long work inside asks now and then."""
    return _waiting or 0


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _since, _waiting
    if not _running:
        os.write(2, f"{Stopped(number).line}\n".encode())
        os._exit(128 + number)
    now = time.monotonic()
    if now - _since < SAVING_SECONDS:
        return
    _since = now
    if _holds:
        _waiting = number
        return
    raise Stopped(number)


# --- worker processes


def as_worker() -> None:
    """First of all in a worker process: it ends when its parent says so, or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked one has inherited the handler
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextmanager
def stoppable() -> Iterator[None]:
    """In a worker that saves: SIGTERM raises Stopped inside; outside it is ignored from then on,
    and the parent has another way to say that nothing new begins."""
    global _running
    _running = True
    signal.signal(signal.SIGTERM, _on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _running = False


def end_workers() -> None:
    """Terminate this process's workers: a pool waits for what they do, which may take minutes."""
    for worker in multiprocessing.active_children():
        worker.terminate()
