"""A trained network against the truth: the three parts of its error, each measured.

    method bias     law at the population optimum      vs  claimed target          (exact)
    learning error  exact law of the trained velocity  vs  law at the optimum      (exact laws)
    sampling error  finite steps, finite samples       vs  exact law of that velocity, and its floor

The parts bound the distance of what one draws to what is claimed: total <= their sum (a metric).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from theory.common.checks import check_count
from theory.common.files import write_tensors
from theory.common.identity import plumbline_code
from theory.common.tolerances import TRAINED_SHARE
from theory.evaluation.sampler_laws import Bench, Law, Sampler, sample_distance, sampling_floor
from theory.laws.distances import Array
from theory.methods.contract import returned
from theory.methods.contract.task import heun
from theory.problems.problem import Problem
from theory.samplers.chain import Chain
from theory.tilts.tilt import Tilt
from theory.tilts.wrappers import Exponential
from toys.networks.mlp import StackedMLP
from toys.training import files
from toys.training.config import RunConfig
from toys.training.files import read_tensors
from toys.training.runs import Run

SAMPLE_SEED = 2**42
RESULT, CURVES = "evaluation.json", "evaluation.safetensors"
MOST_SAMPLING_STEPS, MOST_SAMPLES = 100_000, 2_000_000


class NoTruthError(ValueError):
    """A run that there is nothing exact to compare with."""


@dataclass(frozen=True)
class Sampling:
    """How a user would sample: Heun's method in `steps` steps (chains: their own), n draws."""

    steps: int = 20
    n: int = 20_000

    def __post_init__(self) -> None:
        check_count("sampling steps", self.steps, 1, MOST_SAMPLING_STEPS)
        check_count("samples", self.n, 100, MOST_SAMPLES)


@dataclass(frozen=True, eq=False)
class Truth:
    """A method's optimum and claimed target on a problem, as laws; shared by all seeds."""

    bench: Bench
    optimum: Law
    target: Law
    start: Law
    note: str
    claim: str

    @classmethod
    def of(cls, config: RunConfig) -> Truth:
        """The exact side of a comparison.

        Raises:
            NoTruthError: the method states no optimum or no target on this problem, or d > 2.
        """
        problem, method = config.parsed_problem, config.parsed
        if problem.dim > 2:
            raise NoTruthError(
                f"{config.label} must be in d = 1 or 2 for compare, got d = {problem.dim}"
            )
        try:
            best, goal = returned.optimum(method, problem), returned.target(method, problem)
        except ValueError as error:
            raise NoTruthError(f"{config.label}: {error}") from error
        if best is None or goal is None:
            what = "optimum" if best is None else "target"
            raise NoTruthError(
                f"{config.label}: the method states no {what} here; nothing to compare"
            )
        bench = Bench.of(problem, best.sampler, [goal])
        return cls(
            bench,
            optimum=bench.of_velocity(best.velocity),
            target=bench.of_target(goal),
            start=bench.of_noise() if method.starts_from == "scratch" else bench.of_base(),
            note=best.note,
            claim=claimed(goal),
        )


def claimed(goal: Tilt) -> str:
    """The target in words, p being the base: "p exp(4r)"; "r^2" where p is no part of it."""
    label = goal.wrapper.label
    if label == Exponential(0.0).label:
        return "p"
    if goal.law is goal.base:  # the reward alone, without the base
        return label
    return f"p ({label})" if label.startswith("1") else f"p {label}"


def evaluate(run: Run, truth: Truth, sampling: Sampling) -> dict[str, Any]:
    """Measure a finished run, and keep the result and the curves in its folder.

    Raises:
        ValueError: the network's flow cannot be followed; names the run.
    """
    network = run.network()
    bench = truth.bench
    try:
        trained = bench.of_velocity(network)
    except (AssertionError, ValueError) as error:  # torchdiffeq asserts that its steps stay > 0
        raise ValueError(
            f"{run.config.label}: the network's samples must stay finite, and the trained "
            f"velocity's law cannot be found ({error}); retrain with a smaller learning rate, or "
            f"delete {run.folder}"
        ) from error
    # Draws of its own for every run: methods with one seed do not share their luck.
    samples = draw(network, bench.problem, bench.sampler, sampling, int(run.config.digest, 16))
    to_go = truth.start.distance(truth.target)
    learning = trained.distance(truth.optimum)
    result = {
        "key": evaluation_key(run, sampling),
        "digest": run.config.digest,
        "method": run.config.method_label,
        "target": truth.claim,
        "problem": run.config.problem_label,
        "seed": run.config.seed,
        "dim": bench.problem.dim,
        "distance": "W1" if bench.problem.dim == 1 else "TV",
        "sampler": (
            f"chain of {bench.sampler.steps} steps"
            if isinstance(bench.sampler, Chain)
            else f"Heun, {sampling.steps} steps"
        ),
        "to_go": to_go,
        "method_bias": truth.optimum.distance(truth.target),
        "learning_error": learning,
        "learning_share": learning / to_go,
        "sampling_error": sample_distance(samples, trained),
        "sampling_floor": sampling_floor(trained, sampling.n, run.config.seed),
        "total": sample_distance(samples, truth.target),
        "lost_mass": max(trained.lost, truth.optimum.lost),
        "note": truth.note,
        "cpu_seconds": run.manifest()["cpu_seconds"],
    }
    curves = {
        "samples": torch.as_tensor(samples, dtype=torch.float32),
        "trained": torch.as_tensor(trained.grid.density),
        "optimum": torch.as_tensor(truth.optimum.grid.density),
        "target": torch.as_tensor(truth.target.grid.density),
        "start": torch.as_tensor(truth.start.grid.density),
        **{f"axis.{i}": torch.as_tensor(a) for i, a in enumerate(bench.axes)},
    }
    write_tensors(run.folder / CURVES, curves)
    files.keep(run.folder / RESULT, result["key"], result)
    return result


def draw(
    network: StackedMLP, problem: Problem, sampler: Sampler, sampling: Sampling, seed: int
) -> Array:
    """n draws (n, d) as a user would make them."""
    generator = torch.Generator().manual_seed(SAMPLE_SEED + seed)
    n, d = sampling.n, problem.dim
    with torch.no_grad():
        if isinstance(sampler, Chain):
            noise = torch.randn(n, sampler.steps + 1, d, dtype=torch.float64, generator=generator)
            return sampler.rollout(network, noise)[:, -1].numpy()
        noise = torch.randn(n, d, dtype=torch.float64, generator=generator)
        return heun(network, problem.path, noise, sampling.steps).numpy()


def is_good(result: dict[str, Any]) -> bool:
    """Whether the learning error is within TRAINED_SHARE of the distance there was to go."""
    return bool(result["learning_share"] <= TRAINED_SHARE)


# --- results that are already there


def kept(run: Run, sampling: Sampling) -> Any:
    """The evaluation in the run's folder, if this code made it for this run; else None."""
    found = files.kept(run.folder / RESULT, evaluation_key(run, sampling))
    return found if (run.folder / CURVES).exists() else None


def curves(run: Run) -> dict[str, Tensor]:
    """samples, axis.0 (and axis.1), and the densities trained, optimum, target, start."""
    return read_tensors(run.folder / CURVES)[0]


def evaluation_key(run: Run, sampling: Sampling) -> str:
    """Names the run, the sampling and the code that evaluates."""
    return f"{run.config.digest}-{sampling.steps}-{sampling.n}-{code_key()}"


def code_key() -> str:
    """Names the code that finds laws of networks."""
    return plumbline_code("toys.evaluation.online")[:16]
