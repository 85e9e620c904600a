"""`python -m toys practice`: predicted tilts against trained ones, and training at some times."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import SOME
from tests.toys.small import call, flip
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D, TRAINED_SHARE
from theory.fields.mixture import ModelField
from theory.ledger.liu.laws import plain_numbers
from theory.ledger.oracle import online
from theory.methods import Draws, ProblemTask
from theory.methods.matching.reward_mapping import released_mapping
from theory.problems.problem import load_problem
from theory.recursion import mapped as mapped_epochs
from theory.recursion.mapped import Line, Mapped
from theory.recursion.online import carry
from theory.recursion.spec import Recursion
from theory.released.times import uniform_times
from theory.samplers.flow import FlowLaw
from toys.commands.practice import tables
from toys.evaluation.online import log_densities
from toys.experiments.practice import runs as module
from toys.experiments.practice.runs import practice
from toys.experiments.practice.tilt import TiltPlan, failures, measure_tilt
from toys.experiments.practice.times import TimesPlan
from toys.networks.mlp import StackedMLP
from toys.training.config import RunConfig
from toys.training.runs import Run, unfinished_groups
from toys.training.schedule import plan as schedule_plan
from toys.training.schedule import train

NOTE = load_problem("note_1d")
TILT = TiltPlan(
    (("note_1d", 4.0),), epochs=2, epoch_steps=20, pool=256, batch=128, nodes=160, width=8
)
TIMES = TimesPlan(count=4, steps=20, batch=64, width=8, points=201)


@pytest.fixture(scope="module")
def line():
    return Line.of(NOTE, 12.0, 192)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder where small plans were practised."""
    out = tmp_path_factory.mktemp("practice")
    return out, practice(out, processes=1, tilt=TILT, times=TIMES)


# --- epochs without networks


def test_mapping_is_the_losses():
    """With the batch's own statistics it is theory.methods.matching.nft's, clipping included."""
    rows = torch.linspace(-30, 3, 200, dtype=torch.float64)[:, None]
    problem = load_problem("linear_1d")
    raw = problem.reward(rows)
    std, mean = torch.std_mean(raw, correction=0)
    ours = Mapped(problem.reward, float(mean), float(std))(rows)
    task = ProblemTask([problem], dtype=torch.float64)
    assert ALGEBRA.holds(ours, released_mapping(task, raw))
    clipped = Mapped(problem.reward, 0.0, 1.0)
    assert float(clipped(rows).min()) == 0.0
    assert clipped.bounds() == (0.0, 1.0)
    assert clipped.dim == 1


@given(a=st.floats(-3.0, 8.0))
@SOME
def test_tilt_of_a_tilt(a):
    line = Line.of(NOTE, 12.0, 192)
    assert QUADRATURE.holds(line.tilt(line.log_base, line.log_base + a * line.rewards), a, 1.0)
    assert not QUADRATURE.holds(line.tilt(line.log_base, line.log_base + 1.01 * a * line.rewards
                                          + 0.01 * line.rewards), a, 1.0)  # fmt: skip


def test_tilt_by_maximum_likelihood(line):
    """The a at which the expected log-likelihood of `after` is largest."""
    after = line.recursion(1.0, 1)[1]
    found = line.tilt(line.log_base, after)

    def likelihood(a):
        weight = np.exp(line.log_base + a * line.rewards)
        return a * line.moments(after)[0] - np.log(weight.sum())

    assert likelihood(found) > max(likelihood(found + s * 1e-3) for s in (-1, 1))


@pytest.mark.slow
def test_first_epoch_is_nft_at_the_mapped_scale(line):
    """From the law's own velocity: v0 + 2/(nft_beta 10 (std + 1e-4)) Cov(R, Y | x)."""
    _, std = line.moments(line.log_base)
    field = NOTE.cumulant_field(2 / (2.0 * 10 * (std + 1e-4)), 1)
    law = FlowLaw(field).log_density(line.points).numpy()
    ours = line.recursion(2.0, 1)[1]
    heavy = ours > ours.max() - 12
    assert QUADRATURE.holds(ours[heavy], law[heavy], 1.0)
    wrong = FlowLaw(NOTE.cumulant_field(2 / (2.0 * 10 * std), 1)).log_density(line.points).numpy()
    assert not QUADRATURE.holds(ours[heavy], wrong[heavy], 1.0)


