"""Faces: packages whose public names are imported when they are asked for (PEP 562).

The `__init__.py` of a face holds its imports where type checkers read them, and nowhere else:

    if TYPE_CHECKING:
        from theory.problems.problem import Problem, load_problem
    else:
        __getattr__, __dir__, __all__ = face(__name__, __file__)
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeGuard


def face(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package needs to give its names late: `__getattr__`, `__dir__`, `__all__`."""
    found = homes(ast.parse(Path(file).read_bytes()))

    def get(name: str) -> Any:
        if name not in found:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(found[name]), name)

    return get, lambda: sorted(found), sorted(found)


def homes(tree: ast.Module) -> dict[str, str]:
    """{name: the module that has it}: what a text imports for type checkers only."""
    return {
        alias.name: node.module
        for block in tree.body if for_type_checkers(block)
        for node in ast.walk(block) if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }  # fmt: skip


def for_type_checkers(node: ast.AST) -> TypeGuard[ast.If]:
    """Whether it is `if TYPE_CHECKING`."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
