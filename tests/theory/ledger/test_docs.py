"""The committed tables, and what makes them stale."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest

from tests.theory.ledger.made_up import CLAIMS, EXACT
from theory.ledger.report import docs
from theory.ledger.report.docs import BEGIN, CLOSE, END, stale, with_table, write_docs


def edit(root, change) -> None:
    """Change docs/ledger.json and render the two tables from it again."""
    ledger = json.loads((root / "docs/ledger.json").read_text())
    change(ledger)
    write_docs(ledger, root)


def test_written_docs_are_fresh(root, ledger):
    assert stale(CLAIMS, root) == []
    assert stale(CLAIMS, root, ledger) == []
    readme = (root / "README.md").read_text()
    assert readme.startswith(f"# Hello\n\n{BEGIN}\n\n| |")
    assert readme.endswith(f"{END}\n\nBye.\n")
    assert "old" not in readme
    assert [p.name for p in (root / "docs").iterdir() if p.name.startswith(".")] == []
    before = readme
    write_docs(ledger, root)
    assert (root / "README.md").read_text() == before


@pytest.mark.parametrize("key", docs.TEXTS)
def test_a_text_that_has_changed(root, key):
    moved = (replace(EXACT, **{key: "else"}), *CLAIMS[1:])
    found = stale(moved, root)
    assert found[0] == f"Q1: {key} has changed since docs/ledger.json"
    assert all(line.startswith("Q1: ") for line in found)
    assert len(found) == (2 if key == "recorded" else 1)


def test_rows_that_have_changed(root):
    (found,) = stale(CLAIMS[:2], root)
    assert "has rows ['Q1', 'Q2', 'Z3'], the code ['Q1', 'Q2']" in found


def test_a_verdict_that_has_changed(root, ledger):
    ledger["rows"][1]["verdict"] = "conditional"
    assert stale(CLAIMS, root, ledger) == ["Q2: verdict conditional, docs/ledger.json has false"]

    def change(old):
        old["rows"][1]["verdict"] = "exact"

    edit(root, change)
    # Seen in every profile, also without a fresh measurement.
    assert stale(CLAIMS, root) == ["Q2: docs/ledger.json measured exact, not false"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("holds", False), ("role", "instead"), ("kind", "statistical"), ("mutants", {"x": True})],
)
def test_a_finding_that_has_changed(root, ledger, key, value):
    ledger["rows"][0]["findings"][0][key] = value
    (found,) = stale(CLAIMS, root, ledger)
    assert found == f"Q1, first | part: {key} is no longer what docs/ledger.json has"


def test_parts_that_have_changed(root, ledger):
    ledger["rows"][0]["findings"].pop()
    assert stale(CLAIMS, root, ledger) == ["Q1: its parts have changed since docs/ledger.json"]


@pytest.mark.parametrize(("factor", "seen"), [(1.04, False), (1.06, True), (0.94, True)])
def test_a_number_that_has_changed(root, ledger, factor, seen):
    assert abs(factor - 1) > CLOSE.rtol or not seen
    ledger["rows"][0]["findings"][0]["numbers"]["tv"] *= factor
    line = "Q1, first | part: tv is no longer what docs/ledger.json has"
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
    assert found == "Q2: its map's share/0.05 is no longer what docs/ledger.json has"


def test_numbers_of_another_profile_are_not_compared(root, ledger):
    other_profile = copy.deepcopy(ledger)
    other_profile["profile"] = "thorough"
    other_profile["rows"][0]["findings"][0]["numbers"]["tv"] = 9.0
    assert stale(CLAIMS, root, other_profile) == []


def test_hand_edited_tables(root):
    for name, words in (
        ("docs/LEDGER.md", "docs/LEDGER.md is not the rendering"),
        ("README.md", "the README's table is not the rendering"),
    ):
        file = root / name
        whole = file.read_text()
        file.write_text(whole.replace("**false**", "**exact**"))
        (found,) = stale(CLAIMS, root)
        assert found.startswith(words)
        file.write_text(whole)
    (root / "README.md").write_text(whole.replace("Bye.", "Good-bye."))  # outside the marks
    assert stale(CLAIMS, root) == []


def test_no_docs(tmp_path):
    (found,) = stale(CLAIMS, tmp_path)
    assert found.endswith("docs/ledger.json is missing")


@pytest.mark.parametrize(
    "readme", ["# Hello", BEGIN, END, f"{BEGIN}{BEGIN}{END}", f"{END}\n{BEGIN}"], ids=range(5)
)
def test_readme_without_marks(root, ledger, readme):
    with pytest.raises(ValueError, match=r"README\.md: "):
        with_table(readme, "table")
    before = (root / "docs/LEDGER.md").read_text()
    (root / "README.md").write_text(readme)
    with pytest.raises(ValueError, match=r"README\.md: "):
        write_docs({**ledger, "profile": "thorough"}, root)
    assert (root / "docs/LEDGER.md").read_text() == before  # nothing was written
    with pytest.raises(ValueError, match=r"README\.md: "):
        stale(CLAIMS, root)
