"""What the figures show of trained networks: read, never trained here.

`python -m toys train --preset figures` trains them and `python -m toys compare --preset figures`
measures them; `make figures` does both first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toys.evaluation.evaluate import Sampling, curves, kept
from toys.evaluation.online import Trajectory, trajectory
from toys.experiments.presets import figures, online
from toys.training.runs import Run

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
    found, missing = {}, []
    for config in figures():
        run = Run(runs, config)
        result = kept(run, Sampling()) if run.is_finished else None
        if result is None:
            missing.append(config.method_label)
        else:
            found[config.method_label] = Shown(result, curves(run))
    if missing:
        raise ValueError(
            "--runs must be the folder that `python -m toys train --preset figures` and `python -m "
            "toys compare --preset figures` filled (`make figures` does all), or need --exact for "
            f"the exact laws alone, got {str(runs)!r}, which lacks {', '.join(missing)}, trained "
            "and compared by this code"
        )
    return found


# Where the laws of networks trained online are found.
ONLINE_AXIS = np.linspace(-5.0, 5.0, 401)


def load_online(runs: Path) -> dict[str, Trajectory]:
    """What the preset `online` sampled after every epoch, by method label.

    Raises:
        ValueError: one is not trained by this code yet; says which command does it.
    """
    found, missing = {}, []
    for config in online():
        run = Run(runs, config)
        if run.is_finished:
            found[config.method_label] = trajectory(run, ONLINE_AXIS)
        else:
            missing.append(config.method_label)
    if missing:
        raise ValueError(
            "--runs must be the folder that `python -m toys train --preset online` filled (`make "
            "figures` does all), or need --exact for the exact laws alone, got "
            f"{str(runs)!r}, which lacks {', '.join(missing)}, trained by this code"
        )
    return found
