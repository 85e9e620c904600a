"""The committed ledger, and what makes it stale."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from tests.theory.ledger.made_up import CLAIMS, EXACT
from theory.ledger.report import docs
from theory.ledger.report.docs import CLOSE, stale, write_docs


def edit(root, change) -> None:
    """Change docs/data/ledger.json and render the pages from it again."""
    ledger = json.loads((root / "docs/data/ledger.json").read_text())
    change(ledger)
    write_docs(ledger, root)


def test_written_docs_are_fresh(root, ledger):
    assert stale(CLAIMS, root) == []
    assert stale(CLAIMS, root, ledger) == []
    files = [p for p in (root / "docs").rglob("*") if p.is_file()]
    assert len(files) == 3
    before = [p.read_text() for p in files]
    write_docs(ledger, root)
    assert [p.read_text() for p in files] == before


@pytest.mark.parametrize("key", docs.TEXTS)
def test_a_text_that_has_changed(root, key):
    moved = (replace(EXACT, **{key: "else"}), *CLAIMS[1:])
    found = stale(moved, root)
    assert found[0] == f"Q1: {key} has changed since docs/data/ledger.json"
    assert all(line.startswith("Q1: ") for line in found)
    assert len(found) == (2 if key == "recorded" else 1)


def test_rows_that_have_changed(root):
    (found,) = stale(CLAIMS[:2], root)
    assert "has rows ['Q1', 'Q2', 'Z3'], the code ['Q1', 'Q2']" in found


def test_a_verdict_that_has_changed(root, ledger):
    ledger["rows"][1]["verdict"] = "conditional"
    assert stale(CLAIMS, root, ledger) == [
        "Q2: verdict conditional, docs/data/ledger.json has false"
    ]

    def change(old):
        old["rows"][1]["verdict"] = "exact"

    edit(root, change)
    # Seen in every profile, also without a fresh measurement.
    assert stale(CLAIMS, root) == ["Q2: docs/data/ledger.json measured exact, not false"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("holds", False), ("role", "instead"), ("kind", "statistical"), ("mutants", {"x": True})],
)
def test_a_finding_that_has_changed(root, ledger, key, value):
    ledger["rows"][0]["findings"][0][key] = value
    (found,) = stale(CLAIMS, root, ledger)
    assert found == f"Q1, first | part: {key} is no longer what docs/data/ledger.json has"


def test_parts_that_have_changed(root, ledger):
    ledger["rows"][0]["findings"].pop()
    assert stale(CLAIMS, root, ledger) == ["Q1: its parts have changed since docs/data/ledger.json"]


@pytest.mark.parametrize(("factor", "seen"), [(1.04, False), (1.06, True), (0.94, True)])
def test_a_number_that_has_changed(root, ledger, factor, seen):
    assert abs(factor - 1) > CLOSE.rtol or not seen
    ledger["rows"][0]["findings"][0]["numbers"]["tv"] *= factor
    line = "Q1, first | part: tv is no longer what docs/data/ledger.json has"
    assert stale(CLAIMS, root, ledger) == ([line] if seen else [])


def test_rounding_errors_may_change(root, ledger):
    ledger["rows"][0]["findings"][0]["numbers"]["error"] *= 3
    assert stale(CLAIMS, root, ledger) == []


@pytest.mark.parametrize("change", ["number gone", "new number", "nan", "list"])
def test_numbers_of_another_shape(root, ledger, change):
    numbers = ledger["rows"][0]["findings"][0]["numbers"]
    if change == "number gone":
        del numbers["tv"]
    elif change == "new number":
        numbers["new"] = 1.0
    else:
        numbers["tv"] = None if change == "nan" else [0.25, 0.25]
    (found,) = stale(CLAIMS, root, ledger)
    assert "new" in found if change == "new number" else ": tv is" in found


def test_a_map_that_has_changed(root, ledger):
    ledger["rows"][1]["region"]["share"]["0.05"] = 0.9
    (found,) = stale(CLAIMS, root, ledger)
    assert found == "Q2: its map's share/0.05 is no longer what docs/data/ledger.json has"


def test_numbers_of_another_profile_are_not_compared(root, ledger):
    other_profile = copy.deepcopy(ledger)
    other_profile["profile"] = "thorough"
    other_profile["rows"][0]["findings"][0]["numbers"]["tv"] = 9.0
    assert stale(CLAIMS, root, other_profile) == []


@pytest.mark.parametrize("name", ["index.md", "liu.md"])
def test_pages_that_are_not_what_the_data_give(root, name):
    page = root / "docs/ledger" / name
    whole = page.read_text()
    line = f"docs/ledger/{name} is not the rendering of docs/data/ledger.json"
    page.write_text(whole.replace("**false**", "**exact**"))
    assert stale(CLAIMS, root) == [line]
    page.unlink()
    assert stale(CLAIMS, root) == [line]
    page.write_text(whole)
    assert stale(CLAIMS, root) == []


def test_a_page_of_no_row(root):
    (root / "docs/ledger/old.md").write_text("# old")
    (found,) = stale(CLAIMS, root)
    assert found.startswith("docs/ledger/old.md is not the rendering")


def test_no_docs(tmp_path):
    (found,) = stale(CLAIMS, tmp_path)
    assert found.endswith("docs/data/ledger.json is missing")
