"""Numbers of pages, made others."""

from __future__ import annotations

from collections.abc import Container
from typing import Any


def scaled(data: Any, given: Container[str] = ()) -> Any:
    """Every number that was measured 1.37 times; given: keys that are kept."""
    if isinstance(data, dict):
        return {k: v if k in given else scaled(v, given) for k, v in data.items()}
    if isinstance(data, list):
        return [scaled(v, given) for v in data]
    return 1.37 * data if isinstance(data, float) else data
