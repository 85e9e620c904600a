"""The committed ledger: docs/data/ledger.json, and docs/ledger/, its pages.

They are stale where they are not what would be generated: the JSON against the rows in the code and
(at the same profile) against a fresh measurement, the pages against the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from theory.common.files import write_atomically
from theory.common.tolerances import QUADRATURE, Tier
from theory.ledger.core import Claim
from theory.ledger.report.render import pages

DATA, FOLDER = "docs/data/ledger.json", "docs/ledger"
# Figures of another machine: seeds are the same, roundings and adaptive steps are not.
CLOSE = Tier("close", 0.05)
TEXTS = ("source", "statement", "assumptions", "first", "second", "recorded", "remark")
# Extremes of a handful of rounding errors, and draws: what matters of them is the verdict.
LOOSE = {"error", "z", "errors", "gave_up", "half"}


def write_text(path: Path, text: str) -> None:
    """All of the file or nothing."""
    write_atomically(path, text.encode("utf-8"))


def write_pages(ledger: dict[str, Any], folder: Path) -> list[Path]:
    """Write the ledger's pages; returns the paths."""
    for name, text in pages(ledger).items():
        write_text(folder / name, text)
    return [folder / name for name in pages(ledger)]


def write_docs(ledger: dict[str, Any], root: Path) -> list[Path]:
    """Write data and pages; returns the paths."""
    write_text(root / DATA, json.dumps(ledger, indent=1) + "\n")
    return [root / DATA, *write_pages(ledger, root / FOLDER)]


def stale(claims: Sequence[Claim], root: Path, fresh: dict[str, Any] | None = None) -> list[str]:
    """What is out of date, in words; empty where all is as it would be generated."""
    place = root / DATA
    if not place.is_file():
        return [f"{place} is missing"]
    ledger = json.loads(place.read_text(encoding="utf-8"))
    there = {p.name: p.read_text(encoding="utf-8") for p in sorted((root / FOLDER).glob("*.md"))}
    wanted = pages(ledger)
    found = [
        f"{FOLDER}/{name} is not the rendering of {DATA}"
        for name in wanted | there
        if there.get(name) != wanted.get(name)
    ]
    rows = {row["id"]: row for row in ledger["rows"]}
    if list(rows) != [c.id for c in claims]:
        return [
            *found,
            f"{DATA} has rows {list(rows)}, the code {[c.id for c in claims]}",
        ]
    for claim in claims:
        row = rows[claim.id]
        found += [
            f"{claim.id}: {key} has changed since {DATA}"
            for key in TEXTS
            if row[key] != getattr(claim, key)
        ]
        if row["verdict"] != claim.recorded:
            found.append(f"{claim.id}: {DATA} measured {row['verdict']}, not {claim.recorded}")
    if fresh is not None and fresh["profile"] == ledger["profile"]:
        for row in fresh["rows"]:
            found += _changes(row["id"], rows[row["id"]], row)
    return found


def _changes(name: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    if old["verdict"] != new["verdict"]:
        yield f"{name}: verdict {new['verdict']}, {DATA} has {old['verdict']}"
    before = {f["name"]: f for f in old["findings"]}
    if list(before) != [f["name"] for f in new["findings"]]:
        yield f"{name}: its parts have changed since {DATA}"
        return
    for finding in new["findings"]:
        was = before[finding["name"]]
        said = [k for k in ("role", "kind", "holds", "mutants") if was[k] != finding[k]]
        for key in (*said, *_differing(was["numbers"], finding["numbers"])):
            yield f"{name}, {finding['name']}: {key} is no longer what {DATA} has"
    for key in _differing(old["region"] or {}, new["region"] or {}):
        yield f"{name}: its map's {key} is no longer what {DATA} has"


def _differing(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Keys under which two trees of numbers differ by more than CLOSE."""
    if key.split("/")[-1] in LOOSE:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            where = f"{key}/{name}" if key else name
            if name in old and name in new:
                yield from _differing(old[name], new[name], where)
            else:
                yield where
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for a, b in zip(old, new, strict=True):
            if any(True for _ in _differing(a, b, key)):
                yield key
                return
    elif isinstance(old, int | float) and isinstance(new, int | float):
        if abs(old - new) > max(CLOSE.rtol * abs(old), QUADRATURE.rtol):
            yield key
    elif old != new:
        yield key
