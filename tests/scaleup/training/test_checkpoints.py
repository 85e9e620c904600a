"""Checkpoints: whole or passed over, two of them, never pickled."""

import errno
import json
import os

import pytest
import torch
from safetensors import safe_open

from scaleup.training.checkpoints import State, checkpoint_path, newest_state, save_state
from theory.methods import Policy
from theory.methods.contract.states import load_optimiser, optimiser_tensors, prefixed, under

RUN = {"seed": 3, "files": {"p.txt": "1"}, "code": "2", "device": "cpu"}


def state(step):
    tensors = {"a": torch.full((3,), float(step)), "b": torch.tensor(step, dtype=torch.uint8),
               "half": torch.ones(2, dtype=torch.bfloat16)}  # fmt: skip
    return State(step, tensors, {"metrics": [{"step": float(step), "gradient_norm": float("inf")}]})


@pytest.fixture
def folder(tmp_path):
    """A run's checkpoints after three of them were saved."""
    for step in (0, 50, 100):
        save_state(tmp_path, state(step), RUN)
    return tmp_path


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def edit(path):
    """Another step in words that are well formed."""
    data = path.read_bytes()
    assert data.count(b'\\"step\\": 100,') == 1
    path.write_bytes(data.replace(b'\\"step\\": 100,', b'\\"step\\": 101,'))


def test_what_is_saved_comes_back(folder):
    found = newest_state(folder)
    assert (found.step, found.data, found.damaged) == (100, state(100).data, ())
    assert found.tensors.keys() == state(100).tensors.keys()
    for name, value in state(100).tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value)


def test_the_newest_two_are_kept(folder):
    names = [checkpoint_path(folder, step).name for step in (50, 100)]
    assert sorted(p.name for p in folder.iterdir()) == names


def test_nothing_is_pickled(folder):
    path = checkpoint_path(folder, 100)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"a", "b", "half"}
        assert json.loads(file.metadata()["state"])["step"] == 100


SPOILT = {
    "truncated": cut,
    "empty": lambda p: cut(p, 0),
    "a bit of a tensor": lambda p: flip(p, -2),
    "a bit of the words": lambda p: flip(p, 60),
    "another step": edit,
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_damaged_newest_is_passed_over_and_named(case, folder):
    path = checkpoint_path(folder, 100)
    SPOILT[case](path)
    found = newest_state(folder)
    assert found.step == 50
    assert torch.equal(found.tensors["a"], state(50).tensors["a"])
    (said,) = found.damaged
    assert str(path) in said
    assert "damaged" in said


OTHERS = {
    "seed": ({"seed": 4}, r"\(seed = 3, here 4\)"),
    "prompts": ({"files": {"p.txt": "0"}}, r"\(p\.txt has another content\)"),
    "reward": ({"files": {"p.txt": "1", "r.py": "1"}}, r"\(r\.py has another content\)"),
    "code": ({"code": "0", "seed": 0}, r"\(seed = 3, here 0; Plumbline's code is another\)"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_runs_is_refused_and_what_differs_is_named(case, folder):
    """Not passed over: the one before it may be another run's, too."""
    change, words = OTHERS[case]
    with pytest.raises(ValueError, match=rf"00000100\.safetensors must be .* is another's {words}"):
        newest_state(folder, RUN | change)
    assert newest_state(folder, RUN | {"device": "cuda"}).step == 100


def test_all_damaged_is_an_error(folder):
    for step in (50, 100):
        cut(checkpoint_path(folder, step))
    with pytest.raises(
        ValueError, match=r"no checkpoint can be read .*100.*50.*; delete the folder"
    ):
        newest_state(folder)


def test_none_is_none(tmp_path):
    assert newest_state(tmp_path) is None
    assert newest_state(tmp_path / "nowhere") is None


def test_drafts_do_not_count(folder):
    (folder / ".step-00000150.safetensors.1234abcd.part").write_bytes(b"half")
    assert newest_state(folder).step == 100


def test_a_full_disk_leaves_what_was_there(folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            OSError, match=r"cannot write .*step-00000150.*No space left.*untouched"
        ):
            save_state(folder, state(150), RUN)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


# --- the optimiser


def stepped(steps, policy=None):
    """A policy and its optimiser after some steps; one parameter never has a gradient."""
    policy = policy or Policy(torch.nn.Linear(3, 2), networks={"value": torch.nn.Linear(2, 1)})
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.1)
    step(policy, optimiser, range(steps))
    return policy, optimiser


def step(policy, optimiser, numbers):
    for number in numbers:
        optimiser.zero_grad()
        policy.student(torch.full((4, 3), 1.0 + number)).square().sum().backward()
        optimiser.step()


def test_an_optimiser_goes_on_to_the_same_bits():
    policy, optimiser = stepped(3)
    saved = {k: v.clone() for k, v in optimiser_tensors(policy, optimiser).items()}
    weights = {k: v.clone() for k, v in policy.tensors().items()}
    assert {k.split(".")[0] for k in saved} == {"0", "1"}  # the value network never moved
    step(policy, optimiser, range(3, 6))
    for kept in (saved, {}):
        other, theirs = stepped(0)
        other.load(weights)
        load_optimiser(other, theirs, kept)
        step(other, theirs, range(3, 6))
        agree = [torch.equal(v, other.tensors()[k]) for k, v in policy.tensors().items()]
        assert all(agree) if kept else not all(agree)  # without its state it goes elsewhere


def test_loading_copies():
    policy, optimiser = stepped(1)
    saved = optimiser_tensors(policy, optimiser)
    other, theirs = stepped(0)
    load_optimiser(other, theirs, saved)
    before = saved["0.exp_avg"].clone()
    step(other, theirs, range(2))
    assert torch.equal(saved["0.exp_avg"], before)


def test_prefixes():
    table = {"a.b": 1, "ab.c": 2}
    assert prefixed("x.", table) == {"x.a.b": 1, "x.ab.c": 2}
    assert under("a.", table) == {"b": 1}
    assert under("x.", prefixed("x.", table)) == table
