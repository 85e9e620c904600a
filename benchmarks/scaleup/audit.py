"""The audit of a million base and a million tuned rewards, from CSV files to verdict and page.

CPU-seconds and peak memory of the command in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.rows import Row, child_usage

ROWS, PROMPTS, TILT = 1_000_000, 50, 0.8
SECONDS, MEMORY = 30.0, 2e9


def measure() -> list[Row]:
    """One row."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder)
        seconds, peak = child_usage(
            [sys.executable, "-m", *command_of(folder)], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        tilt = json.loads((folder / "out" / "audit.json").read_text(encoding="utf-8"))["tilt"]
    return [
        Row(
            f"audit of {ROWS:,} base and {ROWS:,} tuned rewards, {PROMPTS} prompts, CSV",
            f"{SECONDS:g} CPU-s, {MEMORY / 1e9:g} GB",
            f"{seconds:.1f} CPU-s, {peak / 1e9:.2f} GB; tilt {tilt['value']:.4f} "
            f"[{tilt['low']:.4f}, {tilt['high']:.4f}] of {TILT:g}",
            seconds <= SECONDS and peak <= MEMORY,
            {"cpu_seconds": seconds, "peak_bytes": peak, "tilt": tilt},
        )
    ]


def command_of(folder: Path) -> list[str]:
    """The audit of the rows written there, after `python -m`."""
    base, tuned = (str(folder / f"{side}.csv") for side in ("base", "tuned"))
    out = str(folder / "out")
    return ["scaleup", "audit", "--base", base, "--tuned", tuned, "--out", out]


def write_rows(folder: Path) -> None:
    """base.csv and tuned.csv."""
    for side, shift, seed in (("base", 0.0, 0), ("tuned", TILT, 1)):
        _write(folder / f"{side}.csv", shift, seed)


def _write(path: Path, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards, prompts = rng.normal(size=ROWS) + shift, rng.integers(PROMPTS, size=ROWS)
    with path.open("w", encoding="utf-8") as file:
        file.write("prompt,reward\n")
        file.writelines(
            f"a photo of thing {p},{r:.7f}\n" for p, r in zip(prompts, rewards, strict=True)
        )
