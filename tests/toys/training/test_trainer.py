"""The loop: networks do not see each other, and nothing is lost when it stops."""

import math

import pytest
import torch

from tests.toys.small import (
    DDPO_KL,
    NFT_OLD,
    TINY,
    call,
    configs,
    copied,
    same_bits,
    same_result,
    stop_at,
    trained,
)
from theory.common.tolerances import FLOAT32
from theory.methods import ProblemTask
from theory.methods.matching.flow_matching import FlowMatching
from toys.training import loop
from toys.training import trainer as module
from toys.training.loop import CHECKPOINT_SECONDS, checkpoint_seconds, rate
from toys.training.runs import Group, Run
from toys.training.schedule import plan
from toys.training.trainer import Trainer, use_fast_kernels

STOP = 13


def bases_of(wanted, out):
    trained(out, [c.base() for c in wanted if c.base() is not None])


# --- independence


@pytest.mark.parametrize("method", ["flow_matching", NFT_OLD, DDPO_KL])
def test_networks_train_as_if_alone(method, tmp_path):
    """A network in a stack multiplies by other kernels than one alone: rounding, 30 steps."""
    together = configs(method, 3)
    trained(tmp_path / "together", together)
    for c in together:
        bases_of([c], tmp_path / "alone")
        Trainer(Group(tmp_path / "alone", (c,))).train()
    weights = [Run(tmp_path / "together", c).weights() for c in together]
    for c, ours in zip(together, weights, strict=True):
        alone = Run(tmp_path / "alone", c).weights()
        assert all(torch.allclose(ours[k], alone[k], rtol=0, atol=FLOAT32.rtol) for k in alone)
    # Another seed is told apart.
    a, b = weights[0]["weight.1"], weights[1]["weight.1"]
    assert not torch.allclose(a, b, rtol=0, atol=2e3 * FLOAT32.rtol)


def test_groups_of_two_problems_train_each_on_its_own(tmp_path):
    both = configs("flow_matching") + configs("flow_matching", problem="linear_1d")
    Trainer(Group(tmp_path / "both", tuple(both))).train()
    for c in both:
        trained(tmp_path / "alone", [c])
        ours, alone = (Run(tmp_path / o, c).weights() for o in ("both", "alone"))
        assert all(torch.allclose(ours[k], alone[k], rtol=0, atol=FLOAT32.rtol) for k in alone)


# --- interruptions


@pytest.fixture(scope="module", params=[NFT_OLD, DDPO_KL])
def stopped(request, tmp_path_factory):
    """(configs, folder of a run left alone, folder of one that stopped)."""
    wanted = configs(request.param, 2)
    whole, part = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("part")
    trained(whole, wanted)
    bases_of(wanted, part)
    group = stop_at(part, wanted, STOP)
    assert group.load()[0] == STOP - 1
    return wanted, whole, part


def test_a_stopped_run_goes_on_to_the_same_bits(stopped, tmp_path):
    wanted, whole, part = stopped
    out = copied(part, tmp_path)
    assert not any(Run(out, c).is_finished for c in wanted)
    trained(out, wanted)
    assert same_result(out, whole, wanted)
    assert not list((out / "groups").iterdir())


def changed(pattern, change):
    def mutate(step, tensors, metrics, names):
        hit = [k for k in tensors if pattern in k]
        assert hit
        return step, tensors | {k: change(tensors[k], k, tensors) for k in hit}, metrics, names

    return mutate


def zeros(value, name, tensors):
    return torch.zeros_like(value)


def reseeded(value, name, tensors):
    return torch.Generator().manual_seed(5).get_state()


def as_student(value, name, tensors):
    return tensors[name.replace("policy.old", "policy.student")]


