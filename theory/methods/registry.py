"""Discovery: methods by name, or from a file of one's own, with options.

nft                               a method with its defaults
nft:nft_beta=0.5                  options after a colon, separated by commas
path/to/my_method.py              the one Method that the file defines
path/to/my_method.py:strength=2
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import pkgutil
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import theory.methods
from theory.common.checks import check_choice, nearest
from theory.methods.contract.method import Method
from theory.methods.contract.returned import attributes

PARTS = ("collect", "loss")
SHARED = ("contract", "chain")  # rooms without methods


@cache
def methods() -> dict[str, type[Method]]:
    """Every method in the rooms of theory/methods/, by name."""
    found: dict[str, type[Method]] = {}
    for info in pkgutil.walk_packages(theory.methods.__path__, "theory.methods."):
        if not info.ispkg and info.name.split(".")[2] not in SHARED:
            kinds = _defined_in(import_module(info.name))
            found |= {kind.name: kind for kind in kinds if hasattr(kind, "name")}
    return dict(sorted(found.items()))


def parse_method(text: str) -> Method:
    """A method from its name (or a path that ends in .py) and options.

    Raises:
        ValueError: unknown method or option, an option's value out of range, a file without
            exactly one method or one that lacks a part of the contract.
        FileNotFoundError: no such file.
    """
    name, _, rest = text.partition(":")
    kind = method_from_file(Path(name)) if name.endswith(".py") else _by_name(name)
    return build(kind, _options(kind, rest))


def _by_name(name: str) -> type[Method]:
    known = methods()
    if name not in known:
        raise ValueError(
            f"method = {name!r}: allowed are {', '.join(known)}, or a path that ends in .py"
            f"{nearest(name, known)}"
        )
    return known[name]


def method_from_file(path: Path) -> type[Method]:
    """The one class in the file that is a Method.

    Raises:
        FileNotFoundError, ValueError: as `parse_method`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"method = {str(path)!r}: no such file")
    found = _defined_in(_load(path))
    if len(found) != 1:
        names = [kind.__name__ for kind in found]
        raise ValueError(
            f"{path}: defines {names or 'no'} subclasses of Method: allowed is exactly one "
            "(from theory.methods import Method)"
        )
    (kind,) = found
    lacking = [part for part in PARTS if getattr(kind, part) is getattr(Method, part)]
    if not isinstance(getattr(kind, "name", None), str):
        lacking.insert(0, "name")
    if lacking:
        raise ValueError(
            f"{path}: {kind.__name__} lacks {', '.join(lacking)}: allowed is a Method with at "
            f"least name, {', '.join(PARTS)} (theory/methods/contract/method.py)"
        )
    parameters = getattr(kind, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen or "__dataclass_params__" not in vars(kind):
        raise ValueError(
            f"{path}: {kind.__name__} is no frozen dataclass: allowed is @dataclass(frozen=True), "
            "so that its options have names and values"
        )
    return kind


def _load(path: Path) -> ModuleType:
    # One name a path: tracebacks tell files apart, and pickling finds the class again.
    name = f"plumbline_method_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
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


def _defined_in(module: ModuleType) -> list[type[Method]]:
    """Its own subclasses of Method; one that has two names there counts once."""
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    own = [k for k in found if issubclass(k, Method) and k.__module__ == module.__name__]
    return list(dict.fromkeys(own))


# --- options


def build(kind: type[Method], options: dict[str, Any]) -> Method:
    """The method with these options.

    Raises:
        ValueError: an unknown option, a value out of range, a part of the contract missing.
    """
    allowed = [f.name for f in kind.fields()]
    for key in options:
        if key not in allowed:
            raise ValueError(
                f"option {key!r} of method {kind.name!r}: allowed are "
                f"{', '.join(allowed) or 'none'}{nearest(key, allowed)}"
            )
    try:
        method = kind(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"method {kind.name!r}: {error}") from error
    except Exception as error:  # a user's own __post_init__ may raise anything
        raise ValueError(f"method {kind.name!r}: {type(error).__name__}: {error}") from error
    return attributes(method)


def _options(kind: type[Method], text: str) -> dict[str, Any]:
    hints, found = get_type_hints(kind), {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(
                f"option {part!r} of method {kind.name!r}: allowed is option=value,..."
            )
        if key in found:
            raise ValueError(f"option {key!r} of method {kind.name!r} is given twice")
        found[key] = _value(kind.name, key, value, hints.get(key, str))
    return found


def _value(method: str, key: str, text: str, hint: Any) -> Any:
    name = f"{key} of method {method!r}"
    if get_origin(hint) is Literal:
        check_choice(name, text, get_args(hint))
        return text
    if hint is bool:
        check_choice(name, text, ("true", "false"))
        return text == "true"
    try:
        return hint(text) if hint in (int, float) else text
    except ValueError as error:
        kind = "whole numbers" if hint is int else "numbers"
        raise ValueError(f"{name} = {text!r}: allowed are {kind}") from error
