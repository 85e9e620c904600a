"""Runs that a signal ends (SIGINT, SIGTERM in turn, at random moments) and that are started again:
the last finished step saved in time, the exit status, and the end bit by bit as if left alone."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from benchmarks.scaleup.resume import (
    NFT,
    OPTIONS,
    SAID,
    different,
    finished,
    start_child,
    train,
)
from benchmarks.scaleup.small import arguments, write_pipeline
from scaleup.training.checkpoints import CHECKPOINTS, step_of

MOMENTS, STEPS, LIMIT, ATTEMPTS = 10, 40, 10.0, 8
FINISHED = "finished.txt"


def measure() -> list[Row]:
    """One row: `scaleup train`."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        # Only at its end on its own, so that what is found was saved at the signal.
        length = {"steps": STEPS, "checkpoint_every": STEPS}
        options = {**write_pipeline(folder), **OPTIONS, **NFT, **length}
        return [stopped_and_resumed(options, folder / "out", MOMENTS)]


def stopped_and_resumed(options: dict[str, Any], out: Path, count: int, seed: int = 0) -> Row:
    """The run, ended by a signal at `count` random moments in folders of their own.

    Raises:
        ValueError: a run could not be stopped before its end, or failed when started again.
    """
    train(options, out / "first")  # warms up: imports, files in the cache
    start = time.monotonic()
    expected = _at_the_end(train(options, out / "whole"))
    seconds = time.monotonic() - start
    rng, told = random.Random(seed), []
    for number in range(count):
        kind = (signal.SIGINT, signal.SIGTERM)[number % 2]
        found = _stopped(options, out / str(number), kind, rng, seconds)
        found["different"] = different(expected, _at_the_end(train(options, out / str(number))))
        told.append(found)
    good = [
        found
        for found in told
        if found["seconds"] <= LIMIT
        and found["status"] == 128 + found["signal"]
        and found["saved"] - found["finished"] in (0, 1)  # it may not have come to say so
        and not found["different"]
    ]
    steps = ", ".join(str(found["saved"]) for found in told)
    return Row(
        "scaleup train ended by SIGINT and SIGTERM: last finished step saved within 10 s, status "
        "130 or 143, and started again bit-equal to a run left alone",
        f"{count} of {count}",
        f"{len(good)} of {count}, saved at steps {steps} in at most "
        f"{max(found['seconds'] for found in told):.1f} s",
        len(good) == count,
        {"good": len(good), "stops": told},
    )


def _at_the_end(folder: Path) -> dict[str, str]:
    """As `finished`, of the checkpoints the last: which older one is beside it tells when it was
    stopped."""
    last = max(folder.glob(f"checkpoints/{CHECKPOINTS}")).name
    return {
        name: digest
        for name, digest in finished(folder).items()
        if not name.startswith("checkpoints/") or name.endswith(last)
    }


def _stopped(
    options: dict[str, Any], out: Path, kind: signal.Signals, rng: random.Random, seconds: float
) -> dict[str, Any]:
    """Start, send the signal at a random moment after the first checkpoint; what came of it."""
    for _ in range(ATTEMPTS):
        process = start_child(out, _child, arguments(options, out), out)
        while process.is_alive() and not list(out.glob(f"*/checkpoints/{CHECKPOINTS}")):
            time.sleep(0.005)
        process.join(rng.random() * seconds)
        if process.is_alive():
            sent = time.monotonic()
            assert process.pid is not None
            os.kill(process.pid, kind)
            process.join(10 * LIMIT)
            waited = time.monotonic() - sent
            process.kill()
            process.join()
        if process.exitcode and not list(out.glob("*/done.json")):
            saved = [step_of(path) for path in out.glob(f"*/checkpoints/{CHECKPOINTS}")]
            lines = (out / FINISHED).read_text().split() if (out / FINISHED).exists() else []
            said = (out / SAID).read_text(encoding="utf-8").splitlines()
            return {
                "signal": int(kind), "status": process.exitcode, "seconds": round(waited, 2),
                "saved": max(saved), "finished": int(lines[-1]) if lines else 0,
                "said": said[-1] if said else "",
            }  # fmt: skip
        shutil.rmtree(out)
    raise ValueError(f"{ATTEMPTS} runs ended before the signal was sent")


def _child(call: list[str], out: Path) -> None:
    """`python -m scaleup CALL`, which notes every finished step; what it says goes to a file."""
    from scaleup.__main__ import main
    from scaleup.training.trainer import Trainer
    from theory.common import signals

    one_step = Trainer.one_step

    def noted(self: Trainer) -> dict[str, float]:
        row = one_step(self)
        with (out / FINISHED).open("a") as file:
            file.write(f"{self.step}\n")
        return row

    Trainer.one_step = noted  # type: ignore[method-assign]
    with (
        (out / SAID).open("w", encoding="utf-8") as file,
        redirect_stdout(file),
        redirect_stderr(file),
    ):
        status = signals.run_main(lambda: main(call))
    sys.exit(status)
