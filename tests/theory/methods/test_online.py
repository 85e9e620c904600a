"""Services of the contract, for other methods than NFT: online training, mapping, anchor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from theory.common.tolerances import ALGEBRA
from theory.methods import Anchored, Draws, Execution, Online, ProblemTask, parse_method, square
from theory.methods.contract import returned
from theory.methods.contract.perturbed import Perturbed
from theory.methods.contract.places import Setting, gradient_samples
from theory.methods.contract.probe import GradientTest, gradient_test
from theory.methods.matching.reward_mapping import Mapped, released_mapping
from theory.problems.problem import load_problem
from theory.tilts.wrappers import Exponential

NOTE, LINEAR, DOUBLE = load_problem("note_1d"), load_problem("linear_1d"), torch.float64
ONLINE = ("nft", "weighted_flow_matching", "tilt_matching:kind=implicit",
          "tilt_matching:kind=explicit", "tilt_matching:kind=weighted")  # fmt: skip


def online(text, options):
    return parse_method(f"{text}{',' if ':' in text else ':'}{options}")


def student(field=NOTE.base_field, blocks=1):
    return Perturbed(field, blocks, 1, 1)


# --- epochs


class Shifted(nn.Module):
    """The base's velocity plus a number: samples of theirs lie as far off."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, dtype=DOUBLE))

    def forward(self, x, t, cond=None):
        return NOTE.base_field(x, t) + self.shift


class FromOld(ProblemTask):
    """Its base is the very law that the old copy is said to sample: no ODE's error."""

    def endpoints_of(self, model, n, draws, steps):
        return self.endpoints(n, draws)


def second_epoch(text: str, place: float) -> GradientTest:
    """The expected gradient of an epoch that starts at base exp(0.8 r)/Z, for a student at the
    velocity of base exp(place r)/Z."""
    method, blocks = online(text, "scale=0.8,refresh_every=1"), 48
    law = LINEAR.tilt(Exponential(0.8)).law
    task = FromOld([replace(LINEAR, base=law)] * blocks, dtype=DOUBLE)
    draws = Draws.seeded(range(blocks), DOUBLE)
    policy = method.setup(student(LINEAR.tilted_field(Exponential(place)), blocks), task, draws)
    policy.old = LINEAR.tilted_field(Exponential(0.8))
    batch = returned.collect(method, policy, task, 512, draws)
    return gradient_test(gradient_samples(method, Setting(task, policy, batch)))


@pytest.mark.parametrize("text", [m for m in ONLINE if m != "nft" and "explicit" not in m])
def test_a_second_epoch_leads_on_from_the_first(text):
    """Two epochs of scale 0.8 lead to base exp(1.6 r)/Z, and not back to exp(0.8 r)."""
    assert second_epoch(text, 1.6).vanishes
    assert not second_epoch(text, 0.8).vanishes
    method = online(text, "refresh_every=5")
    assert method.optimum(LINEAR) is None
    assert method.target(LINEAR) is None
    assert method.cycle == 5


@pytest.mark.parametrize("text", ONLINE)
@pytest.mark.parametrize("pool", [0, 16])
def test_data_come_from_the_old_copy(text, pool):
    """Fresh or by way of the pool, of three networks; in the next epoch from what it is then."""
    method = online(text, f"refresh_every=2,old_decay=0.25,pool={pool}")
    task, draws = ProblemTask([NOTE] * 3, dtype=DOUBLE), Draws.seeded(range(3), DOUBLE)
    policy = method.setup(Shifted(), task, draws)
    assert policy.lagging is policy.old
    means = []
    for step in range(1, 5):
        batch = returned.collect(method, policy, task, 64, draws)
        x1 = batch["x"] + (1 - batch["t"])[:, None] * batch["y"]
        assert ALGEBRA.holds(batch["r"], NOTE.reward(x1), scale=1.0)
        for block in x1.chunk(3):
            different = len(torch.round(block, decimals=9).unique())
            assert 8 < different <= pool if pool else different == 64
        means.append(float(x1.mean()))
        policy.student.shift.data.fill_(40.0)
        returned.after_step(method, policy, step)
    assert max(means[:2]) < 1 < 20 < min(means[2:])
    assert ALGEBRA.holds(policy.old.shift, 40 * (1 - 0.25**2) * torch.ones(1))


