"""Work for other processes: module-level, so that they find it."""

import os
import signal
import time
from pathlib import Path

from theory.common import signals


def slow_first(item, update):
    """The first item ends last."""
    time.sleep(0.3 if item == 0 else 0.0)
    update(str(item), 1, f"item {item}")
    return item**2


def refuse_some(item, update):
    """Leaves a mark; 1 and 2 are refused, 2 first."""
    folder, number = item
    Path(folder, str(number)).touch()
    if number == 1:
        time.sleep(0.3)
        raise ValueError("one is refused")
    if number == 2:
        raise OSError("two is refused")
    return number


def until_stopped(item, update):
    """Works for ever in steps that no signal breaks; says how far it came, on disk and in words."""
    folder, number = item
    done = 0
    try:
        while True:
            with signals.held():
                done += 1
                time.sleep(0.01)
                Path(folder, str(number)).write_text(str(done))
            update(str(number), done, "at work")
    except signals.Stopped as stop:
        stop.add_note(f"{number} did {done}")
        raise


def ended_from_outside(item, update):
    """A signal to the worker alone."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
