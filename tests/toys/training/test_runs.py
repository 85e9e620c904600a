"""Runs as folders: finished ones stay, damaged ones are named, begun ones go on whole."""

import csv
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest

from tests.toys.small import (
    NFT_OLD,
    call,
    configs,
    copied,
    flip,
    same_result,
    stop_at,
    trained,
    tree,
)
from theory.common.files import write_atomically
from theory.common.signals import Stopped
from toys.training import files
from toys.training.files import read_json, read_tensors
from toys.training.runs import Group, Run, unfinished_groups
from toys.training.trainer import Trainer

STOP = 17


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(configs, folder in which they are finished, bases too)."""
    out, wanted = tmp_path_factory.mktemp("done"), configs("nft", 2)
    assert trained(out, wanted) == 4
    return wanted, out


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """(configs, folder in which their training stopped)."""
    out, wanted = tmp_path_factory.mktemp("begun"), configs(NFT_OLD, 2)
    trained(out, [c.base() for c in wanted])
    stop_at(out, wanted, STOP)
    return wanted, out


def train_words(out, wanted):
    first = wanted[0]
    return [
        "train", "--method", first.method, "--problem", first.problem, "--seeds", len(wanted),
        "--steps", first.steps, "--batch", first.batch, "--width", first.width,
        "--processes", 1, "--out", out,
    ]  # fmt: skip


# --- finished


def test_a_finished_run_is_left_alone(done):
    wanted, out = done
    before = tree(out)
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert trained(out, wanted) == 0
    assert tree(out) == before
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == stamps


def test_what_a_run_leaves(done):
    wanted, out = done
    folder = Run(out, wanted[1]).folder
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "manifest.json", "metrics.csv", "weights.safetensors",
    ]  # fmt: skip
    assert not list((out / "groups").iterdir())
    assert folder.name == f"note_1d-nft-s1-{wanted[1].digest}"
    config = json.loads((folder / "config.json").read_text())
    assert config["base"] == wanted[1].base().digest
    assert (config["method"], config["problem"], config["seed"]) == ("nft", "note_1d", 1)
    assert (config["steps"], config["batch"], config["width"]) == (30, 64, 8)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["digest"] == wanted[1].digest
    assert manifest["seed"] == 1
    assert manifest["versions"].keys() >= {"python", "torch", "numpy", "plumbline"}
    assert manifest["device"] == "cpu"
    assert manifest["cpu_seconds"] > 0
    assert manifest["trained_beside"] == [c.digest for c in wanted]
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("config.json", "weights.safetensors", "metrics.csv")
            } == manifest["files"]  # fmt: skip
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert list(rows[0]) == ["step", "loss", "reward"]
    assert [int(r["step"]) for r in rows] == list(range(1, 31))


# --- foreign and damaged


def edit(path, change):
    data = json.loads(path.read_text())
    path.write_text(json.dumps(change(data)))


def keep_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


SPOILT = {
    "moved": ("manifest.json", lambda p: edit(p, lambda d: d | {"digest": "0" * 12}),
              ["got '000000000000'", "delete it or choose another --out"]),
    "no manifest": ("manifest.json", lambda p: edit(p, lambda d: [d["digest"]]),
                    ["must hold the run"]),
    "edited": ("config.json", lambda p: edit(p, lambda d: d | {"batch": 65}),
               ["config.json", "edited", "delete the folder"]),
    "config gone": ("config.json", lambda p: p.unlink(), ["config.json", "missing"]),
    "damaged manifest": ("manifest.json", keep_half, ["manifest.json", "damaged", "delete"]),
    "damaged config": ("config.json", lambda p: p.write_bytes(b"\xff\xfe"),
                       ["config.json", "damaged", "delete"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_a_foreign_or_damaged_folder_is_refused(case, done, tmp_path, capsys):
    wanted, source = done
    out = copied(source, tmp_path)
    name, spoil, needles = SPOILT[case]
    folder = Run(out, wanted[1]).folder
    spoil(folder / name)
    before = tree(out)
    status, _, err = call(capsys, *train_words(out, wanted))
    assert status == 2
    assert err.startswith("error: ")
    assert [n for n in [str(folder), *needles] if n not in err] == []
    assert tree(out) == before
    shutil.rmtree(folder)  # what the message says
    assert trained(out, wanted) == 1
    assert same_result(out, source, wanted[:1])


@pytest.mark.parametrize("spoil", [lambda p: flip(p, -3), lambda p: flip(p, 12), keep_half])
def test_damaged_weights_are_refused(spoil, done, tmp_path):
    wanted, source = done
    out = copied(source, tmp_path)
    base = Run(out, wanted[0].base())
    spoil(base.folder / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors: damaged .*delete its folder"):
        base.weights()
    # A method that starts from them is not trained.
    shutil.rmtree(Run(out, wanted[0]).folder)
    before = tree(out)
    with pytest.raises(ValueError, match=r"weights\.safetensors: damaged"):
        trained(out, wanted)
    assert tree(out) == before


@pytest.mark.parametrize(
    "spoil", [keep_half, lambda p: flip(p, -3), lambda p: flip(p, -4000), lambda p: flip(p, 3)]
)
def test_a_damaged_checkpoint_is_refused(spoil, begun, tmp_path, capsys):
    wanted, source = begun
    out = copied(source, tmp_path)
    (checkpoint,) = out.glob("groups/*/checkpoint.safetensors")
    spoil(checkpoint)
    before = tree(out)
    status, _, err = call(capsys, *train_words(out, wanted))
    assert status == 2
    assert str(checkpoint) in err
    assert "damaged" in err
    assert "delete its folder" in err
    assert tree(out) == before
    shutil.rmtree(checkpoint.parent)
    assert trained(out, wanted) == 2


def test_a_checkpoint_whose_words_were_edited_is_refused(begun, tmp_path):
    wanted, source = begun
    out = copied(source, tmp_path)
    (path,) = out.glob("groups/*/checkpoint.safetensors")
    tensors, words = read_tensors(path)
    files.write_tensors(path, tensors, words | {"step": str(int(words["step"]) - 1)})
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: damaged"):
        trained(out, wanted)
    files.write_tensors(path, tensors, words)
    assert trained(out, wanted) == 2


@pytest.mark.parametrize("text", ["[{", "[1]", '{"a": 1}', "3", '[{"digest": "a"}]', '["text"]'])
def test_damaged_members_are_refused(text, begun, tmp_path):
    wanted, source = begun
    out = copied(source, tmp_path)
    (members,) = out.glob("groups/*/members.json")
    members.write_text(text)
    before = tree(out)
    with pytest.raises(ValueError, match=r"members\.json: damaged .*delete its folder"):
        trained(out, wanted)
    assert tree(out) == before


# --- begun


def test_a_second_process_is_refused(begun, tmp_path, capsys):
    wanted, source = begun
    out = copied(source, tmp_path)
    group = Group(out, tuple(wanted))
    before = tree(out)
    with group.locked():
        status, _, err = call(capsys, *train_words(out, wanted))
        assert status == 2
        assert f"{group.folder}: another process trains these runs" in err
        assert "another --out" in err
        assert tree(out) == before
    assert trained(out, wanted) == 2  # the lock goes with the process


def test_a_begun_group_goes_on_whole(begun, done, tmp_path):
    wanted, source = begun
    out = copied(source, tmp_path)
    assert trained(out, wanted[1:]) == 2
    assert all(Run(out, c).is_finished for c in wanted)
    shutil.copytree(done[1] / "runs", tmp_path / "whole" / "runs")  # the same bases
    trained(tmp_path / "whole", wanted)
    assert same_result(out, tmp_path / "whole", wanted)


def test_a_group_that_stopped_while_it_wrote_its_folders(begun, tmp_path, monkeypatch):
    wanted, source = begun
    out, finish = copied(source, tmp_path), Run.finish

    def once(self, *values, **facts):
        if self.config.seed == 1:
            raise KeyboardInterrupt
        finish(self, *values, **facts)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", once)
        with pytest.raises(KeyboardInterrupt):
            trained(out, wanted)
    assert [Run(out, c).is_finished for c in wanted] == [True, False]
    trained(out, wanted)
    assert all(Run(out, c).is_finished for c in wanted)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "metrics.csv"])
def test_a_folder_is_finished_only_when_whole(name, begun, tmp_path, monkeypatch):
    """Stopped before this file of the first folder: its manifest is not there yet."""
    wanted, source = begun
    out, replace = copied(source, tmp_path), Path.replace

    def stop(self, target):
        if target.name == name:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            trained(out, wanted)
    assert not any(Run(out, c).is_finished for c in wanted)
    trained(out, wanted)
    assert all(Run(out, c).is_finished for c in wanted)


def test_groups_of_other_code_are_not_gone_on_with(begun, tmp_path):
    wanted, source = begun
    out = copied(source, tmp_path)
    assert [g.members for g in unfinished_groups(out)] == [tuple(wanted)]
    (members,) = out.glob("groups/*/members.json")
    edit(members, lambda rows: [row | {"digest": "0" * 12} for row in rows])
    assert unfinished_groups(out) == []


def test_interrupted_by_the_keyboard(begun, tmp_path, capsys, monkeypatch):
    wanted, source = begun
    out = copied(source, tmp_path)

    def interrupt(self, batch=None):
        raise Stopped(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_step", interrupt)
        with pytest.raises(Stopped) as stop:
            call(capsys, *train_words(out, wanted))
    assert stop.value.status == 130
    assert "is saved in" in stop.value.line
    assert "the same command goes on" in stop.value.line
    assert trained(out, wanted) == 2


# --- a full disk


def fsync_fails(patch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(os, "fsync", full)


def files_are_limited(patch):
    """The system itself refuses to write more than 4 kB into a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))


