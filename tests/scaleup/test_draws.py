"""Processes that train together see one common batch."""

import pytest
import torch

from scaleup.draws import ShardedDraws, noise_of_seed
from tests.theory.methods.mutants import mutant_module

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


@pytest.mark.parametrize(
    "edit",
    [
        ("whole[self.rank * n : (self.rank + 1) * n]", "whole[:n]"),
        ("whole[self.rank * n : (self.rank + 1) * n]", "whole[self.rank :: self.shards]"),
        ("draw(n * self.shards, *shape", "draw(n * (self.rank + 1), *shape"),
    ],
)
def test_a_wrong_share_is_seen(edit):
    assert not shards_make_the_batch(mutant_module("scaleup.draws", edit).ShardedDraws)


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


def test_noise_of_a_seed_is_its_own():
    assert torch.equal(noise_of_seed(3, (2, 4)), noise_of_seed(3, (2, 4)))
    assert not torch.equal(noise_of_seed(3, (2, 4)), noise_of_seed(4, (2, 4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "shards": 2}, r"rank = 2: allowed are whole numbers from 0 to 1"),
        ({"rank": -1, "shards": 2}, r"rank = -1"),
        ({"shards": 0}, r"shards = 0: allowed are whole numbers >= 1"),
    ],
)
def test_bad_shares(options, message):
    with pytest.raises(ValueError, match=message):
        ShardedDraws(generator(), **options)