@pytest.mark.slow
def test_later_epochs_start_from_the_optimum_before(line, monkeypatch):
    """With one mapping for all epochs it is theory's recursion in mode "student", and the second
    route's."""
    mean, std = line.moments(line.log_base)
    fixed = Mapped(NOTE.reward, mean, std)
    monkeypatch.setattr(mapped_epochs, "Mapped", lambda *parts: fixed)
    ours = line.recursion(2.0, 2)[2]
    problem = replace(NOTE, reward=fixed, route="quadrature")
    theirs = carry(problem, Recursion(2.0, "student"), 2, (line.axis,)).laws[2].log_density
    heavy = ours > ours.max() - 12
    assert QUADRATURE.holds(ours[heavy], theirs[heavy], 1.0)
    refit = carry(problem, Recursion(2.0, "refit"), 2, (line.axis,)).laws[2].log_density
    assert not QUADRATURE.holds(ours[heavy], refit[heavy], 1.0)
    # The second route knows rewards of its own only: r = 1/2 + (R - mean)/unit as one bump less a
    # constant is none of them, so that R itself is carried there and here.
    plain = carry(NOTE, Recursion(8.0, "student"), 2, (line.axis,)).laws[2].log_density
    sums = online.laws(plain_numbers(NOTE), 8.0, "student", 2)[2]
    inside = (line.axis > -3) & (line.axis < 4)
    assert QUADRATURE.holds(plain[inside], sums.log_density(line.axis[inside]), 1.0)


def test_an_exact_network_is_the_laws_own_velocity(line):
    own = line.epoch(line.log_base, None, 2.0)[0]
    given_field = line.epoch(line.log_base, NOTE.base_field, 2.0)[0]
    heavy = own > own.max() - 12
    assert QUADRATURE.holds(own[heavy], given_field[heavy], 1.0)
    mean, std = line.moments(line.log_base)
    other = line.epoch(line.log_base, NOTE.base_field, 2.0, (mean, 1.02 * std))[0]
    ratio = line.tilt(line.log_base, other) / line.tilt(line.log_base, own)
    assert abs(1.02 * ratio - 1) < 0.1 * 0.02  # a tenth of the change


def test_a_grid_that_does_not_hold_is_refused():
    short = Line(NOTE, np.linspace(-3.0, 2.0, 100))
    with pytest.raises(ValueError, match=r"grid of 100 nodes on .* does not hold"):
        short.recursion(0.5, 6)


# --- laws of networks


def test_log_densities_are_flow_laws(line):
    members = [StackedMLP(1, 1, 8, 2, Draws.seeded([s])).member(0) for s in (0, 1)]
    many = log_densities(members, np.linspace(-9, 9, 301), "two networks")
    alone = log_densities(members[1:], np.linspace(-9, 9, 301), "one network")
    assert QUADRATURE_2D.holds(many[1], alone[0], 1.0)
    assert not QUADRATURE_2D.holds(many[0], alone[0], 1.0)
    with pytest.raises(ValueError, match=r"the grid of two networks on .* must miss at most"):
        log_densities(members, np.linspace(0, 1, 10), "two networks")


# --- runs at some times


def test_training_draws_the_times_that_are_asked_for(tmp_path, monkeypatch):
    seen = []
    drawn = ProblemTask._times_from

    def watch(self, u):
        seen.append(drawn(self, u))
        return seen[-1]

    monkeypatch.setattr(ProblemTask, "_times_from", watch)
    configs = TIMES.configs()
    train(tmp_path, [configs["all times"].base()], processes=1)
    everywhere, seen[:] = torch.cat(seen), []
    train(tmp_path, [configs["the grid's"]], processes=1)
    assert set(torch.cat(seen).tolist()) == set(uniform_times(4))
    assert len(everywhere.unique()) > 100


def test_times_are_part_of_a_runs_identity(tmp_path):
    configs = TIMES.configs()
    whole, grid = configs["all times"], configs["the grid's"]
    assert "times" not in whole.as_json()  # nothing of what was trained before changes
    assert grid.as_json()["times"] == list(uniform_times(4))
    assert len({c.digest for c in configs.values()}) == len(configs)
    assert grid.base().digest == whole.base().digest
    assert grid.label.endswith(", 4 times")
    # Networks of other times do not train together.
    groups = schedule_plan(tmp_path, list(configs.values()))[1]
    assert sorted(len(g.members) for g in groups) == [1, 1, 1, 2]
    groups[0].begin()
    assert unfinished_groups(tmp_path)[0].members == groups[0].members


@pytest.mark.parametrize("times", [(0.5, 0.2), (0.5, 0.5), (-0.1,), (1.2,), (float("nan"),)])
def test_bad_times_are_refused(times):
    with pytest.raises(ValueError, match="times must be increasing numbers in"):
        RunConfig.checked(method="nft", problem="note_1d", times=times)


