"""What a user's code raises, with whose it is and the place: their file, not a traceback.

Plumbline's own checks, met on the way, pass as they are: what they say is complete.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("theory", "toys", "scaleup", "figures", "benchmarks")
OURS = tuple(str(ROOT / folder) + "/" for folder in PACKAGES)
LIBRARIES = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib"))
# Said by our own checks, or by the machine.
SAID = (ValueError, OSError, NotImplementedError)


@contextmanager
def named(who: str, promised: str) -> Iterator[None]:
    """What a user's code raises inside becomes "WHO raised KIND: TEXT (FILE, line N): must
    give PROMISED".

    Without a user's frame, and where one of our own checks (`SAID`) is the innermost frame that is
    no library's, an error passes as it is; so does everything that says that memory is out.

    Raises:
        ValueError: a user's code raised.
    """
    try:
        yield
    except Exception as error:
        place = _place(error)
        if place is None or memory_is_out(error):
            raise
        what = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ValueError(
            f"{who} raised {what} ({place.filename}, line {place.lineno}): must give {promised}"
        ) from error


def memory_is_out(error: Exception) -> bool:
    """Whether it is what Python, or torch, says where memory is out."""
    torch_says = isinstance(error, RuntimeError) and "memory" in str(error).lower()
    return torch_says or isinstance(error, MemoryError)


def _place(error: Exception) -> traceback.FrameSummary | None:
    """The innermost frame of the user's code that is to blame, or None."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(OURS):
            if isinstance(error, SAID):
                return None
        elif not frame.filename.startswith(("<", *LIBRARIES)):
            return frame
    return None
