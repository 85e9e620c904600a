"""What docs/results/gflownets.md shows, and which results it is made of."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import pytest

from figures.__main__ import main
from figures.gflownets import NAMES
from figures.gflownets.page import PAGE, read_results
from figures.shared.pages import DOCS
from toys.experiments.gflownets import posterior
from toys.experiments.gflownets.comparison import METHODS
from toys.experiments.gflownets.runs import measuring_key

ROOT = DOCS.absolute()


@pytest.fixture(scope="module")
def numbers():
    return PAGE.read(ROOT)


def test_every_row_has_a_name(numbers):
    assert set(NAMES) == {*METHODS, *posterior.METHODS, *posterior.UNTRAINED}
    assert {r["name"] for r in numbers["rows"]} <= set(METHODS)


def test_pictures_show_the_numbers(numbers):
    figure = PAGE.module_of("methods").draw(numbers)
    for axes in figure.axes:
        own = [r for r in numbers["rows"] if axes.get_title() == f"{r['problem']}, d = {r['dim']}"]
        laws, targets = axes.containers
        assert [bar.get_width() for bar in laws] == [100 * (r["law_share"] or 0) for r in own]
        assert [bar.get_width() for bar in targets] == [100 * r["to_target_share"] for r in own]
    figure = PAGE.module_of("posterior").draw(numbers)
    rows = numbers["posterior"]["rows"]
    for bars, row in zip(figure.axes[0].containers, rows, strict=True):
        kept = posterior.kept_modes(row)
        assert [bar.get_height() for bar in bars] == [row["modes"]["trained"][m] for m in kept]
    plt.close("all")


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
