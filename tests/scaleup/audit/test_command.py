"""`python -m scaleup audit` of files: verdict, JSON and page; exit status; every bad input."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from scaleup.__main__ import main
from scaleup.audit import page

ROOT = Path(__file__).parents[3]
QUICK = ("--wrappers", "linear", "--permutations", "19")
PROMPTS = ("a red square", "été, blue")
WIDTH = 3


def columns(tilt, n=90, prompts=PROMPTS, seed=0):
    """Rewards N(tilt + g, 1) of prompt g, features that follow them; as columns of a file."""
    rng = np.random.default_rng([seed, int(10 * tilt)])
    reward = tilt + np.repeat(np.arange(len(prompts)), n) + rng.normal(size=n * len(prompts))
    features = 0.7 * reward[:, None] + rng.normal(size=(len(reward), WIDTH))
    return {
        "prompt": np.repeat(prompts, n),
        "reward": reward,
        **{f"feature{i}": features[:, i] for i in range(WIDTH)},
    }


def put(path, data):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(data)
        writer.writerows(zip(*data.values(), strict=True))
    return path


def without(data, *prefixes):
    return {k: v for k, v in data.items() if not k.startswith(prefixes)}


def call(capsys, *arguments):
    """(exit status, stdout, stderr)."""
    status = main(["audit", *map(str, arguments)])
    return status, *capsys.readouterr()


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


def found_in(out):
    """audit.json, read strictly."""
    text = (out / "audit.json").read_text("utf-8")
    return json.loads(text, parse_constant=refuse_constant)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(base, tuned): tilted by exp(0.6 r), nothing besides."""
    folder = tmp_path_factory.mktemp("pair")
    return tuple(
        put(folder / f"{name}.csv", columns(tilt)) for name, tilt in (("base", 0), ("tuned", 0.6))
    )


@pytest.fixture(scope="module")
def plain(pair, tmp_path_factory):
    """(exit status, stdout, stderr, folder) of an audit with its page."""
    out = tmp_path_factory.mktemp("plain") / "new" / "out"
    said, err = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(err):
        files = ("--base", str(pair[0]), "--tuned", str(pair[1]))
        status = main(["audit", *files, "--out", str(out), *QUICK])
    return status, said.getvalue(), err.getvalue(), out


@pytest.fixture
def no_page(monkeypatch):
    """Figures take longer than all the rest; test_page.py draws them."""

    def write(path, *_):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a page")

    monkeypatch.setattr(page, "write_page", write)


# --- what it does


def test_a_verdict_the_json_and_a_page(pair, plain):
    base, tuned = pair
    status, said, err, out = plain
    assert status == 0
    found = found_in(out)
    json.dumps(found, allow_nan=False)
    *lines, last = said.splitlines()
    assert last == str(out / "audit.html")
    # Validity first, every question with its answer.
    asked = [f"- {c['question']} {c['answer']}" for c in found["validity"]]
    assert lines[0] == "before any conclusion:"
    assert [line.lower() for line in lines[1 : len(asked) + 1]] == [a.lower() for a in asked]
    assert lines[len(asked) + 1] == "verdict:"
    said = lines[len(asked) + 2 :]
    assert said == [f"- {line}" for line in (*found["verdict"], *found["notes"])]
    assert said[0].startswith("- effective tilt 0.")
    assert found["conclusive"] is True
    assert (found["base_samples"], found["tuned_samples"], found["features"]) == (180, 180, WIDTH)
    assert found["source"] == f"{tuned} against {base}"
    # The sides are not swapped, and the truth lies inside.
    assert found["tilt"]["low"] < 0.6 < found["tilt"]["high"]
    assert found["tilt"]["low"] > 0
    assert found["conditional"]["permutations"] == 19
    assert [row["prompt"] for row in found["by_prompt"]] == list(PROMPTS)
    tried = {w["name"] for w in found["wrappers"]} | set(found["wrappers_refused"])
    assert tried == {"exponential", "linear"}
    html = (out / "audit.html").read_text("utf-8")
    assert html.startswith("<!doctype html>")
    assert "été, blue" in html
    # Progress is apart from what is found: `--json | jq` and `> verdict.txt` work.
    assert err.startswith("180 base and 180 tuned samples, 2 prompts\n")
    assert sorted(p.name for p in out.iterdir()) == ["audit.html", "audit.json"]


