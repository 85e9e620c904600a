"""Mistakes in the draws, the task, the trainer and the identity of a run."""

from __future__ import annotations

import copy
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from scaleup.training import config as configs
from scaleup.training import run
from scaleup.training import task as tasks
from scaleup.training.draws import ShardedDraws
from scaleup.training.task import PromptedTask
from scaleup.training.trainer import Trainer
from tests.cases.test_scaleup_stops import (  # noqa: F401
    alone,
    restored,
    stopped_and_resumed,
)
from tests.mutants.harness import overriding, with_name
from tests.scaleup.training.test_config import own_files
from tests.scaleup.training.test_draws import shards_make_the_batch
from tests.scaleup.training.test_gflownets import METHODS as GFLOWNETS
from tests.scaleup.training.test_task import (  # noqa: F401
    bank_statistics,
    endpoints_follow_their_prompts,
    image_model,
    make,
    prompts,
    rewards_are_of_their_rows,
    shard_statistics,
)
from tests.scaleup.training.test_trainer import (  # noqa: F401
    METHODS,
    at_once,
    explode,
    goes_on,
    parts_make_the_whole,
)
from tests.scaleup.work import same, settings, trained
from theory.methods.contract.states import prefixed
from theory.methods.matching.tilt_matching import TiltMatching

# ruff: noqa: F811

# --- draws


def as_if(self, **fields):
    other = copy.copy(self)
    vars(other).update(fields)
    return other


SHARES = {
    "the first rows": lambda whole, self, *given: whole.func(as_if(self, rank=0), *given),
    "every third row": lambda whole, self, draw, n, shape: whole.func(
        as_if(self, rank=0, shards=1), draw, n * self.shards, shape
    )[self.rank :: self.shards],
    "no more than is needed": lambda whole, self, *given: whole.func(
        as_if(self, shards=self.rank + 1), *given
    ),
}


@pytest.mark.parametrize("name", SHARES)
def test_a_wrong_share_is_seen(name):
    assert not shards_make_the_batch(overriding(ShardedDraws, _own=SHARES[name]))


# --- the task

STATISTICS = tasks._statistics


def mean_of_all(raw, prompt, of):
    return raw.mean().expand(len(of)), STATISTICS(raw, prompt, of)[1]


def two_at_least(raw, prompt, of):
    mean, std = STATISTICS(raw, prompt, of)
    count = torch.bincount(prompt)[of]
    return mean * count / count.clamp_min(2), std


def unbiased(raw, prompt, of):
    mean, std = STATISTICS(raw, prompt, of)
    return mean, std * (len(raw) / (len(raw) - 1)) ** 0.5


def of_the_first_rows(raw, prompt, of):
    return STATISTICS(raw, prompt, prompt[: len(of)])


@pytest.mark.parametrize("wrong", [mean_of_all, two_at_least, unbiased, of_the_first_rows])
def test_wrong_statistics_are_seen(make, wrong, monkeypatch):
    monkeypatch.setattr(tasks, "_statistics", wrong)
    assert not shard_statistics(make)


def test_statistics_of_a_processs_own_rows_are_seen(make):
    def reward_statistics(whole, self, raw, cond=None):
        self.check_alone = lambda samples, what: None
        self.execution = replace(self.execution, gather=lambda rows: rows)
        return whole(raw, cond)

    assert not shard_statistics(make, overriding(PromptedTask, reward_statistics=reward_statistics))


def test_a_bank_row_without_its_own_statistics_is_seen(make, image_model, monkeypatch):
    monkeypatch.setattr(tasks, "_statistics", of_the_first_rows)
    assert not bank_statistics(make, image_model)


def of_the_first_chunk(self, rows):
    """Every chunk with what belongs to the first one's rows."""
    return rows[torch.arange(len(rows)) % self.sampling.chunk]


