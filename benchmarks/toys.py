"""`python -m benchmarks toys`: the trainer's speed, and that killed and stopped runs go on to
the same bits.

throughput  model-steps/s of this trainer over those of a plain eager loop (a network at a time,
            torch.nn layers, default Adam, default precision), CPU-seconds, medians, alternating.
resume      runs killed (SIGKILL) at random moments and resumed, against one left alone, bit by bit.
flow_resume the same of methods with networks beside the policy's.
signals     runs stopped at random moments, by SIGINT to their process group (Ctrl-C) and by SIGTERM
            to their first process: exit status, seconds until all processes have ended, the one
            line, the step that it says is saved, no checkpoint but that one; and resumed, as above.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from benchmarks.rows import Row, add_part_options, cpu_seconds, measure_parts
from toys.training.config import RunConfig
from toys.training.files import read_tensors
from toys.training.runs import Group
from toys.training.schedule import group_size
from toys.training.trainer import Trainer, use_fast_kernels

NETWORKS = 60
FLOORS = {64: 2.0, 128: 1.8}
BATCH = 1024
ROUNDS = 5
STEPS_A_ROUND = 4
KILLS = 10
RESUME_STEPS, FLOW_STEPS, STOP_STEPS = 1200, 300, 600
STOP_SECONDS = 10.0
# Many checkpoints in a short run, so that kills fall between and into them.
ENVIRONMENT = {**os.environ, "PLUMBLINE_CHECKPOINT_SECONDS": "0.3"}


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of a bench."""
    add_part_options(command, PARTS)


def run(options: argparse.Namespace) -> int:
    """Exit status, errors: as `measure_parts`."""
    return measure_parts(options, PARTS)


# --- throughput


def throughputs() -> list[Row]:
    """A row a width and kind of products."""
    return [throughput(width, fast) for fast in (False, True) for width in FLOORS]


def throughput(width: int, fast_products: bool) -> Row:
    """60 networks of 3 x width on a 2-D problem, flow matching, batch 1024."""
    config = RunConfig.checked(method="flow_matching", problem="bump_2d", width=width, batch=BATCH)
    config = replace(config, low_discrepancy=False, fast_products=fast_products)
    size = group_size(config)
    with tempfile.TemporaryDirectory() as folder:
        configs = [replace(config, seed=i) for i in range(NETWORKS)]
        groups = [
            Trainer(Group(Path(folder), tuple(configs[i : i + size])))
            for i in range(0, NETWORKS, size)
        ]
    plain = [_PlainNetwork(config, seed) for seed in range(NETWORKS)]

    def turn(steps: list[Callable[[], None]]) -> None:
        for step in steps:
            for _ in range(STEPS_A_ROUND):
                step()

    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(ROUNDS + 1):
        torch.set_float32_matmul_precision("highest")
        times["plain"].append(cpu_seconds(partial(turn, [network.step for network in plain])))
        error = use_fast_kernels(fast_products)
        times["ours"].append(cpu_seconds(partial(turn, [group._one_step for group in groups])))
    times = {k: v[1:] for k, v in times.items()}  # the first round warms up
    rates = {k: NETWORKS * STEPS_A_ROUND / statistics.median(v) for k, v in times.items()}
    ratios = sorted(p / o for p, o in zip(times["plain"], times["ours"], strict=True))
    ratio = statistics.median(ratios)
    return Row(
        f"{NETWORKS} nets 3 x {width}, batch {BATCH}, eager, "
        f"{'fast products' if fast_products else 'float32'}: error {error:.0e} a product",
        f"{FLOORS[width]}x",
        f"{ratio:.2f}x ({rates['ours']:.0f} against {rates['plain']:.0f} model-steps/s)",
        ratio >= FLOORS[width],
        {"product_error": error, "ratios": ratios, "model_steps_per_second": rates},
    )


