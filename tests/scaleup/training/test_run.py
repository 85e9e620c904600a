"""A run from its configuration to its comparison sheet, as a folder; and what stops it."""

import contextlib
import errno
import json
import math
import os
import resource
import shutil
from itertools import count

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from scaleup.__main__ import main
from scaleup.adapter import ImageModel, sample
from scaleup.comparison import sheet
from scaleup.rewards.redness import Redness
from scaleup.samples.records import read_samples
from scaleup.training import run as module
from scaleup.training.draws import noise_of_seed
from scaleup.training.run import run
from scaleup.training.runfolder import RunFolder
from scaleup.training.trainer import Trainer
from tests.scaleup import tiny
from tests.scaleup.work import same, session, settings
from theory.common.files import write_atomically
from theory.common.tolerances import FLOAT32
from theory.methods.policy_gradient.ddpo import DDPO

DDPO_SHORT = "ddpo:steps=2"


def ran(config, out, **options):
    """The run's folder, as after a process of its own."""
    AcceleratorState._reset_state(True)
    return run(config, out, **{"tensorboard": False, **options})


def student(folder):
    return load_file(folder / "lora" / "pytorch_lora_weights.safetensors")


def config_of(folders, **options):
    return settings(folders, **{"method": "tilt_matching:scale=3", **options})


def files(out):
    """Every file below, with its bytes and when it was written."""
    found = [p for p in sorted(out.rglob("*")) if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(out)): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


@pytest.fixture(scope="module")
def done(folders, tmp_path_factory):
    """(configuration, folder of the runs, the run's own)."""
    out = tmp_path_factory.mktemp("done")
    config = config_of(folders, grid_every=2)
    return config, out, ran(config, out, tensorboard=True)


@pytest.fixture(autouse=True)
def plain_sheets(monkeypatch):
    """Every run but the first, which is drawn before this, draws no pictures: that takes longer
    than all the rest."""
    monkeypatch.setattr(sheet, "_draw", lambda *parts: write_atomically(parts[-1], b"a picture"))


@pytest.fixture
def copied(done, tmp_path):
    """(configuration, out, the run's folder) of a copy to spoil."""
    config, out, folder = done
    shutil.copytree(out, tmp_path / "out")
    return config, tmp_path / "out", tmp_path / "out" / folder.name


# --- what a run leaves


def test_what_a_run_leaves(done):
    config, out, folder = done
    assert folder == out / f"sd15-tilt_matching-redness-{config.digest}"
    assert set(files(folder)) >= {
        "config.json", "done.json", "metrics.csv", "comparison.png", "comparison.json",
        "comparison.md", "lora/pytorch_lora_weights.safetensors", "grids/step-000002.png",
        "grids/step-000004.png", "checkpoints/step-00000003.safetensors",
        "checkpoints/step-00000004.safetensors",
    }  # fmt: skip
    assert json.loads((folder / "config.json").read_text()) == config.as_json()
    said = json.loads((folder / "done.json").read_text())
    assert (said["device"], said["processes"]) == ("cpu", 1)
    assert said["cpu_seconds"] > 0
    measured = json.loads((folder / "comparison.json").read_text())
    assert measured["n"] == config.evaluate
    names = [row["name"] for row in measured["rows"]]
    assert names[:2] == ["reward redness", "diversity"]
    assert "prompt accuracy" not in names  # a user's own prompts have no verifier
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1 + config.steps


