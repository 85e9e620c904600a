"""E3: SIGINT and SIGTERM end `scaleup train` with the last finished step saved, and one line."""

# ruff: noqa: F811
import os
import signal

import pytest
import torch
from accelerate.state import AcceleratorState

from scaleup.__main__ import main
from scaleup.comparison import sheet
from scaleup.rewards.redness import Redness
from scaleup.training import session
from scaleup.training.checkpoints import newest_state
from scaleup.training.runfolder import RunFolder
from tests.scaleup.conftest import folders  # noqa: F401
from tests.scaleup.work import NFT_ONLINE, same, settings, trained, words
from theory.common import signals
from theory.common.files import write_atomically
from theory.methods.contract import online
from theory.methods.matching.nft import NFT

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Handlers and accelerate as they were; pictures take longer to draw than tiny runs."""
    monkeypatch.setattr(sheet, "_draw", lambda *parts: write_atomically(parts[-1], b"a picture"))
    before = [(number, signal.getsignal(number)) for number in signals.CAUGHT]
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)
    for number, handler in before:
        signal.signal(number, handler)


def called(call, monkeypatch):
    """As `python -m scaleup CALL`."""
    AcceleratorState._reset_state(True)
    monkeypatch.setattr(signals, "_since", -float("inf"))
    return signals.run_main(lambda: main(call))


def at_call(kind, name, count, number):
    """The method, with a signal sent at its call number `count`, after its own work."""
    whole, calls = getattr(kind, name), iter(range(10**6))

    def watched(*arguments, **options):
        found = whole(*arguments, **options)
        if next(calls) == count:
            os.kill(os.getpid(), number)
        return found

    return watched


# What is interrupted, at which call: (class, function, call), the step that is then saved.
PLACES = {
    "a pool that is being scored": (Redness, "__call__", 1, signal.SIGINT, 2),
    "the optimiser's step": (torch.optim.AdamW, "step", 2, signal.SIGTERM, 3),
    "a pool that is filled": (NFT, "_fill_pool", 1, signal.SIGTERM, 2),
    "the old copy": (online, "follow", 0, signal.SIGTERM, 2),
    "the comparison": (Redness, "parts", 1, signal.SIGINT, 4),
}


def stopped_and_resumed(place, folders, out, monkeypatch, capsys):
    """What the stopped run said last, its newest state then and at the end."""
    kind, name, count, number, _ = PLACES[place]
    config = settings(folders, method=NFT_ONLINE, checkpoint_every=4)
    folder = RunFolder(out, config)
    with monkeypatch.context() as patch:
        patch.setattr(kind, name, at_call(kind, name, count, number))
        assert called(words(config, out), monkeypatch) == STATUS[number]
    said, state = capsys.readouterr().err.splitlines()[-1], newest_state(folder.checkpoints)
    assert called(words(config, out), monkeypatch) == 0
    return said, state, newest_state(folder.checkpoints)


@pytest.fixture(scope="module")
def alone(folders, tmp_path_factory):
    """The last state of the run that nothing stops."""
    config = settings(folders, method=NFT_ONLINE, checkpoint_every=4)
    return newest_state(
        trained(config, tmp_path_factory.mktemp("alone")).session.folder.checkpoints
    )


@pytest.mark.parametrize("place", PLACES)
def test_e3_a_stopped_run_is_saved_and_goes_on(
    place, folders, alone, tmp_path, monkeypatch, capsys
):
    *_, number, step = PLACES[place]
    said, state, end = stopped_and_resumed(place, folders, tmp_path, monkeypatch, capsys)
    assert said.startswith(f"stopped by {number.name}; step {step} of 4 is saved in {tmp_path}")
    assert said.endswith("; the same command goes on from there")
    assert state.step == step
    assert same(end.tensors, alone.tensors)
    assert end.data == alone.data


def test_e3_before_the_first_step(folders, tmp_path, monkeypatch, capsys):
    """While the model is opened; the folder of a new run is not there yet."""
    config = settings(folders, method=NFT_ONLINE)
    monkeypatch.setattr(session, "open_model", lambda *a, **b: os.kill(os.getpid(), signal.SIGTERM))
    assert called(words(config, tmp_path), monkeypatch) == 143
    said = capsys.readouterr().err
    assert said == "stopped by SIGTERM; no step is saved; the same command starts again\n"
    assert list(tmp_path.iterdir()) == []
