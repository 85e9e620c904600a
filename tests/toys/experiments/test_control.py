"""`python -m toys control`: what is measured, how evaluations are counted, the whole, bad input."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tests.toys.small import call
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D, TRAINED_SHARE
from theory.fields.diffusion import Diffusion
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem
from toys.commands.control import table_of_laws, table_of_matrix, table_of_runs
from toys.evaluation import cost as evaluations
from toys.evaluation.control_error import (
    ControlError,
    ControlTruth,
    check_problem,
    measure,
    mode_masses,
)
from toys.experiments import control as control_runs
from toys.experiments import schedules as control_schedules
from toys.experiments.control import METHODS, ControlPlan
from toys.experiments.control import control_runs as run_all
from toys.experiments.presets import PRESETS
from toys.experiments.schedules import SchedulesPlan
from toys.training.config import RunConfig

NOTE = load_problem("note_1d")
PLAN = ControlPlan(budget=1e5, batch=64, width=8)
SCHEDULES = SchedulesPlan(
    steps=8, offset=0.2, batch=64, training_steps=20, width=8, count=17, points=101,
)  # fmt: skip
COARSE = np.linspace(-8.0, 8.0, 201)
# A method's label in METHODS, and (forward, vjp) of a row of T kernels: the module's table.
COSTS = {
    "adjoint_matching": lambda T: (3 * T, 2 * T - 1),
    "adjoint_matching_ancestral": lambda T: (3 * T, 2 * T - 1),
    "basic_adjoint_matching": lambda T: (4 * T - 1, 3 * T - 2),
    "discrete_adjoint": lambda T: (2 * T, 2 * T - 1),
    "continuous_adjoint": lambda T: (4 * T, 5 * T - 2),
    "continuous_adjoint_32": lambda T: (4 * T, 5 * T - 2),
    "ddpo": lambda T: (5 * T, 2 * T),
}


@dataclass(frozen=True)
class Steered:
    """base + share (best - base): that share of the optimal control, at the truth's states."""

    truth: ControlTruth
    share: float

    def __call__(self, x, t, cond=None):
        k = int((t[0] * self.truth.chain.steps).round())
        base, best = self.truth.base[:, k], self.truth.best[:, k]
        return base + self.share * (best - base)


@pytest.fixture(scope="module")
def truth():
    method = parse_method("adjoint_matching:steps=8,offset=0.2")
    return ControlTruth.of(method, NOTE, draws=512)


@pytest.fixture(scope="module")
def optimum(truth):
    """The chain's optimum itself, as a model at any points."""
    return parse_method("adjoint_matching:steps=8,offset=0.2").optimum(NOTE).velocity


# --- the measurement


@pytest.mark.parametrize(("share", "expected"), [(1.0, 0.0), (0.0, 1.0), (0.5, 0.25), (2.0, 1.0)])
def test_the_control_error_of_a_share_of_the_control(truth, share, expected):
    found = truth.error(Steered(truth, share))
    assert ALGEBRA.holds(found.value, expected, 1.0)
    assert ALGEBRA.holds(sum(found.of_steps), found.value, 1.0)
    assert found.standard_error <= ALGEBRA.rtol  # the ratio is the same at every trajectory


def test_the_student_is_measured_against_its_own_base(truth):
    """A base network that is off by a constant: the learned control is right, the total is not."""
    shift = 0.1

    def moved(model):
        return lambda x, t, cond=None: model(x, t) + shift

    base, best = Steered(truth, 0.0), Steered(truth, 1.0)
    assert truth.error(moved(best), moved(base)).value <= ALGEBRA.rtol
    total = truth.error(moved(best))
    expected = float(
        (truth.to_control * shift).square().sum() / truth.control.square().sum(-1).sum(1).mean()
    )
    assert ALGEBRA.holds(total.value, expected, 1.0)
    assert total.value > ALGEBRA.rtol


def test_the_optimum_passes_and_the_base_fails(truth, optimum):
    best = measure(truth, optimum, NOTE.base_field)
    base = measure(truth, NOTE.base_field, NOTE.base_field)
    assert best["control_error"] <= QUADRATURE.rtol
    assert best["law_share"] <= QUADRATURE.rtol
    assert QUADRATURE.holds(best["reward_share"], 1.0)
    assert QUADRATURE.holds(best["diversity"]["trained"], best["diversity"]["optimum"])
    assert ALGEBRA.holds(base["control_error"], 1.0)
    assert base["law_share"] > 10 * TRAINED_SHARE
    assert base["reward_share"] < TRAINED_SHARE


