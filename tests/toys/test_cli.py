"""`python -m toys`, called in this process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.toys.small import call, configs, copied, tree
from theory.common.tolerances import TRAINED_SHARE
from theory.methods.registry import methods
from toys.__main__ import main
from toys.evaluation import compare as compare_module
from toys.training.runs import Run

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "my_method.py"
SMALL = ["--steps", 30, "--batch", 64, "--width", 8, "--processes", 1]
QUICK = ["--samples", 2000, "--processes", 1]


def selection(*texts, problem="note_1d"):
    return [w for t in texts for w in ("--method", t)] + ["--problem", problem]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with the base and a user's method, compared once."""
    out = tmp_path_factory.mktemp("done")
    words = selection("flow_matching", f"{EXAMPLE}:label_noise=0.1")
    assert main([str(w) for w in ["train", *words, *SMALL, "--out", out]]) == 0
    assert main([str(w) for w in ["compare", *QUICK, "--no-picture", "--out", out]]) == 0
    return out


# --- what it does


def test_train_says_where_runs_are(done, capsys):
    words = selection("flow_matching", f"{EXAMPLE}:label_noise=0.1")
    status, out, err = call(capsys, "train", *words, *SMALL, "--out", done)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("flow_matching @ note_1d, seed 0: ")
    assert lines[1].startswith("rejection:label_noise=0.1 @ note_1d, seed 0: ")
    assert lines[2].startswith("0 networks trained")
    for line in lines[:2]:
        assert Path(line.split(": ")[1].split(",")[0]).is_dir()


def test_train_reports_its_progress(tmp_path, capsys):
    status, out, err = call(
        capsys, "train", *selection("flow_matching"), *SMALL, "--seeds", 2, "--out", tmp_path
    )
    assert status == 0
    assert "2 networks trained" in out
    assert err.startswith("training: 100 %, 0 s left; flow_matching @ note_1d x 2: step 30/30")


def test_compare_as_data(done, capsys, tmp_path):
    out = copied(done, tmp_path)
    status, text, err = call(capsys, "compare", *QUICK, "--json", "--out", out)
    assert (status, err) == (0, "")
    data = json.loads(text)
    assert [r["method"] for r in data["runs"]] == ["flow_matching", "rejection:label_noise=0.1"]
    # Label noise is the method's bias, to the last digit known: the base claims its own law.
    base, own = data["runs"]
    assert base["method_bias"] < 1e-3 * base["to_go"] < 0.1 * own["method_bias"]
    pictures = [Path(p) for p in data["pictures"]]
    assert {p.name for p in pictures} == {"note_1d-laws.png", "note_1d-budget.png"}
    assert all(p.stat().st_size > 10_000 for p in pictures)


def test_compare_as_a_table(done, capsys):
    status, out, err = call(capsys, "compare", *QUICK, "--no-picture", "--out", done)
    assert (status, err) == (0, "")
    assert "rejection" in out
    assert "largest learning error" in out
    assert f"allowed {100 * TRAINED_SHARE:g} %" in out


def test_compare_checks(done, capsys, monkeypatch):
    words = ["compare", *QUICK, "--no-picture", "--check", "--out", done]
    status, _, _ = call(capsys, *words)
    assert status == 1  # 30 steps are not enough
    kept = compare_module.kept
    monkeypatch.setattr(
        compare_module, "kept", lambda *a: kept(*a) | {"learning_share": TRAINED_SHARE}
    )
    status, _, _ = call(capsys, *words)
    assert status == 0


def test_compare_names_what_it_leaves_out(done, capsys, tmp_path):
    out = copied(done, tmp_path)
    folder = next((out / "runs").glob("*-flow_matching-*"))
    folder.rename(folder.with_name("moved"))
    status, text, _ = call(capsys, "compare", *QUICK, "--no-picture", "--out", out)
    assert status == 0
    assert "left out (made by other code, or moved): moved" in text


