"""More samples of a finished run: seeds of their own, and those drawn before kept."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from accelerate.state import AcceleratorState

from scaleup.audit import draw as module
from scaleup.audit.draw import MOST, draw, read_run
from scaleup.comparison import sheet
from scaleup.samples.records import read_samples
from scaleup.training.draws import noise_of_seed
from scaleup.training.run import run
from tests.scaleup import tiny
from tests.scaleup.work import settings
from theory.common.files import write_atomically
from theory.common.tolerances import FLOAT32

SIDES = ("audit_base", "audit_tuned")
SEED = 3


@pytest.fixture(scope="module")
def done(folders, tmp_path_factory):
    """(configuration, folder) of a finished run, its chunks of 8 pictures."""
    config = settings(folders, method="tilt_matching:scale=3", seed=SEED)
    AcceleratorState._reset_state(True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sheet, "_draw", lambda *parts: write_atomically(parts[-1], b"a picture"))
        return config, run(config, tmp_path_factory.mktemp("done"), tensorboard=False)


@pytest.fixture
def copied(done, tmp_path):
    """(configuration, folder), at another place and by another name."""
    shutil.copytree(done[1], tmp_path / "moved")
    return done[0], tmp_path / "moved"


def drawn(folder, count):
    AcceleratorState._reset_state(True)
    draw(folder, count)
    return [read_samples(folder, which) for which in SIDES]


@pytest.fixture(scope="module")
def twice(done, tmp_path_factory):
    """(folder, the 8 a side drawn first, all 20 then)."""
    folder = tmp_path_factory.mktemp("twice") / "moved"
    shutil.copytree(done[1], folder)
    return folder, drawn(folder, 8), drawn(folder, 20)


# --- runs


def test_a_run_is_read_wherever_it_lies(copied):
    config, folder = copied
    found = read_run(folder)
    assert found.path == folder
    assert found.config == config
    assert found.is_finished


def test_folders_that_are_no_runs(copied, tmp_path):
    folder = copied[1]
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"run must be the folder of a run of"):
            read_run(place)
    (folder / "done.json").unlink()
    with pytest.raises(ValueError, match=r"run must be finished, got '.*moved'"):
        read_run(folder)
    with pytest.raises(ValueError, match="must be finished"):
        draw(folder, 8)


def test_configurations_of_other_versions(copied):
    """Refused by name, not half-read: what this version does not know, and what it asks for."""
    _, folder = copied
    content = json.loads((folder / "config.json").read_text())
    older = {k: v for k, v in content.items() if k != "model_files"}
    for other, word in (
        (content | {"a_later_option": 1}, "a_later_option"),
        (older, "model_files"),
    ):
        (folder / "config.json").write_text(json.dumps(other))
        with pytest.raises(ValueError, match=rf"of Plumbline, and is another's \({word} differ\)"):
            read_run(folder)
    (folder / "config.json").write_text(json.dumps(content | {"method": "forgotten:scale=3"}))
    with pytest.raises(ValueError, match="forgotten"):
        draw(folder, 8)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: damaged"):
        read_run(folder)


@pytest.mark.parametrize("count", [0, -1, MOST])
def test_numbers_out_of_range(count, tmp_path):
    """Before anything is read. MOST and more would take the other side's seeds."""
    with pytest.raises(ValueError, match=rf"draw must be .* from 1 to .* got {count}"):
        draw(tmp_path, count)


# --- samples


def test_no_seed_is_drawn_twice(twice):
    """Sides share none, nor with what the run drew: base and tuned are independent."""
    folder, _, sides = twice
    sets = [*sides, read_samples(folder, "bank"), read_samples(folder, "base")]
    seeds = [set(samples.seed.tolist()) for samples in sets]
    assert [len(s) for s in seeds[:2]] == [20, 20]
    assert sum(map(len, seeds)) == len(set.union(*seeds))
    # Runs of other seeds share none either.
    assert {seed // 2**32 for side in seeds for seed in side} == {SEED}
    largest = module.AUDIT_SEEDS["audit_tuned"] + MOST - 1
    assert module.AUDIT_SEEDS["audit_base"] + MOST - 1 < module.AUDIT_SEEDS["audit_tuned"]
    assert largest < 2**32


def test_what_was_drawn_is_kept(twice):
    """Drawn again to 20: the first 8 bit for bit, and every prompt in turn."""
    _, first, later = twice
    for a, b in zip(first, later, strict=True):
        assert (len(a), len(b)) == (8, 20)
        assert b.index.tolist() == list(range(20))
        assert b.prompt_index.tolist() == [1 + i % 3 for i in range(20)]
        assert torch.equal(b.seed[:8], a.seed)
        assert torch.equal(b.x1[:8], a.x1)
        assert torch.equal(b.images[:8], a.images)
        assert all(torch.equal(b.rewards[k][:8], a.rewards[k]) for k in a.rewards)


def test_fewer_than_there_are_changes_nothing(twice, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(twice[0], folder)
    shards = {p: p.read_bytes() for p in folder.rglob("samples/audit_*/*/*.safetensors")}
    assert [len(side) for side in drawn(folder, 4)] == [20, 20]
    assert {p: p.read_bytes() for p in shards} == shards


@torch.no_grad()
def test_sides_are_of_their_models(twice, done):
    """The base with no adapter, the student as trained: by diffusers' own loading of the LoRA.
    Catches models that are swapped, or a student that was not restored."""
    from scaleup.adapter import ImageModel, sample

    config, folder = done[0], twice[0]
    other = []
    for number, samples in enumerate(twice[2]):
        pipe = tiny.sd15()
        if number:
            pipe.load_lora_weights(folder / "lora")
        model = ImageModel(pipe)
        velocity = model.velocity(model.prompts(samples.prompts[1:]))
        noise = torch.stack([noise_of_seed(int(s), tiny.LATENT) for s in samples.seed])
        x1 = sample(velocity, noise, model, config.sampling_steps, samples.prompt_index)
        assert FLOAT32.holds(samples.x1, x1, float(x1.abs().max()))
        other.append(model)
    base = other[0]
    velocity = base.velocity(base.prompts(samples.prompts[1:]))
    untuned = sample(velocity, noise, base, config.sampling_steps, samples.prompt_index)
    assert not FLOAT32.holds(samples.x1, untuned, float(untuned.abs().max()))


def test_the_run_itself_is_left_as_it_was(twice, done):
    def files(folder):
        return {
            str(p.relative_to(folder)): p.read_bytes()
            for p in folder.rglob("*")
            if p.is_file() and p.name != ".lock" and "audit_" not in str(p.relative_to(folder))
        }

    assert files(twice[0]) == files(done[1])


def test_a_run_without_its_checkpoints(copied):
    """The student is in none of the other files that are read: its samples would be the base's."""
    _, folder = copied
    shutil.rmtree(folder / "checkpoints")
    AcceleratorState._reset_state(True)
    with pytest.raises(ValueError, match="checkpoint"):
        draw(folder, 4)
