"""Two processes against one with the same global batch: the losses of 50 steps; wrong numbers of
processes are refused before a folder is made."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

from scaleup.bench.rows import Row
from scaleup.bench.small import arguments, command, trained, write_pipeline
from theory.files import read_json
from theory.tolerances import FLOAT32

STEPS = 50
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
        return [*rows, refusals({**options, "method": METHODS[next(iter(METHODS))]}, folder / "no")]


def agreement(what: str, options: dict[str, Any], out: Path) -> Row:
    """The losses of two processes against those of one."""
    losses, norms, worlds = [], [], []
    for processes in (1, 2):
        found = trained({**options, "processes": processes}, out / str(processes))
        losses.append(metric(found, "loss"))
        norms.append(metric(found, "gradient_norm"))
        worlds.append(world_of(found))
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
        call = arguments({**options, "processes": asked}, out)
        done = command(call, launched)
        told = f"processes = {asked}, but {launched} run" in done.stderr
        refused += bool(done.returncode) and told and not out.exists()
    return Row(
        "wrong --processes: 2 asked for and 1 started, 1 asked for and 2 started",
        "refused, no folder left",
        f"{refused} of {len(tried)} refused",
        refused == len(tried),
        {"refused": refused, "tried": len(tried)},
    )
