"""A user's method that is wrong, and what `python -m toys` says of it (A8, C1);
what a comparison says (E9), numbers without end (E6, E8), and how long it takes (E10)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from theory.common.progress import Progress
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem
from toys.__main__ import main
from toys.evaluation.evaluate import claimed
from toys.training.config import RunConfig
from toys.training.runs import Group
from toys.training.schedule import _step_rows

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_method.py"
LOSS = 'return batch["accepted"] * square(error), {"accepted": batch["accepted"]}'

TINY = ["--steps", "3", "--batch", "64", "--width", "8", "--processes", "1"]


def edited(folder: Path, new: str, old: str = LOSS) -> str:
    """examples/my_method.py with its loss's result replaced."""
    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = folder / "mine.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return str(path)


# --- A8


@pytest.mark.parametrize(
    ("new", "failed"),
    [
        (LOSS, ""),
        ('return -batch["accepted"] * square(error), {}', "leads away"),
        ('return (batch["t"] - 0.4) * batch["accepted"] * square(error), {}', "leads away"),
    ],
    ids=["as it is", "a maximum", "a saddle"],
)
def test_a8_check_asks_for_the_way_back(new, failed, tmp_path, capsys):
    """Each has the same stationary point: the expected gradient there vanishes for all three."""
    status = main(["check", "--method", edited(tmp_path, new)])
    rows = [line for line in capsys.readouterr().out.splitlines() if "FAILED" in line]
    assert status == (1 if failed else 0)
    assert len(rows) == status
    assert all("leads back to the optimum" in row and failed in row for row in rows)


# --- C1

# What stands in place of the loss's result, and what is said of it.
LOSSES = {
    "square(error).detach(), {}": "returned losses without a gradient",
    "torch.ones_like(batch['r']).requires_grad_() + 0, {}": "returned losses whose gradient com",
    "square(error)": "returned a tensor of shape (",
    "None": "returned None",
    'square(error), {"accepted": 0.5}': "returned info['accepted'], a float",
    'square(error), {"a": error.mean()}': "returned info['a'], a tensor of shape ()",
    "square(error), []": "returned info, a list of 0",
    "square(error).mean(), {}": "returned losses, a tensor of shape ()",
    "error.square(), {}": "returned losses, a tensor of shape (",
    "square(error).long(), {}": "returned losses, a tensor of shape (",
    "batch['kept'] * square(error), {}": "raised KeyError: 'kept' (",
}
# What a trainer's step alone meets.
STEPS = {
    'square(error), {"a,b": batch["r"]}': "returned info with the names ['a,b']",
    'square(error), {"loss": batch["r"]}': "returned info with the names ['loss']",
    "square(error) * float('nan'), {}": "returned losses none of which is finite",
    "square(policy.student(batch['x'].double(), batch['t'], None)), {}": "raised RuntimeError: ",
    "(h := square(error).exp(), h.add_(1.0))[0], {}": "returned losses that cannot be differenti",
}
COLLECTED = {
    "None": "returned None",
    "{}": "returned a dict without a tensor",
    '{**batch, "n": [1, 2]}': "returned batch['n'], a list of 2",
    '{"x": batch["x"][:3]}': "returned batch['x'], a tensor of shape (3, 1)",
}
NAME, OPTIMUM = "    name: ClassVar", "    def optimum(self, problem: Problem) -> Optimum:"
SETUP = "    # All randomness is drawn here ..."
ADDED = {
    "setup(self, student, task, draws):\n        return student": "setup returned a ",
    "setup(self, student, task, draws):\n        return Policy(student.requires_grad_(False))": (
        "setup returned a Policy with nothing to train"
    ),
}
EDITS = {
    **{new: (LOSS, f"return {new}", f"loss {said}") for new, said in {**LOSSES, **STEPS}.items()},
    **{
        new: ("        return batch\n", f"        return {new}\n", f"collect {said}")
        for new, said in COLLECTED.items()
    },
    **{
        new: ("    # What it samples, exactly", f"    def {new}\n\n    # What", said)
        for new, said in ADDED.items()
    },
    "a tuple of rewards": (
        "return UNIT_INTERVAL",
        "return (0, 1)",
        "rewards must be a RewardDomain, got (0, 1)",
    ),
    "a budget of 3": (NAME, f"    budget = 3\n{NAME}", "budget must be a Budget, got 3"),
    "after_step raises": (
        SETUP,
        "    def after_step(self, *_):\n        _.a\n",
        "after_step raised",
    ),
    "an optimum of 3": (OPTIMUM, f"{OPTIMUM}\n        return 3", "optimum returned a int"),
    "optimum raises": (OPTIMUM, f"{OPTIMUM}\n        problem.a", "optimum raised AttributeError"),
}


@pytest.fixture(autouse=True)
def cheap_bases(monkeypatch):
    monkeypatch.setattr("toys.training.config.BASE_STEPS", 3)


@pytest.mark.parametrize("name", EDITS)
def test_c1_what_a_users_method_does_wrong_is_named(name, tmp_path, capsys):
    """Not as a traceback: the file, the part of the contract and what came."""
    old, new, said = EDITS[name]
    method = edited(tmp_path, new, old)
    text = Path(method).read_text(encoding="utf-8")
    Path(method).write_text(text.replace("from torch import", "import torch\nfrom torch import", 1))
    train = ["train", "--method", method, "--problem", "note_1d", *TINY, "--out", str(tmp_path)]
    # A trainer asks for no optimum, and the check takes no step.
    commands = {"train": train, "check": ["check", "--method", method]}
    for command in ("train", "check"):
        if said.startswith("optimum") and command == "train":
            continue
        if (name in STEPS or said.startswith("after")) and command == "check":
            continue
        assert main(commands[command]) == 2, command
        error = capsys.readouterr().err
        assert f"error: {method}: RejectionFineTuning.{said}" in error
        assert "must" in error


