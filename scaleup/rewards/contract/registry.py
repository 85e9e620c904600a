"""Rewards by name, or from a file of one's own, with options; and weighted sums of them.

redness                               a reward with its defaults
jpeg_size:quality=80                  options after a colon, separated by commas
path/to/my_reward.py:strength=2       the one Reward that the file defines
0.7*redness+0.3*brightness            a weighted sum; -1*redness turns the sign

A path with a comma or a plus sign in it cannot be written as text: build the reward in Python.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import scaleup.rewards
from scaleup.rewards.contract.reward import Reward
from scaleup.rewards.contract.weighted import Weighted
from theory.common.checks import check_choice, nearest

# A plus sign, unless it is the sign of an exponent: 1e+3*redness.
PLUS = re.compile(r"(?<![\d.][eE])\+")


@cache
def rewards() -> dict[str, type[Reward]]:
    """Every reward in scaleup/rewards/, by name."""
    found: dict[str, type[Reward]] = {}
    for info in pkgutil.iter_modules(scaleup.rewards.__path__):
        if not info.ispkg:
            module = import_module(f"scaleup.rewards.{info.name}")
            found |= {_name(kind): kind for kind in _defined_in(module)}
    return dict(sorted(found.items()))


def parse_reward(text: str) -> Reward:
    """A reward, or a weighted sum of rewards, from its text.

    Raises:
        ValueError: unknown reward or option, a value out of range, a weight that is no number, a
            file without exactly one reward.
        FileNotFoundError: no such file.
    """
    terms = [_term(part.strip()) for part in PLUS.split(text)]
    if len(terms) == 1 and terms[0][0] is None:
        return terms[0][1]
    weights = tuple(1.0 if weight is None else weight for weight, _ in terms)
    return Weighted(tuple(reward for _, reward in terms), weights)


def reward_sources(text: str) -> list[tuple[str, Reward]]:
    """(path of its file, or name of its module; reward) of every reward in a text that
    `parse_reward` takes.

    Raises:
        ValueError, FileNotFoundError: as `parse_reward`.
    """
    found = []
    for part in PLUS.split(text):
        head, star, rest = part.partition("*")
        name = (rest if star else head).strip().partition(":")[0]
        reward = _term(part.strip())[1]
        found.append((name if name.endswith(".py") else type(reward).__module__, reward))
    return found


def _term(text: str) -> tuple[float | None, Reward]:
    """(weight or None, reward) of `0.7*name:option=value`."""
    head, star, rest = text.partition("*")
    if not star:
        return None, _single(text)
    try:
        weight = float(head)
    except ValueError as error:
        raise ValueError(
            f"weight {head!r} in reward {text!r}: allowed is a number before the *"
        ) from error
    return weight, _single(rest.strip())


def _single(text: str) -> Reward:
    name, _, rest = text.partition(":")
    kind = reward_from_file(Path(name)) if name.endswith(".py") else _by_name(name)
    return build(kind, _options(kind, rest))


def _by_name(name: str) -> type[Reward]:
    known = rewards()
    if name not in known:
        raise ValueError(
            f"reward = {name!r}: allowed are {', '.join(known)}, a path that ends in .py, or a "
            f"weighted sum (0.7*redness+0.3*brightness){nearest(name, known)}"
        )
    return known[name]


def reward_from_file(path: Path) -> type[Reward]:
    """The one class in the file that is a Reward.

    Raises:
        FileNotFoundError, ValueError: as `parse_reward`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"reward = {str(path)!r}: no such file")
    found = _defined_in(_load(path))
    if len(found) != 1:
        names = [kind.__name__ for kind in found]
        raise ValueError(
            f"{path}: defines {names or 'no'} subclasses of Reward: allowed is exactly one "
            "(from scaleup import Reward)"
        )
    (kind,) = found
    lacking = sorted(getattr(kind, "__abstractmethods__", ()))
    if "name" not in lacking and not isinstance(inspect.getattr_static(kind, "name"), str):
        lacking.append("name")
    if lacking:
        raise ValueError(
            f"{path}: {kind.__name__} lacks {', '.join(lacking)}: allowed is a Reward with at "
            "least name (a text) and __call__ (scaleup/rewards/contract/reward.py)"
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
    name = f"plumbline_reward_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
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


def _defined_in(module: ModuleType) -> list[type[Reward]]:
    """Its own public subclasses of Reward; one that has two names there counts once."""
    found = [kind for name, kind in inspect.getmembers(module, inspect.isclass) if name[0] != "_"]
    own = [k for k in found if issubclass(k, Reward) and k.__module__ == module.__name__]
    return list(dict.fromkeys(own))


def _name(kind: type[Reward]) -> str:
    return str(inspect.getattr_static(kind, "name"))


# --- options


def build(kind: type[Reward], options: dict[str, Any]) -> Reward:
    """The reward with these options.

    Raises:
        ValueError: an unknown option, one that is missing, or a value out of range.
    """
    allowed = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in options:
        if key not in allowed:
            raise ValueError(
                f"option {key!r} of reward {_name(kind)!r}: allowed are "
                f"{', '.join(allowed) or 'none'}{nearest(key, allowed)}"
            )
    missing = [f.name for f in dataclasses.fields(kind) if _is_needed(f) and f.name not in options]  # type: ignore[arg-type]
    if missing:
        raise ValueError(
            f"reward {_name(kind)!r} lacks {', '.join(missing)}: allowed is "
            f"{_name(kind)}:{','.join(f'{name}=...' for name in missing)}"
        )
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"reward {_name(kind)!r}: {error}") from error
    except Exception as error:  # a user's own __post_init__ may raise anything
        raise ValueError(f"reward {_name(kind)!r}: {type(error).__name__}: {error}") from error


def _is_needed(option: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return option.init and option.default is missing and option.default_factory is missing


def _options(kind: type[Reward], text: str) -> dict[str, Any]:
    hints, found = get_type_hints(kind), {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(
                f"option {part!r} of reward {_name(kind)!r}: allowed is option=value,..."
            )
        if key in found:
            raise ValueError(f"option {key!r} of reward {_name(kind)!r} is given twice")
        found[key] = _value(_name(kind), key, value, hints.get(key, str))
    return found


def _value(reward: str, key: str, text: str, hint: Any) -> Any:
    name = f"{key} of reward {reward!r}"
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