class _PlainNetwork:
    """What one would write: nn.Sequential, torch.optim.Adam, fresh draws every step."""

    def __init__(self, config: RunConfig, seed: int) -> None:
        self.problem = config.parsed_problem.to(torch.float32)
        d = self.problem.dim
        sizes = pairwise([d + 1, *[config.width] * config.depth])
        layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.SiLU())]
        self.network = nn.Sequential(*layers, nn.Linear(config.width, d))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.generator = torch.Generator().manual_seed(seed)
        self.batch = config.batch

    def step(self) -> None:
        """One optimiser step of flow matching."""
        x1 = self.problem.base.sample(self.batch, self.generator)
        x0 = torch.randn(x1.shape, generator=self.generator)
        t = torch.rand(self.batch, 1, generator=self.generator)
        velocity = self.network(torch.cat([t * x1 + (1 - t) * x0, t], -1))
        loss = (velocity - (x1 - x0)).square().sum(-1).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


# --- resume


def resume(seed: int = 0) -> list[Row]:
    """A method with an old copy and rollouts."""
    return [killed(["nft:refresh_every=25,old_decay=0.5"], RESUME_STEPS, KILLS, seed)]


def flow_resume(seed: int = 0) -> list[Row]:
    """Methods with networks beside the policy's: a flow's score, a flow, log Z; with batches of the
    last epoch, and an anchor at the last step's policy."""
    methods = [
        "residual_nabla_db:anchor_weight=1,subset=3,data=previous",
        "residual_db:held=true",
        "relative_trajectory_balance:backward=0.25",
    ]
    return [killed(methods, FLOW_STEPS, KILLS, seed)]


def killed(methods: list[str], steps: int, kills: int, seed: int) -> Row:
    """Runs of each method, killed at random moments by turns, against those left alone."""
    rng, equal, moments = random.Random(seed), 0, []
    with tempfile.TemporaryDirectory() as folder:
        alone = []
        for number, method in enumerate(methods):
            options = f"train --method {method} --problem note_1d --seeds 2 --processes 1".split()
            options += ["--steps", str(steps), "--batch", "256"]
            alone.append((options, *_left_alone(options, Path(folder) / f"method{number}")))
        for i in range(kills):
            options, bases, expected, seconds = alone[i % len(methods)]
            out = Path(folder) / f"killed{i}"
            shutil.copytree(bases, out)
            moments.append(_kill_within(options, out, rng.uniform(0.15, 0.85) * seconds))
            _toys([*options, "--out", str(out)])
            equal += _same(_weights(out), expected)
            shutil.rmtree(out)
    return Row(
        f"runs of {', '.join(methods)} killed (SIGKILL) at random moments and resumed, bit-equal",
        f"{kills} of {kills}",
        f"{equal} of {kills} (checkpoints at steps {', '.join(map(str, moments))})",
        equal == kills,
        {"equal": equal, "kills": kills, "checkpoint_steps_at_kill": moments},
    )


# --- signals


def stop(stops: int = KILLS, seed: int = 0) -> list[Row]:
    """Two groups in two processes, stopped by signals at random moments, against one left alone."""
    rng = random.Random(seed)
    options = [
        "train", "--method", "nft:refresh_every=25,old_decay=0.5", "--method", "nft", "--problem",
        "note_1d", "--seeds", "2", "--steps", str(STOP_STEPS), "--batch", "256",
    ]  # fmt: skip
    good, moments, slowest, faults = 0, [], 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        bases, expected, seconds = _left_alone(options, Path(folder))
        for i in range(stops):
            out, number = Path(folder) / f"stopped{i}", (signal.SIGINT, signal.SIGTERM)[i % 2]
            found = None
            while found is None:  # a run that was done before its signal tells nothing
                shutil.rmtree(out, ignore_errors=True)
                shutil.copytree(bases, out)
                moment = rng.uniform(0.05, 0.85) * seconds
                found = _stop_within(options, out, moment, number)
            said, taken, wrong = found
            moments.append(" and ".join(said) or "none")
            slowest = max(slowest, taken)
            _toys([*options, "--out", str(out)])
            if not _same(_weights(out), expected):
                wrong.append("resumed to other bits")
            good += not wrong
            faults += [f"{number.name} after {moment:.1f} s: {line}" for line in wrong]
            shutil.rmtree(out)
    return [
        Row(
            "runs stopped by SIGINT and SIGTERM at random moments and resumed, bit-equal",
            f"{stops} of {stops} within {STOP_SECONDS:g} s",
            f"{good} of {stops}, ended within {slowest:.1f} s (steps {', '.join(moments)})"
            + "".join(f"; {line}" for line in faults),
            good == stops,
            {"good": good, "stops": stops, "steps_saved": moments, "slowest_end_seconds": slowest},
        )
    ]


