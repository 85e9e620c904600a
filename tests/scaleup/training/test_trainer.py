"""The loop: a killed run goes on to the same bits; gradients of parts are those of the whole."""

import csv
import math
import shutil
from dataclasses import replace

import pytest
import torch

from scaleup.adapter import Guided
from scaleup.rewards.redness import Redness
from scaleup.training.checkpoints import checkpoint_path, newest_state
from scaleup.training.config import TrainConfig
from scaleup.training.task import PromptedTask
from scaleup.training.trainer import Trainer
from tests.scaleup.work import NFT_ONLINE, killed, same, session, settings, trained
from theory.common.tolerances import FLOAT32
from theory.methods.chain.finite import NonFiniteAdjointError
from theory.methods.matching.tilt_matching import TiltMatching
from theory.methods.policy_gradient.ddpo import DDPO

STOP = 4  # one step after the checkpoint, within an epoch of the online method
METHODS = {
    "nft": "nft:nft_beta=0.5,reward_mapping=released",
    "nft online": NFT_ONLINE,
    "nft online, no pool": "nft:reward_mapping=released,refresh_every=3,kl_weight=0.1",
    "tilt matching": "tilt_matching:scale=3",
    "weighted": "weighted_flow_matching",
    "ddpo": "ddpo:steps=3,kl_weight=0.1",
    "adjoint matching": "adjoint_matching:steps=3",
    "basic adjoint matching": "basic_adjoint_matching:steps=3,offset=0.3,subset=2",
    "discrete adjoint": "discrete_adjoint:steps=3,g=0.5",
    "continuous adjoint": "continuous_adjoint:steps=3,clip=10",
}


def state_of(trainer):
    return trainer.state().tensors


def goes_on(config, out, kind=Trainer):
    """Whether a run that is killed after STOP steps ends as one that is not.

    Killed at that moment, it would leave what the other's folder holds then.
    """

    def copy(step, row):
        if step == STOP:
            shutil.copytree(out / "whole", out / "part")

    whole = kind(session(config, out / "whole"), after=copy)
    whole.train()
    resumed = kind(session(config, out / "part"))
    resumed.resume()
    assert resumed.step in (2, 3)
    resumed.train()
    assert whole.step == resumed.step == config.steps
    return same(state_of(whole), state_of(resumed)) and whole.metrics == resumed.metrics


GUIDED = "nft:anchor=guided,kl_weight=0.5,reward_mapping=released"


def test_the_anchor_has_a_guidance_of_its_own(folders, tmp_path):
    config = settings(folders, method=GUIDED, anchor_guidance=3.0, guidance=2.0)
    found = session(config, tmp_path)
    x = torch.randn(2, *found.model.event_shape, generator=torch.Generator().manual_seed(0))
    place = x, torch.tensor([0.3, 0.6]), torch.tensor([[1, 0], [2, 0]])
    with torch.no_grad():
        for value in found.student.parameters():
            value.add_(0.1)  # the anchor is the base's
        plain = found.model.velocity(found.prompts)
        with found.student.adapters.using(None):
            expected = Guided(plain, 3.0)(*place)
        anchor = found.task.guided_velocity(*place)
        assert torch.equal(anchor, expected)
        assert not torch.equal(anchor, found.base(*place))  # guided as the student is


# --- resume


SLOW = ("nft online, no pool", "basic adjoint matching", "discrete adjoint", "continuous adjoint")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in METHODS]
)
def test_a_killed_run_goes_on_to_the_same_bits(name, folders, tmp_path):
    group = 2 if name == "nft online, no pool" else 1  # rewards are compared within a prompt
    assert goes_on(settings(folders, method=METHODS[name], group=group), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"family": "sd3", "method": NFT_ONLINE},
        pytest.param(
            {"method": METHODS["nft"], "micro_batch": 2, "gradient_checkpointing": True},
            marks=pytest.mark.slow,
        ),
        {"precision": "bf16", "method": METHODS["tilt matching"]},
        pytest.param(
            {"guidance": 2.0, "group": 2, "method": METHODS["ddpo"], "weight_decay": 0.1},
            marks=pytest.mark.slow,
        ),
        {"method": GUIDED, "anchor_guidance": 3.0},
    ],
)
def test_so_do_other_settings(options, folders, tmp_path):
    assert goes_on(settings(folders, **options), tmp_path)


