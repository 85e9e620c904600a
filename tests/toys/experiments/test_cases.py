"""The adjoint family on named control problems: gradients, budget, resuming, what is learned."""

import json
import math
from dataclasses import replace

import pytest
import torch
from scipy.special import ndtri

from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, FLOAT32
from theory.control.processes import case_starts
from toys.__main__ import main
from toys.experiments.cases import runs
from toys.experiments.cases import trainer as module
from toys.experiments.cases.config import EVALUATIONS, METHODS, CaseConfig
from toys.experiments.cases.runs import kept, train_cases
from toys.experiments.cases.trainer import Trainer, generator
from toys.experiments.control import CONTROL_FLOOR
from toys.training.files import write_tensors

SMALL = CaseConfig("ou_quadratic", "discrete_adjoint", budget=5 * 4 * 8 * 6, batch=8, steps=4)


def quiet(*_):
    pass


def process_of(trainer):
    """The problem under its network's control."""
    return trainer.task.process(trainer.control)


def stopping_at(step):
    """A report that stops the loop there; the checkpoint is a step old."""

    def stop(done, steps, loss):
        if done == step:
            raise KeyboardInterrupt

    return stop


def has_the_costs_gradient(trainer):
    """Whether the next update follows the whole cost's gradient, by one graph of the simulation."""
    config = trainer.config
    with torch.no_grad():  # any network but 0
        trainer.network.weight[-1].normal_(generator=torch.Generator().manual_seed(1))
    trainer.optimiser.step = quiet
    trainer._one_step()
    parameters, process = list(trainer.network.parameters()), process_of(trainer)
    found = torch.cat([p.grad.flatten() for p in parameters])
    shape = (config.batch, config.steps + 1, trainer.task.case.dim)
    noise = torch.randn(shape, generator=generator(config.seed, 0))
    x, dt, cost = case_starts(trainer.task.case, noise[:, 0]), 1 / config.steps, 0.0
    for k in range(config.steps):
        u, t = trainer.control(x, k * dt), k * dt
        cost = cost + dt * (0.5 * u.square().sum(1) + process.running(x, t))
        x = x + dt * (process.drift(x, t) + u) + math.sqrt(dt) * noise[:, k + 1]
    cost = (cost + process.final(x)).mean()
    right = torch.cat([g.flatten() for g in torch.autograd.grad(cost, parameters)])
    size = float(right.abs().max())
    return FLOAT32.holds(found / size, right / size, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_the_discrete_adjoint_alone_is_the_costs_gradient(method, tmp_path):
    trainer = Trainer(replace(SMALL, method=method), tmp_path)
    assert has_the_costs_gradient(trainer) == (method == "discrete_adjoint")


@pytest.mark.parametrize("method", METHODS)
def test_evaluations_are_counted(method, tmp_path):
    trainer = Trainer(replace(SMALL, method=method), tmp_path)
    seen = {"forward": 0, "vjp": 0}
    plain = trainer.network.forward

    def counted(x, t, cond=None):
        seen["forward"] += len(x)
        out = plain(x, t, cond)
        if out.requires_grad:
            out.register_hook(lambda g: seen.__setitem__("vjp", seen["vjp"] + len(g)))
        return out

    trainer.network.forward = counted
    trainer.after_step = quiet  # the learning curve is no part of the update
    trainer._one_step()
    assert sum(seen.values()) == EVALUATIONS[method](SMALL.steps) * SMALL.batch


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_CHECKPOINT_SECONDS", "1e-9")
    monkeypatch.setattr(module, "POINTS", 4)
    whole = Trainer(SMALL, tmp_path / "whole")
    whole.train()
    assert whole.step == SMALL.updates == 6
    with pytest.raises(KeyboardInterrupt):
        Trainer(SMALL, tmp_path / "parts").train(stopping_at(5))
    rest = Trainer(SMALL, tmp_path / "parts")
    rest.load()
    assert rest.step == 4
    rest.train()
    assert rest.curve == whole.curve
    assert len(whole.curve) == 5
    for one, two in zip(whole.network.parameters(), rest.network.parameters(), strict=True):
        assert torch.equal(one, two)
        moments = (t.optimiser.state[p] for t, p in ((whole, one), (rest, two)))
        first, second = moments
        assert all(torch.equal(first[k], second[k]) for k in ("step", "exp_avg", "exp_avg_sq"))


@pytest.mark.slow
def test_adjoint_matching_learns_an_ornstein_uhlenbeck_problem(tmp_path):
    config = CaseConfig("ou_linear", "adjoint_matching", 3 * 16 * 128 * 200, steps=16)
    (row,) = train_cases(tmp_path, [config], processes=1)
    assert row["control_error"] < CONTROL_FLOOR
    assert row["curve"][0] == [0.0, 1.0]  # u = 0
    assert row["curve"][-1][0] == row["evaluations"] == config.budget
    assert row["curve"][-1][1] < CONTROL_FLOOR
    bound = float(-ndtri(FALSE_FAILURE_RATE / 2)) * row["cost_se"]
    assert abs(row["cost"] - row["least_cost"]) < bound
    assert row["uncontrolled_cost"] - row["least_cost"] > bound
    # The chain's optimum is known beside the diffusion's: on 16 steps they differ.
    assert 0 < row["floor"] < CONTROL_FLOOR
    assert "crossed" not in row
    # Linear drift and cost: every trajectory's lean adjoint is -u*_k/g, without noise.
    assert 0 <= row["adjoint_noise"] < ALGEBRA.rtol
    # Done: neither trained nor measured again.
    start = config.place(tmp_path, ".safetensors").stat().st_mtime_ns
    assert train_cases(tmp_path, [config], processes=1) == [row]
    assert config.place(tmp_path, ".safetensors").stat().st_mtime_ns == start


def test_an_adjoint_that_is_not_finite_stops_with_the_state_saved(tmp_path):
    trainer = Trainer(SMALL, tmp_path)
    trainer._one_step()
    process = process_of(trainer)
    wrong = replace(process, final=lambda x: process.final(x) / (x[:, 0] * 0))
    trainer.task.process = lambda control: wrong
    before = [p.clone() for p in trainer.network.parameters()]
    with pytest.raises(
        ValueError, match=r"update 2: the adjoint is not finite at step 4, sample 0"
    ):
        trainer.train()
    kept = Trainer(SMALL, tmp_path)
    kept.load()
    assert kept.step == 1
    found = kept.network.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, found, strict=True))