def test_c1_whole_numbers_and_switches_can_be_logged(tmp_path):
    """A mask or a count in info is a column of means."""
    method = edited(tmp_path, 'return square(error), {"kept": batch["accepted"] > 0}')
    train = ["train", "--method", method, "--problem", "note_1d", *TINY, "--out", str(tmp_path)]
    assert main(train) == 0
    (path,) = tmp_path.glob("runs/*rejection*/metrics.csv")
    head, row, *_ = path.read_text(encoding="utf-8").splitlines()
    assert head == "step,loss,kept"
    assert 0 < float(row.split(",")[2]) < 1


# --- E9

TARGETS = {
    "flow_matching": "p",
    "nft:nft_beta=0.5": "p exp(4r)",
    "tilt_matching": "p exp(2r)",
    "weighted_flow_matching:wrapper=truncated,order=1,scale=2": "p (1+2r)",
    "weighted_flow_matching:wrapper=power,exponent=2": "p r^2",
}


@pytest.mark.parametrize("text", TARGETS)
def test_e9_a_target_in_words(text):
    assert claimed(parse_method(text).target(load_problem("note_1d"))) == TARGETS[text]


@pytest.mark.slow
def test_e9_a_comparison_names_every_rows_target(tmp_path, capsys):
    """One table, two targets: each row says what its shares are measured against."""
    two = ["--method", "nft:nft_beta=0.5", "--method", "tilt_matching", "--problem", "note_1d"]
    words = [*two, *TINY, "--out", str(tmp_path)]
    assert main(["train", *words]) == 0
    capsys.readouterr()
    assert main(["compare", *words, "--samples", "200", "--no-picture"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "note_1d" in line][:2]
    assert ["p exp(4r)" in row for row in rows] == [True, False]
    assert ["p exp(2r)" in row for row in rows] == [False, True]


# --- E6, E8

TRAIN = ["train", "--method", "flow_matching", "--problem", "note_1d", "--processes", "1"]
COMPARE = ["compare", *TRAIN[1:]]
CHECK = ["check", "--method"]
HUGE = {
    "seeds": (
        [*TRAIN, "--seeds", "1000000000"],
        "--seeds must be a whole .*got 1000000000$",
    ),
    "steps": (
        [*TRAIN, "--steps", str(10**400)],
        "must be a whole number from 0 to 2147483647",
    ),
    "width": ([*TRAIN, "--width", "30000000"], r"error: memory is out \("),
    "depth": (
        [*TRAIN, "--depth", "1000000000"],
        "--depth must be a whole .*got 1000000000$",
    ),
    "samples": ([*COMPARE, "--samples", str(10**12)], "samples must be a .*got 1000000000000$"),
    "sampling steps": (
        [*COMPARE, "--sampling-steps", str(10**9)],
        "steps must be .*got 1000000000$",
    ),
    "rows": ([*CHECK, "nft", "--rows", str(10**12)], "--rows must be a whole .*got 1000000000000$"),
    "pool": ([*CHECK, f"nft:pool={10**15},refresh_every=5"], r"error: memory is out \("),
    "a chain": ([*CHECK, "adjoint_matching:steps=1000000000"], "steps must be .*got 1000000000$"),
    "a tiny beta": ([*CHECK, "nft:nft_beta=1e-300"], "nft_beta must be .*got 1e-300"),
    "a huge beta": ([*CHECK, "nft:nft_beta=1e300"], r"nft_beta must be .*got 1e\+300"),
}


@pytest.mark.parametrize("name", HUGE)
def test_e6_e8_numbers_without_end_are_refused_at_once(name, tmp_path, capsys):
    words, said = HUGE[name]
    out = ["--out", str(tmp_path)] if words[0] != "check" else []
    assert main([*words, *out]) == 2
    assert re.search(said, capsys.readouterr().err)


# --- E10


def test_e10_an_estimate_leaves_the_start_up_out(capsys, monkeypatch):
    """Ten seconds of imports, then a run of a minute: the first line says a minute."""
    clock = [0.0]
    monkeypatch.setattr("theory.common.progress.time.monotonic", lambda: clock[0])
    with Progress(600, "training") as progress:
        clock[0] = 11.0
        progress.update("ddpo", 0, "ddpo: step 0/600")
        clock[0] = 11.6
        progress.update("ddpo", 6, "ddpo: step 6/600")
        for step in range(12, 601, 6):
            clock[0] += 0.6
            progress.update("ddpo", step, f"ddpo: step {step}/600")
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "training:   0 %, time left unknown; ddpo: step 0/600"
    for line in others:
        done = int(line.rpartition(" ")[2].partition("/")[0])
        assert f", {0.1 * (600 - done):.0f} s left;" in line
    assert len(others) > 4


def test_e10_a_step_counts_by_its_states(tmp_path):
    """4,000 quick steps of a base and 600 of DDPO's chain: the base is no seven eighths of it."""
    ddpo = Group(tmp_path, (RunConfig.checked(method="ddpo", problem="note_1d"),))
    base = Group(tmp_path, (ddpo.members[0].base(),))
    assert _step_rows(ddpo) == 512 * 16
    assert _step_rows(base) == base.members[0].batch
