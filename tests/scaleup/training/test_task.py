"""Prompts, samples, rewards and their statistics of the right row."""

import statistics
from dataclasses import dataclass, replace

import pytest
import torch

from scaleup.adapter import ImageModel
from scaleup.rewards.contract import Reward, parse_reward
from scaleup.training.draws import ShardedDraws
from scaleup.training.task import Bank, PromptedTask, Sampling
from tests.scaleup import tiny
from theory.common.tolerances import ALGEBRA, FLOAT32
from theory.methods import Execution, Policy, endpoint_batch
from theory.methods.matching.reward_mapping import released_mapping

TEXTS = ("a", "bb", "cccc")
RAW = [0.1, 0.9, 0.4, -0.3, 0.8, 0.25]
PROMPT = [1, 3, 1, 2, 3, 1]


@dataclass(frozen=True)
class Wording(Reward):
    """The length of the prompt plus redness: tells rows by their prompts."""

    name = "wording"
    differentiable = True

    def __call__(self, images, prompts):
        lengths = torch.tensor([float(len(p)) for p in prompts], dtype=torch.float64)
        return lengths + parse_reward("redness")(images, prompts)


@pytest.fixture(scope="module")
def image_model():
    return ImageModel(tiny.sd15())


@pytest.fixture(scope="module")
def prompts(image_model):
    return image_model.prompts(TEXTS)


@pytest.fixture
def make(image_model, prompts):
    """make(kind=..., rank=..., ...): a task on the tiny pipeline."""

    def task(kind=PromptedTask, sampling=Sampling(3, chunk=4), reward=Wording(), **options):  # noqa: B008
        velocity = image_model.velocity(prompts)
        return kind(image_model, velocity, prompts, reward, sampling, **options)

    return task


def draws(seed=5, **options):
    return ShardedDraws(torch.Generator().manual_seed(seed), **options)


def bank(image_model, reward=RAW, prompt=PROMPT):
    generator = torch.Generator().manual_seed(2)
    x1 = torch.randn(len(reward), *image_model.event_shape, generator=generator)
    return Bank(x1, torch.tensor(prompt), torch.tensor(reward, dtype=torch.float64))


def by_hand(raw, prompt):
    """(mean over a row's prompt, deviation over all), by plain loops."""
    means = [
        statistics.fmean(r for r, q in zip(raw, prompt, strict=True) if q == p) for p in prompt
    ]
    return means, [statistics.pstdev(raw)] * len(raw)


# --- conditions and the bank


@pytest.mark.parametrize("group", [1, 3])
def test_conditions_come_in_groups_of_one_prompt(make, group):
    cond = make(sampling=Sampling(3, group=group)).conditions(300, draws())
    assert cond.dtype == torch.long
    assert cond.shape == (300, 1)
    groups = cond[:, 0].reshape(-1, group)
    assert bool((groups == groups[:, :1]).all())
    assert set(cond[:, 0].tolist()) == {1, 2, 3}  # never the empty prompt
    if group == 1:
        assert not bool((cond[::2, 0] == cond[1::2, 0]).all())


def test_rows_that_make_no_groups_are_refused(make):
    with pytest.raises(ValueError, match=r"must be a multiple of group = 4, got 10"):
        make(sampling=Sampling(3, group=4)).conditions(10, draws())


def test_base_samples_are_rows_of_the_bank(make, image_model):
    task = make()
    task.bank = bank(image_model)
    x1, cond, reward = task.base_samples(200, draws())
    row = (x1[:, None] == task.bank.x1).flatten(2).all(2).long().argmax(1)
    assert torch.equal(x1, task.bank.x1[row])
    assert torch.equal(cond, task.bank.prompt[row, None])
    assert set(row.tolist()) == set(range(len(RAW)))
    assert torch.equal(reward, task.bank.reward[row].to(x1))
    batch = endpoint_batch(task, task.endpoints(200, draws()))
    assert set(batch["r"].tolist()) == set(task.bank.reward.to(x1).tolist())  # not scored again


def test_the_bank_is_filled_once_when_it_is_asked_for(make, image_model):
    filled = []

    def fill():
        filled.append(bank(image_model))
        return filled[-1]

    task = make(draw_bank=fill)
    assert not filled
    source = draws()
    for _ in range(2):
        task.base_samples(3, source)
    assert len(filled) == 1


def test_an_empty_bank_is_an_error(make):
    with pytest.raises(RuntimeError, match=r"task\.bank is empty"):
        make().base_samples(2, draws())


