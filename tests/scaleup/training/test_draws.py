"""Processes that train together see one common batch."""

import pytest
import torch
from scipy import stats

from scaleup.training.draws import ShardedDraws, generator_of, noise_of_seed
from theory.common.tolerances import FALSE_FAILURE_RATE

SHARDS, ROWS = 3, 4


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


def everything(draws, n):
    """Every kind of draw, one after the other."""
    return [draws.uniform(n), draws.normal(n, 2, 3), draws.uniform(n, 2), draws.normal(n)]


def shards_make_the_batch(kind):
    whole = everything(kind(generator()), SHARDS * ROWS)
    parts = [everything(kind(generator(), rank=r, shards=SHARDS), ROWS) for r in range(SHARDS)]
    together = [torch.cat(rows) for rows in zip(*parts, strict=True)]
    return all(map(torch.equal, together, whole))


def test_the_rows_of_all_processes_are_the_batch_of_one():
    assert shards_make_the_batch(ShardedDraws)


def test_draws_are_what_they_say():
    draws = ShardedDraws(generator(), dtype=torch.float64)
    u, z = draws.uniform(2000), draws.normal(2000)
    assert u.dtype == z.dtype == torch.float64
    assert 0 <= u.min() < u.max() < 1
    assert z.min() < -2 < 2 < z.max()


@pytest.mark.parametrize("rank", range(SHARDS))
def test_any_process_resumes_all(rank):
    """Every process's generator is in the same state, and `restore` puts it there."""
    saved = ShardedDraws(generator(), rank=rank, shards=SHARDS)
    everything(saved, ROWS)
    states = saved.states()
    for other in range(SHARDS):
        here = ShardedDraws(generator(), rank=other, shards=SHARDS)
        everything(here, ROWS)
        resumed = ShardedDraws(generator(99), rank=other, shards=SHARDS)
        before = everything(resumed, ROWS)
        resumed.restore(states)
        expected, found = everything(here, ROWS), everything(resumed, ROWS)
        assert all(map(torch.equal, found, expected))
        assert not any(map(torch.equal, before, expected))


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    everything(ShardedDraws(generator(), shards=2), ROWS)
    noise_of_seed(3, (2, 2))
    assert torch.equal(torch.get_rng_state(), before)


FAR = (3, 4, 3 + 2**32, 3 + 2**41, 3 + 2**62)


def told_apart(noise):
    """How many of the seeds have noise of their own."""
    return len({tuple(noise(seed).flatten().tolist()) for seed in FAR})


def test_every_bit_of_a_seed_counts():
    """To torch's CPU generator 32 of them do: seeds that lie 2^32 apart are one."""
    assert told_apart(lambda seed: torch.randn(4, generator=generator(seed))) == 2
    assert told_apart(lambda seed: noise_of_seed(seed, (4,))) == len(FAR)
    assert told_apart(lambda seed: torch.randn(4, generator=generator_of("a", seed))) == len(FAR)


def test_noise_of_a_seed_is_its_own():
    assert torch.equal(noise_of_seed(3, (2, 4)), noise_of_seed(3, (2, 4)))
    found = noise_of_seed(3, (200, 200)).flatten()
    assert found.dtype == torch.float32
    assert stats.kstest(found, "norm").pvalue > FALSE_FAILURE_RATE
    assert stats.kstest(0.9 * found, "norm").pvalue < FALSE_FAILURE_RATE


def test_purposes_share_no_stream():
    runs = [(purpose, seed) for purpose in ("lora", "method") for seed in (0, 1)]
    draws = [torch.rand(4, generator=generator_of(*run)) for run in runs]
    assert len({tuple(d.tolist()) for d in draws}) == 4
    assert torch.equal(draws[0], torch.rand(4, generator=generator_of("lora", 0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "shards": 2}, r"rank must be a whole number from 0 to 1, got 2"),
        ({"rank": -1, "shards": 2}, r"rank must .*got -1"),
        ({"shards": 0}, r"shards must be a whole number >= 1, got 0"),
    ],
)
def test_bad_shares(options, message):
    with pytest.raises(ValueError, match=message):
        ShardedDraws(generator(), **options)
