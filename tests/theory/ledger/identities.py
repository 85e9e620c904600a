"""The ledger's identities by row, and a few places of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from theory.ledger.core.identity import Identity
from theory.ledger.run import all_claims

ROWS = {claim.id: claim for claim in all_claims()}


def parts_of(*rows: str) -> list[Any]:
    """(row, part) of every identity of these rows that is to hold."""
    return [
        pytest.param(row, part, id=f"{row}-{part.name}")
        for row in rows
        for part in ROWS[row].parts
        if isinstance(part, Identity) and (part.role != "claim" or ROWS[row].recorded == "exact")
    ]


def spots(part: Identity, dims: tuple[int, ...] = (1,), count: int = 6) -> Iterator[Any]:
    for seed in range(count):
        for dim in dims:
            yield part.domain.draw(dim, seed)
