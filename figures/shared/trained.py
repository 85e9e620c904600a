"""What the figures show of trained networks: read, never trained here.

`python -m toys train --preset figures` trains them and `python -m toys compare --preset figures`
measures them; `make figures` does both first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from toys.evaluation.evaluate import Sampling, curves, kept
from toys.evaluation.online import Trajectory, trajectory
from toys.experiments.presets import figures, online
from toys.training.config import RunConfig
from toys.training.runs import Run

Read = TypeVar("Read")

KEYS = (
    "distance", "to_go", "method_bias", "learning_error", "learning_share", "sampling_error",
    "sampling_floor", "total",
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A trained network: its measured errors, and draws and densities for a panel."""

    result: Mapping[str, Any]
    curves: Mapping[str, Any]

    @property
    def numbers(self) -> dict[str, Any]:
        return {key: self.result[key] for key in KEYS}


def load(runs: Path) -> dict[str, Shown]:
    """The preset's networks by method label, from the folder that `toys` filled.

    Raises:
        ValueError: one is not trained and compared by this code yet; says which command does it.
    """

    def shown(run: Run) -> Shown | None:
        result = kept(run, Sampling()) if run.is_finished else None
        return None if result is None else Shown(result, curves(run))

    filled = "`python -m toys train --preset figures` and `python -m toys compare --preset figures`"
    return _found(runs, figures(), shown, filled, "trained and compared")


# Where the laws of networks trained online are found.
ONLINE_AXIS = np.linspace(-5.0, 5.0, 401)


def load_online(runs: Path) -> dict[str, Trajectory]:
    """What the preset `online` sampled after every epoch, by method label.

    Raises:
        ValueError: one is not trained by this code yet; says which command does it.
    """

    def law(run: Run) -> Trajectory | None:
        return trajectory(run, ONLINE_AXIS) if run.is_finished else None

    return _found(runs, online(), law, "`python -m toys train --preset online`", "trained")


def _found(
    runs: Path,
    configs: Sequence[RunConfig],
    read: Callable[[Run], Read | None],
    filled: str,
    done: str,
) -> dict[str, Read]:
    """What `read` finds of every run, by its method; filled, done: what to say where it is not."""
    read_of = {config.method_label: read(Run(runs, config)) for config in configs}
    if missing := [label for label, found in read_of.items() if found is None]:
        raise ValueError(
            f"--runs must be the folder that {filled} filled (`make figures` does all), or need "
            f"--exact for the exact laws alone, got {str(runs)!r}, which lacks "
            f"{', '.join(missing)}, {done} by this code"
        )
    return {label: found for label, found in read_of.items() if found is not None}
