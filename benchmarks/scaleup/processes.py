"""Two processes against one with the same global batch: the losses of 50 steps; two that share the
base (FSDP) against two that each hold it; wrong numbers of processes are refused before a folder is
made."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from benchmarks.scaleup.small import arguments, command, trained, write_pipeline
from scaleup.training.checkpoints import newest_state
from theory.common.files import read_json
from theory.common.tolerances import FLOAT32

STEPS, SHARDED_STEPS = 50, 10
# What `accelerate launch` sets for a configuration file with FSDP.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
METHODS = {
    "weighted flow matching, from a bank": "weighted_flow_matching",
    "NFT online: pool, rewards mapped by prompt": (
        "nft:nft_beta=0.5,reward_mapping=released,refresh_every=10,old_decay=0.5,pool=32"
    ),
}
OPTIONS: dict[str, Any] = {
    "reward": "redness",
    "steps": STEPS,
    "batch": 16,
    "learning_rate": 1e-3,
    "lora_rank": 4,
    "sampling_steps": 4,
    "chunk": 8,
    "bank": 32,
    "evaluate": 8,
    "grid_every": 0,
    "checkpoint_every": STEPS,
}


def measure() -> list[Row]:
    """A row a method, and one for wrong numbers of processes."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        options = {**write_pipeline(folder), **OPTIONS}
        rows = [
            agreement(what, {**options, "method": method}, folder / str(i))
            for i, (what, method) in enumerate(METHODS.items())
        ]
        weighted, online = METHODS.values()
        sharded = {**options, "method": online, "steps": SHARDED_STEPS, "evaluate": 20}
        return [
            *rows,
            with_shards(sharded, folder / "sharded"),
            refusals({**options, "method": weighted}, folder / "no"),
        ]


def agreement(what: str, options: dict[str, Any], out: Path) -> Row:
    """The losses of two processes against those of one."""
    runs = [trained({**options, "processes": n}, out / str(n)) for n in (1, 2)]
    losses, norms = ([metric(run, name) for run in runs] for name in ("loss", "gradient_norm"))
    worlds = [world_of(run) for run in runs]
    error, of_norms = FLOAT32.error(losses[1], losses[0]), FLOAT32.error(norms[1], norms[0])
    spread = max(losses[0]) - min(losses[0])
    right = worlds == [1, 2] and len(losses[0]) == len(losses[1]) == options["steps"]
    return Row(
        f"{what}: losses of two processes against one, {options['steps']} steps",
        f"{FLOAT32.rtol:g}, relative",
        f"{error:.1e} (losses from {min(losses[0]):.4g} to {max(losses[0]):.4g}; gradient norms "
        f"{of_norms:.1e}); {worlds[0]} and {worlds[1]} processes ran",
        FLOAT32.holds(losses[1], losses[0]) and right and spread > 0,
        {"error": error, "error_of_norms": of_norms, "worlds": worlds, "losses": losses},
    )


def with_shards(options: dict[str, Any], out: Path) -> Row:
    """Two processes that share the base against two that each hold it: losses, and the student."""
    folders = [
        trained({**options, "processes": 2}, out / name, **environment)
        for name, environment in (("whole", {}), ("sharded", FSDP))
    ]
    losses = [metric(folder, "loss") for folder in folders]
    whole, sharded = (newest_state(folder / "checkpoints") for folder in folders)
    assert whole is not None
    assert sharded is not None
    error = FLOAT32.error(losses[1], losses[0])
    moved = max(
        FLOAT32.error(value, whole.tensors[name], 1.0)
        for name, value in sharded.tensors.items()
        if name.startswith("policy.")
    )
    return Row(
        f"FSDP, NFT online: two processes that share the base against two that hold it, "
        f"{options['steps']} steps",
        f"{FLOAT32.rtol:g}, relative",
        f"{error:.1e} (student's weights {moved:.1e})",
        error <= FLOAT32.rtol,
        {"error": error, "error_of_weights": moved, "losses": losses},
    )


def metric(folder: Path, name: str) -> list[float]:
    """A number of every step, as metrics.csv has it."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def world_of(folder: Path) -> int:
    """The number of processes that trained, and that wrote samples.

    Raises:
        ValueError: the two differ.
    """
    said = int(read_json(folder / "done.json")["processes"])
    wrote = len(list((folder / "samples" / "tuned").glob("rank-*")))
    if said != wrote:
        raise ValueError(f"{folder}: {said} processes trained, {wrote} wrote samples")
    return said


def refusals(options: dict[str, Any], out: Path) -> Row:
    """Another number of processes than asked for is an error, and leaves no folder."""
    refused, tried = 0, ((2, 1), (1, 2))
    for asked, launched in tried:
        done = command(arguments({**options, "processes": asked}, out), launched)
        told = f"processes = {asked}, but {launched} run" in done.stderr
        refused += bool(done.returncode) and told and not out.exists()
    return Row(
        "wrong --processes: 2 asked for and 1 started, 1 asked for and 2 started",
        "refused, no folder left",
        f"{refused} of {len(tried)} refused",
        refused == len(tried),
        {"refused": refused, "tried": len(tried)},
    )
