"""`python -m scaleup`, called in this process, and once in its own."""

import json
import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from examples.my_reward import Greenness
from scaleup.__main__ import main
from scaleup.adapter import open_model, opening
from scaleup.comparison import sheet
from scaleup.rewards.brightness import Brightness
from scaleup.rewards.contract import parse_reward, rewards
from scaleup.training.config import recipe_names
from scaleup.training.runfolder import RunFolder
from tests.scaleup.work import NFT_ONLINE, settings, words
from theory.common.files import write_atomically
from theory.common.tolerances import FLOAT32
from theory.methods.registry import methods

ROOT = Path(__file__).resolve().parents[2]
MY_METHOD = ROOT / "examples" / "my_method.py"
MY_REWARD = ROOT / "examples" / "my_reward.py"


@pytest.fixture(autouse=True)
def plain_sheets(monkeypatch):
    """Pictures take longer to draw than tiny runs to train; test_run.py draws them."""
    monkeypatch.setattr(sheet, "_draw", lambda *parts: write_atomically(parts[-1], b"a picture"))


def call(capsys, *arguments):
    """(exit status, stdout, stderr)."""
    AcceleratorState._reset_state(True)
    status = main([str(a) for a in arguments])
    return status, *capsys.readouterr()


# --- what it does


def test_train_says_what_came_of_it(folders, tmp_path, capsys):
    """With a user's own method and reward; the second call finds it finished."""
    config = settings(folders, method=f"{MY_METHOD}:label_noise=0.5", reward="brightness", steps=2)
    status, out, err = call(capsys, *words(config, tmp_path))
    folder = RunFolder(tmp_path, config).path
    assert status == 0
    assert folder.name == f"sd15-rejection-brightness-{config.digest}"
    assert out.startswith("# Base against tuned: 8 pairs of the same seed, 3 prompts\n")
    assert "| reward brightness |" in out
    assert out.endswith(f"{folder / 'comparison.png'}\n")
    assert [line[:9] for line in err.splitlines()] == ["scaleup: "]
    assert "100 %, 0 s left; tuned 8/8" in err
    status, out, err = call(capsys, *words(config, tmp_path))
    assert (status, out, err) == (0, f"finished before: {folder / 'comparison.png'}\n", "")


def test_a_reward_of_ones_own(folders, tmp_path, capsys):
    config = settings(folders, "sd3", method="adjoint_matching:steps=2", steps=1,
                      reward=f"0.5*{MY_REWARD}:strength=2+0.5*redness")  # fmt: skip
    assert call(capsys, *words(config, tmp_path))[0] == 0
    (folder,) = tmp_path.iterdir()
    names = [row["name"] for row in json.loads((folder / "comparison.json").read_text())["rows"]]
    parts = ["greenness:strength=2.0", "redness"]
    assert names[0] == "reward 0.5*greenness:strength=2.0+0.5*redness"  # the run's own
    assert sorted(names[1:3]) == [f"reward {part}" for part in parts]


@pytest.mark.parametrize("method", ["discrete_adjoint", "continuous_adjoint"])
def test_adjoint_methods_on_the_command_line(method, folders, tmp_path, capsys, monkeypatch):
    """They train; and an adjoint that is not finite is said in one line."""
    config = settings(folders, method=f"{method}:steps=2", steps=2, reward="brightness")
    with monkeypatch.context() as patch:
        score, calls = Brightness.__call__, iter(range(100))

        def spiked(self, images, prompts):
            values = score(self, images, prompts)
            if next(calls) < 1:
                return values
            return values + (images - images.detach()).abs().sqrt().mean((1, 2, 3))

        patch.setattr(Brightness, "__call__", spiked)
        status, _, err = call(capsys, *words(config, tmp_path))
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert len(said) == 1
    assert said[0].startswith(f"error: {method}:steps=2: the adjoint is not finite, first")
    assert "Traceback" not in err
    status, out, _ = call(capsys, *words(config, tmp_path))
    assert status == 0
    assert "| reward brightness |" in out


