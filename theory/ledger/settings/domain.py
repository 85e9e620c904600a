"""What a place where identities are tried has, and what draws places of one kind.

A domain draws settings from a seed, nudges them (for the search for the worst problem) and turns
them into JSON and back, so that a worst problem on record can be tried again.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, Protocol, Self, TypeVar, get_args, get_type_hints

import numpy as np


class AnySetting:
    """A place where an identity can be tried: a dataclass of numbers, texts, arrays, and other
    dataclasses of these."""

    @property
    def dim(self) -> int:
        return 1

    def describe(self) -> str:
        """In a few words, for tables."""
        raise NotImplementedError

    def pack(self) -> dict[str, Any]:
        """As JSON: the fields of a dataclass in it stand among its own."""
        return _packed(self)

    @classmethod
    def unpack(cls, data: dict[str, Any]) -> Self:
        return _unpacked(cls, data)


S = TypeVar("S", bound=AnySetting)


class Domain(Protocol[S]):
    """What draws settings of one kind, the S of Domain[S]."""

    def draw(self, dim: int, seed: int) -> S: ...

    def nudge(self, setting: S, rng: np.random.Generator, step: float) -> S | None:
        """A neighbour, or None where it leaves the domain."""

    def unpack(self, data: dict[str, Any]) -> S:
        (kind,) = get_args(type(self).__orig_bases__[0])  # type: ignore[attr-defined]
        setting: S = kind.unpack(data)
        return setting


def values(setting: Any, kind: type) -> dict[str, Any]:
    """Of the fields that the setting shares with `kind`, a setting that it extends or that extends
    it."""
    return {f.name: getattr(setting, f.name) for f in fields(kind)}


def _packed(record: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values(record, type(record)).items():
        found |= _packed(value) if is_dataclass(value) else {name: _plain(value)}
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _unpacked(kind: Any, data: dict[str, Any]) -> Any:
    kinds = get_type_hints(kind)
    return kind(
        **{
            f.name: _unpacked(kinds[f.name], data)
            if is_dataclass(kinds[f.name])
            else _arrays(data[f.name])
            for f in fields(kind)
        }
    )


def _arrays(value: Any) -> Any:
    """Lists as arrays, and the numbers in a dictionary as arrays without axes."""
    if isinstance(value, dict):
        return {key: np.asarray(inner, dtype=float) for key, inner in value.items()}
    return np.asarray(value, dtype=float) if isinstance(value, list) else value