def test_files_need_no_torch(pair, tmp_path):
    """Which takes longer to load than an audit of some thousand rows."""
    files = ("--base", str(pair[0]), "--tuned", str(pair[1]), "--out", str(tmp_path / "out"))
    code = (
        "import sys; from scaleup.__main__ import main; "
        f"print(main({['audit', *files, *QUICK]}), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0 False"


def test_json_is_printed_alone(pair, tmp_path, capsys, no_page):
    base, tuned = pair
    status, said, _ = call(
        capsys, "--base", base, "--tuned", tuned, "--out", tmp_path, "--json", *QUICK
    )
    assert status == 0
    assert said == (tmp_path / "audit.json").read_text("utf-8")


def test_the_seed_is_that_of_the_permutations(pair, plain, tmp_path, capsys, no_page):
    files = ("--base", pair[0], "--tuned", pair[1])
    found = [found_in(plain[-1])]
    for seed in (0, 1):
        call(capsys, *files, "--out", tmp_path, "--seed", seed, *QUICK)
        found.append(found_in(tmp_path))
    assert found[0] == found[1]
    assert found[0]["conditional"]["statistic"] != found[2]["conditional"]["statistic"]
    assert found[0]["tilt"] == found[2]["tilt"]


def test_where_it_goes_unless_told(pair, tmp_path, capsys, monkeypatch, no_page):
    monkeypatch.chdir(tmp_path)
    assert call(capsys, "--base", pair[0], "--tuned", pair[1], *QUICK)[0] == 0
    assert (tmp_path / "results" / "audit" / "audit.json").is_file()


def test_columns_and_arrays_by_other_names(plain, tmp_path, capsys, no_page):
    """The same samples in other words: every option reaches the side and role that it names."""
    renamed, arrays = [], []
    for side, tilt in (("base", 0), ("tuned", 0.6)):
        data = columns(tilt)
        features = [data[f"feature{i}"] for i in range(WIDTH)]
        # Decoys stand where the default names would look.
        decoys = {"reward": np.zeros(180), "prompt": np.repeat("x", 180)}
        own = {"score": data["reward"], "text": data["prompt"], **decoys}
        clip = {f"clip_{i}": column for i, column in enumerate(features)}
        renamed += [f"--{side}", put(tmp_path / f"{side}.csv", own | clip)]
        np.save(tmp_path / f"{side}.npy", np.stack(features, axis=1))
        arrays += [
            f"--{side}", put(tmp_path / f"{side}2.csv", own),
            f"--{side}-features", tmp_path / f"{side}.npy",
        ]  # fmt: skip
    names = ("--reward-column", "score", "--prompt-column", "text")
    call(capsys, *renamed, *names, "--feature-columns", "clip", "--out", tmp_path / "a", *QUICK)
    call(capsys, *arrays, *names, "--out", tmp_path / "b", *QUICK)
    expected = without(found_in(plain[-1]), "source", "made_of")
    assert without(found_in(tmp_path / "a"), "source", "made_of") == expected
    assert without(found_in(tmp_path / "b"), "source", "made_of") == expected


def test_seeds_of_files_make_pairs(tmp_path, capsys, no_page):
    sides = []
    for side, tilt in (("base", 0), ("tuned", 0.6)):
        data = without(columns(tilt), "feature") | {"noise": np.arange(180), "seed": [7] * 180}
        sides += [f"--{side}", put(tmp_path / f"{side}.csv", data)]
    call(capsys, *sides, "--seed-column", "noise", "--out", tmp_path, *QUICK)
    assert any("share seeds" in note for note in found_in(tmp_path)["notes"])


def test_columns_that_are_not_read_are_named(tmp_path, capsys, no_page):
    """A column of features by another name looks like no features."""
    sides = []
    for side, tilt in (("base", 0), ("tuned", 0.6)):
        data = {k.replace("feature", "clip_"): v for k, v in columns(tilt).items()}
        sides += [f"--{side}", put(tmp_path / f"{side}.csv", data)]
    _, _, err = call(capsys, *sides, "--out", tmp_path, *QUICK)
    said = [f"{file}: columns not read: 'clip_0', 'clip_1', 'clip_2'" for file in sides[1::2]]
    assert err.splitlines()[:2] == said
    sides = [part for file in sides[1::2] for part in (f"--{file.stem}", file)]
    _, _, err = call(capsys, *sides, "--feature-columns", "clip", "--out", tmp_path / "all", *QUICK)
    assert "not read" not in err


def test_without_features_it_is_said(pair, tmp_path, capsys, no_page):
    sides = [put(tmp_path / f"{t}.csv", without(columns(t), "feature")) for t in (0, 0.6)]
    status, said, _ = call(
        capsys, "--base", sides[0], "--tuned", sides[1], "--out", tmp_path, *QUICK
    )
    assert status == 0
    assert "- beyond the tilt: cannot conclude, because no features were given" in said.split("\n")
    assert "conditional" not in found_in(tmp_path)


# --- nothing can be concluded


@pytest.mark.parametrize(
    ("base", "tuned", "why"),
    [
        ([1.0] * 60, [1.0] * 60, "rewards are constant in every prompt"),
        (np.linspace(0, 1, 19), np.linspace(0, 1, 60), "base has 19 samples, 20 are needed"),
        (np.linspace(0, 1, 60), np.linspace(0, 1, 19), "tuned has 19 samples, 20 are needed"),
        (np.linspace(0, 1, 60), np.linspace(2, 3, 60), "every prompt, the tuned ones above"),
        (np.linspace(2, 3, 60), np.linspace(0, 1, 60), "every prompt, the tuned ones below"),
        # Almost all of the reweighted base is its last row.
        ([*np.linspace(0, 1, 60), 5.0], [*np.linspace(4.9, 5.1, 60), 0.5], "draw about"),
    ],
)  # fmt: skip
def test_nothing_to_conclude(base, tuned, why, tmp_path, capsys):
    sides = []
    for name, values in (("base", base), ("tuned", tuned)):
        sides += [f"--{name}", put(tmp_path / f"{name}.csv", {"reward": values})]
    status, said, _ = call(capsys, *sides, "--out", tmp_path, *QUICK)
    assert status == 1
    assert "\nno verdict:\n- cannot conclude, because " in said
    assert why in said
    found = found_in(tmp_path)
    assert found["conclusive"] is False
    assert any(why in doubt for doubt in found["doubts"])
    assert not {"wrappers", "conditional", "excess"} & set(found)
    html = (tmp_path / "audit.html").read_text("utf-8")
    assert "<div class='verdict none'><p>Cannot conclude, because" in html


# --- what is refused


def refused(capsys, out, *arguments, needles):
    """Exit status 2, one line that says why, and nothing written."""
    status, said, err = call(capsys, *arguments, *QUICK, "--out", out)
    last = err.splitlines()[-1]
    assert (status, said) == (2, "")
    assert last.startswith("error: ")
    for needle in needles:
        assert needle in last
    assert not out.exists()


def test_a_run_or_two_files(pair, tmp_path, capsys):
    out, needles = tmp_path / "out", ("`audit RUN`", "--base FILE and --tuned FILE")
    base, tuned = pair
    for arguments in (
        (),
        ("--base", base),
        ("--tuned", tuned),
        (tmp_path, "--base", base),
        (tmp_path, "--tuned", tuned),
        (tmp_path, "--base", base, "--tuned", tuned),
    ):
        refused(capsys, out, *arguments, needles=needles)


OF_RUNS = [("--reward", "redness"), ("--features", "statistics"), ("--draw", "8")]
OF_FILES = [
    ("--base-features", "a.npy"), ("--tuned-features", "a.npy"), ("--reward-column", "reward"),
    ("--prompt-column", "prompt"), ("--seed-column", "seed"), ("--image-column", "image"),
    ("--feature-columns", "feature"), ("--common-prompts",),
]  # fmt: skip


@pytest.mark.parametrize("option", [
    *OF_RUNS,
    pytest.param(("--draw", "0")),
])  # fmt: skip
def test_options_of_runs_are_not_for_files(option, pair, tmp_path, capsys):
    files = ("--base", pair[0], "--tuned", pair[1])
    refused(capsys, tmp_path / "out", *files, *option, needles=(option[0], "a run's folder"))


@pytest.mark.parametrize("option", OF_FILES, ids=lambda option: option[0])
def test_options_of_files_are_not_for_runs(option, tmp_path, capsys):
    """Before anything is read: the folder is no run's."""
    refused(capsys, tmp_path / "out", tmp_path, *option, needles=(option[0], "--base and --tuned"))


FAULTS = {
    "no such file": ({}, ("--base", "nowhere.csv"),
                     ("--base must be a file", "nowhere.csv", "no such file")),
    "no such kind": ({}, ("--base", "a.tsv"), ("a.tsv",)),
    "no reward": ({"reward": None}, (), ("reward must be a column of",
                                          "tuned.csv", "'prompt'", "got 'reward'")),
    "column": ({}, ("--reward-column", "score"), ("reward must be", "base.csv", "got 'score'")),
    "prompt column": ({}, ("--prompt-column", "text"), ("prompt must be", "got 'text'")),
    "seed column": ({}, ("--seed-column", "noise"), ("seed must be", "got 'noise'")),
    "image column": ({}, ("--image-column", "png"), ("image must be", "got 'png'")),
    "nan": ({"reward": [0.5, math.nan] * 90}, (), ("tuned.csv, line 3: reward must",
                                                  "got 'nan'; 90 such rows")),
    "infinite": ({"reward": [*[0.5] * 179, math.inf]}, (), ("line 181: reward must",
                                                            "got 'inf'")),
    "nan feature": ({"feature1": [math.nan] * 180}, (), ("feature1 must be", "got 'nan'")),
    "narrow": ({"feature2": None}, (), ("as many features, got 3 and 2",)),
    "no features": ({f"feature{i}": None for i in range(WIDTH)}, (), ("tuned has no features",)),
    "permutations": ({}, ("--permutations", "18"), ("permutations must", "got 18")),
    "seed": ({}, ("--seed", "-1"), ("--seed must", "got -1")),
    "other prompts": ({"prompt": np.repeat(["x", "y"], 90)}, (), ("must have a prompt in common",)),
    "no array": ({}, ("--base-features", "nowhere.npy"),
                 ("features of --base must be a file", "nowhere.npy")),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_bad_input(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes, options, needles = FAULTS[case]
    put(tmp_path / "base.csv", columns(0))
    tuned = {k: v for k, v in (columns(0.6) | changes).items() if v is not None}
    put(tmp_path / "tuned.csv", tuned)
    (tmp_path / "a.tsv").write_text("reward\n1\n")
    files = ("--base", "base.csv", "--tuned", "tuned.csv")
    out = tmp_path / "out"
    status, said, err = call(capsys, *files, *QUICK, "--out", out, *options)
    last = err.splitlines()[-1]
    assert (status, said) == (2, "")
    assert last.startswith("error: ")
    for needle in needles:
        assert needle in last
    assert not out.exists()


def test_prompts_in_one_file_only(pair, tmp_path, capsys):
    lone = put(tmp_path / "lone.csv", without(columns(0.6), "prompt"))
    refused(capsys, tmp_path / "out", "--base", pair[0], "--tuned", lone,
            needles=("lone.csv has none",))  # fmt: skip


def test_arrays_of_other_shapes(pair, tmp_path, capsys):
    sides = []
    for name, tilt in (("base", 0), ("tuned", 0.6)):
        sides += [f"--{name}", put(tmp_path / f"{name}.csv", without(columns(tilt), "feature"))]
    out = tmp_path / "out"
    for rows, width, needles in (
        (179, 2, ("(179, 2)", "(180, d)")),
        (180, 3, ("as many features, got 2 and 3",)),
    ):
        np.save(tmp_path / "base.npy", np.random.default_rng(0).normal(size=(180, 2)))
        np.save(tmp_path / "tuned.npy", np.random.default_rng(1).normal(size=(rows, width)))
        arrays = [x for s in ("base", "tuned") for x in (f"--{s}-features", tmp_path / f"{s}.npy")]
        refused(capsys, out, *sides, *arrays, needles=needles)


@pytest.mark.parametrize("options", [("--wrappers", "cubic"), ("--draw", "few"), ("--seed", "x")])
def test_words_that_the_parser_refuses(options, pair, capsys):
    with pytest.raises(SystemExit) as caught:
        call(capsys, "--base", pair[0], "--tuned", pair[1], *options)
    assert caught.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_prompts_of_one_side(tmp_path, capsys, no_page):
    """Refused, or left out by --common-prompts with every row of theirs."""
    prompts = {"base": ("only b", "shared"), "tuned": ("shared", "only t", "and t")}
    files, sides = [], {}
    for name, tilt in (("base", 0), ("tuned", 0.6)):
        sides[name] = columns(tilt, prompts=prompts[name])
        files += [f"--{name}", put(tmp_path / f"{name}.csv", sides[name])]
    refused(
        capsys, tmp_path / "out", *files,
        needles=("1 only in base ('only b')", "2 only in tuned ('only t', 'and t')"),
    )  # fmt: skip
    out = tmp_path / "common"
    status, said, _ = call(capsys, *files, "--common-prompts", "--out", out, *QUICK)
    assert status == 0
    assert "- 3 prompts that one side alone has are left out" in said.splitlines()
    found = found_in(out)
    assert sorted(found["left_out"]) == ["and t", "only b", "only t"]
    kept = []
    for name, side in sides.items():
        mine = side["prompt"] == "shared"
        kept += [f"--{name}", put(tmp_path / f"k{name}.csv", {k: v[mine] for k, v in side.items()})]
    call(capsys, *kept, "--out", tmp_path / "kept", *QUICK)
    # Where the rows stand.
    differ = ("source", "made_of", "left_out", "notes", "validity")
    assert without(found, *differ) == without(found_in(tmp_path / "kept"), *differ)


# --- runs


def test_folders_that_are_no_runs(tmp_path, capsys):
    out = tmp_path / "out"
    for folder in (tmp_path / "nowhere", tmp_path):
        refused(capsys, out, folder, needles=("run must be", f"got {str(folder)!r}", "no samples"))
        refused(capsys, out, folder, "--draw", "8", needles=("run must be", "no config.json"))
    refused(capsys, out, tmp_path, "--draw", "0", needles=("draw must", "got 0", "1"))
    refused(capsys, out, tmp_path, "--features", "pixels", needles=("features must be", "'pixels'"))