def test_a_run_killed_before_its_first_checkpoint(folders, tmp_path):
    config = settings(folders, method=NFT_ONLINE)
    whole = trained(config, tmp_path)
    shutil.rmtree(whole.session.folder.path)
    killed(config, tmp_path, 2)
    assert same(state_of(whole), state_of(trained(config, tmp_path)))


def test_a_damaged_newest_checkpoint_is_said(folders, tmp_path):
    config = settings(folders, steps=3, checkpoint_every=1)
    whole, said = trained(config, tmp_path), []
    newest = checkpoint_path(whole.session.folder.checkpoints, 3)
    newest.write_bytes(newest.read_bytes()[:-7])
    resumed = Trainer(session(config, tmp_path), lambda step, text: said.append((step, text)))
    resumed.train()
    assert same(state_of(whole), state_of(resumed))
    assert said[0][0] == 2
    assert str(newest) in said[0][1]
    assert "going on from step 2 instead" in said[0][1]


def test_a_finished_training_is_not_trained_again(folders, tmp_path):
    config = settings(folders, steps=2)
    whole = trained(config, tmp_path)
    assert same(state_of(trained(config, tmp_path)), state_of(whole))


# --- what a step does


def gradients_of(config, out, kind=Trainer):
    """The student's gradients in the first step, and the logged loss."""
    trainer, found = kind(session(config, out)), {}

    def update():
        found["gradient"] = torch.cat([p.grad.flatten() for p in trainer.policy.parameters()])
        return 1.0

    trainer._update = update
    return found, trainer.one_step()["loss"]


# At a small scale, student and base being equal, rounding of their means is most of that loss.
PARTS = (
    METHODS["tilt matching"],
    METHODS["ddpo"],
    "adjoint_matching:steps=3,scale=1e5",
    "discrete_adjoint:steps=3,scale=1e5",
)


@pytest.fixture(scope="module")
def at_once(folders, tmp_path_factory):
    """The gradient of a batch at once and its loss, by method."""
    out = tmp_path_factory.mktemp("at_once")
    return {name: gradients_of(settings(folders, batch=8, method=name), out) for name in PARTS}


def parts_make_the_whole(folders, out, at_once, name=PARTS[0], kind=Trainer):
    ours, loss = at_once[name]
    config = settings(folders, batch=8, micro_batch=4, method=name)
    theirs, its_loss = gradients_of(config, out, kind)
    size = float(ours["gradient"].abs().max())
    assert size > 0
    agree = FLOAT32.holds(theirs["gradient"], ours["gradient"], size)
    return agree and FLOAT32.holds(its_loss, loss)


@pytest.mark.parametrize("name", PARTS)
def test_micro_batches_have_the_gradient_of_the_batch(name, folders, tmp_path, at_once):
    """The same rows are drawn, and differentiated in parts."""
    assert parts_make_the_whole(folders, tmp_path, at_once, name)


