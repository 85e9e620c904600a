"""From results to JSON, Markdown and a page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np

from tests.theory.ledger.made_up import CLAIMS, EXACT
from theory.ledger.report.render import (
    as_json,
    headline,
    mutants,
    page,
    pages,
    plain,
)


def test_json(ledger):
    text = json.dumps(ledger, allow_nan=False)
    assert json.loads(text) == ledger
    (row, wrong, _) = ledger["rows"]
    assert row["verdict"] == row["recorded"] == "exact"
    assert row["findings"][0]["numbers"]["gone"] is None
    assert row["findings"][0]["mutants"] == {"a | wrong one": True}
    assert row["region"] is None
    assert wrong["region"]["share"]["0.05"] == 1 / 16
    assert mutants(ledger["rows"]) == (1, 1)


def test_plain():
    values = {1: (np.float64(0.5), np.inf, True, None, "x"), "n": {"m": -np.inf, "k": np.int64(3)}}
    assert plain(values) == {"1": [0.5, None, True, None, "x"], "n": {"m": None, "k": 3}}


def test_headlines(ledger):
    exact, wrong, order = ledger["rows"]
    assert headline(exact) == "error at most 1.0e-12 over 3 settings"
    assert headline(wrong) == "TV 0.3 (N(0, 1))"
    assert headline(order) == "slope 2.00"
    exact["searches"] = {"first | part": {"starts": 7, "evaluations": 90, "errors": [2e-11]}}
    assert headline(exact).endswith("; search of the first part, 7 starts: 2.0e-11")


def tables(text: str) -> list[list[str]]:
    """Groups of lines that start with a pipe."""
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [group for group in found if group]


def cells(line: str) -> int:
    return line.replace("\\|", "").count("|") - 1


def test_markdown_tables_have_one_width(ledger):
    for text in (*pages(ledger).values(), *pages(as_json([], "fast")).values()):
        groups = tables(text)
        assert groups
        for group in groups:
            assert len({cells(line) for line in group}) == 1, group
            assert set(group[1]) == {"|", "-"}
    assert len(tables(pages(ledger)["liu.md"])) == 1 + len(CLAIMS)


def test_every_row_is_on_its_papers_page(ledger):
    ledger["rows"][2]["source"] = "zhu, (3)"
    written = pages(ledger)
    assert list(written) == ["index.md", "liu.md", "zhu.md"]
    assert "\n- [liu](liu.md), Q1 to Q2: DiffusionNFT as Taylor" in written["index.md"]
    for row, paper in zip(ledger["rows"], ("liu", "liu", "zhu"), strict=True):
        anchor = row["id"].lower()
        for page_of in ("liu", "zhu"):
            there = f"## {row['id']}\n\n**{row['verdict']}** · " in written[f"{page_of}.md"]
            assert there == (page_of == paper)
        assert f"| [{row['id']}](#{anchor}) |" in written[f"{paper}.md"]
        assert f"| [{row['id']}]({paper}.md#{anchor}) |" in written["index.md"]


def test_markdown_says_what_was_measured(ledger):
    assert "1 of 1 wrong versions rejected" in pages(ledger)["index.md"]
    text = pages(ledger)["liu.md"]
    assert "a \\* b \\| c\\_d &lt; e" in text
    assert "- Map (a \\| map): TV below 1 %" in text
    assert "| fails | claim | no | TV 0.3 | N(0, 1) |" in text
    ledger["rows"][0]["findings"][0]["mutants"] = {"seen": True, "blind": False}
    assert "; SURVIVED: blind" in pages(ledger)["liu.md"]


class Reader(HTMLParser):
    """Sections, table widths, and whether every tag is closed."""

    VOID = frozenset({"meta", "img", "br", "!doctype"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.widths: list[set[int]] = []
        self.links: list[str] = []
        self.images = 0
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        options = dict(attrs)
        if tag == "section":
            self.sections.append(options["id"])
        if tag == "a":
            self.links.append(options["href"])
        if tag == "table":
            self.widths.append(set())
        if tag == "tr":
            self.count = 0
        if tag in {"td", "th"}:
            self.count += 1
        if tag == "img":
            self.images += 1
            assert options["src"].startswith("data:image/png;base64,")
            assert options["alt"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "tr":
            self.widths[-1].add(self.count)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page(ledger, results):
    reader = Reader()
    reader.feed(page(ledger, results))
    assert reader.open == []
    assert reader.sections == [claim.id for claim in CLAIMS]
    assert reader.links == [f"#{claim.id}" for claim in CLAIMS]
    assert [len(width) for width in reader.widths] == [1] * (1 + len(CLAIMS))
    assert reader.images == 1
    assert reader.text.count(EXACT.statement) == 2 * len(CLAIMS)  # nothing was taken for a tag
    assert EXACT.source in reader.text
    assert "<b>" in reader.text


def test_page_shows_what_differs(ledger, results):
    ledger["rows"][0]["recorded"] = "order 1"
    assert "exact (recorded: order 1)" in page(ledger, results)