def test_a_pool_is_shared_by_processes():
    """Each draws its part; what `gather` makes of them is what all keep."""
    method = online("weighted_flow_matching", "refresh_every=2,pool=8")
    task = ProblemTask([NOTE], dtype=DOUBLE)
    task.execution = Execution(shards=2, gather=lambda rows: torch.cat([rows, rows + 1]))
    draws = Draws.seeded([0], DOUBLE)
    policy = method.setup(student(), task, draws)
    method.collect(policy, task, 4, draws)
    pool = policy.state["pool"]
    assert len(pool) == 8
    assert torch.equal(pool[4:], pool[:4] + 1)
    with pytest.raises(ValueError, match="pool must be a multiple of the 2 processes, got 7"):
        online("weighted_flow_matching", "refresh_every=2,pool=7").setup(student(), task, draws)


@pytest.mark.parametrize(
    "text",
    ["ddpo", "adjoint_matching", "basic_adjoint_matching", "discrete_adjoint",
     "continuous_adjoint", "flow_matching"],
)  # fmt: skip
def test_methods_without_an_old_copy_refuse_its_options(text):
    """Rollouts are the student's own at every step; the base is trained from scratch."""
    for option in ("refresh_every=2", "old_decay=0.5", "pool=8"):
        name = option.partition("=")[0]
        with pytest.raises(ValueError, match=f"option of method '{text}' must be .*got '{name}'"):
            parse_method(f"{text}:{option}")


def test_a_method_from_scratch_cannot_train_online():
    @dataclass(frozen=True)
    class Scratch(Plain):
        starts_from: ClassVar = "scratch"

    Scratch()
    with pytest.raises(ValueError, match=r"refresh_every must be 0 for plain, .*scratch.*, got 3"):
        Scratch(refresh_every=3)


# --- your own method with all three


@dataclass(frozen=True)
class Plain(Anchored, Online, Mapped):
    """min E[r |v - Y|^2 + kl_weight |v - v_ref|^2]."""

    power: int = 1
    name: ClassVar[str] = "plain"

    def collect(self, policy, task, n, draws):
        batch = self.batch(policy, task, n, draws)
        return batch | self.anchored(policy, task, batch)

    def loss(self, policy, task, batch):
        v = policy.student(batch["x"], batch["t"], batch["cond"])
        loss = batch["r"] ** self.power * square(v - batch["y"])
        return loss + self.kl_weight * square(v - batch.get("v_ref", v)), {}


def plain_batch(**options):
    method, task = Plain(**options), ProblemTask([NOTE], dtype=DOUBLE)
    draws = Draws.seeded([3], DOUBLE)
    policy = method.setup(student(), task, draws)
    return task, policy, returned.collect(method, policy, task, 256, draws)


def test_rewards_are_mapped_for_any_method():
    task, _, raw = plain_batch()
    _, _, batch = plain_batch(reward_mapping="released")
    assert torch.equal(batch["x"], raw["x"])
    assert torch.equal(batch["r"], released_mapping(task, raw["r"]))
    assert not torch.equal(batch["r"], raw["r"])


def test_any_method_may_be_anchored():
    _, policy, batch = plain_batch(kl_weight=2.0, refresh_every=1)
    assert torch.equal(batch["v_ref"], policy.reference(batch["x"], batch["t"]))
    assert "v_ref" not in plain_batch()[2]
    with pytest.raises(ValueError, match=r"guidance"):
        Plain(kl_weight=1.0, anchor="guided").check_problem(NOTE)


def test_own_options_come_before_those_of_services():
    method = Plain(power=2, kl_weight=0.5, refresh_every=3, reward_mapping="released")
    assert method.label == "plain:power=2,reward_mapping=released,refresh_every=3,kl_weight=0.5"
    assert next(iter(method.options)) == "power"
    assert type(method)(**method.options) == method
