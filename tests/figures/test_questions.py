"""Questions: pages follow from their numbers, and what is stale is seen."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib import image

from figures.__main__ import main
from figures.questions import PAGES
from figures.questions.pages import (
    FOLDER,
    NUMBERS,
    changed,
    index,
    make_page,
    module_of,
    plain,
    read_numbers,
    stale,
    write_pages,
)
from tests.figures.numbers import scaled

ROOT = FOLDER.absolute()


@pytest.fixture(scope="module")
def numbers():
    return read_numbers(ROOT)


def test_the_committed_pages_are_what_their_numbers_give():
    assert stale(ROOT) == []
    assert main(["questions", "--check"]) == 0


@pytest.mark.slow
def test_every_page_is_whole(tmp_path, numbers):
    """Written from the committed numbers."""
    write_pages(tmp_path, numbers, PAGES)
    assert stale(tmp_path) == []
    assert set(read_numbers(tmp_path)) == set(PAGES)
    for name in PAGES:
        text = (tmp_path / f"{name}.md").read_text()
        assert text.count("# ") >= 1
        assert f"questions --only {name}`" in text
        assert "{" not in text  # nothing is left unfilled
        assert len(max(text.split("\n\n")[1:3], key=len)) > 80  # an answer
        picture = image.imread(tmp_path / "pictures" / f"{name}.png")[..., :3]
        assert ((picture.max(-1) - picture.min(-1)) > 0.2).mean() > 0.001


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_its_numbers_say(name, numbers):
    """Other numbers, another text: nothing that was measured is written down by hand."""
    moved = make_page(name, scaled(numbers[name], module_of(name).GIVEN))
    page = make_page(name, numbers[name])
    plt.close("all")
    assert moved.text != page.text
    assert page.question.endswith("?")


def test_what_is_stale_is_said(tmp_path, numbers):
    written = Path(shutil.copytree(ROOT, tmp_path / "questions"))
    assert stale(written) == []
    name, other = PAGES[0], PAGES[1]
    (written / f"{name}.md").write_text("something else")
    (written / "pictures" / f"{other}.png").unlink()
    (written / "README.md").write_text("")
    words = stale(written)
    assert len(words) == 3
    assert any(f"{name}.md: not what its numbers give" in line for line in words)
    assert any(f"{other}.png: missing" in line for line in words)
    left = {k: v for k, v in numbers.items() if k != name}
    (written / NUMBERS).write_text(json.dumps(left))
    assert any(f"has no {name!r}" in line for line in stale(written))


def test_changed_numbers_are_seen():
    recorded = {"a": 1.0, "b": [1.0, 100.0], "c": "x", "d": [{"e": 2.0}]}
    assert changed(plain(recorded), recorded, "page") == []
    assert changed({**recorded, "a": 1.01}, recorded, "page") == []
    for other in (
        {**recorded, "a": 1.2},
        {**recorded, "b": [1.0, 120.0]},
        {**recorded, "c": "y"},
        {**recorded, "d": [{"e": 3.0}]},
        {**recorded, "f": 1.0},
        {k: v for k, v in recorded.items() if k != "a"},
    ):
        assert len(changed(other, recorded, "page")) == 1
    with pytest.raises(ValueError, match="Out of range"):
        plain({"a": float("nan")})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "nothing"], "--only must be one of beta, .*got 'nothing'"),
        (["--measure"], "--measure needs --check"),
    ],
)
def test_bad_input(words, message, capsys):
    assert main(["questions", *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_numbers_that_are_no_json(tmp_path):
    (tmp_path / NUMBERS).write_text("{")
    with pytest.raises(ValueError, match=r"numbers\.json: damaged .*; write it with"):
        read_numbers(tmp_path)


def test_measuring_again_gives_the_committed_numbers(capsys):
    assert main(["questions", "--check", "--measure", "--only", "one_half"]) == 0


def test_the_index_lists_all(numbers):
    text = index(numbers)
    assert all(f"({name}.md)" in text for name in PAGES)