def test_runs_of_older_code_are_refused_by_name(done, capsys, tmp_path):
    """What differs is said; they are neither read nor touched, also where others train beside."""
    out = copied(done, tmp_path)
    (out / "compare").mkdir(exist_ok=True)
    for folder in (out / "runs").iterdir():
        (folder / "evaluation.json").unlink(missing_ok=True)
        config = json.loads((folder / "config.json").read_text())
        config["code_sha256"] = "0" * 64
        (folder / "config.json").write_text(json.dumps(config))
        folder.rename(folder.with_name(folder.name[:-12] + "0" * 12))
    before = tree(out)
    status, text, err = call(capsys, "compare", *QUICK, "--no-picture", "--out", out)
    assert (status, text) == (2, "")
    assert (
        "which holds no finished runs of this code, but note_1d-flow_matching-s0-000000000000 ("
        in err
    )
    assert err.count("another base, code_sha256") + err.count("(another code_sha256") == 3
    assert tree(out) == before
    words = [*selection("flow_matching"), *SMALL, "--out", out]
    assert call(capsys, "compare", *words, "--no-picture")[0] == 2
    assert call(capsys, "train", *words)[0] == 0
    assert before.items() <= tree(out).items()


def test_methods_are_listed(capsys):
    status, out, err = call(capsys, "methods", "--json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    assert rows.keys() == methods().keys()
    assert rows["nft"]["rewards"] == "values in [0, 1]"
    assert rows["nft"]["options"]["nft_beta"] == 1.0
    status, out, _ = call(capsys, "methods")
    assert status == 0
    assert all(name in out for name in rows)


def test_the_example_passes_the_contract(capsys):
    status, out, err = call(capsys, "check", "--method", EXAMPLE)
    assert (status, err) == (0, "")
    assert "rejection @ note_1d" in out
    assert "FAILED" not in out


def test_a_wrong_optimum_fails_the_contract(capsys, tmp_path):
    wrong = tmp_path / "wrong.py"
    text = EXAMPLE.read_text()
    right = "Optimum(problem.reward_weighted_field())"
    assert right in text
    wrong.write_text(text.replace(right, "Optimum(problem.base_field)"))
    status, out, _ = call(capsys, "check", "--method", wrong)
    assert status == 1
    assert "FAILED" in out


# --- errors


TRAIN, COMPARE = ["train"], ["compare"]
GOOD = selection("flow_matching")
BAD = {
    "no selection": (TRAIN, ["need --method", "--problem", "--preset"]),
    "no problem": ([*TRAIN, "--method", "nft"], ["need --method", "--problem"]),
    "method": ([*TRAIN, *selection("magic")], ["method must", "got 'magic'", "nft"]),
    "file": ([*TRAIN, *selection("nowhere.py")], ["nowhere.py", "no such file"]),
    "problem": (
        [*TRAIN, *selection("nft", problem="nope")],
        ["problem must", "got 'nope'", "note_1d"],
    ),
    "toml": ([*TRAIN, *selection("nft", problem="nope.toml")], ["nope.toml", "no such file"]),
    "option": ([*TRAIN, *selection("nft:strength=1")], ["strength", "nft_beta"]),
    "option value": ([*TRAIN, *selection("nft:nft_beta=x")], ["nft_beta", "'x'", "number"]),
    "option form": ([*TRAIN, *selection("nft:nft_beta")], ["'nft_beta'", "option=value"]),
    "reward": ([*TRAIN, *selection("nft", problem="linear_1d")], ["linear_1d", "[0, 1]"]),
    "seeds": ([*TRAIN, *GOOD, "--seeds", 0], ["--seeds must", "got 0", ">= 1"]),
    "steps": ([*TRAIN, *GOOD, "--steps", -1], ["--steps must", "got -1", ">= 0"]),
    "batch": ([*TRAIN, *GOOD, "--batch", -1], ["--batch must", "got -1"]),
    "width": ([*TRAIN, *GOOD, "--width", 0], ["width must", "got 0", ">= 1"]),
    "depth": ([*TRAIN, *GOOD, "--depth", 0], ["depth must", "got 0", ">= 1"]),
    "processes": ([*TRAIN, *GOOD, "--processes", 0], ["--processes must", "got 0", ">= 1"]),
    "rate": ([*TRAIN, *GOOD, "--learning-rate", -1], ["learning-rate must", "got -1.0", "> 0"]),
    "rate nan": (
        [*TRAIN, *GOOD, "--learning-rate", "nan"],
        ["learning_rate must", "got nan", "> 0"],
    ),
    "device": ([*TRAIN, *GOOD, "--device", "foo"], ["device must", "got 'foo'", "cpu", "cuda"]),
    "preset": ([*TRAIN, "--preset", "foo"], ["--preset must", "got 'foo'", "figures", "toys"]),
    "preset and method": ([*TRAIN, "--preset", "toys", *GOOD], ["--preset", "--method"]),
    "preset and steps": (
        [*TRAIN, "--preset", "toys", "--steps", 9],
        ["--steps must", "got 9", "preset"],
    ),
    "preset and seeds": (
        [*COMPARE, "--preset", "toys", "--seeds", 2],
        ["--seeds must", "got 2", "out"],
    ),
    "sampling": (
        [*COMPARE, *GOOD, "--sampling-steps", 0],
        ["sampling steps must", "got 0", ">= 1"],
    ),
    "samples": ([*COMPARE, *GOOD, "--samples", 5], ["samples must", "got 5", ">= 100"]),
    "untrained": ([*COMPARE, *GOOD], ["must be trained", "flow_matching @ note_1d", "toys train"]),
    "empty": (COMPARE, ["no finished runs", "toys train"]),
    "check method": (["check", "--method", "magic"], ["method must", "got 'magic'", "nft"]),
    "check reward": (
        ["check", "--method", "nft", "--problem", "linear_1d"],
        ["linear_1d", "[0, 1]"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_exits_with_2_and_one_line(case, capsys, tmp_path):
    arguments, needles = BAD[case]
    if arguments[0] in ("train", "compare"):
        arguments = [*arguments, "--out", tmp_path / "out"]
    status, out, err = call(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert [n for n in needles if n not in err] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu(capsys, tmp_path):
    status, _, err = call(capsys, "train", *GOOD, "--device", "cuda", "--out", tmp_path / "out")
    assert status == 2
    assert "no CUDA device" in err
    assert "'cpu'" in err


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_file_where_the_folder_should_be(command, below, capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    out = file / "runs" if below else file
    status, _, err = call(capsys, command, *GOOD, *SMALL, "--out", out)
    assert status == 2
    assert err.startswith("error: ")
    assert str(file) in err
    assert file.read_text() == "mine"


def test_what_has_no_optimum_is_not_compared(capsys, tmp_path):
    words = [*selection("ddpo:steps=3"), *SMALL, "--out", tmp_path]
    assert call(capsys, "train", *words)[0] == 0
    status, out, err = call(capsys, "compare", *words)
    assert (status, out) == (2, "")
    assert "ddpo:steps=3 @ note_1d, seed 0" in err
    assert "no optimum" in err
    assert Run(tmp_path, configs("ddpo:steps=3")[0]).is_finished


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [([], "command"), (["fly"], "fly"), (["train", "--seeds", "x"], "x"), (["check"], "--method")],
)
def test_bad_options_exit_with_2(capsys, arguments, needle):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert needle in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["train"], ["compare"], ["methods"], ["check"]])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "python -m toys" in capsys.readouterr().out


def test_help_loads_no_torch():
    code = """
import sys
from contextlib import redirect_stdout, suppress
from toys.__main__ import COMMANDS, main
with redirect_stdout(None):
    for command in ([], *([name] for name in COMMANDS)):
        with suppress(SystemExit):
            main([*command, "--help"])
print([m for m in ("torch", "numpy", "scipy") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_check_does_not_pass_what_could_not_be_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("toys.evaluation.evaluate.is_good", lambda result: True)
    bare, good = ["--method", "ddpo"], ["--method", "flow_matching"]
    options = ["--problem", "note_1d", "--steps", "3", "--batch", "16", "--processes", "1",
               "--out", str(tmp_path)]  # fmt: skip
    assert main(["train", *bare, *good, *options]) == 0
    compared = ["compare", *good, *options, "--no-picture", "--check"]
    assert main(compared) == 0
    capsys.readouterr()
    assert main([*compared, *bare]) == 1
    assert "left out: ddpo @ note_1d" in capsys.readouterr().out
