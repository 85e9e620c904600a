"""`python -m theory`, called in this process."""

import json
from pathlib import Path

import matplotlib.image
import pytest

from tests.helpers import size, tensor
from theory.__main__ import main
from theory.common.tolerances import QUADRATURE
from theory.evaluation.choices import FIELDS
from theory.evaluation.triviality import LEAST_FIRST_ORDER_GAP, LEAST_SHIFT
from theory.problems.problem import problem_names

OWN = """\
name = "own"
description = "a linear reward over two modes"
scale = 1.5
[base]
weights = [0.6, 0.4]
means = [[-1.0], [1.5]]
stds = [0.7, 0.5]
[reward]
kind = "linear"
vector = [0.6]
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(OWN, encoding="utf-8")
    return file


def run(capsys, *arguments):
    """(exit status, stdout, stderr)"""
    status = main([str(a) for a in arguments])
    return status, *capsys.readouterr()


# --- problems


@pytest.fixture(scope="module")
def summaries():
    """Every named problem by `problems --json`."""
    with pytest.MonkeyPatch.context() as patch:
        printed = []
        patch.setattr("builtins.print", lambda text, **_: printed.append(text))
        assert main(["problems", "--json"]) == 0
    return json.loads("".join(printed))


def floors_hold(row):
    shift = next(v for k, v in row.items() if k.startswith("W1"))
    gap = next(v for k, v in row.items() if k.startswith("TV"))
    return shift >= LEAST_SHIFT and gap >= LEAST_FIRST_ORDER_GAP


def test_every_named_problem_is_nontrivial(summaries):
    assert sorted(row["name"] for row in summaries) == problem_names()
    assert all(floors_hold(row) for row in summaries)
    assert {row["d"] for row in summaries} >= {1, 2, 5}


def test_a_trivial_problem_is_seen(capsys, own):
    own.write_text(OWN.replace("1.5\n[", "0.01\n["), encoding="utf-8")
    status, out, _ = run(capsys, "problems", own, "--json")
    assert status == 0
    assert not floors_hold(json.loads(out)[0])


def test_one_problem_as_a_table(capsys, own):
    status, out, err = run(capsys, "problems", own)
    assert (status, err) == (0, "")
    assert "own" in out
    assert "linear" in out


# --- law


def only_progress(err):
    """Nothing on stderr but where a law is, which long ones say."""
    return all(line.startswith("law of ") and " %, " in line for line in err.splitlines())


def is_blank(png):
    pixels = matplotlib.image.imread(png)[..., :3]
    return float(pixels.std()) < 0.01


def test_law_prints_data_and_draws(capsys, tmp_path):
    out = tmp_path / "pictures"
    status, text, err = run(
        capsys, "law", "--problem", "note_1d", "--field", "nft", "--json", "--out", out
    )
    assert (status, only_progress(err)) == (0, True)
    data = json.loads(text)
    assert (data["problem"], data["dim"]) == ("note_1d", 1)
    assert QUADRATURE.holds(data["mass"], 1.0)
    # NFT's law is neither the base nor a tilt (liu, Theorem 1.1): every TV is above its floor.
    assert {"base", "exp(2r)", "1+2r"} <= data["distances"].keys()
    for row in data["distances"].values():
        assert row["TV"]["value"] > 100 * row["TV"]["floor"]
    pictures = [Path(p) for p in data["pictures"]]
    assert {p.suffix for p in pictures} == {".png", ".pdf"}
    assert all(p.stat().st_size > 5_000 for p in pictures)
    png = next(p for p in pictures if p.suffix == ".png")
    assert not is_blank(png)
    matplotlib.image.imsave(tmp_path / "white.png", [[[1.0] * 3] * 20] * 20)
    assert is_blank(tmp_path / "white.png")


def test_law_of_an_exact_tilt_is_that_tilt(capsys, own):
    status, text, _ = run(
        capsys, "law", "--problem", own, "--field", "tilt", "--json", "--no-picture"
    )
    data = json.loads(text)
    assert (status, data["problem"], data["pictures"]) == (0, "own", [])
    assert data["nearest"] == "exp(1.5r)"
    distances = data["distances"]
    assert QUADRATURE.holds(distances["exp(1.5r)"]["TV"]["value"], 0.0, scale=1.0)
    assert not QUADRATURE.holds(distances["base"]["TV"]["value"], 0.0, scale=1.0)
    assert ">= 0" in data["refused"]["1+1.5r"]
    reward = data["mean_reward_of_target"]
    assert QUADRATURE.holds(data["mean_reward"], reward["exp(1.5r)"])
    assert size(tensor(data["mean"])) > 0.3


def test_law_as_a_table(capsys, own):
    status, out, err = run(
        capsys, "law", "--problem", own, "--field", "base", "--no-picture", "--scale", "0.7"
    )
    assert (status, only_progress(err)) == (0, True)
    assert "nearest in TV: base" in out
    assert "not a target" in out


# --- errors


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (["problems", "nope"], ["problem", "'nope'", "must", "note_1d"]),
        (["problems", "nope.toml"], ["problem", "nope.toml", "no such file"]),
        (["law", "--problem", "nope", "--field", "nft"], ["problem", "'nope'", "must"]),
        (["--nft-beta", "0"], ["nft_beta", "0", "must"]),
        (["--nft-beta", "nan"], ["nft_beta", "nan", "must"]),
        (["--scale", "nan"], ["scale", "nan", "must"]),
        (["--scale", "1e4"], ["scale", "log Z", "must"]),
        (["--wrapper", "truncated", "--order", "0"], ["order", "0", "must"]),
        (["--wrapper", "truncated", "--order", "1"], ["1+1.5r", "must", ">= 0"]),
        (["--wrapper", "power", "--exponent", "0"], ["exponent", "0", "must"]),
        (["--wrapper", "clipped", "--max-weight", "-1"], ["max_weight", "-1", "must"]),
        (["--sde", "wild"], ["--sde", "wild", "must"]),
        (["--sde", "nan"], ["--sde", "nan", "must"]),
        (["--sde", "0"], ["--sde", "0", "must"]),
        (["--sde", "offset:-1"], ["--sde", "offset:-1", "must"]),
        (["--samples", "10"], ["samples", "10", "must"]),
    ],
    ids=" ".join,
)
def test_bad_input_exits_with_2_and_a_message(capsys, own, arguments, needles):
    if arguments[0].startswith("--"):
        field = "nft" if "--nft-beta" in arguments or "--sde" in arguments else "tilt"
        start = ["law", "--problem", own, "--field", field, "--no-picture"]
        arguments = [*start, *arguments]
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert [n for n in needles if n not in err] == []


def test_a_malformed_file_is_named(capsys, own):
    own.write_text(OWN.replace("stds", "sds"), encoding="utf-8")
    status, _, err = run(capsys, "problems", own)
    assert status == 2
    assert "mine.toml" in err
    assert "sds" in err


def test_a_file_where_the_folder_should_be(capsys, own):
    status, _, err = run(
        capsys, "law", "--problem", own, "--field", "base", "--out", own, "--scale", "0.7"
    )
    assert status == 2
    assert "--out" in err


@pytest.mark.slow
def test_an_sde_with_an_offset(capsys, tmp_path):
    """The same words as `control --schedule`; the base's field keeps its law at any schedule."""
    status, out, _ = run(
        capsys, "law", "--problem", "note_1d", "--field", "base", "--sde", "offset:0.05",
        "--no-picture", "--json", "--out", str(tmp_path),
    )  # fmt: skip
    assert status == 0
    found = json.loads(out)
    assert found["sampler"] == "SDE, memoryless, offset 0.05"
    distance = found["distances"]["base"]["TV"]
    assert abs(distance["value"]) <= distance["floor"]


