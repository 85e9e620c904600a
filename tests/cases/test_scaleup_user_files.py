"""A user's files: TOML with a byte-order mark, methods and rewards that break their word."""
# ruff: noqa: F811

import json
from importlib import resources

import pytest

from scaleup.__main__ import main
from scaleup.adapter.opening import _read_json
from scaleup.training.config import load_config
from tests.scaleup.conftest import folders, fresh_accelerate  # noqa: F401
from tests.scaleup.work import settings, words
from theory.common.files import read_json
from theory.problems.problem import load_problem

MARK = b"\xef\xbb\xbf"


def test_b6_toml_and_json_with_a_byte_order_mark(tmp_path):
    text = resources.files("theory").joinpath("problems/note_1d.toml").read_bytes()
    (tmp_path / "note.toml").write_bytes(MARK + text)
    assert load_problem(str(tmp_path / "note.toml")).scale == load_problem("note_1d").scale
    (tmp_path / "run.toml").write_bytes(MARK + b"steps = 3\n")
    assert load_config(str(tmp_path / "run.toml"), {}).steps == 3
    path = tmp_path / "config.json"
    path.write_bytes(MARK + json.dumps({"a": "é"}).encode())
    assert read_json(path) == _read_json(path, "here") == {"a": "é"}
    (tmp_path / "run.toml").write_bytes(b"steps = 3\n" + MARK)  # not where a mark belongs
    with pytest.raises(ValueError, match=r"run\.toml must be TOML"):
        load_config(str(tmp_path / "run.toml"), {})


METHOD = """\
from dataclasses import dataclass
from theory.methods import Method, endpoint_batch, square


@dataclass(frozen=True)
class Mine(Method):
    name = "mine"

    def collect(self, policy, task, n, draws):
        return endpoint_batch(task, task.endpoints(n, draws))

    def loss(self, policy, task, batch):
        error = square(policy.student(batch["x"], batch["t"], batch["cond"]) - batch["y"])
        RETURN
"""
REWARD = """\
from dataclasses import dataclass
from scaleup.rewards.contract import Reward


@dataclass(frozen=True)
class Mine(Reward):
    name = "mine"

    def __call__(self, images, prompts):
        return open("HERE/weights.pt").read()
"""


def said(config, out, capsys):
    """What `scaleup train` says of it: one line."""
    assert main(words(config, out / "runs")) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if not t.startswith("scaleup: ")]
    return line


@pytest.mark.parametrize(
    ("returned", "came"),
    [
        ("return error.detach(), {}", "losses without a gradient"),
        ("return error", "a tensor of shape (4,)"),
        ("return error, 0.5", "info, a float"),
    ],
)
def test_c1_a_method_that_breaks_its_contract(returned, came, folders, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(METHOD.replace("RETURN", returned))
    line = said(settings(folders, method=str(path)), tmp_path, capsys)
    assert line.startswith(f"error: {path}: Mine.loss returned {came}")
    assert ": must be a pair (losses, info): " in line


def test_b4_a_reward_that_raises_an_os_error(folders, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(REWARD.replace("HERE", str(tmp_path)))
    line = said(settings(folders, method="ddpo:steps=2", reward=str(path)), tmp_path, capsys)
    assert line.startswith("error: reward 'mine' raised FileNotFoundError: ")
    assert f"'{tmp_path}/weights.pt' ({path}, line 10): must give one float64 value" in line