MUTANTS = {
    "student": changed("policy.student", zeros),
    "adam moments": changed(".exp_avg", zeros),
    "first moments alone": changed(".exp_avg", lambda v, k, _: v if "sq" in k else 0 * v),
    "adam step": changed(".step", zeros),
    "one generator": changed("generator.1", reseeded),
    "old copy": changed("policy.old", as_student),
    "value network": changed("policy.networks.value", zeros),
    "metrics": lambda step, tensors, metrics, names: (step, tensors, metrics.flip(0), names),
    "place in the schedule": lambda step, tensors, metrics, names: (
        step - 1, tensors, metrics[:-1], names
    ),
}  # fmt: skip
ONLY = {"old copy": NFT_OLD, "value network": DDPO_KL}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_part_of_the_state_matters(stopped, mutant, tmp_path, monkeypatch):
    wanted, whole, part = stopped
    if ONLY.get(mutant, wanted[0].method) != wanted[0].method:
        return
    out, load = copied(part, tmp_path), Group.load
    monkeypatch.setattr(Group, "load", lambda self: MUTANTS[mutant](*load(self)))
    trained(out, wanted)
    assert not same_result(out, whole, wanted)


def test_a_state_without_a_part_is_refused(stopped, tmp_path, monkeypatch):
    wanted, _, part = stopped
    out, load = copied(part, tmp_path), Group.load

    def without(self):
        step, tensors, *rest = load(self)
        return step, {k: v for k, v in tensors.items() if "student.weight.0" not in k}, *rest

    monkeypatch.setattr(Group, "load", without)
    with pytest.raises(ValueError, match=r"student\.weight\.0"):
        trained(out, wanted)


def test_stopped_before_the_first_checkpoint(tmp_path):
    wanted = configs("flow_matching")
    trained(tmp_path / "whole", wanted)
    group = stop_at(tmp_path, wanted, 1)
    assert group.load() is None
    trained(tmp_path, wanted)
    assert same_result(tmp_path, tmp_path / "whole", wanted)


# --- losses, logs, rates


def test_a_loss_that_is_not_finite_is_an_error(tmp_path):
    wanted = configs("flow_matching", learning_rate=1e30)
    with pytest.raises(ValueError, match=r"flow_matching @ note_1d, seed 0: .*must stay finite"
                       r".*\(learning_rate = 1e\+30\).*smaller"):  # fmt: skip
        trained(tmp_path, wanted)
    assert not Run(tmp_path, wanted[0]).folder.exists()
    assert not list((tmp_path / "groups").iterdir())


def test_a_network_that_diverges_leaves_its_neighbours_alone(tmp_path):
    wanted = configs("flow_matching", 3)
    trainer = Trainer(Group(tmp_path, tuple(wanted)))
    with torch.no_grad():
        trainer.policy.student.weight[0][1, 0, 0] = math.nan
    with pytest.raises(
        ValueError, match="flow_matching @ note_1d, seed 1: the loss must stay finite"
    ):
        trainer.train()
    assert [Run(tmp_path, c).is_finished for c in wanted] == [True, False, True]
    trained(tmp_path / "alone", [wanted[2]])
    found, alone = Run(tmp_path, wanted[2]).weights(), Run(tmp_path / "alone", wanted[2]).weights()
    assert all(torch.allclose(found[k], alone[k], rtol=0, atol=FLOAT32.rtol) for k in found)


@pytest.mark.parametrize("name", ["basic_adjoint_matching", "discrete_adjoint"])
def test_an_adjoint_that_is_not_finite_stops_with_its_state_saved(
    name, tmp_path, monkeypatch, capsys
):
    """Said without a traceback; the same command goes on to the same bits where it was chance."""
    out, wanted = tmp_path / "part", configs(f"{name}:steps=3,sigma_end=0.1")
    trained(tmp_path / "whole", wanted)
    bases_of(wanted, out)
    reward, calls = ProblemTask.reward, iter(range(1000))

    def spiked(self, x1, cond=None):
        """Its value is right, its slope no number once."""
        values = reward(self, x1)
        return values + (x1 - x1.detach()).abs().sqrt().sum(1) if next(calls) == 25 else values

    words = ["train", "--method", wanted[0].method, "--problem", "note_1d", "--out", out]
    words += [w for k, v in TINY.items() for w in (f"--{k}", v)]
    with monkeypatch.context() as patch:
        patch.setattr(ProblemTask, "reward", spiked)
        status, _, err = call(capsys, *words)
    assert status == 2
    (said,) = [line for line in err.splitlines() if not line.startswith("training: ")]
    assert said.startswith(f"error: {name}:steps=3,sigma_end=0.1: the adjoint is not finite, first")
    assert "at state k = 3, t = 1, in row 0 of the batch" in said
    # Two rewards a step where adjoints are stored: 25 is the thirteenth step's second. The discrete
    # adjoint asks once before the first step.
    assert Group(out, tuple(wanted)).load()[0] == (24 if name == "discrete_adjoint" else 12)
    assert call(capsys, *words)[0] == 0
    assert same_result(out, tmp_path / "whole", wanted)


