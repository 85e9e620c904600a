"""Checkpoints of a run: one safetensors file each, atomic, the newest two kept.

Nothing is unpickled: tensors are safetensors, everything else is JSON in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scaleup.training.identity import differences
from theory.common.files import read_tensors, write_tensors
from theory.methods.contract.states import digest_of_tensors

KEPT = 2
CHECKPOINTS = "step-*.safetensors"


@dataclass(frozen=True)
class State:
    """What a run is after `step` steps: tensors by name, plain data, and what was wrong with newer
    checkpoints that could not be read."""

    step: int
    tensors: dict[str, Tensor]
    data: dict[str, Any]
    damaged: tuple[str, ...] = ()


def checkpoint_path(folder: Path, step: int) -> Path:
    """folder/step-00000050.safetensors."""
    return folder / f"step-{step:08d}.safetensors"


def step_of(path: Path) -> int:
    """The step of a checkpoint's file."""
    return int(path.stem.removeprefix("step-"))


def save_state(folder: Path, state: State, run: Mapping[str, Any]) -> None:
    """Write it, then remove all but the newest two. run: what the run is (`TrainConfig.as_json`).

    Raises:
        OSError: the disk is full; what was there before is untouched.
    """
    data = json.dumps({"step": state.step, **state.data})  # a skipped step's gradient is inf
    own = json.dumps(run, sort_keys=True)
    words = {"state": data, "run": own, "sha256": digest_of_tensors(state.tensors, data + own)}
    write_tensors(checkpoint_path(folder, state.step), state.tensors, words)
    for old in sorted(folder.glob(CHECKPOINTS))[:-KEPT]:
        old.unlink()


def newest_state(folder: Path, run: Mapping[str, Any] | None = None) -> State | None:
    """The newest checkpoint that can be read, or None where there is none.

    run: what the run is; None: whatever it is.

    Raises:
        ValueError: there are checkpoints, and none can be read; or it is another run's.
    """
    damaged: list[str] = []
    for path in sorted(folder.glob(CHECKPOINTS), reverse=True):
        try:
            tensors, words = read_tensors(path)
            if words["sha256"] != digest_of_tensors(tensors, words["state"] + words["run"]):
                raise ValueError(f"{path}: damaged (its digest is another)")
            data, theirs = json.loads(words["state"]), json.loads(words["run"])
            step = int(data.pop("step"))
        except (ValueError, KeyError, TypeError) as error:
            text = str(error) if str(path) in str(error) else f"{path}: damaged ({error!r})"
            damaged.append(text)
            continue
        if run is not None and (differ := differences(theirs, run)):
            raise ValueError(
                f"{path} must be this run's own, and is another's ({'; '.join(differ)}): remove "
                "it, and the run goes on from what is left"
            )
        return State(step, tensors, data, tuple(damaged))
    if damaged:
        raise ValueError(
            f"{folder}: no checkpoint can be read ({'; '.join(damaged)}); delete the folder, and "
            "the run starts from its first step"
        )
    return None
