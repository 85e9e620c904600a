"""Mutants: a subclass with parts overridden, or, where the code has no seam, a source file with one
snippet replaced, run as a module of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from importlib import import_module
from inspect import getattr_static
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np

_NUMBER = count()
Checks = dict[str, bool]
Mistake = Callable[[str], ModuleType]


def overriding(kind: type, **parts: Callable[..., Any]) -> type:
    """A subclass of `kind` with methods and properties replaced.

    A part is called as part(whole, self, *arguments), `whole` being the one that it replaces, bound
    to self; `whole.func` takes another self. Of a class method self is the class, and a static one
    is called as part(whole, *arguments).
    """

    def override(name: str, part: Callable[..., Any]) -> Any:
        whole = getattr_static(kind, name)
        if isinstance(whole, property):
            return property(lambda self: part(partial(whole.fget, self), self))
        if isinstance(whole, cached_property):
            return cached_property(lambda self: part(partial(whole.func, self), self))
        if isinstance(whole, staticmethod):
            return staticmethod(partial(part, whole.__func__))
        plain = whole.__func__ if isinstance(whole, classmethod) else whole

        def method(self: Any, *arguments: Any) -> Any:
            return part(partial(plain, self), self, *arguments)

        return classmethod(method) if isinstance(whole, classmethod) else method

    body = {name: override(name, part) for name, part in parts.items()}
    return type(f"Wrong{kind.__name__}", (kind,), body)


def with_name(kind: type, where: str, wrong: Callable[..., Any], *parts: str) -> type:
    """A subclass of `kind` whose `parts` see another function under the name `where`: wrong(whole),
    `whole` being the function as it stands."""
    module, _, name = where.rpartition(".")
    instead = wrong(getattr(import_module(module), name))

    def part(whole: Callable[..., Any], self: Any, *arguments: Any) -> Any:
        with patch(where, instead):
            return whole(*arguments)

    return overriding(kind, **dict.fromkeys(parts, part))


def mutant_module(name: str, *edits: tuple[str, str], **names: Callable[..., Any]) -> ModuleType:
    """The module `name` run anew: every (old, new) of `edits` is applied to its text, exactly once,
    and each global of `names` is replaced by what it says: name=wrong, wrong(whole)."""
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
    for own, wrong in names.items():
        setattr(module, own, wrong(getattr(module, own)))
    return module


# --- mistakes to be made in a module, by its name


def edited(old: str, new: str) -> Mistake:
    """Text replaced."""
    return lambda name: mutant_module(name, (old, new))


def replaced(**names: Callable[..., Any]) -> Mistake:
    """Globals replaced, as `mutant_module` says."""
    return lambda name: mutant_module(name, **names)


def overridden(kind: str, **parts: Callable[..., Any]) -> Mistake:
    """Parts of a class replaced, as `overriding` says."""
    return replaced(**{kind: lambda whole: overriding(whole, **parts)})


def revised(found: Any, **fields: Callable[[Any], Any]) -> Any:
    """A dataclass with other fields, each of what was found."""
    return replace(found, **{name: of(found) for name, of in fields.items()})


# --- what rejects them


def failures(checks: Callable[[ModuleType], Checks], module: ModuleType) -> list[str]:
    """The names of the checks that fail; a module may also refuse to go on, with its own words."""
    try:
        with np.errstate(all="ignore"):
            return [what for what, good in checks(module).items() if not good]
    except ValueError as error:
        return [str(error)]


def every(rooms: Sequence[ModuleType]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of modules with CHECKS {module: checks} and MUTANTS {module: {what: (mistake, check)}}: the
    checks, and {"module: what": (module, mistake, the check that rejects it)}."""
    checks = {name: check for room in rooms for name, check in room.CHECKS.items()}
    cases = {
        f"{module}: {what}": (module, *mutant)
        for room in rooms
        for module, mutants in room.MUTANTS.items()
        for what, mutant in mutants.items()
    }
    return checks, cases
