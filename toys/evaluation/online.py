"""Online training over epochs: the exact law of every network that a run kept, and its statistics.

All the networks of one run go through the ODE as one stack. d = 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from theory.common.files import write_tensors
from theory.fields.mixture import ModelField
from theory.laws.distances import Array
from theory.problems.problem import Problem
from theory.samplers.flow import FlowLaw
from toys.evaluation.evaluate import code_key
from toys.networks.mlp import stacked
from toys.training.files import read_tensors
from toys.training.runs import Run

RTOL, ATOL = 1e-6, 1e-8
FILE = "trajectory.safetensors"
MOST_LOST = 1e-3  # mass that the axis may miss


@dataclass(frozen=True, eq=False)
class Trajectory:
    """densities (epochs, n) on axis (n,), and `statistics_of` each epoch, (epochs,)."""

    axis: Array
    densities: Array
    statistics: dict[str, Array]


def statistics_of(densities: Array, axis: Array, problem: Problem) -> dict[str, Array]:
    """Mean reward, standard deviation, entropy, KL to the base, of densities (epochs, n)."""
    points = torch.as_tensor(axis)[:, None]
    base, reward = problem.base.log_density(points).numpy(), problem.reward(points).numpy()
    log_q = np.log(np.maximum(densities, 1e-300))

    def mean(values: Array) -> Array:
        return np.asarray(np.trapezoid(densities * values, axis, axis=1))

    centre = mean(axis)
    return {
        "reward": mean(reward),
        "std": np.sqrt(mean(axis**2) - centre**2),
        "entropy": -mean(log_q),
        "kl_to_base": mean(log_q - base),
    }


def trajectory(run: Run, axis: Array) -> Trajectory:
    """What a finished run with snapshots sampled after every epoch; kept in its folder.

    Raises:
        ValueError: not finished, damaged, without snapshots, or not in d = 1.
    """
    problem = run.config.parsed_problem
    if problem.dim != 1:
        raise ValueError(f"{run.config.label} must be in d = 1, got d = {problem.dim}")
    run.manifest()
    cycle, config = run.config.parsed.cycle, run.config
    if config.snapshots and cycle and config.steps // config.snapshots != cycle:
        raise ValueError(
            f"{config.label}: snapshots must be one after each of its epochs of {cycle} steps, got "
            f"{config.snapshots} over {config.steps} steps"
        )
    key = "-".join((config.digest, code_key(), hashlib.sha256(axis.tobytes()).hexdigest()))
    densities = _kept(run, key)
    if densities is None:
        densities = log_densities(run.snapshots(), axis, config.label).exp().numpy()
        write_tensors(run.folder / FILE, {"densities": torch.as_tensor(densities)}, {"key": key})
    return Trajectory(axis, densities, statistics_of(densities, axis, problem))


def _kept(run: Run, key: str) -> Array | None:
    try:
        tensors, words = read_tensors(run.folder / FILE)
        return np.asarray(tensors["densities"]) if words.get("key") == key else None
    except (OSError, ValueError, KeyError):
        return None  # not there, or damaged: it is measured again


def log_densities(members: Sequence[Mapping[str, Tensor]], axis: Array, label: str) -> Tensor:
    """log q on the axis (n,) of what every network samples by its ODE, (networks, n); one stack,
    one solution.

    Raises:
        ValueError: the axis misses more than MOST_LOST of a law.
    """
    field = ModelField(stacked(members), 1)
    points = torch.as_tensor(axis)[:, None].expand(len(members), len(axis), 1)
    logs = FlowLaw(field, rtol=RTOL, atol=ATOL, method="dopri5").log_density(points)
    lost = float((1 - torch.trapezoid(logs.exp(), torch.as_tensor(axis), dim=1)).abs().max())
    if lost > MOST_LOST:
        raise ValueError(
            f"the grid of {label} on [{axis[0]:g}, {axis[-1]:g}] must miss at most {MOST_LOST:g} "
            f"of a law, got {lost:.1e}; take a wider or finer one"
        )
    return logs