def test_runs_side_by_side(done, capsys, tmp_path):
    config, _, folder = done
    assert main(["table", str(folder), str(folder), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == second
    measured = {r["name"]: r for r in json.loads((folder / "comparison.json").read_text())["rows"]}
    assert first["method"] == config.method
    own = measured["reward redness"]
    assert first["reward_measured"] == {key: own[key] for key in ("base", "tuned", "change")}
    assert first["frechet"]["tuned"] == measured["Frechet distance to the base"]["tuned"]
    assert first["accuracy"] is None  # a user's own prompts have no verifier
    assert main(["table", str(folder)]) == 0
    assert f"{own['base']['value']:.3g} -> " in capsys.readouterr().out
    assert main(["table", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_tensorboard_has_every_step_when_the_run_is_over(done):
    (events,) = (done[2] / "tensorboard").iterdir()
    data = events.read_bytes()
    assert data.count(b"gradient_norm") == done[0].steps


@torch.no_grad()
def test_samples_are_of_their_seeds_and_prompts(done, folders):
    """Base and tuned from the same noise; the tuned ones by diffusers' own loading of the LoRA."""
    config, _, folder = done
    base, tuned = (read_samples(folder, which) for which in ("base", "tuned"))
    assert torch.equal(base.seed, tuned.seed)
    assert base.prompt_index.tolist() == [1 + i % 3 for i in range(config.evaluate)]
    noise = torch.stack([noise_of_seed(int(s), tiny.LATENT) for s in base.seed])
    pipe = tiny.sd15()
    for samples in (base, tuned):
        if samples is tuned:
            pipe.load_lora_weights(folder / "lora")
        image_model = ImageModel(pipe)
        velocity = image_model.velocity(image_model.prompts(samples.prompts[1:]))
        x1 = sample(velocity, noise, image_model, config.sampling_steps, samples.prompt_index)
        assert FLOAT32.holds(samples.x1, x1, float(x1.abs().max()))
        rewards = Redness()(image_model.decode(x1), [""] * len(x1))
        assert FLOAT32.holds(samples.rewards["redness"], rewards, 1.0)
    assert not FLOAT32.holds(tuned.x1, base.x1, float(base.x1.abs().max()))
    bank = read_samples(folder, "bank")
    assert not set(bank.seed.tolist()) & set(base.seed.tolist())


def test_a_finished_run_is_left_alone(done, capsys):
    config, out, folder = done
    before = files(out)
    assert ran(config, out) == folder
    assert files(out) == before
    assert capsys.readouterr().out == f"finished before: {folder / 'comparison.png'}\n"


def test_built_in_prompts_have_a_verifier(folders, tmp_path, monkeypatch):
    """Prompts of the built-in model, on the tiny one."""
    config = settings(folders, method=DDPO_SHORT, steps=1)
    object.__setattr__(config, "prompts", "")
    folder = ran(config, tmp_path)
    assert "prompt accuracy" in (folder / "comparison.md").read_text()


# --- stopped and gone on with


def test_interrupted_and_gone_on_with(done, tmp_path, monkeypatch):
    config, _, folder = done
    one_step = Trainer.one_step

    def interrupted(self):
        if self.step + 1 == config.steps:
            raise KeyboardInterrupt
        return one_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "one_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ran(config, tmp_path)
    found = ran(config, tmp_path)
    assert same(student(found), student(folder))
    assert (found / "comparison.json").read_bytes() == (folder / "comparison.json").read_bytes()


def full_disk(patch, number):
    """Nothing can be written from the call number `number` on."""
    times, fsync = count(), os.fsync

    def full(descriptor):
        if next(times) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    patch.setattr(os, "fsync", full)


@contextlib.contextmanager
def small_files():
    """The system itself refuses files of more than 4 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_at_any_moment(done, tmp_path, monkeypatch):
    """From the first file to the last: a clear error, and each time it goes a little further."""
    config, _, folder = done
    with small_files(), pytest.raises(OSError, match=r"cannot write .*File too large"):
        ran(config, tmp_path)
    number = 0
    while True:
        with monkeypatch.context() as patch:
            full_disk(patch, number)
            try:
                found = ran(config, tmp_path)
                break
            except OSError as error:
                assert "cannot write" in str(error)  # noqa: PT017
                assert "untouched" in str(error)  # noqa: PT017
        assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]
        number = 2 * number + 3
    assert number > 20
    assert same(student(found), student(folder))


def test_the_comparison_alone_is_made_again(copied):
    """Killed after training: the checkpoint is there, and the samples of the base."""
    config, out, folder = copied
    expected = (folder / "comparison.json").read_bytes()
    (folder / "done.json").unlink()
    shutil.rmtree(folder / "samples" / "tuned")
    for name in ("comparison.json", "comparison.png"):
        (folder / name).unlink()
    base = files(folder / "samples" / "base")
    assert ran(config, out) == folder
    assert (folder / "comparison.json").read_bytes() == expected
    assert {k for k, v in files(folder / "samples" / "base").items() if v != base[k]} <= {
        "rank-00000/manifest.json"
    }


def test_a_folder_that_is_held_is_refused(copied):
    config, out, folder = copied
    (folder / "done.json").unlink()
    before = files(out)
    with RunFolder(out, config).locked(), pytest.raises(
        ValueError, match=r"another process trains here: wait for it, or choose another --out"
    ):  # fmt: skip
        ran(config, out)
    assert files(out) == before


FOREIGN = {
    "edited": (lambda found: found | {"seed": 7}, r"another run's, or was edited \(seed = 7, here"),
    "model": (lambda found: found | {"model_files": "0"}, "the model's files have another content"),
    "older": (lambda found: {k: v for k, v in found.items() if k != "code"},
              r"of Plumbline, and is another's \(code differ\)"),
    "list": (lambda found: [1], r"of Plumbline, and is another's \(list differ\)"),
    "half": (lambda found: None, "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("case", FOREIGN)
def test_a_folder_of_another_configuration_is_refused(case, finished, copied):
    config, out, folder = copied
    change, words = FOREIGN[case]
    if not finished:
        (folder / "done.json").unlink()
    found = change(json.loads((folder / "config.json").read_text()))
    (folder / "config.json").write_text("{" if found is None else json.dumps(found))
    before = files(out)
    with pytest.raises(ValueError, match=rf"config\.json.*{words}.*delete the folder"):
        ran(config, out)
    assert files(out) == before


def test_all_checkpoints_damaged(copied):
    config, out, folder = copied
    (folder / "done.json").unlink()
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no checkpoint can be read"):
        ran(config, out)


def test_drafts_of_a_killed_run_go(copied):
    config, out, folder = copied
    (folder / "done.json").unlink()
    draft = folder / "checkpoints" / ".step-00000009.safetensors.0123abcd.part"
    draft.write_bytes(b"half")
    ran(config, out)
    assert not draft.exists()


# --- what only a first step can tell


def spoilt(call, at):
    """A reward's call whose answer number `at` is NaN."""
    times = count()

    def broken(self, images, prompts):
        values = call(self, images, prompts)
        return values * math.nan if next(times) == at else values

    return broken


def test_a_folder_without_a_step_is_not_left(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(Redness, "__call__", spoilt(Redness.__call__, 0))
    with pytest.raises(ValueError, match="got nan"):
        ran(settings(folders, method=DDPO_SHORT), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"method": DDPO_SHORT, "checkpoint_every": 1}, "checkpoints/step-00000001.safetensors"),
        (
            {"method": "weighted_flow_matching", "chunk": 4},
            "samples/bank/rank-00000/000001.safetensors",
        ),
    ],
)
def test_a_folder_with_a_step_or_samples_stays(options, kept, folders, tmp_path, monkeypatch):
    """It fails in the second step, or in the second chunk of the bank."""
    monkeypatch.setattr(Redness, "__call__", spoilt(Redness.__call__, 1))
    with pytest.raises(ValueError, match="got nan"):
        ran(settings(folders, **options), tmp_path)
    (folder,) = tmp_path.iterdir()
    assert (folder / kept).is_file()


def test_an_older_folder_is_never_removed(folders, tmp_path, monkeypatch):
    config = settings(folders, method=DDPO_SHORT)
    RunFolder(tmp_path, config).begin()
    monkeypatch.setattr(Redness, "__call__", spoilt(Redness.__call__, 0))
    with pytest.raises(ValueError, match="got nan"):
        ran(config, tmp_path)
    assert RunFolder(tmp_path, config).path.is_dir()


# --- memory


def test_out_of_memory_says_what_fits(folders, tmp_path, monkeypatch):
    config, collect = settings(folders, method=DDPO_SHORT), DDPO.collect

    def small(self, policy, task, n, draws):
        if n > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return collect(self, policy, task, n, draws)

    with monkeypatch.context() as patch:
        patch.setattr(DDPO, "collect", small)
        with pytest.raises(MemoryError, match=r"with 4 rows at once: micro_batch = 2 fits"):
            ran(config, tmp_path)
    assert (RunFolder(tmp_path, config).path / "config.json").is_file()


def test_out_of_memory_while_sampling(copied, monkeypatch):
    config, out, folder = copied
    (folder / "done.json").unlink()

    def fail(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(module, "compare_with_base", fail)
    with pytest.raises(MemoryError, match="while sampling: need a smaller chunk"):
        ran(config, out)


def test_errors_of_our_own_keep_their_trace(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("theory.methods.matching.tilt_matching.square", torch.cat)
    with pytest.raises(TypeError, match="must be tuple of Tensors"):
        ran(config_of(folders), tmp_path)


def test_the_folder_is_free_again_after_an_error(folders, tmp_path, monkeypatch):
    config = settings(folders, method=DDPO_SHORT)
    folder = RunFolder(tmp_path, config)
    with contextlib.suppress(ZeroDivisionError), folder.locked():
        raise ZeroDivisionError
    with folder.locked():
        assert folder.path.is_dir()


def test_metrics_whose_names_change(folders, tmp_path):
    """A method may log a number at some steps only."""
    folder = RunFolder(tmp_path, settings(folders))
    folder.write_metrics([{"step": 1.0, "loss": 2.0}, {"step": 2.0, "extra": 3.0, "loss": 1.0}])
    assert (folder.path / "metrics.csv").read_text().split() == [
        "step,loss,extra",
        "1.0,2.0,",
        "2.0,1.0,3.0",
    ]


def test_a_session_makes_no_folder(folders, tmp_path):
    session(settings(folders), tmp_path / "out")
    assert not (tmp_path / "out").exists()