def test_metrics_have_a_row_a_step(folders, tmp_path):
    config = settings(folders, method=METHODS["ddpo"], steps=4)
    trainer = trained(config, tmp_path)
    names = ["step", "loss", "reward", "kl", "value_loss", "gradient_norm", "rate"]
    assert [list(row) for row in trainer.metrics] == [names] * 4
    assert [row["step"] for row in trainer.metrics] == [1, 2, 3, 4]
    assert all(row["gradient_norm"] > 0 for row in trainer.metrics)
    with (trainer.session.folder.path / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows == trainer.metrics


def rates(folders, out, **options):
    """The learning rate of every step, in units of the configured one."""
    trainer = Trainer(session(settings(folders, **options), out))
    found = []
    for step in range(trainer.config.steps):
        trainer.step = step
        found.append(trainer._rate())
    return found


def test_the_learning_rate(folders, tmp_path):
    found = rates(folders, tmp_path, steps=100)
    assert FLOAT32.holds(found[:5], [0.2, 0.4, 0.6, 0.8, 1.0])  # a twentieth to warm up
    half = 0.1 + 0.45 * (1 + math.cos(math.pi / 2))
    assert FLOAT32.holds(found[5], 1.0)
    assert abs(found[52] - half) < abs(found[51] - found[53])
    assert found[5:] == sorted(found[5:], reverse=True)
    assert 0.1 < found[-1] < found[-2] < 0.11
    cycles = rates(folders, tmp_path, steps=100, method=NFT_ONLINE)
    assert cycles == found[:5] + [1.0] * 95


def test_gradients_are_clipped(folders, tmp_path, monkeypatch):
    limit = 1e-3
    trainer = Trainer(session(settings(folders, max_grad_norm=limit), tmp_path))
    seen = []
    step = trainer.optimiser.step

    def record():
        seen.append(torch.cat([p.grad.flatten() for p in trainer.policy.parameters()]).norm())
        step()

    monkeypatch.setattr(trainer.optimiser, "step", record)
    row = trainer.one_step()
    assert row["gradient_norm"] > 10 * limit
    # torch divides by the norm plus 1e-6
    assert FLOAT32.holds(seen[0], limit * row["gradient_norm"] / (row["gradient_norm"] + 1e-6))


def test_base_samples_are_drawn_once_and_found_again(folders, tmp_path, monkeypatch):
    config = settings(folders, steps=2)
    first = trained(config, tmp_path)
    bank = first.task.bank
    assert len(bank.x1) == config.bank
    shutil.rmtree(first.session.folder.checkpoints)

    def refuse(*arguments, **options):
        raise AssertionError("sampled again")

    monkeypatch.setattr(PromptedTask, "sampled", refuse)
    again = trained(config, tmp_path)
    assert torch.equal(again.task.bank.x1, bank.x1)
    assert torch.equal(again.task.bank.reward, bank.reward)
    assert same(state_of(first), state_of(again))


def test_the_seed_tells_runs_apart(folders, tmp_path):
    one, other = (trained(settings(folders, steps=1, seed=s), tmp_path) for s in (0, 1))
    assert not torch.equal(one.task.bank.x1, other.task.bank.x1)
    assert not same(state_of(one), state_of(other))


def test_half_precision_trains_float32_adapters(folders, tmp_path):
    trainer = trained(settings(folders, precision="bf16", steps=2), tmp_path)
    network = trainer.session.model.network
    base = {p.dtype for k, p in network.named_parameters() if "lora_" not in k}
    assert base == {torch.bfloat16}
    assert {p.dtype for p in trainer.policy.parameters()} == {torch.float32}
    exact = trained(settings(folders, steps=2), tmp_path)
    losses = [t.metrics[0]["loss"] for t in (trainer, exact)]
    assert losses[0] != losses[1]
    assert abs(losses[0] - losses[1]) < 0.1 * losses[1]


# --- errors


FAULTS = {
    "nan": (lambda values: values * math.nan,
            r"reward 'redness' must return finite numbers, got nan for picture 0, prompt '.*'"),
    "number": (lambda values: values[:-1],
               r"must return one value a picture, \(4,\), got shape \(3,\)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    """whole(config): the state at the end of a run that nothing happened to; each is run once."""
    found = {}

    def state(config):
        if config not in found:
            found[config] = state_of(trained(config, tmp_path_factory.mktemp("whole")))
        return found[config]

    return state


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reward_that_fails_once(fault, folders, tmp_path, monkeypatch, whole):
    """The error is clear, and the folder goes on to the same bits."""
    config = settings(folders, method=METHODS["ddpo"], checkpoint_every=2)
    expected = whole(config)
    spoil, message = FAULTS[fault]
    call, times = Redness.__call__, iter(range(100))

    def broken(self, images, prompts):
        values = call(self, images, prompts)
        return spoil(values) if next(times) == 3 else values

    monkeypatch.setattr(Redness, "__call__", broken)
    trainer = Trainer(session(config, tmp_path))
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.step == 3
    assert same(state_of(trained(config, tmp_path)), expected)


ADJOINTS = ("basic_adjoint_matching:steps=2", "discrete_adjoint:steps=2")


@pytest.mark.parametrize("method", [ADJOINTS[0], pytest.param(ADJOINTS[1], marks=pytest.mark.slow)])
def test_an_adjoint_that_is_not_finite(method, folders, tmp_path, monkeypatch, whole):
    """The state before the step is saved, and goes on to the same bits."""
    config = settings(folders, method=method, steps=3)
    expected, call, state = whole(config), Redness.__call__, {}

    def spiked(self, images, prompts):
        values = call(self, images, prompts)
        # The discrete adjoint asks once before there is a trainer.
        if "trainer" not in state or state["trainer"].step != 2:
            return values
        return values + (images - images.detach()).abs().sqrt().mean((1, 2, 3))  # 0, its slope nan

    monkeypatch.setattr(Redness, "__call__", spiked)
    trainer = state["trainer"] = Trainer(session(config, tmp_path))
    with pytest.raises(NonFiniteAdjointError, match=rf"^{method}: .* k = 2, t = 1, in row 0 "):
        trainer.train()
    assert newest_state(trainer.session.folder.checkpoints).step == 2
    monkeypatch.undo()
    assert same(state_of(trained(config, tmp_path)), expected)


@pytest.mark.parametrize("method", [*ADJOINTS, "continuous_adjoint:steps=3"])
def test_adjoints_leave_no_gradient_behind(method, folders, tmp_path):
    """They are solved by autograd.grad: no parameter holds a gradient before the loss's."""
    found = session(settings(folders, method=method, gradient_checkpointing=True), tmp_path)
    batch = found.method.collect(found.policy, found.task, 4, found.draws)
    weights = list(found.model.network.parameters())
    assert all(p.grad is None for p in weights)
    found.method.loss(found.policy, found.task, batch)[0].mean().backward()
    trained_ones = {id(p) for p in found.policy.parameters()}
    assert {id(p) for p in weights if p.grad is not None} == trained_ones


def test_recomputing_changes_no_gradient(folders, tmp_path):
    """Of the steps and of the decoding; without it everything is held."""
    found, held = [], []
    for recompute in (True, False):
        out = tmp_path / str(recompute)
        parts = session(settings(folders, method="discrete_adjoint:steps=4"), out)
        parts.task.execution = replace(parts.task.execution, recompute=recompute)
        batch, count = parts.method.collect(parts.policy, parts.task, 4, parts.draws), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda v, count=count: count.append(v.numel()) or v, lambda v: v
        ):
            losses, _ = parts.method.loss(parts.policy, parts.task, batch)
        found.append(torch.autograd.grad(losses.mean(), parts.policy.parameters()))
        held.append(sum(count))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert held[0] < held[1] / 20


def test_a_loss_of_another_shape(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(
        TiltMatching, "loss", lambda self, policy, task, batch: (batch["x"].mean(), {})
    )
    trainer = Trainer(session(settings(folders, method="tilt_matching"), tmp_path))
    with pytest.raises(
        ValueError, match=r"TiltMatching.loss returned losses, a .* \(\) .*= 4 here"
    ):
        trainer.train()


def explode(what, at):
    """TiltMatching's loss, whose value or gradient is not finite at its call number `at`."""
    loss, calls = TiltMatching.loss, iter(range(100))

    def broken(self, policy, task, batch):
        values, info = loss(self, policy, task, batch)
        if next(calls) != at:
            return values, info
        if what == "loss":
            return values * math.inf, info
        return values + (values - values.detach()).abs().sqrt(), info  # 0, its slope infinite

    return broken


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_step(what, folders, tmp_path, monkeypatch, whole):
    config = settings(folders, method=METHODS["tilt matching"], checkpoint_every=1)
    expected = whole(config)
    monkeypatch.setattr(TiltMatching, "loss", explode(what, 3))
    with pytest.raises(
        ValueError, match=rf"the {what} must .* got (inf|nan) at step 4 \(learning_rate = 0.0"
    ):
        trained(config, tmp_path)
    monkeypatch.undo()
    assert same(state_of(trained(config, tmp_path)), expected)


# --- memory


def test_the_largest_micro_batch_that_fits(folders, tmp_path, monkeypatch):
    """Divisors of the batch that hold whole groups, from the largest on."""
    config = settings(folders, batch=12, group=2, method="ddpo:steps=2")
    trainer = Trainer(session(config, tmp_path))
    tried = []
    collect = DDPO.collect

    def small(self, policy, task, n, draws):
        tried.append(n)
        if n > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return collect(self, policy, task, n, draws)

    monkeypatch.setattr(DDPO, "collect", small)
    assert trainer.fitting_rows() == 2
    assert tried == [6, 4, 2]
    assert TrainConfig(batch=12, group=2, micro_batch=2).rows == 2
    monkeypatch.setattr(DDPO, "collect", lambda *arguments: small(*arguments[:3], 99, None))
    assert trainer.fitting_rows() == 0