def test_new_rows_are_scored_although_there_is_a_bank(make, image_model):
    task = make()
    task.bank = bank(image_model)
    x1 = task.bank.x1[:2]
    cond = torch.tensor([[1], [3]])
    found = task.reward(x1, cond)
    assert torch.equal(found, Wording()(image_model.decode(x1), ["a", "cccc"]).to(x1))
    assert not torch.equal(found, task.bank.reward[:2].to(x1))


# --- statistics


def bank_statistics(make, image_model):
    task = make()
    task.bank = bank(image_model)
    rows = torch.tensor([5, 1, 1, 3])
    found = task.base_statistics(task.bank.reward[rows], task.bank.prompt[rows, None])
    expected = [[column[i] for i in rows.tolist()] for column in by_hand(RAW, PROMPT)]
    return all(ALGEBRA.holds(f, e) for f, e in zip(found, expected, strict=True))


def test_rewards_that_are_alone_with_their_prompt_are_refused(make, image_model):
    task = make()
    task.bank = Bank(*(v[:4] for v in vars(bank(image_model)).values()))
    raw, cond = task.bank.reward, task.bank.prompt[:, None]
    with pytest.raises(ValueError, match=r"4 samples of \d prompts.*need a larger bank"):
        task.base_statistics(raw, cond)
    with pytest.raises(ValueError, match=r"4 samples of \d prompts.*larger group, batch or pool"):
        task.reward_statistics(raw, cond)


def shard_statistics(make, kind=PromptedTask):
    """Of three processes with two rows each: every one sees all six."""
    raw, prompt = torch.tensor(RAW, dtype=torch.float64), torch.tensor(PROMPT)
    cond = prompt[:, None]
    everyone = torch.stack([raw, prompt.double()], 1)
    parts = []
    for rank in range(3):
        own = slice(2 * rank, 2 * rank + 2)

        def gather(rows, own=own):
            assert torch.equal(rows, everyone[own])
            return everyone

        task = make(kind, execution=Execution(shards=3, gather=gather))
        parts.append(task.reward_statistics(raw[own], cond[own]))
    found = [torch.cat(rows) for rows in zip(*parts, strict=True)]
    return all(ALGEBRA.holds(f, e) for f, e in zip(found, by_hand(RAW, PROMPT), strict=True))


def test_statistics_are_a_prompts_mean_and_the_deviation_of_all(make, image_model):
    assert bank_statistics(make, image_model)
    assert shard_statistics(make)


def test_the_released_mapping_is_over_the_prompts_rows(make):
    task, raw = make(), torch.tensor(RAW, dtype=torch.float64)
    cond = torch.tensor(PROMPT)[:, None]
    means, (std, *_) = by_hand(RAW, PROMPT)
    expected = [0.5 + (r - m) / (std + 1e-4) / 10 for r, m in zip(RAW, means, strict=True)]
    assert ALGEBRA.holds(released_mapping(task, raw, cond), expected)


# --- samples


def drift(x, t, cond):
    """A field that is constant along each row, by its prompt."""
    return cond[:, 0].to(x)[:, None, None, None].expand_as(x).clone()


def endpoints_follow_their_prompts(task):
    """x_1 is where the asked-for model carries its own noise under the row's own prompt."""
    x0, x1, t, cond, _ = task.endpoints_of(drift, 12, draws(), 3)
    again = draws()
    assert torch.equal(cond, task.conditions(12, again))
    start = again.normal(12, *task.event_shape) * task.start_std
    expected = start + (1 - task.first_time) * drift(start, None, cond)
    assert torch.equal(x0, again.normal(12, *task.event_shape))
    assert torch.equal(t, task.draw_times(12, again))
    return FLOAT32.holds(x1, expected, 1.0)


def test_endpoints_are_the_models_under_their_own_prompts(make):
    assert endpoints_follow_their_prompts(make())


def test_times_are_those_that_the_schedule_covers(make, image_model):
    task = make()
    t = task.draw_times(4000, draws())
    allowed = image_model.times.to(t)
    assert t.dtype == torch.float32
    assert bool(torch.isin(t, allowed).all())
    assert len(t.unique()) > len(allowed) / 2
    assert FLOAT32.holds([float(t.min()), float(t.max())], image_model.span)
    assert (task.first_time, task.start_std) == (image_model.span[0], image_model.start_std)


