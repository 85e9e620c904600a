"""The bench that compares what light commands cost with a commit."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from argparse import Namespace

import pytest

from benchmarks import light
from benchmarks.scaleup import audit


@pytest.mark.slow
def test_a_commit_against_itself_saves_nothing(monkeypatch, capsys):
    monkeypatch.setattr(light, "COMMANDS", ("theory --help",))
    monkeypatch.setattr(light, "ROUNDS", 1)
    assert light.run(Namespace(against="HEAD", audit=False, json=False)) == 1
    assert "theory --help" in capsys.readouterr().out
    monkeypatch.setattr(light, "FLOOR", 100.0)
    assert light.run(Namespace(against="HEAD", audit=False, json=True)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("floor", "status"), [(0.01, 1), (100.0, 0)])
def test_an_audit_is_held_to_time_and_memory(floor, status, monkeypatch, capsys):
    monkeypatch.setattr(audit, "ROWS", 2000)
    monkeypatch.setattr(light, "AUDIT_ROUNDS", 1)
    monkeypatch.setattr(light, "AUDIT_FLOOR", floor)
    assert light.run(Namespace(against="HEAD", audit=True, json=True)) == status
    (row,) = json.loads(capsys.readouterr().out)
    assert row["command"] == "scaleup audit --base --tuned --out"
    assert 0.5 < row["ratio"] < 2
    assert 0.5 < row["of memory"] < 2


def test_work_is_counted():
    """By a small process: a child's peak is no less than its parent's size when it began."""
    call = "light.usage(['timeit', '-n', '1', '-r', '1', text], light.ROOT)"
    texts = "('pass', 'sum(list(range(10**7)))')"
    code = f"from benchmarks import light; print([{call} for text in {texts}])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=light.ROOT, capture_output=True, text=True, check=True
    )
    (idle, little), (busy, much) = ast.literal_eval(done.stdout)
    assert 0 < idle < busy
    assert much - little > 8e7  # ten million pointers


def test_a_failed_command_is_no_measurement():
    with pytest.raises(subprocess.CalledProcessError):
        light.usage(["timeit", "-n", "1", "1/0"], light.ROOT)


def test_an_unknown_commit_is_refused():
    with pytest.raises(ValueError, match=r"--against must be a commit of .*, got 'no-such'"):
        light.run(Namespace(against="no-such", audit=False, json=False))
