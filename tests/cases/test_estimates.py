"""E10: what is left is said of the part that runs, at that part's own pace."""

import pytest

from theory.common import progress
from theory.common.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves; every update is a line."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    return now


def test_e10_a_step_says_nothing_of_a_picture(clock, capsys):
    """DDPO: 20 steps of 2 s and 400 pictures of 0.01 s. In one pace it would say 800 s and more."""
    with Progress({"training": 20, "comparing": 400}, "run") as said:
        for step in range(1, 21):
            clock[0] += 2.0
            said.update("training", step, f"step {step}")
        for done in (100, 200, 400):
            clock[0] += 1.0
            said.update("comparing", done, "pictures")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "run:   5 %, time left unknown; step 1"  # one step tells no pace
    assert lines[1] == "run:  10 %, 36 s left of training; step 2"
    assert lines[19] == "run: 100 %, 0 s left of training; step 20"
    assert lines[20:] == [
        "run:  25 %, time left unknown; pictures",
        "run:  50 %, 2 s left; pictures",
        "run: 100 %, 0 s left; pictures",
    ]


def test_a_resumed_part_counts_what_it_does_itself(clock, capsys):
    with Progress({"base samples": 8, "training": 100, "comparing": 2}, "run") as said:
        said.update("training", 90, "as it was")
        clock[0] += 3.0
        said.update("training", 93, "three steps")
    assert (
        capsys.readouterr().err.splitlines()[1] == "run:  93 %, 7 s left of training; three steps"
    )


def test_parts_side_by_side_share_one_pace(clock, capsys):
    """From the first report on: two more of twenty in three seconds."""
    with Progress(20, "networks") as said:
        for done in (1, 2):
            for part in "ab":
                clock[0] += 1.0
                said.update(part, done, part)
    assert capsys.readouterr().err.splitlines()[-1] == "networks:  20 %, 24 s left; b"
