"""docs/results/gflownets.md follows from its numbers, and what is stale or missing is said."""

from __future__ import annotations

import json
import shutil

import matplotlib.pyplot as plt
import pytest
from matplotlib import image

from figures.__main__ import main
from figures.gflownets import NAMES
from figures.gflownets.page import PACKAGE, PAGE, markdown, read_results
from figures.shared.pages import DOCS, module_of
from figures.shared.reference import LEAST_COLOUR, is_blank
from toys.experiments.gflownets import posterior
from toys.experiments.gflownets.comparison import METHODS
from toys.experiments.gflownets.runs import measuring_key

ROOT = DOCS.absolute()


@pytest.fixture(scope="module")
def numbers():
    return PAGE.read(ROOT)


def test_the_committed_page_is_what_its_numbers_give():
    assert PAGE.stale(ROOT) == []
    assert main(["gflownets", "--check"]) == 0


@pytest.mark.slow
def test_the_page_is_whole(tmp_path, numbers):
    PAGE.write(tmp_path, numbers)
    assert PAGE.stale(tmp_path) == []
    text = (tmp_path / PAGE.path).read_text()
    assert text == (ROOT / PAGE.path).read_text()
    assert "{" not in text  # nothing is left unfilled
    for name in PAGE.shown(numbers):
        assert f"](../{PAGE.folder}/{name}.png)" in text
        assert not is_blank(tmp_path / PAGE.folder / f"{name}.png"), LEAST_COLOUR
        # Pictures fit a page: readable, and no wider than a screen.
        height, width = image.imread(tmp_path / PAGE.folder / f"{name}.png").shape[:2]
        assert 700 < width < 1400
        assert height > 250


def test_the_text_says_what_the_numbers_say(numbers):
    """Other numbers, another text: nothing that was measured is written down by hand."""
    for name in PAGE.shown(numbers):
        module = module_of(PACKAGE, name)
        assert module.text(_scaled(numbers)) != module.text(numbers)
    assert markdown(_scaled(numbers)) != markdown(numbers)


def _scaled(data):
    if isinstance(data, dict):
        return {k: _scaled(v) for k, v in data.items()}
    if isinstance(data, list):
        return [_scaled(v) for v in data]
    return 1.37 * data if isinstance(data, float) else data


def test_every_row_has_a_name(numbers):
    assert set(NAMES) == {*METHODS, *posterior.METHODS, *posterior.UNTRAINED}
    assert {r["name"] for r in numbers["rows"]} <= set(METHODS)


def test_pictures_show_the_numbers(numbers):
    figure = module_of(PACKAGE, "methods").draw(numbers)
    for axes in figure.axes:
        own = [r for r in numbers["rows"] if axes.get_title() == f"{r['problem']}, d = {r['dim']}"]
        laws, targets = axes.containers
        assert [bar.get_width() for bar in laws] == [100 * (r["law_share"] or 0) for r in own]
        assert [bar.get_width() for bar in targets] == [100 * r["to_target_share"] for r in own]
    figure = module_of(PACKAGE, "posterior").draw(numbers)
    rows = numbers["posterior"]["rows"]
    for bars, row in zip(figure.axes[0].containers, rows, strict=True):
        kept = posterior.kept_modes(row)
        assert [bar.get_height() for bar in bars] == [row["modes"]["trained"][m] for m in kept]
    plt.close("all")


def test_what_is_stale_is_said(tmp_path, numbers, capsys):
    parts = (
        PAGE.path,
        PAGE.numbers,
        *(f"{PAGE.folder}/{name}.png" for name in PAGE.shown(numbers)),
    )
    for part in parts:
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, tmp_path / part)
    assert main(["gflownets", "--check", "--out", str(tmp_path)]) == 0
    (tmp_path / PAGE.path).write_text("something else")
    (tmp_path / PAGE.folder / "methods.png").unlink()
    assert main(["gflownets", "--check", "--out", str(tmp_path)]) == 1
    words = capsys.readouterr().err
    assert "methods.png: missing" in words
    assert f"{PAGE.path}: not what its numbers give" in words


def test_results_are_read_and_refused(tmp_path, numbers, capsys):
    path = tmp_path / "gflownets.json"
    path.write_text(json.dumps({**numbers, "key": measuring_key()}))
    assert read_results(path) == numbers
    path.write_text(json.dumps({**numbers, "key": "older"}))
    with pytest.raises(ValueError, match=r"gflownets\.json: holds runs of other code than today's"):
        read_results(path)
    path.write_text(json.dumps({"rows": numbers["rows"]}))
    assert main(["gflownets", "--results", str(path), "--out", str(tmp_path)]) == 2
    assert "has no posterior; make it with `python -m toys" in capsys.readouterr().err
    with pytest.raises(ValueError, match=PAGE.numbers):
        PAGE.read(tmp_path)
