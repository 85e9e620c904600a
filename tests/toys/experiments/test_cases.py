"""The adjoint family on named control problems: gradients, budget, resuming, what is learned."""

import json
import math
from dataclasses import replace

import pytest
import torch
from scipy.special import ndtri

from tests.theory.methods.mutants import mutant_module
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, FLOAT32
from theory.control.processes import case_starts
from toys.__main__ import main
from toys.experiments import case_trainer, cases
from toys.experiments.case_config import EVALUATIONS, METHODS, CaseConfig
from toys.experiments.case_trainer import Trainer, generator
from toys.experiments.cases import kept, train_cases
from toys.experiments.control import CONTROL_FLOOR
from toys.training.files import write_tensors

SMALL = CaseConfig("ou_quadratic", "discrete_adjoint", budget=5 * 4 * 8 * 6, batch=8, steps=4)


def quiet(*_):
    pass


def has_the_costs_gradient(trainer):
    """Whether the next update follows the whole cost's gradient, by one graph of the simulation."""
    config = trainer.config
    with torch.no_grad():  # any network but 0
        trainer.control.network.weight[-1].normal_(generator=torch.Generator().manual_seed(1))
    trainer.optimiser.step = quiet
    trainer.step()
    found = torch.cat([p.grad.flatten() for p in trainer.parameters])
    shape = (config.batch, config.steps + 1, trainer.case.dim)
    noise = torch.randn(shape, generator=generator(config.seed, 0))
    x, dt, cost = case_starts(trainer.case, noise[:, 0]), 1 / config.steps, 0.0
    for k in range(config.steps):
        u, t = trainer.control(x, k * dt), k * dt
        cost = cost + dt * (0.5 * u.square().sum(1) + trainer.process.running(x, t))
        x = x + dt * (trainer.process.drift(x, t) + u) + math.sqrt(dt) * noise[:, k + 1]
    cost = (cost + trainer.process.final(x)).mean()
    right = torch.cat([g.flatten() for g in torch.autograd.grad(cost, trainer.parameters)])
    size = float(right.abs().max())
    return FLOAT32.holds(found / size, right / size, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_the_discrete_adjoint_alone_is_the_costs_gradient(method, tmp_path):
    trainer = Trainer(replace(SMALL, method=method), tmp_path)
    assert has_the_costs_gradient(trainer) == (method == "discrete_adjoint")


STEP_MUTANTS = {
    "the adjoint's sign": ("+ g * adjoint", "- g * adjoint"),
    "states of the step's end": ("states[:, :-1]) + g", "states[:, 1:]) + g"),
    "times of the step's end": ("times[:-1], states[:, :-1]) + g",
                                "times[1:], states[:, :-1]) + g"),
    "no control at all": ("self.control.along(self.times[:-1], states[:, :-1]) + g",
                          "0 * self.control.along(self.times[:-1], states[:, :-1]) + g"),
    "mean over coordinates": ("0.5 * gap.square().sum(-1).mean()", "0.5 * gap.square().mean()"),
    "another X_0": ("case_starts(self.case, noise[:, 0])", "case_starts(self.case, noise[:, 1])"),
    "noise one step early": ("starts, noise[:, 1:])", "starts, noise[:, :-1])"),
}  # fmt: skip


@pytest.mark.parametrize("name", STEP_MUTANTS)
def test_mutant_of_the_step_is_rejected(name, tmp_path):
    module = mutant_module("toys.experiments.case_trainer", STEP_MUTANTS[name])
    assert not has_the_costs_gradient(module.Trainer(SMALL, tmp_path))


@pytest.mark.parametrize("method", METHODS)
def test_evaluations_are_counted(method, tmp_path):
    trainer = Trainer(replace(SMALL, method=method), tmp_path)
    seen = {"forward": 0, "vjp": 0}
    plain = trainer.control.network.forward

    def counted(x, t, cond=None):
        seen["forward"] += len(x)
        out = plain(x, t, cond)
        if out.requires_grad:
            out.register_hook(lambda g: seen.__setitem__("vjp", seen["vjp"] + len(g)))
        return out

    trainer.control.network.forward = counted
    trainer.step()
    assert sum(seen.values()) == EVALUATIONS[method](SMALL.steps) * SMALL.batch


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(case_trainer, "SAVE_EVERY", 2)
    monkeypatch.setattr(case_trainer, "POINTS", 4)
    whole = Trainer(SMALL, tmp_path / "whole")
    whole.run(quiet)
    assert whole.update == SMALL.updates == 6

    def stop(part, done, text):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(SMALL, tmp_path / "parts").run(stop)
    rest = Trainer(SMALL, tmp_path / "parts")
    rest.load()
    assert rest.update == 4
    rest.run(quiet)
    assert rest.curve == whole.curve
    assert len(whole.curve) == 5
    for one, two in zip(whole.parameters, rest.parameters, strict=True):
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
    trainer.step()
    final = trainer.process.final
    trainer.process = replace(trainer.process, final=lambda x: final(x) / (x[:, 0] * 0))
    before = [p.clone() for p in trainer.parameters]
    with pytest.raises(
        ValueError, match=r"update 2: the adjoint is not finite at step 4, sample 0"
    ):
        trainer.run(quiet)
    kept = Trainer(SMALL, tmp_path)
    kept.load()
    assert kept.update == 1
    assert all(torch.equal(a, b) for a, b in zip(before, kept.parameters, strict=True))


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
    with pytest.raises(ValueError, match=r"damaged \('state'\); delete this file"):
        train_cases(tmp_path, [SMALL], processes=1)


def test_numbers_of_other_code_are_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "PARTS", 1)
    monkeypatch.setattr(cases, "OWN_PARTS", 1)
    (row,) = train_cases(tmp_path, [SMALL], processes=1)
    path = SMALL.place(tmp_path, ".json")
    path.write_text(json.dumps({"key": "old", "row": {**row, "cost": 0.0}}))
    assert kept(tmp_path, SMALL) is None
    assert train_cases(tmp_path, [SMALL], processes=1) == [row]
    assert kept(tmp_path, SMALL) == row


