"""The worst problems on record: what the search found, tried again by every other profile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from theory.common.files import write_atomically
from theory.ledger.core.search import Found

FILE = "worst.json"


@lru_cache(maxsize=1)
def _record() -> dict[str, Any]:
    place = resources.files("theory.ledger.core").joinpath(FILE)
    if not place.is_file():
        return {}
    return dict(json.loads(place.read_text(encoding="utf-8")))


def recorded(claim: str, part: str) -> Sequence[dict[str, Any]]:
    """The worst settings of a row's part, as JSON; none if no search was made."""
    return tuple(_record().get(f"{claim}/{part}", {}).get("settings", ()))


def summary(claim: str, part: str) -> dict[str, Any]:
    """Starts, evaluations, how many of these the second route gave up on (where that is on record)
    and largest errors of the search; empty without one."""
    found = _record().get(f"{claim}/{part}", {})
    return {k: found[k] for k in ("starts", "evaluations", "gave_up", "errors") if k in found}


def write(claim: str, found: Found, place: Path | None = None) -> None:
    """Put what a search found on record, in place of what was there for this part."""
    place = place or Path(__file__).with_name(FILE)
    record = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    record[f"{claim}/{found.name}"] = {
        "starts": found.starts,
        "evaluations": found.evaluations,
        "gave_up": found.gave_up,
        "errors": list(found.errors),
        "settings": list(found.settings),
    }
    write_atomically(place, (json.dumps(dict(sorted(record.items()))) + "\n").encode("utf-8"))
    _record.cache_clear()
