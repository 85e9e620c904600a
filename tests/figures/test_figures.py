"""Figures: numbers match the reference and the comparison notices when they do not."""

from __future__ import annotations

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import image

from figures.__main__ import main
from figures.note import FIGURES
from figures.note.order_of_error import fitted_slope
from figures.shared import reference
from figures.shared.fresh import stamp
from figures.shared.result import SETTINGS
from theory.common.files import write_json
from theory.common.tolerances import QUADRATURE, SLOPE, TRAINED_SHARE

NOTE = ["make", "--setting", "small", "--exact", "--only", "figure1", "figure2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The two figures of the note, once."""
    folder = tmp_path_factory.mktemp("figures")
    return main([*NOTE, "--out", str(folder)]), folder


@pytest.mark.slow
def test_note_figures_match_the_reference(made):
    status, folder = made
    assert status == 0
    for name in ("figure1", "figure2"):
        assert (folder / f"{name}.pdf").stat().st_size > 5000
        assert reference.check_files(folder, "small", name) == []


@pytest.fixture
def stand_ins(tmp_path):
    """A folder of the reference's numbers beside pictures of something else."""
    figure, axes = plt.subplots()
    axes.fill([0, 0, 1], [0, 1, 1], "C0")
    for name in ("figure1", "figure2"):
        for ending in ("png", "pdf"):
            figure.savefig(tmp_path / f"{name}.{ending}")
        (tmp_path / f"{name}.json").write_text(reference.reference_text("small", name))
    plt.close(figure)
    return tmp_path


def test_check_sees_blank_missing_and_changed_files(stand_ins):
    for name in ("figure1", "figure2"):
        assert reference.check_files(stand_ins, "small", name) == []
    image.imsave(stand_ins / "figure1.png", np.ones((80, 120, 3)))
    assert reference.check_files(stand_ins, "small", "figure1") == [
        f"{stand_ins}/figure1.png: blank"
    ]
    (stand_ins / "figure2.pdf").write_bytes(b"")
    assert "missing or empty" in reference.check_files(stand_ins, "small", "figure2")[0]
    numbers = json.loads((stand_ins / "figure1.json").read_text())
    numbers["law"][3] += 1.0
    write_json(stand_ins / "figure1.json", numbers)
    assert any("law[3]" in line for line in reference.check_files(stand_ins, "small", "figure1"))
    assert main(["check", "--setting", "small", "--out", str(stand_ins)]) == 1


def test_comparison_sees_a_changed_number():
    numbers = json.loads(reference.reference_text("small", "figure1"))
    off = json.loads(json.dumps(numbers))
    off["law"][7] += 10 * QUADRATURE.rtol
    off["distances"].pop("exp")
    off["extra"] = float("nan")
    lines = reference.differences(off, numbers)
    assert len(lines) == 1 + len(numbers["distances"]["exp"]) + 1
    assert any(line.startswith("law[7]") for line in lines)


def test_every_figure_has_a_reference_in_both_settings():
    for setting in SETTINGS:
        for name in FIGURES:
            assert reference.reference_text(setting, name), (setting, name)


def test_slopes_of_the_reference_are_the_orders():
    """Order n leaves an error of order a^{n+1}, in the field and in the law (claim L8)."""
    slopes = json.loads(reference.reference_text("full", "order_of_error"))["slopes"]
    for order in (1, 2, 3, 4):
        for what in ("field", "law"):
            assert abs(slopes[f"{what} {order}"] - (order + 1)) < SLOPE


def test_slope_is_fitted_above_the_floor_only():
    a = np.geomspace(0.01, 1, 21)
    errors = 3 * a**4
    assert QUADRATURE.holds(fitted_slope(a, errors, 0.0), 4.0)
    assert QUADRATURE.holds(fitted_slope(a, np.maximum(errors, 1e-5), 1e-6), 4.0)
    assert not QUADRATURE.holds(fitted_slope(a, np.maximum(errors, 1e-5), 1e-9), 4.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "--setting", "huge"], "--setting must be small or full, got 'huge'"),
        (["make", "--only", "figure9"], "--only must be one of figure1, .*got 'figure9'"),
        (
            ["make", "--exact", "--only", "error_budget"],
            "--only must be figures of exact laws beside --exact, ",
        ),
    ],
)
def test_bad_input(arguments, message, capsys):
    assert main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)


def test_out_that_is_a_file(tmp_path, capsys):
    file = tmp_path / "taken"
    file.write_text("")
    assert main([*NOTE, "--out", str(file)]) == 2
    assert "--out" in capsys.readouterr().err


def test_networks_that_are_not_trained_are_asked_for_by_command(tmp_path, capsys):
    assert main(["make", "--runs", str(tmp_path), "--out", str(tmp_path / "figures")]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path) in message
    assert "python -m toys train --preset figures" in message
    assert not (tmp_path / "figures").exists()


@pytest.mark.slow
def test_a_figure_is_made_again_only_where_something_changed(made, capsys):
    status, folder = made
    picture = folder / "figure1.png"
    before = picture.stat().st_mtime_ns
    capsys.readouterr()
    assert main([*NOTE, "--out", str(folder)]) == status
    assert capsys.readouterr().out.count("up to date") == 2
    assert picture.stat().st_mtime_ns == before
    good = picture.read_bytes()
    picture.write_bytes(good[:-20])
    assert main([*NOTE, "--out", str(folder)]) == status
    assert picture.read_bytes() == good
    assert capsys.readouterr().out.count("up to date") == 1
    assert stamp("figure1", "small", "a run") != stamp("figure1", "small")
    assert len({stamp(name, size) for name in ("figure1", "figure2") for size in SETTINGS}) == 4


def test_trained_networks_are_held_to_their_tier():
    numbers = json.loads(reference.reference_text("small", "error_budget"))
    good = {"nft": {"learning_share": TRAINED_SHARE}}
    assert reference.check("small", "error_budget", {**numbers, "trained": good}) == []
    for share in (1.01 * TRAINED_SHARE, float("nan")):
        bad = {"nft": {"learning_share": share}}
        (line,) = reference.check("small", "error_budget", {**numbers, "trained": bad})
        assert "trained.nft" in line


def test_list(capsys):
    assert main(["list", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(FIGURES)