def test_sampling_in_chunks_is_sampling_at_once(make):
    noise = draws().normal(6, *make().event_shape)
    cond = torch.tensor(PROMPT)[:, None]
    parts, whole = (make(sampling=Sampling(3, chunk=c)) for c in (4, 6))
    found = [task.sampled(task.velocity, noise, cond) for task in (parts, whole)]
    assert FLOAT32.holds(*found, 1.0)
    heun = make(sampling=replace(whole.sampling, solver="heun"))
    assert not FLOAT32.holds(heun.sampled(whole.velocity, noise, cond), found[0], 1.0)


# --- rewards


def reward_and_gradient(task):
    x = draws(8).normal(6, *task.event_shape).requires_grad_(True)
    cond = torch.tensor(PROMPT)[:, None]
    values = task.reward(x, cond)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    return values.detach(), gradient


def rewards_are_of_their_rows(make, kind=PromptedTask):
    """Decoded in chunks as at once, by the row's own prompt, with the gradient of each picture."""
    found = reward_and_gradient(make(kind, sampling=Sampling(3, chunk=4)))
    x = draws(8).normal(6, *make().event_shape).requires_grad_(True)
    texts = [TEXTS[p - 1] for p in PROMPT]
    values = Wording()(make().model.decode(x), texts)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    agree = FLOAT32.holds(found[0], values.detach(), 1.0)
    return agree and FLOAT32.holds(found[1], gradient, float(gradient.abs().max()))


def test_rewards_are_decoded_in_chunks_with_their_gradient(make):
    assert rewards_are_of_their_rows(make)


def test_decoding_again_changes_no_gradient(make):
    """Of the pictures' decoder nothing is held for the gradient but its input."""
    found, held = [], []
    for recompute in (True, False):
        execution, count = Execution(recompute=recompute), []
        task = make(sampling=Sampling(3, chunk=4), execution=execution)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda v, count=count: count.append(v.numel()) or v, lambda v: v
        ):
            found.append(reward_and_gradient(task))
        held.append(sum(count))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert held[0] < held[1]


def test_nothing_is_kept_for_a_gradient_that_nobody_asks_for(make):
    task = make()
    x = draws(8).normal(2, *task.event_shape)
    cond = torch.tensor([[1], [2]])
    assert not task.reward(x, cond).requires_grad
    with torch.no_grad():
        assert not task.reward(x.clone().requires_grad_(True), cond).requires_grad
    plain = make(reward=parse_reward("jpeg_size"))
    assert not plain.reward(x.clone().requires_grad_(True), cond).requires_grad


# --- auxiliary networks, guidance


def test_auxiliary_networks_are_the_generators_own(make):
    torch.manual_seed(4)
    before = torch.get_rng_state()
    first, again, other = (make().auxiliary(2, draws(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    ours = first.state_dict()
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in ours.items())
    assert not all(torch.equal(v, other.state_dict()[k]) for k, v in ours.items())
    assert not any("texts" in name for name in ours)  # the prompts' embeddings are no weights
    assert len(Policy(None, networks={"value": first}).parameters()) == len(ours)


def test_auxiliary_networks_see_picture_time_and_prompt(make):
    task = make()
    network = task.auxiliary(2, draws(1))
    x = draws(2).normal(3, *task.event_shape)
    t, cond = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([[1], [2], [3]])
    assert torch.equal(network(x, t, cond), torch.zeros(3, 2))
    with torch.no_grad():
        network.layers[-1].weight.normal_(generator=torch.Generator().manual_seed(0))
        found = network(x, t, cond)
        for change in ((x.flip(0), t, cond), (x, t.flip(0), cond), (x, t, cond.flip(0))):
            moved = network(*change)
            assert not torch.equal(moved[0], found[0])
            assert not torch.equal(moved[2], found[2])
        assert FLOAT32.holds(network(x[:1], t[:1], cond[:1]), found[:1], 1.0)


def test_guidance_is_asked_of_the_model_that_was_given(make):
    x, t = torch.zeros(1, *make().event_shape), torch.tensor([0.5])
    cond = torch.tensor([[2]])
    assert torch.equal(make(guided=drift).guided_velocity(x, t, cond), drift(x, t, cond))
    with pytest.raises(NotImplementedError, match="PromptedTask has no guided velocity"):
        make().guided_velocity(x, t, cond)


def test_a_task_needs_a_prompt(image_model):
    with pytest.raises(ValueError, match="prompts must hold at least one beside the empty prompt"):
        PromptedTask(image_model, None, image_model.prompts(()), Wording(), Sampling())
    with pytest.raises(ValueError, match=r"group must be a whole number >= 1, got 0"):
        PromptedTask(image_model, None, image_model.prompts(TEXTS), Wording(), Sampling(group=0))
