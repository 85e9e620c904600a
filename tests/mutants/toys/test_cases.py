"""Mistakes in the training of controls, and in what is measured of them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tests.mutants.harness import mutant_module, overriding
from tests.toys.experiments.test_case_numbers import well, wrong_numbers  # noqa: F401
from tests.toys.experiments.test_cases import SMALL, has_the_costs_gradient
from toys.experiments.cases.task import ControlMatching, ControlTask
from toys.experiments.cases.trainer import Trainer

# ruff: noqa: F811


def batch(**values):
    """A loss that sees other entries of a batch."""

    def loss(whole, self, policy, task, given):
        return whole(policy, task, given | {k: of(given[k]) for k, of in values.items()})

    return ControlMatching, {"loss": loss}


def later(states):
    return torch.cat([states[:, 1:], states[:, -1:]], 1)


def at_the_steps_end(whole, self, policy, task, given):
    other = copy.copy(task)
    other.times = task.grid[1:]
    return whole(policy, other, given)


def without_control(whole, self, policy, task, given):
    return whole(replace(policy, student=lambda x, t: 0 * policy.student(x, t)), task, given)


def mean_over_coordinates(whole, self, policy, task, given):
    losses, info = whole(policy, task, given)
    return losses / given["states"].shape[-1], info


def noise(of):
    """Another noise of trajectories."""
    return ControlTask, {"simulate": lambda whole, self, process, given: whole(process, of(given))}


STEP_MUTANTS = {
    "the adjoint's sign": batch(adjoint=lambda a: -a),
    "states of the step's end": batch(states=later),
    "times of the step's end": (ControlMatching, {"loss": at_the_steps_end}),
    "no control at all": (ControlMatching, {"loss": without_control}),
    "mean over coordinates": (ControlMatching, {"loss": mean_over_coordinates}),
    "another X_0": noise(lambda xi: torch.cat([xi[:, 1:2], xi[:, 1:]], 1)),
    "noise one step early": noise(lambda xi: torch.cat([xi[:, :1], xi[:, :-1]], 1)),
}


@pytest.mark.parametrize("name", STEP_MUTANTS)
def test_mutant_of_the_step_is_rejected(name, tmp_path):
    kind, parts = STEP_MUTANTS[name]
    wrong, trainer = overriding(kind, **parts), Trainer(SMALL, tmp_path)
    if kind is ControlMatching:
        trainer.method = wrong(SMALL.method)
    else:
        trainer.task = wrong(trainer.chain)
    assert not has_the_costs_gradient(trainer)


def edited(old, new):
    return lambda: mutant_module("toys.experiments.cases.runs", (old, new))


def replaced(**names):
    return lambda: mutant_module("toys.experiments.cases.runs", **names)


def one_step_early(whole):
    def adjoint(*given):
        found = whole(*given)
        return torch.cat([found[:, :1], found[:, :-1]], 1)

    return adjoint


MEASURE_MUTANTS = {
    "error_to_continuous": edited('("other", u - paths.continuous)', '("other", u - paths.best)'),
    "floor": edited(
        'of_means(sums["floor"], sums["continuous"])', 'of_means(sums["floor"], sums["best"])'
    ),
    "control_error": edited(
        'of_means(sums["own"], sums["best"])', 'of_means(sums["own"], sums["continuous"])'
    ),
    "adjoint_noise": replaced(lean_adjoint=one_step_early),
    "adjoint_noise_median": edited('sums["noise"].median()', 'sums["noise"].mean()'),
    "error_of_coordinates": edited("(top / bottom)", "(top / bottom.mean())"),
    "crossed": edited("above.append((states[:, -2] > 0)", "above.append((states[:, -1] > 0)"),
    "crossed_of_optimum": edited(
        "ends.append((paths.states[:, -2]", "ends.append((paths.states[:, -1]"
    ),
    "cost": replaced(
        path_costs=lambda whole: lambda process, grid, states: whole(process, grid, states + 0.1)
    ),
    "cost_se": edited("float(costs.std()) / len(costs) ** 0.5", "float(costs.std())"),
}


@pytest.mark.parametrize("name", MEASURE_MUTANTS)
def test_mutant_of_measure_is_rejected(name, well):
    assert name in wrong_numbers(MEASURE_MUTANTS[name](), well)
