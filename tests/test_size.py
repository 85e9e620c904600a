"""The bench that counts statements."""

from __future__ import annotations

from argparse import Namespace
from functools import cache

import pytest

from benchmarks import size

TEXT = '''"""Of the module."""
import os

def f(x):
    """Of the function."""
    "and another text"
    if x: return [y for y in x]  # an expression inside counts nothing
    print(x); pass
'''


def test_statements_are_counted_without_docstrings_and_layout():
    assert size.statements(TEXT) == len(["import", "def", "if", "return", "print", "pass"])
    assert size.statements(TEXT.replace("; pass", "\n    pass")) == size.statements(TEXT)


@pytest.mark.slow
def test_a_commit_against_itself_is_no_smaller(monkeypatch, capsys):
    monkeypatch.setattr(size, "of_commit", cache(size.of_commit))
    assert size.run(Namespace(against="HEAD", json=False)) == 1
    assert "theory" in capsys.readouterr().out
    found = size.of_commit("HEAD")
    assert found["all"] == sum(found[name] for name in size.PACKAGES)
    monkeypatch.setattr(size, "FLOOR", 1.0)
    assert size.run(Namespace(against="HEAD", json=True)) == 0


def test_an_unknown_commit_is_refused():
    with pytest.raises(ValueError, match=r"--against must be a commit of .*, got 'no-such'"):
        size.of_commit("no-such")
