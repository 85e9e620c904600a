"""`python -m theory optima`: what exact optima on a chain sample."""

from __future__ import annotations

import json

import pytest

from theory.__main__ import main
from theory.common.tolerances import QUADRATURE
from theory.control.chain_optimum import regularised_optimum
from theory.evaluation.sampler_laws import Bench
from theory.laws.distances import grid_distances
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain, state_axes
from theory.tilts.wrappers import Exponential


def asked(capsys, *words):
    status = main(["optima", *words])
    return status, *capsys.readouterr()


def test_rows_are_distances_of_the_projection(capsys):
    words = ("--method", "residual_db:held=true", "--method", "trajectory_balance:scale=3")
    status, out, _ = asked(capsys, *words, "--steps", "4", "--json")
    assert status == 0
    held, alone = json.loads(out)
    note = load_problem("note_1d")
    chain, goal = Chain(4, 0.1), note.tilt(Exponential(2.0))
    axes = state_axes(chain, [note.base, goal.law], 0.5)
    best = regularised_optimum(chain, note.base_field, note.reward, 2.0, axes)
    bench = Bench.of(note, chain, [goal])
    target = bench.of_target(goal).grid
    expected = grid_distances(bench.of_velocity(best).grid, target)
    assert held["optimum"] == alone["optimum"] == "KL projection"
    assert QUADRATURE.holds(held["to the target"], expected["W1"].value)
    assert QUADRATURE.holds(held["TV"], expected["TV"].value)
    # Of the base's own chain, which is some way from the base too.
    base = grid_distances(bench.of_velocity(note.base_field).grid, target)["W1"].value
    assert QUADRATURE.holds(held["of the base's"], expected["W1"].value / base)
    # R^3 alone, which is no tilt of the base, and nearer than the base too.
    assert 0 < alone["of the base's"] < 1


def test_what_states_none_or_its_own(capsys):
    words = ("--method", "ddpo", "--method", "residual_db", "--steps", "3")
    status, out, _ = asked(capsys, *words)
    assert status == 0
    assert "none stated" in out
    assert "own fixed point" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "tilt_matching"), "--method must run on a chain of kernels"),
        (("--problem", "full_5d"), "--problem must have d = 1 or 2, got 'full_5d', d = 5"),
        (("--steps", "1"), "--steps must be"),
        (("--problem", "linear_1d", "--method", "dag_db"), "the reward of problem 'linear_1d'"),
    ],
)
def test_bad_input(words, said, capsys):
    status, _, err = asked(capsys, *words)
    assert status == 2
    assert said in err


def test_one_optimum_has_one_log_z():
    note = load_problem("note_1d")
    texts = (
        "relative_trajectory_balance:",
        "residual_db:held=true,",
        "residual_nabla_db:held=true,",
        "residual_nabla_db:bidirectional=true,",
    )
    found = [parse_method(f"{text}steps=4,sigma_end=0.1").optimum(note).log_z for text in texts]
    assert found == found[:1] * 4
    assert 0 < found[0] < float(note.tilt(Exponential(2.0)).log_z)  # a lower bound on log Z
