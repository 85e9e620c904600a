"""Runs killed (SIGKILL) and started again, against one left alone, file by file and bit by bit.

Moments: random ones, from outside; inside a checkpoint's write (its draft half on disk, whole but
not in place, in place with the older ones still there); before the first checkpoint. Two runs:
NFT online with an old copy and a pool, and DDPO with its value network; and three of GFlowNets with
a flow network or log Z beside.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.rows import Row
from benchmarks.scaleup.small import arguments, write_pipeline
from scaleup.training.checkpoints import checkpoint_path
from theory.common.files import read_json

Stage = Literal["half", "whole", "placed"]
# What a finished run leaves that must be the same to the byte; samples are compared by content,
# and seconds differ.
SAME = (
    "config.json", "metrics.csv", "checkpoints/*.safetensors", "lora/*", "comparison.json",
)  # fmt: skip
OPTIONS: dict[str, Any] = {
    "reward": "redness",
    "batch": 8,
    "learning_rate": 1e-3,
    "lora_rank": 4,
    "sampling_steps": 3,
    "chunk": 8,
    "evaluate": 32,
    "grid_every": 0,
}
NFT = {
    "method": "nft:nft_beta=0.5,reward_mapping=released,refresh_every=9,old_decay=0.5,pool=16",
    "steps": 90,
    "checkpoint_every": 10,
}
DDPO = {"method": "ddpo:steps=4,kl_weight=0.1", "steps": 60, "checkpoint_every": 10}

SHORT = {"steps": 40, "checkpoint_every": 8}
NABLA = {
    "method": "residual_nabla_db:steps=6,subset=3,anchor_weight=0.1,smoothing=0.002,"
    "smoothing_draws=2",
    **SHORT,
}
BALANCE = {"method": "residual_db:steps=6,subset=3", **SHORT}
TRAJECTORY = {"method": "relative_trajectory_balance:steps=6", **SHORT}

PRELOAD = (
    "scaleup.training.run",
    "scaleup.commands.train",
    "scaleup.rewards.redness",
)
ATTEMPTS = 8
POLL = 0.005
SAID = "said.txt"


@dataclass(frozen=True)
class AtWrite:
    """Killed at the `count`-th time (from 1) that a file of this name is put in place."""

    start: str
    count: int
    stage: Stage = "half"

    def __str__(self) -> str:
        places = {"half": "half-written", "whole": "written, not in place", "placed": "in place"}
        return f"{self.start} {self.count} {places[self.stage]}"


@dataclass(frozen=True)
class AfterCheckpoint:
    """Killed from outside, this share of an interval between checkpoints after one is there; the
    last one is followed by the comparison of base and tuned. On a busy machine an interval takes
    longer than it did: the moment then is earlier in it, and no less a moment."""

    step: int
    share: float

    def __str__(self) -> str:
        return f"checkpoint {self.step}, {100 * self.share:.0f} % of an interval later"


Moment = AtWrite | AfterCheckpoint
BEFORE_FIRST = AtWrite("config.json", 1, "placed")
WRITES = {
    "nft": (AtWrite("step-", 1), AtWrite("step-", 4), AtWrite("step-", 6, "whole"),
            AtWrite("step-", 7, "placed")),
    "ddpo": (AtWrite("step-", 3),),
    "nabla": (AtWrite("step-", 2), AtWrite("step-", 4, "whole")),
    "balance": (AtWrite("step-", 3, "placed"),),
    "trajectory": (AtWrite("step-", 5),),
}  # fmt: skip
RANDOM_MOMENTS = {"nft": 9, "ddpo": 5, "nabla": 2, "balance": 2, "trajectory": 2}
# What a run is, and its options.
RUNS = {
    "nft": ("NFT online, old copy and pool", NFT),
    "ddpo": ("DDPO with its value network", DDPO),
}
GFLOWNETS = {
    "nabla": ("residual nabla-DB, flow network and old copy", NABLA),
    "balance": ("residual DB, flow network", BALANCE),
    "trajectory": ("relative trajectory balance, log Z", TRAJECTORY),
}


def moments(name: str, options: Mapping[str, Any], seed: int = 0) -> list[Moment]:
    """Of one run: its writes, and random ones; the first run has one before its checkpoints."""
    rng = random.Random(f"{seed} {name}")
    steps = range(0, options["steps"] + 1, options["checkpoint_every"])
    places = sorted((rng.choice(steps), rng.random()) for _ in range(RANDOM_MOMENTS[name]))
    first = (BEFORE_FIRST,) if name == "nft" else ()
    return [*first, *WRITES[name], *(AfterCheckpoint(*place) for place in places)]


def measure() -> list[Row]:
    """A row a run."""
    return _rows(RUNS)


def measure_gflownets() -> list[Row]:
    """The same of GFlowNets; ten kills."""
    return _rows(GFLOWNETS)


def _rows(runs: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        common = {**write_pipeline(folder), **OPTIONS}
        return [
            killed_and_resumed(what, {**common, **options}, moments(name, options), folder / name)
            for name, (what, options) in runs.items()
        ]


def killed_and_resumed(what: str, options: dict[str, Any], when: list[Moment], out: Path) -> Row:
    """The run, killed at each moment in a folder of its own and started again.

    Raises:
        ValueError: two runs left alone differ already, or a run could not be killed in time.
    """
    train(options, out / "first")  # warms up: imports, files in the cache
    start = time.monotonic()
    expected = finished(train(options, out / "whole"))
    interval = (time.monotonic() - start) * options["checkpoint_every"] / options["steps"]
    if wrong := different(finished(_folder(out / "first")), expected):
        raise ValueError(f"{what}: two runs that were left alone differ in {', '.join(wrong)}")
    equal, told = 0, []
    for number, moment in enumerate(when):
        place = out / str(number)
        step = train_until(moment, options, place, interval)
        wrong = different(expected, finished(train(options, place)))
        equal += not wrong
        told.append({"moment": str(moment), "checkpoint": step, "different": wrong})
    writes = sum(isinstance(m, AtWrite) and m != BEFORE_FIRST for m in when)
    steps = ", ".join("none" if e["checkpoint"] is None else str(e["checkpoint"]) for e in told)
    return Row(
        f"{what}: killed (SIGKILL) and started again, bit-equal to a run left alone",
        f"{len(when)} of {len(when)}",
        f"{equal} of {len(when)}, {writes} of them inside a checkpoint's write; newest checkpoints "
        f"at the kill: {steps}",
        equal == len(when),
        {"equal": equal, "kills": len(when), "moments": told, "files": sorted(expected)},
    )


# --- one run


def train(options: dict[str, Any], out: Path) -> Path:
    """Run to the end in a process of its own; the run's folder.

    Raises:
        ValueError: it failed; with the end of what it said.
    """
    process = _started(options, out, None)
    process.join()
    if process.exitcode:
        said = (out / SAID).read_text(encoding="utf-8")[-2000:]
        raise ValueError(f"the run in {out} ended with status {process.exitcode}: {said}")
    return _folder(out)


def train_until(moment: Moment, options: dict[str, Any], out: Path, interval: float) -> int | None:
    """Start, and kill at the moment; the newest checkpoint's step, None: there is none.

    interval: seconds between checkpoints; where a run ended before it was killed, less is tried.

    Raises:
        ValueError: every attempt ended before it was killed.
    """
    for _ in range(ATTEMPTS):
        process = _started(options, out, moment if isinstance(moment, AtWrite) else None)
        if isinstance(moment, AfterCheckpoint):
            name = checkpoint_path(Path("*/checkpoints"), moment.step)
            while process.is_alive() and not list(out.glob(str(name))):
                time.sleep(POLL)
            process.join(moment.share * interval)
            process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL and not list(out.glob("*/done.json")):
            steps = [int(path.stem.split("-")[1]) for path in out.glob("*/checkpoints/step-*")]
            return max(steps, default=None)
        shutil.rmtree(out)
        interval /= 2
    raise ValueError(f"{moment}: {ATTEMPTS} runs ended before they were killed")


def _folder(out: Path) -> Path:
    (file,) = out.glob("*/done.json")
    return file.parent


def _started(options: dict[str, Any], out: Path, moment: AtWrite | None) -> Any:
    return start_child(out, _child, arguments(options, out), out / SAID, moment)


def start_child(out: Path, child: Callable[..., None], *words: object) -> Any:
    """child(*words) in a process of its own, forked from one that has imported what runs need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, child.__module__])
    out.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=child, args=words)
    process.start()
    return process