def test_the_control_is_the_chains_cost(truth):
    """E sum |u*|^2/2 is the KL of the optimal chain to the base's; log Z = scale E r - KL."""
    scale = 2.0
    cost = 0.5 * truth.control.square().sum((1, 2))
    reward = truth.optimum.grid.integrate(
        NOTE.reward(torch.as_tensor(truth.optimum.grid.axes[0])[:, None]).numpy()
    )
    best = parse_method("adjoint_matching:steps=8,offset=0.2").optimum(NOTE)
    gap = scale * reward - float(cost.mean()) - best.log_z
    # Five standard errors: two-sided odds of 6e-7, below the tiers' false-failure rate.
    assert abs(gap) <= 5 * float(cost.std()) / len(cost) ** 0.5
    assert abs(gap + 0.5 * float(cost.mean())) > 5 * float(cost.std()) / len(cost) ** 0.5


def test_the_standard_error_covers(truth):
    """Of a noisy control, over disjoint halves: the spread is what the error says."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(truth.control.shape, dtype=torch.float64, generator=generator)
    noisy = truth.control + 0.3 * noise * (1 + truth.x.abs())
    halves = [ControlError.of(noisy[i::2], truth.control[i::2]) for i in range(2)]
    whole = ControlError.of(noisy, truth.control)
    assert abs(halves[0].value - halves[1].value) <= 5 * 2 * whole.standard_error
    assert halves[0].standard_error > whole.standard_error > 0


def test_masses_of_modes(truth):
    masses = mode_masses(NOTE, truth.start)
    assert len(masses) == 2
    assert ALGEBRA.holds(sum(masses), 1.0)
    assert masses[0] > masses[1]  # the base's weights are 0.65 and 0.35
    assert mode_masses(NOTE, truth.optimum)[1] > masses[1]  # the reward's bump is at x = 2


# --- evaluations


@pytest.mark.parametrize("name", METHODS)
def test_a_step_costs_what_the_table_says(name):
    config = RunConfig(method=METHODS[name].format(scale=2, kl_weight=0.5), problem="bump_2d")
    found, steps = evaluations.per_row(config), config.parsed.steps
    assert (found.forward, found.vjp) == COSTS[name](steps)


def test_the_counter_tells_the_networks_apart():
    found = evaluations.counted_step(
        RunConfig(method="ddpo:kl_weight=0.5,steps=4", problem="note_1d")
    )
    rows = evaluations.ROWS
    assert found.forward == {"student": 12 * rows, "reference": 4 * rows, "auxiliary": 4 * rows}
    assert found.vjp == {"student": 4 * rows, "auxiliary": 4 * rows}


def test_all_methods_have_one_budget():
    plan = ControlPlan()
    for name in METHODS:
        spent = evaluations.of_run(plan.config(name, "note_1d")).total
        step = spent / plan.config(name, "note_1d").steps
        assert abs(spent - plan.budget) <= 0.5 * step


def test_the_preset_is_the_comparison(monkeypatch):
    monkeypatch.setattr(control_runs, "PROBLEMS", ("note_1d",))
    configs = PRESETS["control"]()
    assert len(configs) == len(METHODS) + len(SchedulesPlan().configs())
    assert len({c.digest for c in configs}) == len(configs)


# --- the whole


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("control")
    return out, run_all(out, ["note_1d"], ["adjoint_matching", "ddpo"], processes=1, plan=PLAN)


def test_rows_are_whole_kept_and_written(rows, monkeypatch):
    out, found = rows
    assert [r["name"] for r in found] == ["adjoint_matching", "ddpo"]
    assert all(np.isfinite(r["control_error"]) and r["cpu_seconds"] > 0 for r in found)
    assert found[0]["kernels"].startswith("Euler, memoryless")
    assert found[1]["kernels"].startswith("ancestral")
    monkeypatch.setattr(ControlTruth, "of", None)  # nothing is measured twice
    again = run_all(out, ["note_1d"], ["adjoint_matching", "ddpo"], processes=1, plan=PLAN)
    assert again == found
    path = control_runs.write(out, found[:1])
    control_runs.write(out, found[1:])
    assert json.loads(path.read_text())["rows"] == found
    path.write_text("{")  # damaged: written anew
    control_runs.write(out, found)
    assert json.loads(path.read_text())["rows"] == found
    assert "adjoint_matching" in "".join(map(str, table_of_runs(found).columns[1].cells))


def test_floors(rows):
    _, found = rows
    good = {**found[0], "control_error": control_runs.CONTROL_FLOOR, "law_share": TRAINED_SHARE}
    assert control_runs.failures([good]) == []
    for key in ("control_error", "law_share"):
        (line,) = control_runs.failures([{**good, key: 1.01 * good[key]}])
        assert "adjoint_matching @ note_1d" in line
        assert control_runs.failures([{**good, key: float("nan")}])
    assert control_runs.failures([{**good, "name": "ddpo", "control_error": 1.0}]) == []


@pytest.mark.slow
def test_schedules_are_exact_and_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(control_schedules, "CONSTANTS", (1.0,))
    monkeypatch.setattr(control_schedules, "AXIS", COARSE)
    monkeypatch.setattr(control_schedules, "RTOL", QUADRATURE_2D.rtol)
    monkeypatch.setattr(control_schedules, "ATOL", QUADRATURE.rtol)
    found = control_schedules.schedules(tmp_path, processes=1, plan=SCHEDULES)
    assert [law["schedule"] for law in found["laws"]] == ["g = 1", "memoryless"]
    cells = {(m["trained with"], m["sampled with"]): m for m in found["matrix"]}
    for sampler in ("ODE", "g = 1", "memoryless"):
        # The tilt by every sampler, or by none.
        assert cells["memoryless", sampler]["exact"] < TRAINED_SHARE * found["tv_base_to_tilt"]
        assert cells["g = 1", sampler]["exact"] > TRAINED_SHARE * found["tv_base_to_tilt"]
    law = found["laws"][0]
    # With its own schedule the steered velocity samples the law of the optimum.
    steered = cells["g = 1", "g = 1"]["exact"]
    assert abs(steered - law["tv_continuous_to_tilt"]) < TRAINED_SHARE * steered
    assert law["tv_continuous_to_tilt"] < found["tv_base_to_tilt"]
    assert control_schedules.failures(found)  # so short a training learns nothing
    assert table_of_laws(found).row_count == table_of_matrix(found).row_count == 2
    json.dumps(found, allow_nan=False)


def test_a_trained_velocity_is_sampled_as_the_exact_one(monkeypatch):
    """The base's own field by the ODE and by kernels: the base's law, but for the steps."""
    monkeypatch.setattr(control_schedules, "AXIS", COARSE)
    base = NOTE.base.log_density(torch.as_tensor(COARSE)[:, None]).exp().numpy()
    for schedule in (None, Diffusion.of_constant(1.0)):
        law = control_schedules.sampled_by_kernels(NOTE.base_field, NOTE, schedule)
        assert control_schedules.total_variation(law, base) < TRAINED_SHARE


# --- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "nothing"], "--only must be one of adjoint_matching, .*got 'nothing'"),
        (["--problem", "full_5d"], "must be in d = 1 or 2 for control, got 'full_5d' in d = 5"),
        (["--problem", "nowhere"], "nowhere"),
        (["--jobs", "0"], "--jobs must .*got 0"),
    ],
)
def test_bad_input(words, message, capsys, tmp_path):
    code, _, err = call(capsys, "control", "--out", str(tmp_path), *words)
    assert code == 2
    assert re.search(message, err)


def test_methods_without_a_chain_or_a_tilt():
    with pytest.raises(ValueError, match=r"must be .* trains no kernels of a chain"):
        ControlTruth.of(parse_method("nft"), NOTE)
    with pytest.raises(ValueError, match="aims at no tilt"):
        ControlTruth.of(parse_method("ddpo"), NOTE)


def test_a_reward_without_a_gradient(monkeypatch):
    def step(self, x):
        return (x.detach()[:, 0] > 0).double()

    monkeypatch.setattr(type(NOTE.reward), "__call__", step)
    with pytest.raises(ValueError, match="must be differentiable for control"):
        check_problem(NOTE)
