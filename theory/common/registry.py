"""What is found by its name, or in your own file, with options: methods, rewards.

nft                               an item with its defaults
nft:nft_beta=0.5                  options after a colon, separated by commas
path/to/mine.py                   the one item that the file defines
path/to/mine.py:strength=2

An item is a frozen dataclass, whose fields are its options, below one base class. Built-in ones lie
in the modules of a package, best in one of their own name: only this one is then imported.

What lists show of the items is kept beside them (`catalogue.json`), so that a list needs none of
what the items import.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import json
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from theory.common.checks import check_choice, unknown
from theory.common.files import write_json
from theory.common.identity import content_digest, digest_of

Item = TypeVar("Item")


@dataclass(frozen=True)
class Registry(Generic[Item]):
    """Items of one kind.

    noun: what one is called.  package: where the built-in ones are.  base: "module:Class", what all
    are below.  without: rooms of the package that hold none.  more: what else than a name and a
    path a text may be.  finish: what a built item goes through.
    """

    noun: str
    package: str
    base: str
    without: tuple[str, ...] = ()
    more: tuple[str, ...] = ("a path that ends in .py",)
    finish: Callable[[Any], Any] = lambda item: item

    # --- items

    def items(self) -> dict[str, type[Item]]:
        """Every built-in item, by name."""
        found = {_name(k): k for module in self._modules() for k in self._named(module)}
        return dict(sorted(found.items()))

    def find(self, name: str) -> type[Item]:
        """The item of this name, or the one in the file of this path, which ends in .py.

        Raises:
            ValueError: unknown name; a file without exactly one item, or whose item lacks a part.
            FileNotFoundError: no such file.
        """
        if name.endswith(".py"):
            return self._of_file(Path(name))
        own = [m for m in self._modules() if m.rpartition(".")[2] == name]
        known = {_name(k): k for module in own for k in self._named(module)}
        if name not in known:
            known = self.items()
        if name not in known:
            raise unknown(self.noun, name, known, *self.more)
        return known[name]

    def parse(self, text: str) -> Item:
        """An item from its name (or a path that ends in .py) and options.

        Raises:
            ValueError: as `find`; an option that is unknown, missing or out of range.
            FileNotFoundError: no such file.
        """
        name, _, rest = text.partition(":")
        kind = self.find(name)
        return self.build(kind, self._options(kind, rest))

    def source(self, text: str) -> tuple[str, Item]:
        """(path of its file, or name of its module; item) of a text that `parse` takes."""
        name, item = text.partition(":")[0], self.parse(text)
        return name if name.endswith(".py") else type(item).__module__, item

    def _modules(self) -> list[str]:
        found = pkgutil.walk_packages(import_module(self.package).__path__, f"{self.package}.")
        skipped = tuple(f"{self.package}.{room}." for room in self.without)
        return [m.name for m in found if not m.ispkg and not m.name.startswith(skipped)]

    def _named(self, module: str) -> list[type[Item]]:
        return [kind for kind in self._defined_in(import_module(module)) if _name(kind)]

    def _defined_in(self, module: ModuleType) -> list[type[Item]]:
        """Its own public classes below the base; one that has two names there counts once."""
        home, _, name = self.base.partition(":")
        base: Any = getattr(import_module(home), name)
        kinds: dict[Any, None] = {
            kind: None
            for key, kind in inspect.getmembers(module, inspect.isclass)
            if key[0] != "_" and issubclass(kind, base) and kind.__module__ == module.__name__
        }
        return list(kinds)

    def _of_file(self, path: Path) -> type[Item]:
        if not path.is_file():
            raise FileNotFoundError(f"{self.noun} = {str(path)!r}: no such file")
        found = self._defined_in(_load(path, self.noun))
        home, _, base = self.base.partition(":")
        if len(found) != 1:
            names = [kind.__name__ for kind in found]
            raise ValueError(
                f"{path} must define exactly one subclass of {base} (from "
                f"{home.rpartition('.')[0]} import {base}), got {names or 'none'}"
            )
        (kind,) = found
        needed = sorted(getattr(import_module(home), base).__abstractmethods__ - {"name"})
        lacking = [part for part in needed if part in getattr(kind, "__abstractmethods__", ())]
        if not _name(kind):
            lacking.insert(0, "name")
        if lacking:
            raise ValueError(
                f"{path}: {kind.__name__} lacks {', '.join(lacking)}: a {base} must have at least "
                f"name, {', '.join(needed)} ({home.replace('.', '/')}.py)"
            )
        parameters = vars(kind).get("__dataclass_params__")
        if parameters is None or not parameters.frozen:
            raise ValueError(
                f"{path}: {kind.__name__} must be a frozen dataclass (@dataclass(frozen=True)), so "
                "that its options have names and values"
            )
        return kind

    # --- options

    def build(self, kind: type[Item], options: dict[str, Any]) -> Item:
        """The item with these options.

        Raises:
            ValueError: an option that is unknown, missing or out of range.
        """
        noun, name = self.noun, _name(kind)
        # Its own before those of services, which are keyword-only.
        every = sorted(dataclasses.fields(kind), key=lambda f: bool(f.kw_only))  # type: ignore[arg-type]
        fields = [f for f in every if f.init]
        for key in options:
            check_choice(f"option of {noun} {name!r}", key, [f.name for f in fields] or ["none"])
        missing = [f.name for f in fields if is_needed(f) and f.name not in options]
        if missing:
            raise ValueError(
                f"{noun} {name!r} lacks {', '.join(missing)}: must be "
                f"{name}:{','.join(f'{key}=...' for key in missing)}"
            )
        try:
            item = kind(**options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{noun} {name!r}: {error}") from error
        except Exception as error:  # a user's __post_init__ may raise anything
            raise ValueError(f"{noun} {name!r}: {type(error).__name__}: {error}") from error
        self.finish(item)
        return item

    def _options(self, kind: type[Item], text: str) -> dict[str, Any]:
        hints, found = get_type_hints(kind), dict[str, Any]()
        who = f"{self.noun} {_name(kind)!r}"
        for part in filter(None, text.split(",")):
            key, equals, value = part.partition("=")
            if not equals:
                raise ValueError(f"options of {who} must be option=value,..., got {part!r}")
            if key in found:
                raise ValueError(f"option {key!r} of {who} is given twice")
            found[key] = _value(f"{key} of {who}", value, hints.get(key, str))
        return found


def is_needed(option: dataclasses.Field[Any]) -> bool:
    """Whether it has no default."""
    return option.default is option.default_factory is dataclasses.MISSING


def _name(kind: type) -> str:
    """As it is asked for; "" where it has none."""
    name = inspect.getattr_static(kind, "name", None)
    return name if isinstance(name, str) else ""


def _value(name: str, text: str, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        check_choice(name, text, get_args(hint))
        return text
    if hint is bool:
        check_choice(name, text, ("true", "false"))
        return text == "true"
    try:
        return hint(text) if hint in (int, float) else text
    except ValueError as error:
        kind = "whole number" if hint is int else "number"
        raise ValueError(f"{name} must be a {kind}, got {text!r}") from error


def _load(path: Path, noun: str) -> ModuleType:
    # One name a path: tracebacks tell files apart, and pickling finds the class again.
    name = f"plumbline_{noun}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    return module


# --- what lists show

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Catalogue:
    """Rows about what lies in a folder, kept in its catalogue.json.

    measure: makes the rows anew, which costs imports or more.
    """

    folder: Path
    measure: Callable[[], Rows]

    @property
    def file(self) -> Path:
        """Where they are kept."""
        return self.folder / "catalogue.json"

    @property
    def is_fresh(self) -> bool:
        """Whether the folder's files are still those that the kept rows were made of."""
        return bool(self._kept.get("made_of") == self._made_of)

    def rows(self) -> Rows:
        """As they are kept if they are fresh, else made anew."""
        return list(self._kept["rows"]) if self.is_fresh else self.measure()

    def write(self) -> None:
        """Keep them."""
        write_json(self.file, {"made_of": self._made_of, "rows": self.measure()})

    @property
    def _kept(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    @property
    def _made_of(self) -> str:
        """Of the folder's texts of Python and TOML."""
        files = [file for end in ("py", "toml") for file in self.folder.rglob(f"*.{end}")]
        return digest_of({f.relative_to(self.folder).as_posix(): content_digest(f) for f in files})