@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (30, 30), (250, 125), (101, 101)])
def test_a_row_of_metrics_a_log(steps, rows, tmp_path):
    wanted = configs(DDPO_KL if steps == 30 else "flow_matching", steps=steps, batch=8)
    trained(tmp_path, wanted)
    text = (Run(tmp_path, wanted[0]).folder / "metrics.csv").read_text().splitlines()
    assert len(text) == 1 + rows
    names, numbers = text[0].split(","), [[float(v) for v in row.split(",")] for row in text[1:]]
    assert names == ["step", "loss"] + ["reward", "kl", "value_loss"] * (steps == 30)
    assert [int(row[0]) for row in numbers][-1] == steps
    assert all(map(math.isfinite, (v for row in numbers for v in row)))


def test_the_learning_rate_rises_and_falls():
    steps = 200
    rates = [rate(k, steps) for k in range(steps)]
    top = rates.index(max(rates))
    assert rates[top] == 1.0
    assert top == round(loop.WARM_UP * steps) - 1
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[-1] < 1e-3
    assert math.isclose(rates[(steps + top + 1) // 2], 0.5, abs_tol=0.01)
    assert rate(0, 1) == 1.0


def test_the_rate_reaches_the_optimiser(tmp_path):
    (config,) = configs("flow_matching")
    trainer = Trainer(Group(tmp_path, (config,)))
    trainer._one_step()
    (row,) = trainer.optimiser.param_groups
    assert row["lr"] == config.learning_rate * rate(0, TINY["steps"])
    assert row["lr"] != config.learning_rate


def test_the_method_hears_of_every_step(tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(FlowMatching, "after_step", lambda self, policy, step: heard.append(step))
    trained(tmp_path, configs("flow_matching"))
    assert heard == list(range(1, TINY["steps"] + 1))


# --- settings of the process


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", ""])
def test_checkpoint_seconds_must_be_positive(text, monkeypatch):
    monkeypatch.setenv("PLUMBLINE_CHECKPOINT_SECONDS", text)
    with pytest.raises(ValueError, match=rf"PLUMBLINE_CHECKPOINT_SECONDS .*{text}.*must be"):
        checkpoint_seconds()


def test_checkpoint_seconds(monkeypatch):
    monkeypatch.delenv("PLUMBLINE_CHECKPOINT_SECONDS", raising=False)
    assert checkpoint_seconds() == CHECKPOINT_SECONDS
    monkeypatch.setenv("PLUMBLINE_CHECKPOINT_SECONDS", "0.25")
    assert checkpoint_seconds() == 0.25


def gemm_error():
    a = torch.rand(256, 64, generator=torch.Generator().manual_seed(1))
    exact = a.double() @ a.double().T
    return float(((a @ a.T).double() / exact - 1).abs().max())


def test_fast_products_are_accurate(monkeypatch):
    use_fast_kernels()
    assert gemm_error() < module.GEMM_TOLERANCE
    # bfloat16, which the bound is there to refuse, misses it.
    a = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    coarse = (a.bfloat16() @ a.bfloat16()).double() / (a.double() @ a.double()) - 1
    assert float(coarse.abs().max()) > module.GEMM_TOLERANCE
    monkeypatch.setattr(module, "GEMM_TOLERANCE", 0.0)
    use_fast_kernels()
    assert torch.get_float32_matmul_precision() == "highest"


# --- what a group is


def test_low_discrepancy_is_a_choice(tmp_path):
    sobol, pseudo = configs("flow_matching") + configs("flow_matching", low_discrepancy=False)
    assert len(plan(tmp_path, [sobol, pseudo])[1]) == 2
    trained(tmp_path, [sobol, pseudo])
    assert not same_bits(Run(tmp_path, sobol).weights(), Run(tmp_path, pseudo).weights())


def test_a_loss_that_is_not_one_value_a_row_is_refused(tmp_path, monkeypatch):
    wanted = configs("flow_matching", 2)
    whole = FlowMatching.loss

    def summed(self, policy, task, batch):
        losses, info = whole(self, policy, task, batch)
        return losses.sum(), info

    monkeypatch.setattr(FlowMatching, "loss", summed)
    with pytest.raises(ValueError, match=r"flow_matching.py: FlowMatching.loss returned losses, a"):
        trained(tmp_path, wanted)


# --- networks kept along the way

ONLINE = "nft:refresh_every=10,old_decay=0.5,pool=256"


def test_snapshots_are_what_the_method_samples_from(tmp_path):
    (config,) = configs(ONLINE, snapshots=3)
    trained(tmp_path, [config])
    run = Run(tmp_path, config)
    kept = run.snapshots()
    assert len(kept) == 3
    assert all(kept[0].keys() == one.keys() == run.weights().keys() for one in kept)
    assert not same_bits(kept[0], kept[1])
    # The old copy is half the student and half what it was before.
    for name, student in run.weights().items():
        mean = 0.5 * kept[1][name] + 0.5 * student
        assert FLOAT32.holds(kept[2][name], mean, scale=1.0)


def test_runs_that_keep_other_networks_train_apart(tmp_path):
    wanted = [*configs("flow_matching", snapshots=3), *configs("flow_matching", snapshots=2)]
    wanted += configs("flow_matching")
    assert sorted(len(group.members) for group in plan(tmp_path, wanted)[-1]) == [1, 1, 1]


def test_without_an_old_copy_the_last_snapshot_is_the_student(tmp_path):
    (config,) = configs("nft", snapshots=2)
    trained(tmp_path, [config])
    run = Run(tmp_path, config)
    assert same_bits(run.snapshots()[-1], run.weights())


def test_snapshots_and_pool_survive_a_stop(tmp_path):
    wanted = configs(ONLINE, seeds=2, snapshots=3)
    trained(tmp_path / "whole", wanted)
    trained(tmp_path / "parts", [c for w in wanted if (c := w.base()) is not None])
    stop_at(tmp_path / "parts", wanted, 17)
    trained(tmp_path / "parts", wanted)
    for config in wanted:
        whole, parts = Run(tmp_path / "whole", config), Run(tmp_path / "parts", config)
        assert same_bits(whole.weights(), parts.weights())
        for one, other in zip(whole.snapshots(), parts.snapshots(), strict=True):
            assert same_bits(one, other)


def test_snapshots_are_asked_for(tmp_path):
    (config,) = configs("flow_matching")
    trained(tmp_path, [config])
    with pytest.raises(ValueError, match="snapshots = 0"):
        Run(tmp_path, config).snapshots()
    for count in (7, 31, -1):
        with pytest.raises(ValueError, match=f"snapshots must .*got {count}"):
            configs("flow_matching", snapshots=count)


def test_the_rate_starts_again_with_every_cycle(tmp_path):
    (config,) = configs(ONLINE)
    trained(tmp_path, [c for c in [config.base()] if c is not None])
    trainer = Trainer(Group(tmp_path, (config,)))
    rates = []
    for trainer.step in range(30):
        rates.append(trainer.rate())
    assert rates[:10] == rates[10:20] == rates[20:]
    assert rates[:10] == [rate(step, 10) for step in range(10)]
