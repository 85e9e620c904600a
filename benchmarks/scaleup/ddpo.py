"""DDPO's steps/s and peak memory against trl 0.23.1, the last release of trl that has it.

trl lives in an environment of its own below results/bench/trl, made on first use (or in the one
that PLUMBLINE_TRL_PYTHON names: the path of its Python). Same pipeline, batch, number of sampling
steps, LoRA (trl's own: rank 4 in the attention layers), guidance and reward; float32, one thread;
a step is one batch of samples, scored and decoded, and one step of the optimiser. The two wait for
each other and take turns; CPU-seconds, medians. With the whole batch at once the floor is speed;
in micro-batches of one picture, whose graph holds about as many rows as trl's, it is memory.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from benchmarks.scaleup.small import PROMPTS

TRL = "0.23.1"
# Releases of its time: it was written for transformers 4.
WITH = ("transformers>=4.57,<5", "diffusers>=0.35,<0.37", "peft>=0.17,<0.19", "accelerate>=1.10,<2")
FOLDER = Path("results/bench/trl")
OURS = [sys.executable, "-m", "benchmarks.scaleup.ddpo_ours"]
THEIRS = str(Path(__file__).with_name("ddpo_trl.py"))
ROUNDS = 7
MIB = 2**20
COMMON = {"batch": 8, "sampling_steps": 10, "rank": 4, "guidance": 5.0, "prompts": PROMPTS}
# (pipeline, our micro_batch, steps a turn)
CASES = (("tiny_sd15", 0, 4), ("small_sd15", 0, 1), ("small_sd15", 1, 1))


def measure() -> list[Row]:
    """A row a pipeline and micro_batch; one that says why where trl cannot be had."""
    try:
        python = trl_python()
    except OSError as error:
        return [Row(f"DDPO against trl {TRL}", "not slower", str(error), None)]
    return [against_trl(python, *case) for case in CASES]


def against_trl(python: str, model: str, micro_batch: int, steps: int) -> Row:
    """Both in turns; the first turn warms up."""
    options = json.dumps({**COMMON, "model": model, "micro_batch": micro_batch})
    ours, theirs = Peer([*OURS, options]), Peer([python, THEIRS, options])
    turns: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
    with ours, theirs:
        for number in range(ROUNDS + 1):
            pair = [("ours", ours), ("trl", theirs)]
            for name, peer in pair if number % 2 else reversed(pair):
                turns[name].append(peer.run(steps))
    rates = {k: steps / statistics.median(t["cpu"] for t in v[1:]) for k, v in turns.items()}
    ratios = [t["cpu"] / o["cpu"] for o, t in zip(turns["ours"], turns["trl"], strict=True)][1:]
    ratio = statistics.median(ratios)
    memory = {k: v[-1]["peak"] / MIB for k, v in turns.items()}
    parameters = {ours.hello["trained"], theirs.hello["trained"]}
    if len(parameters) != 1 or not all(v[-1]["moved"] > 0 for v in turns.values()):
        raise ValueError(f"{model}: LoRA of {parameters} parameters, moved by {turns}: not alike")
    rows = f"micro_batch {micro_batch}" if micro_batch else "whole batch at once"
    return Row(
        f"DDPO against trl {theirs.hello['trl']}, {model}, {COMMON['batch']} pictures a step, "
        f"{COMMON['sampling_steps']} sampling steps, guidance {COMMON['guidance']:g}; ours: {rows}",
        "no more memory" if micro_batch else "not slower",
        f"{ratio:.2f}x: {rates['ours']:.3g} against {rates['trl']:.3g} steps/CPU-s; peak memory "
        f"{memory['ours']:.0f} against {memory['trl']:.0f} MiB",
        memory["ours"] <= memory["trl"] if micro_batch else ratio >= 1,
        {"ratio": ratio, "ratios": ratios, "steps_per_cpu_second": rates, "peak_mib": memory},
    )


class Peer:
    """A process that runs steps on request and says what they took, in lines of JSON."""

    def __init__(self, call: list[str]) -> None:
        self.name, self.said = " ".join(call[:3]), tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        try:
            self.hello = self._heard()
        except ValueError:
            self.__exit__()
            raise

    def run(self, steps: int) -> dict[str, float]:
        """What so many steps took."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self._heard()

    def _heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # others are a library's
                return dict(json.loads(line))
        self.said.seek(0)
        raise ValueError(f"{self.name} ended: {self.said.read()[-2000:]}")

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.communicate()  # closes its stdin, which ends its loop
        self.said.close()


def trl_python(folder: Path = FOLDER) -> str:
    """The Python of an environment with trl; made on first use.

    Raises:
        OSError: it cannot be made; with the installer's last words.
    """
    given = os.environ.get("PLUMBLINE_TRL_PYTHON")
    python = given or str((folder / "bin" / "python").absolute())
    if given or _has_trl(python):
        return python
    _installed([sys.executable, "-m", "venv", str(folder)])
    torch = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__.split('+')[0])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    pip = [python, "-m", "pip", "install", "--quiet"]
    _installed([*pip, f"torch=={torch}"])  # first, or trl's requirements choose a build
    _installed([*pip, f"trl=={TRL}", *WITH])
    return python


def _has_trl(python: str) -> bool:
    if not Path(python).is_file():
        return False
    call = [python, "-c", "from importlib.metadata import version; print(version('trl'))"]
    return subprocess.run(call, capture_output=True, text=True).stdout.strip() == TRL


def _installed(call: list[str]) -> None:
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"trl {TRL} cannot be installed: {' '.join(call)}: {done.stderr[-600:]}")
