"""`python -m theory control`: tables that agree with the theory, and refusals."""

import json
import re

import pytest

from theory.__main__ import main
from theory.common.tolerances import QUADRATURE
from theory.control.cases import control_case
from theory.control.linear import of_gaussian
from theory.fields.diffusion import Diffusion
from theory.problems.problem import load_problem
from theory.tilts.wrappers import Exponential

ONE = """\
scale = 1.5
path = "{path}"
[base]
weights = [1.0]
means = [[0.4]]
stds = [0.8]
[reward]
kind = "quadratic"
matrix = [[-0.3]]
vector = [0.7]
constant = 0.1
"""


def shown(capsys, *arguments):
    assert main(["control", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "path", ["rectified_flow", pytest.param("variance_preserving", marks=pytest.mark.slow)]
)
def test_rows_agree_with_riccati(path, tmp_path, capsys):
    """One Gaussian, also where X_0 has a little of the data in it (alpha_0 > 0)."""
    file = tmp_path / "one.toml"
    file.write_text(ONE.format(path=path))
    problem = load_problem(str(file))
    found = shown(capsys, "--problem", str(file), "--schedule", "1", "--points", "161")
    (row,) = found["schedules"]
    linear = of_gaussian(problem, 1.5, Diffusion.of_constant(1.0))
    assert QUADRATURE.holds(row["value"], linear.expected_value(), 1.0)
    mean, cov = linear.law()
    reward = 0.7 * mean[1] - 0.15 * (mean[1] ** 2 + cov[1, 1]) + 0.1
    assert QUADRATURE.holds(row["reward"], reward, 1.0)
    assert not QUADRATURE.holds(row["reward_of_tilt"], reward, 1.0)


def test_memoryless_is_the_tilt(capsys):
    (row,) = shown(capsys, "--problem", "linear_1d", "--schedule", "memoryless")["schedules"]
    problem = load_problem("linear_1d")
    assert row["tv_to_tilt"] == 0
    assert row["value"] == -float(problem.tilt(Exponential(problem.scale)).log_z)


def test_cases(capsys):
    found = shown(capsys, "--case", "ou_linear", "--steps", "32", "64")
    case = control_case("ou_linear")
    assert found["value"] == case.expected_value()
    assert [row["steps"] for row in found["grids"]] == [32, 64]
    gaps = [row["value"] - found["value"] for row in found["grids"]]
    assert abs(gaps[1]) < abs(gaps[0])
    refused = shown(capsys, "--case", "double_well_10d", "--steps", "4")["grids"][0]
    assert "refused" in refused


def test_tables(capsys):
    assert main(["control", "--case", "ou_linear", "--steps", "16"]) == 0
    assert "continuous" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["memoryless", "offset:0.05", "0.3"])
def test_schedules(text):
    assert Diffusion.parse(text).label


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (["--problem", "note_1d", "--schedule", "fast"], "schedule must .*got 'fast'"),
        (["--problem", "note_1d", "--schedule", "offset:0"], "offset:0"),
        (["--problem", "note_1d", "--scale", "-1", "--schedule", "1"], "scale must .*got -1"),
        (["--problem", "full_5d"], "d = 5"),
        (["--problem", "note_1d", "--steps", "4"], "--steps"),
        (["--case", "ou_linear", "--scale", "2"], "--scale"),
        (["--case", "ou_linear", "--points", "99"], "--points"),
        (["--case", "nobody"], "nobody"),
        (["--case", "ou_linear", "--steps", "0"], "steps must .*got 0"),
    ],
)
def test_bad_input(arguments, needle, capsys):
    assert main(["control", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(needle, error)
    assert "must" in error
