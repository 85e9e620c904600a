"""Pages of results follow from their numbers, and what is stale or missing is said."""

from __future__ import annotations

import shutil

import pytest
from matplotlib import image

from figures.__main__ import main
from figures.control.page import PAGE as CONTROL
from figures.gflownets.page import PAGE as GFLOWNETS
from figures.shared.pages import DOCS
from figures.shared.reference import LEAST_COLOUR, is_blank
from tests.figures.numbers import scaled

ROOT = DOCS.absolute()
PAGES = {"control": CONTROL, "gflownets": GFLOWNETS}
SECTIONS = [(name, picture) for name, page in PAGES.items() for picture in page.sections]


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_what_its_numbers_give(name):
    assert PAGES[name].stale(ROOT) == []
    assert main([name, "--check"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(name, tmp_path):
    page, numbers = PAGES[name], PAGES[name].read(ROOT)
    page.write(tmp_path, numbers)
    assert page.stale(tmp_path) == []
    text = (tmp_path / page.path).read_text()
    assert text == (ROOT / page.path).read_text()
    assert "{" not in text  # nothing is left unfilled
    for picture in page.shown(numbers):
        path = tmp_path / page.folder / f"{picture}.png"
        assert f"](../{page.folder}/{picture}.png)" in text
        assert not is_blank(path), LEAST_COLOUR
        # Pictures fit a page: readable, and no wider than a screen.
        height, width = image.imread(path).shape[:2]
        assert 700 < width < 1400
        assert height > 250


@pytest.mark.parametrize(("name", "picture"), SECTIONS)
def test_the_text_says_what_the_numbers_say(name, picture):
    """Other numbers, another text: nothing that was measured is written down by hand."""
    page, numbers = PAGES[name], PAGES[name].read(ROOT)
    module = page.module_of(picture)
    assert module.text(scaled(numbers)) != module.text(numbers)
    assert page.short(scaled(numbers)) != page.short(numbers)


@pytest.mark.parametrize("name", PAGES)
def test_what_is_stale_is_said(name, tmp_path, capsys):
    page = PAGES[name]
    pictures = page.shown(page.read(ROOT))
    for part in (page.path, page.numbers, *(f"{page.folder}/{p}.png" for p in pictures)):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, tmp_path / part)
    assert main([name, "--check", "--out", str(tmp_path)]) == 0
    (tmp_path / page.path).write_text("something else")
    (tmp_path / page.folder / f"{pictures[0]}.png").unlink()
    assert main([name, "--check", "--out", str(tmp_path)]) == 1
    words = capsys.readouterr().err
    assert f"{pictures[0]}.png: missing" in words
    assert f"{page.path}: not what its numbers give" in words
    (tmp_path / page.numbers).unlink()
    with pytest.raises(ValueError, match=page.numbers):
        page.read(tmp_path)