@pytest.mark.parametrize(
    ("ending", "text"),
    [(".json", "[]"), (".json", '{"key": "", "row": {}}'), (".safetensors", "no tensors")],
)
def test_damaged_files_are_named(ending, text, tmp_path):
    """The advice is to delete that file: the folder holds other runs."""
    path = SMALL.place(tmp_path, ending)
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path.name}: damaged .*; delete this file"):
        train_cases(tmp_path, [SMALL], processes=1)


def test_a_checkpoint_without_its_state_is_damaged(tmp_path):
    write_tensors(SMALL.place(tmp_path, ".safetensors"), {"parameter.0": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"damaged \('sha256'\); delete this file"):
        train_cases(tmp_path, [SMALL], processes=1)


def test_numbers_of_other_code_are_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "PARTS", 1)
    monkeypatch.setattr(runs, "OWN_PARTS", 1)
    (row,) = train_cases(tmp_path, [SMALL], processes=1)
    path = SMALL.place(tmp_path, ".json")
    path.write_text(json.dumps({"key": "old", "row": {**row, "cost": 0.0}}))
    assert kept(tmp_path, SMALL) is None
    assert train_cases(tmp_path, [SMALL], processes=1) == [row]
    assert kept(tmp_path, SMALL) == row


def test_nothing_is_trained_where_one_chain_has_no_optimum(tmp_path):
    few = CaseConfig("double_well_10d", "adjoint_matching", steps=40)
    with pytest.raises(ValueError, match=r"steps must be more than 40 for .*unique"):
        train_cases(tmp_path, [SMALL, few], processes=1)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        train_cases(tmp_path / "file" / "sub", [SMALL], processes=1)


def test_a_loss_that_is_not_finite_changes_nothing(tmp_path):
    trainer = Trainer(SMALL, tmp_path)
    with torch.no_grad():
        trainer.network.bias[-1].fill_(1e25)
    wrong = replace(process_of(trainer), final=lambda x: 0 * x[:, 0], running=None)
    trainer.task.process = lambda control: wrong
    with pytest.raises(ValueError, match=r"update 1: .*(must stay|adjoint is not) finite"):
        trainer._one_step()
    assert trainer.step == 0


def test_a_start_at_the_optimum(tmp_path, monkeypatch):
    """Fitted first; a run that goes on is not fitted again."""
    monkeypatch.setattr(module, "FITTED", 512)
    monkeypatch.setattr(module, "FITS", 100)
    monkeypatch.setenv("PLUMBLINE_CHECKPOINT_SECONDS", "1e-9")
    config = replace(SMALL, start="optimum")
    assert config.digest != SMALL.digest
    whole = Trainer(config, tmp_path / "whole")
    whole.train()
    assert whole.curve[0][1] < 0.5  # where no control at all has 1
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, tmp_path / "parts").train(stopping_at(3))
    monkeypatch.setattr(Trainer, "fit", quiet)
    rest = Trainer(config, tmp_path / "parts")
    rest.train()
    assert rest.curve == whole.curve
    assert torch.equal(rest.network.weight[0], whole.network.weight[0])


def test_no_run_exceeds_its_budget():
    for method in METHODS:
        config = CaseConfig("ou_linear", method, budget=2e5)
        assert 2e5 - config.update_cost < config.updates * config.update_cost <= 2e5


def test_the_command(tmp_path, capsys):
    arguments = ["cases", "--case", "ou_quadratic", "--only", "adjoint_matching", "--budget", "2e3",
                 "--batch", "8", "--steps", "8", "--jobs", "1", "--out", str(tmp_path)]  # fmt: skip
    assert main(arguments) == 0
    assert "ou_quadratic" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["updates"] == 2000 // (8 * 3 * 8)


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (["--case", "nobody"], ("--case must", "got 'nobody'", "double_well_10d")),
        (["--only", "ddpo"], ("--only must", "got 'ddpo'", "adjoint_matching")),
        (["--budget", "10"], ("budget must", "got 10", "24576")),
        (
            ["--budget", "nan"],
            (
                "budget must",
                "got nan",
            ),
        ),
        (
            ["--batch", "0"],
            (
                "batch must",
                "got 0",
            ),
        ),
        (
            ["--case", "double_well_10d", "--steps", "40"],
            ("40", "no unique optimum"),
        ),
        (["--jobs", "0"], ("--jobs",)),
        (
            ["--seed", "-1"],
            (
                "seed must",
                "got -1",
            ),
        ),
        (["--start", "here"], ("--start must", "got 'here'", "optimum")),
        (["--seed", "99999999999999"], ("seed must", "got 99999999999999", "2147483647")),
    ],
)
def test_bad_input(arguments, needles, tmp_path, capsys):
    assert main(["cases", "--jobs", "1", *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    for needle in needles:
        assert needle in error
