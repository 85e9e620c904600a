"""The bench that compares what light commands cost with a commit."""

from __future__ import annotations

from argparse import Namespace

import pytest

from benchmarks import light


@pytest.mark.slow
def test_a_commit_against_itself_saves_nothing(monkeypatch, capsys):
    monkeypatch.setattr(light, "COMMANDS", ("theory --help",))
    monkeypatch.setattr(light, "ROUNDS", 1)
    assert light.run(Namespace(against="HEAD", json=False)) == 1
    assert "theory --help" in capsys.readouterr().out
    monkeypatch.setattr(light, "FLOOR", 100.0)
    assert light.run(Namespace(against="HEAD", json=True)) == 0


def test_work_is_counted():
    idle, busy = (light.cpu_seconds(f"timeit -n 1 -r 1 {text}", light.ROOT)
                  for text in ("pass", "sum(range(10**7))"))  # fmt: skip
    assert 0 < idle < busy


def test_an_unknown_commit_is_refused():
    with pytest.raises(ValueError, match=r"--against must be a commit of .*, got 'no-such'"):
        light.run(Namespace(against="no-such", json=False))
