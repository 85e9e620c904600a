"""A tiny pipeline's folder and prompts; processes of the command line or of a bench's module.

It imports nothing of Plumbline, nor torch: trl's environment has it too (ddpo_trl.py).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PROMPTS = ("a red square", "a green circle", "a blue triangle", "a small dog", "two cats")


def write_pipeline(folder: Path) -> dict[str, str]:
    """Save the tiny SD1.5-type pipeline and a prompts file; the options that train on them."""
    from benchmarks.scaleup.models import tiny_sd15

    tiny_sd15().save_pretrained(folder / "tiny", safe_serialization=True)
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return {"model": str(folder / "tiny"), "prompts": str(prompts), "device": "cpu"}


def peak_memory() -> int:
    """The most that this process has held, in bytes. Linux: VmHWM, because ru_maxrss begins with
    the memory of the process that started this one."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = [text for text in status.read_text().splitlines() if text.startswith("VmHWM")]
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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


def trained(options: Mapping[str, Any], out: Path, **environment: str) -> Path:
    """Run `train` to its end, with the number of processes in options; the run's folder.

    Raises:
        ValueError: it failed; with the end of what it said.
    """
    done = command(arguments(options, out), int(options.get("processes", 1)), **environment)
    folders = [path.parent for path in out.glob("*/done.json")]
    if done.returncode or len(folders) != 1:
        raise ValueError(
            f"python -m scaleup {' '.join(arguments(options, out))} ended with status "
            f"{done.returncode}: {done.stderr[-2000:]}"
        )
    return folders[0]


def serve(trained: Sequence[Any], step: Callable[[], object], **words: str) -> None:
    """Say what is trained (tensors), then run steps: how many on stdin, what they took on stdout.

    A line of stdin is a number, one of stdout JSON.
    """
    _say(peak=peak_memory(), trained=sum(p.numel() for p in trained), **words)
    before = [p.detach().clone() for p in trained]
    for line in sys.stdin:
        cpu = time.process_time()
        for _ in range(int(line)):
            step()
        seconds, pairs = time.process_time() - cpu, zip(trained, before, strict=True)
        moved = max(float((p.detach() - q).abs().max()) for p, q in pairs)
        _say(cpu=seconds, peak=peak_memory(), moved=moved)


def _say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def module_output(module: str, call: Sequence[str], python: str = sys.executable) -> Any:
    """What `python -m MODULE CALL` printed last, one line of JSON.

    Raises:
        ValueError: it failed; with the end of what it said.
    """
    done = subprocess.run(
        [python, "-m", module, *call],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise ValueError(
            f"python -m {module} {' '.join(call)} ended with status {done.returncode}: "
            f"{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])
