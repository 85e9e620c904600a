"""A run's identity is its content; what cannot be trained is refused before anything is."""

import dataclasses
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toys.small import TINY, call, configs, trained
from theory.common.identity import PACKAGES, sources
from toys.experiments.presets import LINE, PLANE, PRESETS, methods_at
from toys.training import config as module
from toys.training.config import TRAINER, RunConfig, check_device, slug
from toys.training.runs import Run

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "my_method.py"
PROBLEM = (ROOT / "theory" / "problems" / "note_1d.toml").read_text()

OTHER = {
    "method": "flow_matching:target_velocity=exact",
    "problem": "bumps_1d",
    "seed": 1,
    "width": 9,
    "depth": 2,
    "steps": 31,
    "batch": 65,
    "learning_rate": 1e-3,
    "low_discrepancy": False,
    "fast_products": True,
    "snapshots": 2,
    "times": (0.25, 0.5),
}


def config(**values):
    return RunConfig.checked(**{"method": "flow_matching", "problem": "note_1d"} | TINY | values)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's own folder, with a problem and a method, from which commands are called."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(PROBLEM)
    Path("my_method.py").write_text(EXAMPLE.read_text())
    return tmp_path


def test_the_table_of_other_values_covers_every_field():
    assert OTHER.keys() == {f.name for f in dataclasses.fields(RunConfig)}


@pytest.mark.parametrize("name", OTHER)
def test_the_digest_holds_every_field(name):
    assert config().digest == config().digest
    assert config(**{name: OTHER[name]}).digest != config().digest


def test_the_digest_holds_the_problem_text(own):
    before = config(problem="mine.toml")
    content = before.as_json()
    assert before.parsed_problem.name == "mine"
    Path("mine.toml").write_text(PROBLEM.replace("0.65, 0.35", "0.6, 0.4"))
    assert before.as_json() == content  # a run keeps what it began with
    after = config(problem="mine.toml")
    assert after.digest != before.digest
    assert after.parsed_problem.base.log_abs[0] < before.parsed_problem.base.log_abs[0]


def test_the_digest_holds_the_method_text(own):
    before = config(method="my_method.py").digest
    text = Path("my_method.py").read_text()
    assert config(method="my_method.py").digest == before
    Path("my_method.py").write_text(text + "# another\n")
    assert config(method="my_method.py").digest != before


def test_the_digest_holds_the_code(monkeypatch):
    before = config().digest
    monkeypatch.setattr(module, "plumbline_code", lambda *modules: "other code")
    assert config().digest != before


def test_the_digest_holds_the_base(monkeypatch):
    wanted = config(method="nft")
    assert wanted.as_json()["base"] == wanted.base().digest
    assert config().as_json()["base"] is None
    before = wanted.digest
    base = config(method="flow_matching", seed=9)
    monkeypatch.setattr(RunConfig, "base", lambda self: base if self.method == "nft" else None)
    assert config(method="nft").digest != before


def test_zero_stands_for_the_budget_of_the_method():
    budget = config().parsed.budget
    assert config(steps=0, batch=0, learning_rate=0.0) == config(
        steps=budget.steps, batch=budget.batch, learning_rate=budget.learning_rate
    )


def test_a_config_travels_without_its_method(own):
    """Another process cannot import a method file: it loads it again."""
    wanted = config(method="my_method.py:label_noise=0.1", problem="mine.toml")
    assert wanted.parsed_problem.name == "mine"
    assert wanted.parsed.label_noise == 0.1
    data = pickle.dumps(wanted)
    assert b"RejectionFineTuning" not in data
    again = pickle.loads(data)
    assert again == wanted
    assert again.digest == wanted.digest
    assert again.parsed.label_noise == 0.1


# --- refused


@pytest.mark.parametrize(
    ("values", "needles"),
    [
        ({"method": "magic"}, ["method must", "got 'magic'", "flow_matching"]),
        ({"method": "nft:strength=1"}, ["strength", "nft_beta"]),
        ({"method": "nft:nft_beta=-1"}, ["nft_beta", "-1"]),
        ({"method": "nft", "problem": "linear_1d"}, ["'linear_1d'", "nft", r"[0, 1]"]),
        ({"problem": "nowhere"}, ["problem must", "got 'nowhere'", "note_1d"]),
        ({"seed": -1}, ["seed must", "got -1"]),
        ({"seed": 2**31}, ["seed must", f"got {2**31}"]),
        ({"seed": True}, ["seed must", "got True"]),
        ({"width": 0}, ["width must", "got 0"]),
        ({"depth": 0}, ["depth must", "got 0"]),
        ({"steps": -1}, ["steps must", "got -1"]),
        ({"steps": 2.5}, ["steps must", "got 2.5"]),
        ({"batch": -3}, ["batch must", "got -3"]),
        ({"learning_rate": float("nan")}, ["learning_rate must", "got nan"]),
        ({"learning_rate": float("inf")}, ["learning_rate must", "got inf"]),
        ({"learning_rate": -1.0}, ["learning_rate must", "got -1.0"]),
    ],
    ids=str,
)
def test_bad_values_are_refused(values, needles):
    with pytest.raises(ValueError, match=r"must|allowed") as caught:
        config(**values)
    assert [n for n in needles if n not in str(caught.value)] == []