@pytest.fixture
def limits():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("fill", [fsync_fails, files_are_limited])
def test_a_full_disk(fill, begun, tmp_path, capsys, monkeypatch, limits):
    wanted, source = begun
    out = copied(source, tmp_path)
    before, soft = tree(out), resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setenv("PLUMBLINE_CHECKPOINT_SECONDS", "1e-9")
        fill(patch)
        status, _, err = call(capsys, *train_words(out, wanted))
        resource.setrlimit(resource.RLIMIT_FSIZE, soft)
    assert status == 2
    assert f"cannot write {out}/groups/" in err
    assert "untouched" in err
    assert "Traceback" not in err
    assert tree(out) == before  # no drafts either
    assert trained(out, wanted) == 2


def test_a_draft_never_replaces_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, b"old")
    fsync_fails(monkeypatch)
    with pytest.raises(OSError, match=r"cannot write .*file\.json: No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.json: missing; delete its folder"):
        read_json(tmp_path / "nowhere.json")


@pytest.mark.parametrize("name", ["weights.safetensors", "metrics.csv"])
def test_a_run_that_lost_or_changed_a_file_is_not_finished(name, tmp_path):
    wanted = configs("flow_matching", steps=3)
    trained(tmp_path, wanted)
    run = Run(tmp_path, wanted[0])
    assert run.is_finished
    path = run.folder / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match=rf"{name}: damaged.*delete its folder"):
        _ = run.is_finished
    path.unlink()
    with pytest.raises(ValueError, match=rf"{name}: missing; delete its folder"):
        _ = run.is_finished