def test_nothing_is_trained_where_one_chain_has_no_optimum(tmp_path):
    few = CaseConfig("double_well_10d", "adjoint_matching", steps=40)
    with pytest.raises(ValueError, match="steps = 40"):
        train_cases(tmp_path, [SMALL, few], processes=1)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write"):
        train_cases(tmp_path / "file" / "sub", [SMALL], processes=1)


def test_a_loss_that_is_not_finite_changes_nothing(tmp_path):
    trainer = Trainer(SMALL, tmp_path)
    with torch.no_grad():
        trainer.control.network.bias[-1].fill_(1e25)
    trainer.process = replace(trainer.process, final=lambda x: 0 * x[:, 0], running=None)
    with pytest.raises(ValueError, match=r"loss is (inf|nan)|adjoint is not finite"):
        trainer.step()
    assert trainer.update == 0


def test_a_start_at_the_optimum(tmp_path, monkeypatch):
    """Fitted first; a run that goes on is not fitted again."""
    monkeypatch.setattr(case_trainer, "FITTED", 512)
    monkeypatch.setattr(case_trainer, "FITS", 100)
    monkeypatch.setattr(case_trainer, "SAVE_EVERY", 1)
    config = replace(SMALL, start="optimum")
    assert config.digest != SMALL.digest
    whole = Trainer(config, tmp_path / "whole")
    whole.run(quiet)
    assert whole.curve[0][1] < 0.5  # where no control at all has 1

    def stop(part, done, text):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(config, tmp_path / "parts").run(stop)
    monkeypatch.setattr(Trainer, "fit", quiet)
    rest = Trainer(config, tmp_path / "parts")
    rest.run(quiet)
    assert rest.curve == whole.curve
    assert torch.equal(rest.parameters[0], whole.parameters[0])


def wrong_numbers(module, trainer):
    """What `measure` of a well says that loops over its trajectories do not."""
    module.PARTS = module.OWN_PARTS = 1
    row = module.measure(trainer)
    paths = trainer.optimal_paths(module.PART, "judge", 0)
    x, kappa = paths.states, torch.as_tensor(trainer.case.kappa)
    a = 2 * torch.as_tensor(trainer.case.nu) * (x[:, -1] - 1)
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
    x, cost = case_starts(trainer.case, draws[:, 0]), 0.0
    for k in range(64):
        last = x
        with torch.no_grad():
            u = trainer.control(x, k / 64)
        cost = cost + u.square().sum(1) / 128
        x = x + (trainer.process.drift(x, k / 64) + u) / 64 + draws[:, k + 1] / 8
    cost = cost + trainer.process.final(x)
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
        trainer.control.network.weight[-1].normal_(generator=torch.Generator().manual_seed(1))
        trainer.control.network.bias[-1].fill_(3.0)
    return trainer


def test_measured_numbers_are_those_of_loops(well):
    assert wrong_numbers(mutant_module("toys.experiments.cases"), well) == set()


MEASURE_MUTANTS = {
    "error_to_continuous": ('("other", u - paths.continuous)', '("other", u - paths.best)'),
    "floor": ('_of_means(sums["floor"], sums["continuous"])',
              '_of_means(sums["floor"], sums["best"])'),
    "control_error": ('_of_means(sums["own"], sums["best"])',
                      '_of_means(sums["own"], sums["continuous"])'),
    "adjoint_noise": ("paths.states)[:, 1:]", "paths.states)[:, :-1]"),
    "adjoint_noise_median": ('sums["noise"].median()', 'sums["noise"].mean()'),
    "error_of_coordinates": ("(top / bottom)", "(top / bottom.mean())"),
    "crossed": ("above.append((states[:, -2] > 0)", "above.append((states[:, -1] > 0)"),
    "crossed_of_optimum": ("ends.append((paths.states[:, -2]", "ends.append((paths.states[:, -1]"),
    "cost": ("case_starts(trainer.case, noise[:, 0])",
             "case_starts(trainer.case, noise[:, 0]) + 0.1"),
    "cost_se": ("float(costs.std()) / len(costs) ** 0.5", "float(costs.std())"),
}  # fmt: skip


@pytest.mark.parametrize("name", MEASURE_MUTANTS)
def test_mutant_of_measure_is_rejected(name, well):
    assert name in wrong_numbers(
        mutant_module("toys.experiments.cases", MEASURE_MUTANTS[name]), well
    )


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
        (["--case", "nobody"], ("--case = 'nobody'", "double_well_10d")),
        (["--only", "ddpo"], ("--only = 'ddpo'", "adjoint_matching")),
        (["--budget", "10"], ("budget = 10", "24576")),
        (["--budget", "nan"], ("budget = nan",)),
        (["--batch", "0"], ("batch = 0",)),
        (
            ["--case", "double_well_10d", "--steps", "40"],
            ("steps = 40", "allowed"),
        ),
        (["--jobs", "0"], ("--jobs",)),
        (["--seed", "-1"], ("seed = -1",)),
        (["--start", "here"], ("--start = 'here'", "optimum")),
        (["--seed", "99999999999999"], ("seed = 99999999999999", "2147483647")),
    ],
)
def test_bad_input(arguments, needles, tmp_path, capsys):
    assert main(["cases", "--jobs", "1", *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    for needle in needles:
        assert needle in error
