"""Online training over epochs: the exact law of every network that a run kept, and its statistics.

All the networks of one run go through the ODE as one stack. d = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from theory.divergences import Array
from theory.fields import ModelField
from theory.methods.contract import Draws
from theory.problem import Problem
from theory.transport import FlowLaw
from toys.evaluate import code_key
from toys.files import read_json, read_tensors, write_json, write_tensors
from toys.networks import StackedMLP, single
from toys.runs import Run

RTOL, ATOL = 1e-6, 1e-8
STATISTICS = ("reward", "std", "entropy", "kl_to_base")


@dataclass(frozen=True, eq=False)
class Trajectory:
    """densities (epochs, n) on axis (n,), and STATISTICS of each epoch, (epochs,)."""

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
        raise ValueError(f"{run.config.label} is in d = {problem.dim}: allowed is d = 1")
    run.manifest()
    key = {"digest": run.config.digest, "code": code_key(), "axis": [axis[0], axis[-1], len(axis)]}
    densities = _kept(run, key)
    if densities is None:
        densities = _densities(run, axis)
        write_tensors(
            run.folder / "trajectory.safetensors", {"densities": torch.as_tensor(densities)}
        )
        write_json(run.folder / "trajectory.json", key)
    return Trajectory(axis, densities, statistics_of(densities, axis, problem))


def _kept(run: Run, key: dict[str, Any]) -> Array | None:
    try:
        if read_json(run.folder / "trajectory.json") != key:
            return None
        return read_tensors(run.folder / "trajectory.safetensors")[0]["densities"].numpy()
    except (OSError, ValueError, KeyError):
        return None  # not there, or damaged: it is measured again


def _densities(run: Run, axis: Array) -> Array:
    members = run.snapshots()
    one = single(members[0])
    width, depth = one.weight[0].shape[-1], len(one.weight) - 1
    stack = StackedMLP(1, 1, width, depth, Draws.seeded([0] * len(members)))
    stack.load_members(members)
    field = ModelField(stack.to(torch.float64).requires_grad_(False), 1)
    points = torch.as_tensor(axis)[:, None].expand(len(members), len(axis), 1)
    law = FlowLaw(field, rtol=RTOL, atol=ATOL, method="dopri5")
    return np.asarray(law.log_density(points).exp())