# --- the whole


def test_what_is_measured(done):
    out, found = done
    assert list(found) == ["tilt note_1d", "times"]
    tilt = found["tilt note_1d"]
    assert [row["epoch"] for row in tilt["epochs"]] == [1, 2]
    for row in tilt["epochs"]:
        assert ALGEBRA.holds(row["rule"], 0.2 / TILT.nft_beta)
        for name in ("rule", "exact epoch", "recursion"):
            assert ALGEBRA.holds(row[f"error of {name}"], row["tilt"] / row[name] - 1, 1.0)
    assert len(found["times"]["rows"]) == 5 * 5
    for row in found["times"]["rows"]:
        same = row["trained at"] == "all times"
        assert (row["TV to all times"] <= QUADRATURE.rtol) == same
    assert json.loads((out / "practice.json").read_text()) == found


def test_a_second_time_nothing_is_trained_or_measured(done, monkeypatch):
    out, found = done

    def again(*parts):
        raise TypeError("measured again")

    monkeypatch.setattr(module, "measure_tilt", again)
    monkeypatch.setattr(module, "measure_times", again)
    assert practice(out, processes=1, tilt=TILT, times=TIMES) == found
    # Another plan, or a damaged file: measured again.
    with pytest.raises(TypeError, match="measured again"):
        practice(out, "times", processes=1, tilt=TILT, times=replace(TIMES, points=101))
    kept = out / "practice" / "times.json"
    before = kept.read_bytes()
    kept.write_bytes(before[:40])
    with pytest.raises(TypeError, match="measured again"):
        practice(out, "times", processes=1, tilt=TILT, times=TIMES)
    kept.write_bytes(before)


def test_damaged_networks_are_not_measured(done, tmp_path):
    out, _ = done
    run = Run(out, TILT.config("note_1d"))
    path = run.folder / "snapshots.safetensors"
    flip(path, 400)
    try:
        with pytest.raises(ValueError, match="damaged"):
            measure_tilt(run, 4.0, TILT)
    finally:
        flip(path, 400)


def test_an_epoch_that_was_not_trained_is_seen(done):
    """Power: the network before stands for the one after; the other way round it passes."""
    _, found = done
    tilt = found["tilt note_1d"]
    rows = [{**row, "error of exact epoch": -1.0} for row in tilt["epochs"]]
    assert len(failures({"tilt note_1d": {**tilt, "epochs": rows}})) == 2
    rows = [{**row, "error of exact epoch": 0.9 * TRAINED_SHARE} for row in tilt["epochs"]]
    assert failures({"tilt note_1d": {**tilt, "epochs": rows}}) == []


def test_exact_optimum_in_a_networks_place(line):
    """What is predicted of an epoch is what its exact optimum shows when it is measured."""
    before = line.log_base
    after = line.epoch(before, NOTE.base_field, 2.0)[0]
    std = line.moments(before)[1]
    field = NOTE.cumulant_field(1 / (10 * (std + 1e-4)), 1)
    law = FlowLaw(ModelField(field, 1), rtol=1e-7, atol=1e-9)
    measured = law.log_density(line.points).numpy()
    assert QUADRATURE_2D.holds(line.tilt(before, measured), line.tilt(before, after))


def test_command_line(done, capsys, monkeypatch):
    out, found = done
    monkeypatch.setattr(module, "TiltPlan", lambda: TILT)
    monkeypatch.setattr(module, "TimesPlan", lambda: TIMES)
    status, text, _ = call(capsys, "practice", "--out", out, "--processes", 1)
    assert status == 0
    for word in ("exact epoch", "0.2/nft_beta", "Euler 4", "the grid's", "practice.json"):
        assert word in text
    status, text, err = call(capsys, "practice", "--out", out, "--json", "--check")
    assert json.loads(text) == found
    assert status == (1 if failures(found) else 0)
    assert len(err.splitlines()) >= len(failures(found))
    assert len(tables(found)) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "loss"), "only must .*got 'loss'"),
        (("--processes", 0), "--processes must .*got 0"),
        (("--out", __file__), r"\(a file\)"),
    ],
)
def test_bad_input_on_the_command_line(words, said, capsys):
    status, _, err = call(capsys, "practice", *words)
    assert status == 2
    assert re.search(said, err)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TiltPlan(nft_beta=0.0), lambda: TiltPlan(epochs=0),
        lambda: TimesPlan(count=2), lambda: TimesPlan(points=3),
    ],
)  # fmt: skip
def test_bad_plans(make):
    with pytest.raises(ValueError, match="must be"):
        make()
