"""What a result depends on, as digests of content: files, folders, and code by what it imports.

    content_digest(path)    of every byte of a file, or of a folder's files by name; through links
    sources(*roots)         the Python files that modules or your own files import, on and on
    code_digest(*roots)     of these files' texts
    option_files(options)   the files and folders that options name

A result is known by what it was made of and by nothing else: where a digest is the same, so would
the result be. Libraries are no part of it; records name their versions.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from theory.common.face import for_type_checkers, homes
from theory.common.files import sha256
from theory.common.user_code import PACKAGES, ROOT

SETTLED = 2 * 10**9  # nanoseconds after which a file's times would show another change
_known: dict[tuple[int, ...], str] = {}


def digest_of(data: Any) -> str:
    """Of plain data, whatever the order of its keys; 64 hexadecimal digits."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# --- files and folders


def content_digest(path: Path | str) -> str:
    """Of a file's bytes; of a folder, of its files' names and bytes: 64 hexadecimal digits.

    Links are followed; a link that leads nowhere counts by its name, and so does one that leads
    back to a folder that holds it. Hidden entries of a folder do not count.

    Raises:
        FileNotFoundError: there is nothing.
        OSError: it cannot be read.
    """
    place = Path(path).expanduser()
    return digest_of(dict(_entries(place, "", frozenset()))) if place.is_dir() else _of_file(place)


def _of_file(file: Path) -> str:
    """Read once a process, as long as the file system says that it is the same."""
    found = file.stat()
    key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if key not in _known:
        digest = sha256(file)
        if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < SETTLED:
            return digest  # it may change again without another time
        _known[key] = digest
    return _known[key]


def _entries(folder: Path, name: str, above: frozenset[str]) -> Iterator[tuple[str, str]]:
    real = os.path.realpath(folder)
    if real in above:
        yield name, "above"
        return
    for entry in sorted(folder.iterdir()):
        own = f"{name}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _entries(entry, own, above | {real})
        elif entry.is_file():
            yield own, _of_file(entry)
        else:
            yield own, "nothing"


def option_files(options: object) -> dict[str, str]:
    """{path: digest} of the files and folders that the text fields of a dataclass name."""
    assert is_dataclass(options)
    hints = get_type_hints(type(options))
    values = [getattr(options, f.name) for f in fields(options) if hints.get(f.name) in (str, Path)]
    return {str(v): content_digest(v) for v in values if str(v) and Path(v).expanduser().exists()}


# --- code


def code_digest(*roots: str | Path) -> str:
    """Of the texts of `sources`, 64 hexadecimal digits."""
    return digest_of(digests(sources(*roots)))


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Of the content of every file, by its name."""
    return {name: content_digest(file) for name, file in files.items()}


@cache
def plumbline_code(*modules: str) -> str:
    """`code_digest` of Plumbline's modules; found once a process, which runs what it loaded."""
    return code_digest(*modules)


def is_plumblines(name: str) -> bool:
    """Whether a name of `sources` is a file of Plumbline, or the user's."""
    return name.split("/")[0] in PACKAGES and (ROOT / name).is_file()


def sources(*roots: str | Path) -> dict[str, Path]:
    """The Python files that `roots` import anywhere in their texts, and what these import, and on;
    roots among them, libraries not.

    roots: dotted names of Plumbline's modules, or paths of the user's .py files, which may
        import what lies beside them or on Python's path.
    Returns {name: file}; Plumbline's are named from its folder ("theory/problems/problem.py"),
    others by their path.

    Raises:
        FileNotFoundError: a root is not there.
        ValueError: a file is no Python.
    """
    found: dict[Path, str] = {}
    asked: set[tuple[str, tuple[Path, ...]]] = set()
    todo = [_rooted(str(root)) for root in roots]
    while todo:
        file, package, places = todo.pop()
        if file.resolve() in found:
            continue
        name = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else str(file)
        found[file.resolve()] = name
        for module in _imports(file, package, content_digest(file)):
            inside = (ROOT,) if module.split(".")[0] in PACKAGES else places
            if (module, inside) in asked:
                continue
            asked.add((module, inside))
            todo += [(hit, _package_of(module, hit), places) for hit in _found(module, inside)]
    return {name: file for file, name in sorted(found.items(), key=lambda item: item[1])}


def _rooted(root: str) -> tuple[Path, str, tuple[Path, ...]]:
    """(file, package that its relative imports start from, where it finds other files)."""
    if root.endswith(".py"):
        file = Path(root).expanduser()
        return file, "", (file.parent, *_own_path())
    hits = _found(root, (ROOT,))
    if not hits:
        raise FileNotFoundError(f"{root}: no such module")
    return hits[0], _package_of(root, hits[0]), ()


def _package_of(module: str, file: Path) -> str:
    return module if file.name == "__init__.py" else module.rpartition(".")[0]


def _found(module: str, places: tuple[Path, ...]) -> list[Path]:
    """Its file in every place: which one Python takes depends on what runs it."""
    stems = [place.joinpath(*module.split(".")) for place in places]
    files = [f for s in stems for f in (s / "__init__.py", s.with_name(f"{s.name}.py"))]
    return [file for file in files if file.is_file()]


def _own_path() -> tuple[Path, ...]:
    """Python's path without its libraries."""
    libraries = ("site-packages", "dist-packages", "lib-dynload")
    standard = Path(sysconfig.get_path("stdlib"))
    return tuple(
        f for f in (Path(entry or ".") for entry in sys.path)
        if f.is_dir() and f.absolute() != standard and f.name not in libraries
    )  # fmt: skip


@cache
def _imports(file: Path, package: str, digest: str) -> tuple[str, ...]:
    """Names of the modules that a text imports, through faces; of packages that hold these (Python
    runs them, too), and of attributes that may be modules. digest: of the text."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{file}: no Python: {error}") from error
    found: set[str] = set()
    for node in _run(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found |= {alias.name, *_homes(alias.name).values()}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join(filter(None, (*above, node.module or "")))
            found |= {".".join(filter(None, (base, alias.name))) for alias in node.names}
            home = _homes(base)
            found |= {home[alias.name] for alias in node.names if alias.name in home}
    parts = [name.split(".") for name in found]
    return tuple({".".join(p[:n]) for p in parts for n in range(1, len(p) + 1)})


def _run(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node but what only type checkers read."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        todo += node.orelse if for_type_checkers(node) else ast.iter_child_nodes(node)


def _homes(package: str) -> dict[str, str]:
    """{name: the module that has it} of a face of Plumbline; {} where it is none."""
    file = ROOT.joinpath(*package.split("."), "__init__.py")
    ours = package.split(".")[0] in PACKAGES and file.is_file()
    return homes(ast.parse(file.read_bytes())) if ours else {}
