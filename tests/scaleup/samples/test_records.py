"""Sample records: whole, in order, once each; crashes, full disks and damage."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil

import pytest
import torch
from safetensors import safe_open

from scaleup.samples import records
from scaleup.samples.records import SampleWriter, read_samples
from scaleup.samples.samples import paired
from theory.common.files import read_json, write_json

PROMPTS = ["a red square", "a cyan cross", "a green circle"]


def batch(indices, offset=0.0, **changes):
    """Samples whose every number is told from its index."""
    index = torch.tensor(list(indices), dtype=torch.int64)
    ramp = torch.arange(3 * 4 * 4).reshape(3, 4, 4)
    rows = {
        "index": index,
        "seed": 1000 + 7 * index,
        "prompt_index": index % 3,
        "rewards": {"redness": index.double() / 7 + offset, "0.5*a+b": -index.double()},
        "images": (index[:, None, None, None] + ramp).to(torch.uint8),
        "x1": (index[:, None, None, None] + ramp / 64).to(torch.float16),
        "features": index[:, None] * torch.tensor([1.0, -0.5]),
    }
    return rows | changes


def written(folder, which="base", world=1, n=11, **options):
    """n samples, dealt to the processes in turn, in batches of 3."""
    for rank in range(world):
        mine = range(rank, n, world)
        with SampleWriter(folder, which, PROMPTS, rank, world, **options) as writer:
            for start in range(0, len(mine), 3):
                writer.add(**batch(mine[start : start + 3]))
    return folder


def same(samples, expected):
    """Whether samples are these rows, in this order."""
    fields = ("index", "seed", "prompt_index", "images", "x1", "features")
    return all(torch.equal(getattr(samples, k), expected[k]) for k in fields) and (
        samples.rewards.keys() == expected["rewards"].keys()
        and all(torch.equal(v, expected["rewards"][k]) for k, v in samples.rewards.items())
    )


def shards(folder, which="base"):
    return sorted(folder.glob(f"samples/{which}/rank-*/*.safetensors"))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_all_that_was_written_is_read_in_order(world, tmp_path):
    samples = read_samples(written(tmp_path, world=world), "base")
    assert same(samples, batch(range(11)))
    assert not same(samples, batch(range(11), offset=1))
    assert not same(samples, batch(reversed(range(11))))
    assert samples.prompt(4) == PROMPTS[1]
    assert len(samples) == 11
    lean = read_samples(tmp_path, "base", pictures=False)
    assert lean.images is None
    assert lean.x1 is None
    assert torch.equal(lean.features, samples.features)


def test_files_are_safetensors_one_an_addition(tmp_path):
    written(tmp_path)
    sizes = []
    for path in shards(tmp_path):
        with safe_open(path, "pt") as file:
            sizes.append(len(file.get_tensor("index")))
            assert file.get_tensor("reward/redness").dtype == torch.float64
    assert sizes == [3, 3, 3, 2]
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".safetensors", ".json"}


def test_added_again_is_replaced_and_never_doubled(tmp_path):
    written(tmp_path, n=8)
    with SampleWriter(tmp_path, "base", PROMPTS) as writer:
        assert writer.written.tolist() == list(range(8))
        writer.add(**batch(range(2, 5), offset=5))
        writer.add(**batch(range(5, 8), offset=5))
        writer.add(**batch([7], offset=9))
    samples = read_samples(tmp_path, "base")
    assert samples.index.tolist() == list(range(8))
    offsets = samples.rewards["redness"] - samples.index.double() / 7
    assert offsets.round().tolist() == [0, 0, 5, 5, 5, 5, 5, 9]
    # The second shard held 3 to 5: all replaced, but by two shards, so it stays until one has all;
    # the third, 6 and 7, is gone.
    assert [path.name[:6] for path in shards(tmp_path)] == [
        "000001",
        "000002",
        "000004",
        "000005",
        "000006",
    ]
    with SampleWriter(tmp_path, "base", PROMPTS) as writer:
        writer.add(**batch(range(8), offset=3))
    assert len(shards(tmp_path)) == 1
    assert same(read_samples(tmp_path, "base"), batch(range(8), offset=3))


class Killed(Exception):  # noqa: N818
    pass


def test_killed_between_shard_and_manifest(tmp_path, monkeypatch):
    """The unlisted shard is no sample; a resumed writer removes it and carries on."""
    writer = SampleWriter(tmp_path, "base", PROMPTS)
    writer.add(**batch(range(4)))

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(records, "write_json", die)
        with pytest.raises(Killed):
            writer.add(**batch(range(4, 8)))
    draft = writer.folder / ".000009.safetensors.abcd.part"
    draft.write_bytes(b"half")
    assert len(shards(tmp_path)) == 2
    with SampleWriter(tmp_path, "base", PROMPTS) as writer:
        assert len(shards(tmp_path)) == 1
        assert not draft.exists()
        assert writer.written.tolist() == [0, 1, 2, 3]
        writer.add(**batch(range(4, 11)))
    assert same(read_samples(tmp_path, "base"), batch(range(11)))


def test_full_disk(tmp_path, monkeypatch):
    """Names the path, leaves nothing half-written, and may be tried again."""
    writer = SampleWriter(tmp_path, "base", PROMPTS)
    writer.add(**batch(range(4)))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"cannot write .*000002\.safetensors: No space left"):
            writer.add(**batch(range(4, 8)))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    writer.add(**batch(range(4, 8)))
    writer.close()
    assert same(read_samples(tmp_path, "base"), batch(range(8)))


def add_and_die(writer):
    with writer:
        writer.add(**batch(range(2)))
        raise Killed


def test_an_error_inside_with_leaves_the_part_open(tmp_path):
    with pytest.raises(Killed):
        add_and_die(SampleWriter(tmp_path, "base", PROMPTS))
    with pytest.raises(ValueError, match=r"processes \[0\] have not written all"):
        read_samples(tmp_path, "base")
    assert SampleWriter(tmp_path, "base", PROMPTS).written.tolist() == [0, 1]


def test_another_models_samples_are_removed(tmp_path):
    written(tmp_path, which="tuned", n=8, made_by="step 10")
    with SampleWriter(tmp_path, "tuned", PROMPTS, made_by="step 20") as writer:
        assert len(writer.written) == 0
        assert shards(tmp_path, "tuned") == []
        writer.add(**batch(range(3), offset=1))
    assert same(read_samples(tmp_path, "tuned"), batch(range(3), offset=1))


# --- damage


def spoil_shard(folder):
    path = shards(folder)[1]
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


def lose_rank(folder):
    shutil.rmtree(folder / "samples/base/rank-00001")


def edit(path, **changes):
    write_json(path, read_json(path) | changes)


DAMAGE = {
    "spoilt": (spoil_shard, r"rank-00000/000002\.safetensors: damaged \(its digest"),
    "lost": (lambda f: shards(f)[1].unlink(), r"rank-00000/000002\.safetensors: missing"),
    "rank lost": (lose_rank, "rank-00001: missing; 2 processes"),
    "no manifest": (
        lambda f: (f / "samples/base/rank-00001/manifest.json").unlink(),
        r"rank-00001/manifest\.json: missing",
    ),
    "manifest": (
        lambda f: (f / "samples/base/rank-00001/manifest.json").write_text("{"),
        r"rank-00001/manifest\.json: damaged",
    ),
    "format": (
        lambda f: edit(f / "samples/base/rank-00001/manifest.json", format=9),
        "no manifest of format 1",
    ),
    "worlds": (
        lambda f: edit(f / "samples/base/rank-00001/manifest.json", world=3),
        r"manifests must say one",
    ),
    "models": (
        lambda f: edit(f / "samples/base/rank-00001/manifest.json", made_by="x"),
        r"manifests must say one",
    ),
    "open": (
        lambda f: edit(f / "samples/base/rank-00001/manifest.json", closed=False),
        r"processes \[1\] have not",
    ),
    "no prompts": (lambda f: (f / "samples/base/prompts.json").unlink(), "holds no samples"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(case, tmp_path):
    spoil, needle = DAMAGE[case]
    written(tmp_path, world=2)
    read_samples(tmp_path, "base")
    spoil(tmp_path)
    with pytest.raises(ValueError, match=needle):
        read_samples(tmp_path, "base")


def test_two_processes_with_one_sample(tmp_path):
    written(tmp_path, world=2)
    with SampleWriter(tmp_path, "base", PROMPTS, 1, 2) as writer:
        writer.add(**batch([4]))
    with pytest.raises(
        ValueError, match=r"sample 4 must be .* got it in rank-00000 and in rank-00001"
    ):
        read_samples(tmp_path, "base")


def test_a_foreign_folder_is_refused(tmp_path):
    written(tmp_path)
    with pytest.raises(ValueError, match=r"prompts\.json must hold the same 2 prompts"):
        SampleWriter(tmp_path, "base", PROMPTS[:2])
    with pytest.raises(ValueError, match=r"world must be 1, .* got 2"):
        SampleWriter(tmp_path, "base", PROMPTS, 0, 2)
    with (
        pytest.raises(ValueError, match="one form"),
        SampleWriter(tmp_path, "base", PROMPTS) as writer,
    ):
        writer.add(**batch([1], features=torch.ones(1, 3)))
    assert same(read_samples(tmp_path, "base"), batch(range(11)))


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"seed": torch.tensor([1, 2])}, r"seed must have shape \(3\), got \(2,\)"),
        ({"seed": torch.ones(3)}, r"seed must be torch.int64, got torch.float32"),
        ({"rewards": {"r": torch.ones(3)}}, "reward/r must be torch.float64, got torch.float32"),
        ({"rewards": {"r": torch.full((3,), math.nan).double()}}, "reward/r must be finite"),
        ({"prompt_index": torch.tensor([0, 1, 3])}, r"prompt_index must be from 0 to 2"),
        ({"index": torch.tensor([0, 1, 1])}, "every index once"),
        ({"images": torch.ones(3, 3, 4, 4)}, "images must be torch.uint8, got torch.float32"),
        (
            {"images": torch.ones(3, 1, 4, 4, dtype=torch.uint8)},
            r"must have shape \(3, 3, \*, \*\)",
        ),
        ({"features": torch.ones(3)}, "features must have shape"),
        ({"x1": torch.full((3, 4), math.inf)}, "x1 must be finite"),
    ],
)
def test_bad_samples(changes, needle, tmp_path):
    writer = SampleWriter(tmp_path, "base", PROMPTS)
    with pytest.raises(ValueError, match=needle):
        writer.add(**batch(range(3), **changes))
    writer.add(**batch([]))
    writer.close()
    with pytest.raises(ValueError, match="holds no samples yet"):
        read_samples(tmp_path, "base")


@pytest.mark.parametrize(
    ("changes", "needle"),
    [
        ({"which": "old"}, "which must be .*base, tuned.*got 'old'"),
        ({"rank": 2}, "rank must .*got 2"),
        ({"world": 0}, "world must .*got 0"),
        ({"prompts": []}, "prompts"),
        ({"prompts": "red"}, "prompts must be .* got 'red'"),
    ],
)
def test_bad_writers(changes, needle, tmp_path):
    with pytest.raises(ValueError, match=needle):
        SampleWriter(
            **{"folder": tmp_path, "which": "base", "prompts": PROMPTS, "world": 2, **changes}
        )
    assert not any(tmp_path.iterdir())


# --- pairs


def test_pairs_share_index_seed_and_prompt(tmp_path):
    written(tmp_path, n=9)
    with SampleWriter(tmp_path, "tuned", PROMPTS) as writer:
        writer.add(**batch([11, 8, 3, 4], offset=2))
    base, tuned = read_samples(tmp_path, "base"), read_samples(tmp_path, "tuned")
    first, second = paired(base, tuned)
    assert first.index.tolist() == second.index.tolist() == [3, 4, 8]
    assert same(second, batch([3, 4, 8], offset=2))
    assert same(base.take(torch.tensor([2, 0])), batch([2, 0]))
    moved = base.take(torch.arange(9))
    moved.seed[4] += 1
    with pytest.raises(ValueError, match="sample 4 must have one seed and prompt"):
        paired(moved, tuned)
    with pytest.raises(ValueError, match="no sample index in common"):
        paired(base.take(torch.tensor([0])), tuned)


def test_a_manifest_is_plain_json(tmp_path):
    written(tmp_path, n=3)
    found = json.loads((tmp_path / "samples/base/rank-00000/manifest.json").read_text())
    assert found["shards"][0]["index"] == [0, 1, 2]
    assert found["closed"]
