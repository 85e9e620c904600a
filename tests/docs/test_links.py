"""No link leads nowhere, and every page is led to."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.docs.pages import ALL, ROOT, anchors, links, name


def broken(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    found = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        to = (page.parent / path).resolve() if path else page
        inside = to.is_relative_to(ROOT) and to.exists()
        if not inside or (anchor and anchor not in anchors(to)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", ALL, ids=name)
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_what_a_broken_link_is(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.test_links.ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text(
        "# A `b` (c), d\n[1](#a-b-c-d) [2](#a) [3](b.md) ![4](c.png) [5](https://x.y) `[6](d)`"
    )
    (tmp_path / "b.md").write_text("# B")
    assert broken(page) == ["#a", "c.png"]


def test_every_page_is_led_to():
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        todo += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
    assert set(ALL) <= reached


def test_the_readme_is_short_and_counts_the_ledger():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) < 6000
    assert len(text.splitlines()) < 130
    rows = json.loads((ROOT / "docs/data/ledger.json").read_text(encoding="utf-8"))["rows"]
    count = Counter(row["verdict"].split()[0] for row in rows)
    words = " ".join(text.split())
    assert (
        f"Of {len(rows)} statements {count['exact']} hold exactly, {count['order']} to an order, "
        f"{count['conditional']} under a condition that the source leaves out, "
        f"{count['false']} are false" in words
    )
