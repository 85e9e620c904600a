"""A tiny pipeline's folder, prompts, and the command line that trains on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROMPTS = ("a red square", "a green circle", "a blue triangle", "a small dog", "two cats")


def write_pipeline(folder: Path) -> dict[str, str]:
    """Save the tiny SD1.5-type pipeline and a prompts file; the options that train on them."""
    from scaleup.bench.models import tiny_sd15

    tiny_sd15().save_pretrained(folder / "tiny", safe_serialization=True)
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return {"model": str(folder / "tiny"), "prompts": str(prompts), "device": "cpu"}


def arguments(options: Mapping[str, Any], out: Path) -> list[str]:
    """`train` and its options, as the command line takes them."""
    flags = [text for k, v in options.items() for text in (f"--{k.replace('_', '-')}", str(v))]
    return ["train", *flags, "--no-tensorboard", "--out", str(out)]


def command(
    call: Sequence[str], processes: int = 1, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `python -m scaleup CALL`, by torchrun where there are several processes."""
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    return subprocess.run(
        [*start, "scaleup", *call],
        capture_output=True, text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def trained(options: Mapping[str, Any], out: Path) -> Path:
    """Run `train` to its end, with the number of processes in options; the run's folder.

    Raises:
        ValueError: it failed; with the end of what it said.
    """
    done = command(arguments(options, out), int(options.get("processes", 1)))
    folders = [path.parent for path in out.glob("*/done.json")]
    if done.returncode or len(folders) != 1:
        raise ValueError(
            f"python -m scaleup {' '.join(arguments(options, out))} ended with status "
            f"{done.returncode}: {done.stderr[-2000:]}"
        )
    return folders[0]