def _child(call: list[str], said: Path, moment: AtWrite | None) -> None:
    """`python -m scaleup CALL`, with the kill that was asked for; what it says goes to a file."""
    from scaleup.__main__ import main

    if moment is not None:
        kill_at(moment)
    with said.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        status = main(call)
    sys.exit(status)


def kill_at(moment: AtWrite) -> None:
    """From now on this process kills itself at the moment: files are put in place by
    Path.replace, their drafts having been written before."""
    replace, counter = Path.replace, itertools.count(1)

    def watched(draft: Path, target: Any) -> Path:
        if not Path(target).name.startswith(moment.start) or next(counter) != moment.count:
            return replace(draft, target)
        if moment.stage == "half":
            os.truncate(draft, draft.stat().st_size // 2)
        elif moment.stage == "placed":
            replace(draft, target)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a killed process goes on")

    Path.replace = watched  # type: ignore[method-assign, assignment]


# --- what is compared


def finished(folder: Path) -> dict[str, str]:
    """Digests of what a finished run leaves, by name: weights, optimiser, generator and metrics
    (the last checkpoint), the LoRA file, every sample.

    Raises:
        ValueError: something is missing.
    """
    from scaleup.samples.records import read_samples

    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in SAME
        for path in sorted(folder.glob(pattern))
    }
    for which in ("base", "tuned"):
        samples = read_samples(folder, which)
        values = {
            "index": samples.index, "seed": samples.seed, "prompt": samples.prompt_index,
            "images": samples.images, "x1": samples.x1, "features": samples.features,
            **samples.rewards,
        }  # fmt: skip
        for name, value in values.items():
            assert value is not None
            digest = hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
            found[f"samples/{which}/{name}"] = digest
    wanted = ("metrics.csv", "checkpoints/", "lora/")
    if missing := [name for name in wanted if not any(k.startswith(name) for k in found)]:
        raise ValueError(f"{folder}: a finished run without {', '.join(missing)}")
    if read_json(folder / "done.json")["processes"] != 1:
        raise ValueError(f"{folder} must be trained by one process, and was by several")
    return found


def different(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names that are not in both, or not the same."""
    return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