PARTS = {
    "throughput": throughputs,
    "resume": resume,
    "flow_resume": flow_resume,
    "signals": stop,
}


def _stop_within(
    options: list[str], out: Path, seconds: float, number: signal.Signals
) -> tuple[list[str], float, list[str]] | None:
    """Start the run, stop it after so many seconds: (steps said to be saved, seconds until every
    process had ended, what was not as promised); None where it was done before."""
    process = subprocess.Popen(
        [sys.executable, "-m", "toys", *options, "--out", str(out)], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(seconds)
    start = time.monotonic()
    if process.poll() is not None:
        process.communicate()
        return None
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    # Workers hold the pipe too: it ends with the last of them.
    lines = [line for line in process.communicate()[1].splitlines() if "training: " not in line]
    taken = time.monotonic() - start
    if process.returncode == 0:  # its last files were being written
        return None
    wrong = [] if taken <= STOP_SECONDS else [f"ended after {taken:.1f} s"]
    if process.returncode != 128 + number:
        wrong.append(f"exit status {process.returncode}")
    if len(lines) != 1 or not lines[0].startswith(f"stopped by {number.name}"):
        wrong.append(f"said {lines}")
    said = re.findall(r"step (\d+) of \d+ is saved in (\S+?)(?:;|$)", "\n".join(lines))
    kept = {str(p.parent): read_tensors(p)[1]["step"] for p in out.glob("groups/*/checkpoint.*")}
    if {group: step for step, group in said} != kept:
        wrong.append(f"said {said} of the checkpoints {kept}")
    return [step for step, _ in said], taken, wrong


# --- what both do


def _left_alone(options: list[str], root: Path) -> tuple[Path, dict[str, torch.Tensor], float]:
    """(a folder of the bases alone, the other runs' weights, the seconds that these took)."""
    bases, whole = root / "bases", root / "whole"
    _toys([*options, "--steps", "1", "--out", str(bases)])
    for path in _fine_tuned(bases):
        shutil.rmtree(path)  # only what is tested is killed
    shutil.copytree(bases, whole)
    start = time.monotonic()
    _toys([*options, "--out", str(whole)])
    return bases, _weights(whole), time.monotonic() - start


def _same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[k], expected[k]) for k in expected
    )


def _toys(options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "toys", *options], capture_output=True, text=True, env=ENVIRONMENT
    )
    if done.returncode:
        raise ValueError(f"python -m toys {' '.join(options)}: {done.stderr}")


def _kill_within(options: list[str], out: Path, seconds: float) -> int:
    """Start the run, kill it after so many seconds; the step of its last checkpoint (0: none)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "toys", *options, "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT,
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoints = list((out / "groups").glob("*/checkpoint.safetensors"))
    return int(read_tensors(checkpoints[0])[1]["step"]) if checkpoints else 0


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}/{k}": v
        for path in _fine_tuned(out)
        for k, v in read_tensors(path / "weights.safetensors")[0].items()
    }


def _fine_tuned(out: Path) -> list[Path]:
    return sorted(p for p in (out / "runs").iterdir() if "-flow_matching" not in p.name)