@pytest.mark.parametrize("values", [{"problem": "nowhere.toml"}, {"method": "nowhere.py"}])
def test_missing_files_are_named(values):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.(toml|py)'?: no such file"):
        config(**values)


def test_a_malformed_problem_file_is_named(own):
    Path("mine.toml").write_text(PROBLEM.replace("stds", "sds"))
    with pytest.raises(ValueError, match=r"mine\.toml: keys of \[base\]"):
        config(problem="mine.toml")


def test_devices():
    check_device("cpu")
    with pytest.raises(ValueError, match=r"device must be cpu or cuda, got 'foo'"):
        check_device("foo")


@pytest.mark.parametrize("text", ["a:b=1,c=0.5", "x" * 200, "ä/ö", "1+2r"])
def test_slugs_are_file_names(text):
    assert re.fullmatch(r"[A-Za-z0-9._]{0,80}", slug(text))


# --- a user's own files


def test_own_files_by_relative_and_absolute_path(own):
    out = own / "runs"
    words = [{"method": "my_method.py", "problem": "mine.toml"},
             {"method": str(own / "my_method.py"), "problem": str(own / "mine.toml")}]  # fmt: skip
    relative, absolute = (config(**w) for w in words)
    assert trained(out, [relative, absolute]) == 4  # and two bases
    assert trained(out, [relative, absolute]) == 0
    # Elsewhere the relative path leads nowhere, and the absolute one still leads here.
    os.chdir(own.parent)
    assert Run(out, config(**words[1])).is_finished
    with pytest.raises(FileNotFoundError, match=r"no such file"):
        config(**words[0])


def test_two_files_that_give_their_methods_one_name(own):
    """They are not trained as one method (schedule), nor compared with one truth."""
    text = Path("my_method.py").read_text()
    Path("other.py").write_text(text.replace('batch["accepted"] * square', "0.1 + 0 * square"))
    one, two = config(method="my_method.py"), config(method="other.py")
    assert one.method_label == two.method_label
    assert one.method_identity != two.method_identity
    out = own / "runs"
    trained(out, [one, two])
    moved = Run(out, one).weights()["weight.0"] - Run(out, one.base()).weights()["weight.0"]
    still = Run(out, two).weights()["weight.0"] - Run(out, two.base()).weights()["weight.0"]
    assert float(moved.abs().max()) > 0
    assert float(still.abs().max()) == 0  # its loss has no slope


def test_nothing_is_trained_where_one_selection_is_refused(tmp_path, capsys):
    out = tmp_path / "out"
    status, printed, err = call(
        capsys, "train", "--method", "flow_matching", "--method", "nft", "--problem", "linear_1d",
        "--steps", 1, "--out", out,
    )  # fmt: skip
    assert (status, printed) == (2, "")
    assert err.count("\n") == 1
    assert "linear_1d" in err
    assert not out.exists()


# --- presets


def test_presets_hold_every_method_and_problem():
    figures, everything = PRESETS["figures"](), PRESETS["toys"]()
    names = {t.partition(":")[0] for t in methods_at(1.0, bounded=True)}
    assert {c.parsed.name for c in figures} == names
    assert {c.parsed.name for c in everything} == names
    assert {c.problem for c in figures} == {"note_1d"}
    assert {c.problem for c in everything} == {*LINE, *PLANE}
    for preset in (figures, everything):
        assert len({c.digest for c in preset}) == len(preset)
    refused = {c.problem for c in everything} - {
        c.problem for c in everything if c.parsed.name == "nft"
    }
    assert refused == {"linear_1d", "quadratic_1d", "linear_2d", "quadratic_2d"}
    # Every method aims at the problem's own tilt.
    for c in everything:
        if c.parsed.name == "nft":
            assert c.parsed.scale(c.parsed_problem) == pytest.approx(c.parsed_problem.scale)
        elif c.parsed.name == "ddpo":
            assert 1 / c.parsed.kl_weight == pytest.approx(c.parsed_problem.scale)
        elif c.parsed.name != "flow_matching":
            assert c.parsed.scale == pytest.approx(c.parsed_problem.scale)


def test_configs_of_the_helpers_are_small():
    assert all(c.width == 8 for c in configs("nft", 2))


def test_two_spellings_of_a_method_are_one_run():
    short = RunConfig.checked(method="tilt_matching", problem="note_1d")
    full = RunConfig.checked(method="tilt_matching:scale=2.0,kind=implicit", problem="note_1d")
    other = RunConfig.checked(method="tilt_matching:scale=2.5", problem="note_1d")
    assert short.digest == full.digest != other.digest


@pytest.mark.slow
def test_every_source_that_a_loss_uses_is_part_of_a_run():
    """What Python loads for it, and nothing that only shows it: an edit makes another run."""
    modules = (TRAINER, "theory.methods.adjoint.discrete_adjoint")
    code = f"import sys, {', '.join(modules)}; print(*(m for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {m.replace(".", "/") for m in done.stdout.split() if m.split(".")[0] in PACKAGES}
    used = {name.removesuffix("/__init__.py").removesuffix(".py") for name in sources(*modules)}
    assert len(loaded) > 20
    assert loaded <= used
    assert not {"toys/__main__", "toys/evaluation/evaluate", "theory/common/progress"} & used