def test_the_example_of_a_reward():
    colours = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0.5, 0.5, 0.5], [0, 0.5, 0]])
    images = colours[:, :, None, None].expand(-1, -1, 4, 4).clone().requires_grad_(True)
    found = Greenness()(images, [""] * 4)
    assert FLOAT32.holds(found.detach(), [1.0, -1.0, 0.0, 0.5], 1.0)
    found.sum().backward()
    per_pixel = images.grad[:, :, 0, 0] * 16
    assert FLOAT32.holds(per_pixel, [[-0.5, 1.0, -0.5]] * 4)
    assert FLOAT32.holds(Greenness(3.0)(images, [""] * 4).detach(), 3 * found.detach(), 1.0)
    stronger = parse_reward(f"{MY_REWARD}:strength=2")
    assert (stronger.bounds, stronger.differentiable) == ((-2.0, 2.0), True)
    with pytest.raises(ValueError, match=r"strength must be a finite number > 0, got 0.0"):
        parse_reward(f"{MY_REWARD}:strength=0")


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("rewards", lambda: list(rewards())),
        ("methods", lambda: [n for n, kind in methods().items() if kind.starts_from == "base"]),
        ("recipes", recipe_names),
    ],
)
def test_lists(what, names, capsys):
    status, out, err = call(capsys, "list", what, "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert [next(iter(row.values())) for row in rows] == names()
    assert all(all(row.values()) for row in rows)
    status, out, _ = call(capsys, "list", what)
    assert status == 0
    assert all(name in out for name in names())


def test_lists_name_options(capsys):
    rows = {row["reward"]: row for row in json.loads(call(capsys, "list", "rewards", "--json")[1])}
    assert rows["clip_score"]["options"] == "model=..., chunk=32"
    assert rows["redness"]["options"] == "none"


def test_a_recipe_that_is_no_text(tmp_path, capsys):
    (tmp_path / "bad.toml").write_bytes(b"steps = 3 # \xff\n")
    status, _, err = call(capsys, "train", "--config", str(tmp_path / "bad.toml"))
    assert status == 2
    assert f"{tmp_path}/bad.toml must be TOML, which is UTF-8" in err


def test_an_option_that_a_reward_needs(capsys):
    status, _, err = call(capsys, "train", "--reward", "0.5*clip_score")
    assert status == 2
    assert "reward 'clip_score' lacks model: must be clip_score:model=..." in err


@pytest.mark.parametrize("command", [[], ["train"], ["list"], ["builtin"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "usage: python -m scaleup" in capsys.readouterr().out


# --- a quiet terminal


def opened(folder, capfd):
    """What the libraries say while a pipeline is opened."""
    logging.getLogger("diffusers").debug("x")
    open_model(folder, dtype=torch.bfloat16)
    return "".join(capfd.readouterr())


def test_opening_a_pipeline_says_nothing(folders, capfd, monkeypatch):
    assert opened(folders["sd15"], capfd) == ""
    monkeypatch.setattr(opening, "quiet", nullcontext)
    assert "Loading weights" in opened(folders["sd15"], capfd)


def test_the_libraries_speak_as_before_afterwards(folders):
    logs = opening.transformers.utils.logging, opening.diffusers.utils.logging
    for verbosity, bar in ((logging.INFO, True), (logging.ERROR, False)):
        before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
        try:
            for log in logs:
                log.set_verbosity(verbosity)
                (log.enable_progress_bar if bar else log.disable_progress_bar)()
            with opening.quiet():
                assert not any(log.is_progress_bar_enabled() for log in logs)
            found = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
            assert found == [(verbosity, bar)] * 2
        finally:
            for log, (level, on) in zip(logs, before, strict=True):
                log.set_verbosity(level)
                (log.enable_progress_bar if on else log.disable_progress_bar)()


@pytest.mark.slow
def test_a_process_of_its_own_says_one_line(folders, tmp_path):
    """Everything imported and the pipeline opened: nothing but the error is printed."""
    config = settings(folders, method="ddpo")
    done = subprocess.run(
        [sys.executable, "-m", "scaleup", *words(config, tmp_path / "out", "--lora-targets", "x")],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: lora_targets must be ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- errors

BAD = {
    "a folder that is no pipeline": (["--model", "HERE"], ["model = ", "model_index.json"]),
    "no folder": (["--model", "HERE/none"], ["model must be a folder in diffusers' layout"]),
    "no prompts file": (["--prompts", "HERE/none.txt"], ["prompts = ", "no such file"]),
    "no prompts": (["--prompts", ""], ["prompts must be a .txt or .jsonl file", "got ''"]),
    "empty prompts": (["--prompts", "HERE/empty.txt"], ["prompts must be at least one"]),
    "a bad line": (["--prompts", "HERE/bad.jsonl"], ["bad.jsonl, line 2 must be", "'blue'"]),
    "method": (["--method", "magic"], ["method must", "got 'magic'", "must be one of", "nft"]),
    "method's file": (["--method", "HERE/no.py"], ["method = ", "no.py", "no such file"]),
    "method's option": (["--method", "nft:strength=1"], ["'strength'", "must be one of nft_beta"]),
    "reward": (["--reward", "magic"], ["reward must", "got 'magic'", "must be one of", "redness"]),
    "reward's option": (["--reward", "redness:x=1"], ["'x'", "must be none"]),
    "recipe": (["--config", "magic"], ["config must be", "sd15-nft", "got 'magic'"]),
    "bad recipe": (["--config", "HERE/bad.toml"], ["bad.toml", "'step'", "must be one of model"]),
    "micro_batch": (["--micro-batch", 3], ["micro_batch must be a divisor of 4", "got 3"]),
    "processes": (["--processes", 2], ["processes = 2, but 1 run", "--nproc_per_node 2"]),
    "no gradient": (["--method", "adjoint_matching", "--reward", "jpeg_size"],
                    ["got 'jpeg_size'", "no gradient", "differentiable"]),
    "reward out of range": (["--method", "nft:nft_beta=1"],
                            ["'redness'", "[-1.0, 1.0]", "[0, 1]", "reward_mapping=released"]),
    "my method's range": (["--method", MY_METHOD], ["'redness'", "reward must take", "[0, 1]"]),
    "fp16": (["--precision", "fp16"], ["precision must be 'no' or 'bf16' on the CPU, got 'fp16'"]),
    "targets": (["--lora-targets", "x"], ["lora_targets must be", "got ['x']"]),
    "pool and group": (["--method", NFT_ONLINE.replace("pool=8", "pool=6"), "--group", 4],
                       ["must be a multiple of group = 4, got 6"]),
    "steps of a chain": (["--method", "adjoint_matching:steps=60,sigma_end=0.001"],
                         ["steps must be at most", "got 60"]),
    "steps": (["--steps", 0], ["steps must", "got 0", ">= 1"]),
    "rate": (["--learning-rate", "nan"], ["learning_rate must", "got nan", "> 0"]),
    "out": (["--out", "HERE/empty.txt"], ["out must be a folder", "empty.txt"]),
    "seed": (["--seed", -1], ["seed must", "got -1", "from 0 to"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_exits_with_2_and_leaves_no_folder(case, folders, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "red"}\nblue\n')
    (tmp_path / "bad.toml").write_text("step = 3\n")
    options, needles = BAD[case]
    options = [str(o).replace("HERE", str(tmp_path)) for o in options]
    config = settings(folders, method="tilt_matching")
    status, out, err = call(capsys, *words(config, tmp_path / "out"), *options)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert [n for n in needles if n not in err] == []
    assert list(tmp_path.glob("out/*")) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu(folders, tmp_path, capsys):
    config = settings(folders)
    status, _, err = call(capsys, *words(config, tmp_path / "out"), "--device", "cuda")
    assert status == 2
    assert "device must be 'cpu', got 'cuda': no CUDA device is available here" in err
    assert not (tmp_path / "out").exists()


def test_a_held_folder(folders, tmp_path, capsys):
    config = settings(folders, method="ddpo:steps=2")
    with RunFolder(tmp_path, config).locked():
        status, _, err = call(capsys, *words(config, tmp_path))
    assert status == 2
    assert err.startswith(f"error: {RunFolder(tmp_path, config).path}: another process trains here")


def test_a_file_where_the_folder_should_be(folders, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    status, _, err = call(capsys, *words(settings(folders), tmp_path / "out"))
    assert status == 2
    assert str(tmp_path / "out") in err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        ([], "command"), (["fly"], "fly"), (["train", "--stepz", "3"], "--stepz"),
        (["train", "--steps", "x"], "invalid int value: 'x'"),
        (["train", "--solver", "rk4"], "invalid choice: 'rk4'"), (["list", "colours"], "colours"),
    ],
)  # fmt: skip
def test_bad_options_exit_with_2(arguments, needle, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert needle in capsys.readouterr().err


def test_an_audit_of_nothing_is_refused(capsys):
    status, _, err = call(capsys, "audit")
    assert status == 2
    assert "audit RUN" in err
