"""What docs/results/control.md shows, and which results it is made of."""

from __future__ import annotations

import json
from dataclasses import asdict

import matplotlib.pyplot as plt
import numpy as np
import pytest

from figures.__main__ import main
from figures.control import cases, matrix
from figures.control.methods import NAMES
from figures.control.page import PAGE, read_results
from figures.shared.pages import DOCS
from theory.common.files import write_json
from theory.common.tolerances import TRAINED_SHARE
from theory.control.cases import control_case
from toys.commands.cases import percent
from toys.experiments.cases import runs as measured
from toys.experiments.cases.config import CaseConfig
from toys.experiments.control import METHODS, failures, measuring_key

ROOT = DOCS.absolute()


@pytest.fixture(scope="module")
def numbers():
    return PAGE.read(ROOT)


def test_the_floors_hold_in_what_is_shown(numbers):
    assert failures(numbers["rows"]) == []
    assert all(law["law_share"] <= TRAINED_SHARE for law in numbers["schedules"]["laws"])


def test_every_method_has_a_name_and_a_style():
    assert list(NAMES) == list(METHODS)
    assert len(PAGE.module_of("methods").STYLES) == len(NAMES)
    assert len({color for color, _ in PAGE.module_of("methods").STYLES}) == len(NAMES)
    assert len({marker for _, marker in PAGE.module_of("methods").STYLES}) == len(NAMES)


def test_the_matrix_is_placed_by_name(numbers):
    shuffled = numbers["schedules"]["matrix"][::-1]
    rows, columns, tables = matrix.grid(shuffled)
    for m in shuffled:
        place = rows.index(m["trained with"]), columns.index(m["sampled with"])
        assert tables["exact"][place] == m["exact"]
        assert tables["trained"][place] == m["trained"]


def test_pictures_show_the_numbers(numbers):
    figure = PAGE.module_of("schedules").draw(numbers)
    for axes, law in zip(figure.axes, numbers["schedules"]["laws"], strict=True):
        shown = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
        assert np.array_equal(shown["exact optimum, continuous time"], law["continuous"])
        assert np.array_equal(shown["exact optimum of the chain"], law["chain"])
    figure = PAGE.module_of("methods").draw(numbers)
    points = [line for line in figure.axes[0].get_lines() if line.get_label() in NAMES.values()]
    assert sum(len(line.get_ydata()) for line in points) == len(numbers["rows"])
    figure = PAGE.module_of("cases").draw(numbers)
    for row in numbers["cases"]:
        name = f"{row['case']}, d = {row['dim']}"
        (axes,) = (a for a in figure.axes if a.get_title() == name)
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert lines[cases._name(row)].get_xydata().tolist() == [
            [spent / 1e6, error] for spent, error in row["curve"]
        ]
        assert row["floor"] in lines["the diffusion's u* (for scale)"].get_ydata()
    plt.close("all")


@pytest.mark.parametrize(
    ("error", "kind"), [(0.01, "Learned"), (0.2, "Partly"), (0.7, "Not learned")]
)
def test_runs_are_sorted_by_their_error(numbers, error, kind):
    rows = [{**row, "control_error": error} for row in numbers["cases"]]
    lines = cases.text({**numbers, "cases": rows}).splitlines()
    found = {line.split(" (error")[0][2:]: line for line in lines if line.startswith("- ")}
    for name, line in found.items():
        assert ("none" in line) == (name != kind)
    for row in (row for row in rows if row["start"] == "none"):
        (own,) = (p for p in found[kind].split("; ") if f"{row['case']}: " in p)
        assert f"{cases.NAMES[row['method']]} {percent(error)}" in own


def test_every_kind_of_coordinate_of_a_well_is_shown(numbers):
    words = cases.text(numbers)
    for name in ("double_well_10d", "double_well_20d"):
        case = control_case(name)
        for kappa, nu in set(zip(case.kappa.tolist(), case.nu.tolist(), strict=True)):
            count = int(((case.kappa == kappa) & (case.nu == nu)).sum())
            assert words.count(f"| {kappa:g} | {nu:g} | {count} |") >= len(cases.NAMES)
            assert f"| {name} | Adjoint Matching (lean) | {kappa:g} | {nu:g} | {count} |" in words


def test_results_are_read_and_refused(tmp_path, numbers, capsys):
    path, own = tmp_path / "control.json", tmp_path / "cases"
    rest = {k: v for k, v in numbers.items() if k != "cases"}
    path.write_text(json.dumps({**rest, "key": measuring_key()}))
    for row in numbers["cases"]:
        config = CaseConfig(row["case"], row["method"], start=row["start"])
        kept = {"key": measured.measuring_code(), "row": {**asdict(config), **row}}
        write_json(config.place(own, ".json"), kept)
    assert read_results(path, own) == numbers
    CaseConfig("ou_linear", "adjoint_matching").place(own, ".json").unlink()
    with pytest.raises(ValueError, match=r"has no adjoint_matching @ ou_linear .* make it with"):
        read_results(path, own)
    path.write_text(json.dumps({**rest, "key": "older"}))
    with pytest.raises(ValueError, match=r"control\.json: holds runs of other code than today's"):
        read_results(path, own)
    path.write_text(json.dumps({k: v for k, v in numbers.items() if k != "schedules"}))
    assert main(["control", "--results", str(path), "--out", str(tmp_path)]) == 2
    assert "has no schedules; make it with `python -m toys control" in capsys.readouterr().err
    path.unlink()
    assert main(["control", "--results", str(path), "--out", str(tmp_path)]) == 2
    assert "missing; make it with" in capsys.readouterr().err
