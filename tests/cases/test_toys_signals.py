"""SIGINT and SIGTERM in `python -m toys`: the last finished step is saved, one line says so (E3).

`python -m benchmarks toys --only signals` does the same with real commands at random moments.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from tests.toys import work
from tests.toys.small import configs, same_result, trained
from theory.common import signals
from theory.common.processes import side_by_side
from toys.__main__ import main
from toys.training.trainer import Trainer

WORDS = [
    "train", "--method", "nft:refresh_every=5,old_decay=0.5", "--problem", "note_1d", "--seeds",
    "2", "--steps", "30", "--batch", "64", "--width", "8", "--processes", "1", "--out",
]  # fmt: skip


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.setattr("toys.training.config.BASE_STEPS", 3)
    monkeypatch.setattr(signals, "_since", -float("inf"))
    handlers = {number: signal.getsignal(number) for number in signals.CAUGHT}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", signals.CAUGHT)
def test_e3_a_signal_in_a_step_saves_that_step(number, tmp_path, capsys, monkeypatch):
    """It arrives in the middle of step 13: the step is finished, saved and named."""
    whole = Trainer._one_step

    def interrupted(self):
        if self.method.name == "nft" and self.step == 12:
            os.kill(os.getpid(), number)
        whole(self)

    out, wanted = tmp_path / "stopped", configs("nft:refresh_every=5,old_decay=0.5", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_step", interrupted)
        status = signals.run_main(lambda: main([*WORDS, str(out)]))
    (group,) = out.glob("groups/*")
    assert status == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"stopped by {number.name}; nft:refresh_every=5,old_decay=0.5 @ note_1d x 2: step 13 of 30 "
        f"is saved in {group}; the same command goes on"
    )
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_step", lambda self: (steps.append(self.step), whole(self)))
        assert trained(out, wanted) == 2
    assert steps == [*range(13, 30)]
    trained(tmp_path / "whole", wanted)
    assert same_result(out, tmp_path / "whole", wanted)


def test_e3_workers_save_before_they_stop(tmp_path):
    """Two at work, two that never begin; what each says is in the one line."""
    seen = set()

    def update(part, done, text):
        seen.add(part)
        if len(seen) == 2:
            raise signals.Stopped(signal.SIGTERM)

    items = [(str(tmp_path), number) for number in range(4)]
    with pytest.raises(signals.Stopped) as caught:
        side_by_side(work.until_stopped, items, 2, update)
    written = {path.name: path.read_text() for path in Path(tmp_path).iterdir()}
    assert written.keys() == {"0", "1"}
    said = "; ".join(f"{name} did {done}" for name, done in sorted(written.items()))
    assert caught.value.line == f"stopped by SIGTERM; {said}"
    assert not multiprocessing.active_children()


def test_e3_a_signal_to_a_worker_alone_is_no_result():
    with pytest.raises(OSError, match="a worker process was ended from outside"):
        side_by_side(work.ended_from_outside, [0, 1], 2, lambda *_: None)
