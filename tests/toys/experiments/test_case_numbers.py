"""What is measured of a trained control, against loops over its trajectories."""

from dataclasses import replace

import pytest
import torch

from tests.mutants.harness import mutant_module
from tests.toys.experiments.test_cases import SMALL, process_of
from theory.common.tolerances import FLOAT32
from theory.control.processes import case_starts
from toys.experiments.cases.trainer import Trainer, generator


def wrong_numbers(module, trainer):
    """What `measure` of a well says that loops over its trajectories do not."""
    module.PARTS = module.OWN_PARTS = 1
    row = module.measure(trainer)
    paths = trainer.optimal_paths(module.PART, "judge", 0)
    case, process = trainer.task.case, process_of(trainer)
    x, kappa = paths.states, torch.as_tensor(case.kappa)
    a = 2 * torch.as_tensor(case.nu) * (x[:, -1] - 1)
    noise, own = torch.zeros(len(x)), torch.zeros(len(x), x.shape[-1])
    gaps, sizes, other, floor, chain = (torch.zeros_like(own) for _ in range(5))
    for k in range(63, -1, -1):
        noise = noise + (a + paths.best[:, k]).square().sum(1)
        a = a * (1 - 4 * kappa * (3 * x[:, k] ** 2 - 1) / 64)
        with torch.no_grad():
            u = trainer.control(x[:, k].float(), k / 64).double()
        gaps, sizes = gaps + (u - paths.best[:, k]) ** 2, sizes + paths.continuous[:, k] ** 2
        other = other + (u - paths.continuous[:, k]) ** 2
        floor = floor + (paths.best[:, k] - paths.continuous[:, k]) ** 2
        chain = chain + paths.best[:, k] ** 2
    shape = (module.PART, 65, x.shape[-1])
    draws = torch.randn(shape, generator=generator("own", 0))
    x, cost = case_starts(case, draws[:, 0]), 0.0
    for k in range(64):
        last = x
        with torch.no_grad():
            u = trainer.control(x, k / 64)
        cost = cost + u.square().sum(1) / 128
        x = x + (process.drift(x, k / 64) + u) / 64 + draws[:, k + 1] / 8
    cost = cost + process.final(x)
    right = {
        "control_error": gaps.sum() / chain.sum(), "error_to_continuous": other.sum() / sizes.sum(),
        "floor": floor.sum() / sizes.sum(),
        "adjoint_noise": noise.mean() / chain.sum(1).mean(),
        "adjoint_noise_median": noise.median() / chain.sum(1).mean(),
        "error_of_coordinates": gaps.sum(0) / chain.sum(0),
        "cost": cost.mean(), "cost_se": cost.std() / module.PART**0.5,
        "crossed": (last > 0).double().mean(0),
        "crossed_of_optimum": (paths.states[:, 63] > 0).double().mean(0),
    }  # fmt: skip
    return {k for k, v in right.items() if not FLOAT32.holds(torch.tensor(row[k]), v, 1.0)}


@pytest.fixture(scope="module")
def well(tmp_path_factory):
    config = replace(SMALL, case="double_well_10d", steps=64, budget=1e5)
    trainer = Trainer(config, tmp_path_factory.mktemp("well"))
    with torch.no_grad():  # a control that crosses sometimes
        trainer.network.weight[-1].normal_(generator=torch.Generator().manual_seed(1))
        trainer.network.bias[-1].fill_(3.0)
    return trainer


@pytest.mark.slow
def test_measured_numbers_are_those_of_loops(well):
    assert wrong_numbers(mutant_module("toys.experiments.cases.runs"), well) == set()
