"""Fine-tuning under other schedules than the memoryless one, exact and trained, on note_1d.

laws    what Adjoint Matching under g = 0.2, g = 1 and the memoryless schedule samples with its own
        kernels, beside the exact laws: of its chain's optimum, and of the continuous process
        (`theory.control.grid`; memoryless: the tilt).
matrix  what it left in the velocity, sampled with every schedule: total variation to the tilt, of
        the exact steered velocity (`theory.control.steered`; memoryless: the tilt's velocity) by
        Fokker-Planck's equation, and of the trained network by SAMPLING_STEPS Euler kernels (the
        score that a network implies is singular at t = 1, where no kernel asks for it); of both by
        the ODE. A trained network knows the chain's times; between them it interpolates.

Densities are on AXIS. d = 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from theory.common.tolerances import TRAINED_SHARE
from theory.control.grid import GridOptimum
from theory.control.steered import SteeredField
from theory.fields.diffusion import Diffusion
from theory.fields.mixture import ExactField, ModelField
from theory.laws.distances import Array, GridLaw
from theory.problems.problem import Problem
from theory.samplers.chain import Chain, chain_law, state_axes
from theory.samplers.flow import FlowLaw
from theory.samplers.sde import sde_law
from theory.tilts.wrappers import Exponential
from toys.evaluation.control_error import ControlTruth, measure
from toys.training.config import RunConfig
from toys.training.runs import Run
from toys.training.schedule import train

PROBLEM = "note_1d"
AXIS = np.linspace(-8.0, 8.0, 481)
CONSTANTS = (0.2, 1.0)
MEMORYLESS = "memoryless"
START = 4e-4  # of the exact memoryless process; its chains have an offset
SAMPLING_STEPS, SAMPLING_OFFSET = 100, 0.02
RTOL, ATOL = 1e-6, 1e-8


@dataclass(frozen=True)
class SchedulesPlan:
    """steps: of the trained chains, with the offset of the memoryless one. count: times at which
    exact value functions are kept, points: of their grid (0: the grid's own)."""

    steps: int = 32
    offset: float = 0.05
    batch: int = 128
    training_steps: int = 600
    width: int = 64
    count: int = 81
    points: int = 0

    def configs(self) -> dict[str, RunConfig]:
        """The trained runs by schedule."""
        options = {f"g = {g:g}": f"g={g:g}" for g in CONSTANTS}
        options[MEMORYLESS] = f"offset={self.offset:g}"
        scale = RunConfig(method="flow_matching", problem=PROBLEM).parsed_problem.scale
        return {
            label: RunConfig.checked(
                method=f"adjoint_matching:scale={scale:g},steps={self.steps},{text}",
                problem=PROBLEM, steps=self.training_steps, batch=self.batch, width=self.width,
            )
            for label, text in options.items()
        }  # fmt: skip


def samplers() -> dict[str, Diffusion | None]:
    """Schedules that velocities are sampled with; None: the ODE."""
    constants = {f"g = {g:g}": Diffusion.of_constant(g) for g in CONSTANTS}
    return {"ODE": None, **constants, MEMORYLESS: Diffusion.of_memoryless(1.0, START)}


def schedules(
    out: Path, *, processes: int = 2, plan: SchedulesPlan | None = None
) -> dict[str, Any]:
    """Train what is missing; exact and trained laws, and the matrix, as plain data."""
    plan = plan or SchedulesPlan()
    configs = plan.configs()
    train(out, list(configs.values()), processes=processes)
    problem = configs[MEMORYLESS].parsed_problem
    tilt = exact_tilt(problem)
    exact = {
        f"g = {g:g}": GridOptimum(
            problem, problem.scale, Diffusion.of_constant(g), points=plan.points, count=plan.count
        )
        for g in CONSTANTS
    }
    laws, matrix = [], []
    for label, config in configs.items():
        run = Run(out, config)
        student, truth = run.network(), ControlTruth.of(config.parsed, problem)
        found = measure(truth, student, run.base.network())
        continuous = on_axis(exact[label].law) if label in exact else tilt
        chain, trained = map(on_axis, (truth.optimum.grid, truth.bench.of_velocity(student).grid))
        laws.append(
            {
                "schedule": label, "kernels": found["kernels"], "method": config.method_label,
                "control_error": found["control_error"], "law_share": found["law_share"],
                "cpu_seconds": run.manifest()["cpu_seconds"],
                "continuous": continuous.tolist(), "chain": chain.tolist(),
                "trained": trained.tolist(),
                "tv_continuous_to_tilt": total_variation(continuous, tilt),
                "tv_chain_to_tilt": total_variation(chain, tilt),
                "tv_trained_to_tilt": total_variation(trained, tilt),
                "tv_trained_to_chain": total_variation(trained, chain),
                "tv_trained_to_continuous": total_variation(trained, continuous),
            }
        )  # fmt: skip
        field: ExactField = (
            SteeredField(exact[label]) if label in exact
            else problem.tilted_field(Exponential(problem.scale))
        )  # fmt: skip
        network = ModelField(student, 1, problem.path)
        for sampler, schedule in samplers().items():
            ours, theirs = sampled(field, schedule), sampled_by_kernels(network, problem, schedule)
            matrix.append(
                {
                    "trained with": label, "sampled with": sampler,
                    "exact": total_variation(ours, tilt), "trained": total_variation(theirs, tilt),
                    "trained_to_exact": total_variation(theirs, ours),
                }
            )  # fmt: skip
    density = problem.base.log_density(_column()).exp().numpy()
    return {
        "problem": PROBLEM, "scale": problem.scale, "axis": AXIS.tolist(), "tilt": tilt.tolist(),
        "base": density.tolist(), "tv_base_to_tilt": total_variation(density, tilt),
        "sampling_steps": SAMPLING_STEPS, "laws": laws, "matrix": matrix,
    }  # fmt: skip


def _column() -> Tensor:
    return torch.as_tensor(AXIS)[:, None]


def exact_tilt(problem: Problem) -> Array:
    """base exp(scale r)/Z on AXIS."""
    return problem.tilt(Exponential(problem.scale)).log_density(_column()).exp().numpy()


def sampled(field: ExactField, schedule: Diffusion | None) -> Array:
    """The density on AXIS of what a velocity samples: by its ODE (None), or by an SDE."""
    if schedule is None:
        return np.asarray(FlowLaw(field, RTOL, ATOL).log_density(_column()).exp().numpy())
    return sde_law(field, schedule, AXIS, RTOL, ATOL).density


def sampled_by_kernels(field: ExactField, problem: Problem, schedule: Diffusion | None) -> Array:
    """The same by SAMPLING_STEPS Euler kernels; the memoryless schedule with SAMPLING_OFFSET."""
    if schedule is None:
        return sampled(field, None)
    if schedule.constant is None:
        schedule = Diffusion.of_offset(SAMPLING_OFFSET)
    chain = Chain(SAMPLING_STEPS, path=problem.path, schedule=schedule)
    return on_axis(chain_law(chain, field, state_axes(chain, [problem.base], 0.5)))


def on_axis(law: GridLaw) -> Array:
    """A law's density on AXIS, 0 beyond its own grid."""
    (own,) = law.axes
    inside = np.clip(AXIS, own[0], own[-1])
    return np.where(inside == AXIS, CubicSpline(own, law.density)(inside), 0.0)


def total_variation(p: Array, q: Array) -> float:
    """1/2 int |p - q| on AXIS."""
    return 0.5 * float(np.abs(p - q).sum() * (AXIS[1] - AXIS[0]))


def failures(found: Mapping[str, Any]) -> list[str]:
    """Where a trained law is further from its chain's optimum than the `trained` tier allows."""
    return [
        f"{row['method']} ({row['schedule']}): law {100 * row['law_share']:.2f} %, allowed "
        f"{100 * TRAINED_SHARE:g} %"
        for row in found["laws"]
        if not row["law_share"] <= TRAINED_SHARE
    ]
