"""Work for other processes: module-level, so that they find it."""

import time
from pathlib import Path


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
