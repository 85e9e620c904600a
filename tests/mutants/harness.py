"""Mutants: a source file with one snippet replaced, run as a module of its own."""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import count
from pathlib import Path
from types import ModuleType

_NUMBER = count()


def mutant_module(name: str, *edits: tuple[str, str]) -> ModuleType:
    """The module `name` with every (old, new) of `edits` applied to its text, each exactly once."""
    file = import_module(name).__file__
    assert file is not None
    text = Path(file).read_text(encoding="utf-8")
    for old, new in edits:
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {file}"
        text = text.replace(old, new)
    module = ModuleType(f"mutant_{next(_NUMBER)}_of_{name.rpartition('.')[2]}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(compile(text, module.__name__, "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module