def test_an_sde_in_the_plane_is_refused(capsys):
    status, _, err = run(
        capsys, "law", "--problem", "bump_2d", "--field", "base", "--sde", "1", "--no-picture"
    )
    assert status == 2
    assert "must be in d = 1" in err


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        ([], "command"),
        (["fly"], "fly"),
        (["law", "--field", "nft"], "--problem"),
        (["law", "--problem", "note_1d", "--field", "magic"], "magic"),
        (["law", "--problem", "note_1d", "--field", "nft", "--wrapper", "magic"], "magic"),
        (["law", "--problem", "note_1d", "--field", "nft", "--scale", "x"], "x"),
    ],
)
def test_bad_options_exit_with_2(capsys, arguments, needle):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert needle in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["law"], ["problems"]])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "python -m theory" in out
    if command == ["law"]:
        assert all(field in out for field in FIELDS)


@pytest.mark.parametrize(
    "options",
    [
        ["--field", "nft", "--order", "3"],
        ["--field", "nft", "--wrapper", "power"],
        ["--field", "tilt", "--wrapper", "truncated", "--exponent", "2"],
        ["--field", "tilt", "--max-weight", "5"],
    ],
)
def test_an_option_that_would_change_nothing_is_refused(options, capsys):
    assert main(["law", "--problem", "note_1d", *options, "--no-picture"]) == 2
    assert "else it changes nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_pictures_are_named_by_what_was_asked(tmp_path):
    for beta in ("1", "2"):
        options = ["--field", "nft", "--nft-beta", beta, "--out", str(tmp_path)]
        assert main(["law", "--problem", "note_1d", *options]) == 0
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == {"note_1d-nft-nft_beta_1.0", "note_1d-nft-nft_beta_2.0"}