SAMPLES = {
    "other prompts": lambda whole, self, model, noise, cond, steps: whole(
        model, noise, cond.roll(1, 0), steps
    ),
    "the first chunk's prompts": lambda whole, self, model, noise, cond, steps: whole(
        model, noise, of_the_first_chunk(self, cond), steps
    ),
    "another model": lambda whole, self, model, *given: whole(self.velocity, *given),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_under_other_prompts_or_of_another_model_are_seen(make, name):
    wrong = make(overriding(PromptedTask, sampled=SAMPLES[name]))
    assert not endpoints_follow_their_prompts(wrong)


REWARDS = {
    "other texts": {"texts": lambda whole, self, prompt: whole(prompt.roll(1))},
    "the first chunk's texts": {
        "reward": lambda whole, self, x1, cond: whole(x1, of_the_first_chunk(self, cond))
    },
    "no gradient": {
        "pictures": lambda whole, self, x1, *given: whole(x1.detach() + 0 * x1, *given)
    },
}


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_of_other_rows_are_seen(make, name):
    assert not rewards_are_of_their_rows(make, overriding(PromptedTask, **REWARDS[name]))


# --- the trainer


def without(part):
    """A trainer that leaves a part of the policy out of its checkpoints."""

    def state(whole, self):
        found = whole()
        kept = {k: v for k, v in found.tensors.items() if part not in k}
        return replace(found, tensors=kept)

    def load(whole, self, found):
        own = prefixed("policy.", self.policy.tensors())
        whole(replace(found, tensors=own | found.tensors))

    return overriding(Trainer, state=state, load=load)


def gradients_kept(whole, self):
    with patch.object(self.optimiser, "zero_grad", lambda: None):
        return whole()


def own_generator(whole, self, found):
    own = {"generator": self.session.draws.states()[0]}
    whole(replace(found, tensors=found.tensors | own))


CHECKPOINTS = {
    "gradients are not put to zero": ("nft online", overriding(Trainer, _update=gradients_kept)),
    "the old copy is left out": ("nft online", without("policy.old")),
    "the pool is left out": ("nft online", without("state.pool")),
    "the value network is left out": ("ddpo", without("networks.value")),
    "the flow network is left out": ("residual nabla-DB", without("networks.flow")),
    "the last update's copy is left out": ("residual nabla-DB", without("policy.old")),
    "the generator is left out": ("nft", overriding(Trainer, load=own_generator)),
    "the optimiser is left out": (
        "nft",
        with_name(
            Trainer,
            "scaleup.training.trainer.load_optimiser",
            lambda whole: lambda *given: None,
            "load",
        ),
    ),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_what_a_checkpoint_lacks_is_seen(name, folders, tmp_path):
    method, kind = CHECKPOINTS[name]
    assert not goes_on(settings(folders, method={**METHODS, **GFLOWNETS}[method]), tmp_path, kind)


def losses(change):
    """Other losses: change(losses, parts of a batch)."""

    def _losses(whole, self, *given):
        found, info = whole(*given)
        return change(found, self.config.accumulate), info

    return {"_losses": _losses}


def one_part_alone(whole, self, *given):
    self.optimiser.zero_grad()
    return whole(*given)


ACCUMULATION = {
    "gradients are added": losses(lambda own, parts: own + (parts - 1) * (own - own.detach())),
    "losses are added": losses(lambda own, parts: own + (parts - 1) * own.detach()),
    "the first part again": {
        "_losses": lambda whole, self, batch, start, rows: whole(batch, 0, rows)
    },
    "the last part alone": {"_losses": one_part_alone},
}


@pytest.mark.parametrize("name", ACCUMULATION)
def test_a_wrong_accumulation_is_seen(name, folders, tmp_path, at_once):
    kind = overriding(Trainer, **ACCUMULATION[name])
    assert not parts_make_the_whole(folders, tmp_path, at_once, kind=kind)


def losses_alone(whole, self, what, value):
    if what == "loss":
        whole(what, value)


def test_a_gradient_that_is_not_looked_at_spoils_the_checkpoint(folders, tmp_path, monkeypatch):
    kind = overriding(Trainer, _check_finite=losses_alone)
    config = settings(folders, method=METHODS["tilt matching"], checkpoint_every=1, steps=5)
    monkeypatch.setattr(TiltMatching, "loss", explode("gradient", 3))
    with pytest.raises(ValueError, match=r"the loss must stay finite, got nan at step 5"):
        trained(config, tmp_path, kind)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="must stay finite, got nan at step 5"):  # for ever
        trained(config, tmp_path)


def pool_as_it_is(whole, self):
    self._marked = self._marked[0], {}
    whole()


def test_a_pool_that_is_not_put_back_is_seen(
    folders, alone, restored, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(run, "Trainer", overriding(Trainer, _keep=pool_as_it_is))
    place = "a pool that is filled"
    *_, end = stopped_and_resumed(place, folders, tmp_path, monkeypatch, capsys)
    assert not same(end.tensors, alone.tensors)


# --- the identity

SOURCE = type(configs.REGISTRY).source
DIGESTS = {
    "prompts": (configs, "content_digest", lambda path: ""),
    "method": (
        type(configs.REGISTRY),
        "source",
        lambda self, text: SOURCE(self, "nft" if "my_method" in text else text),
    ),
    "reward": (configs, "reward_sources", lambda reward: []),
}


@pytest.mark.parametrize("name", DIGESTS)
def test_a_digest_without_a_users_file_is_seen(name, tmp_path, monkeypatch):
    monkeypatch.setattr(*DIGESTS[name])
    assert len(set(own_files(tmp_path))) == 3
