"""Trained against exact: networks, what is measured of them, what is kept."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.common.tolerances import ALGEBRA
from theory.methods import Draws
from theory.problems.problem import load_problem
from theory.recursion.stages import reached, total_variation
from theory.tilts.wrappers import Exponential
from toys.__main__ import main
from toys.experiments.exact_tilt import runs
from toys.experiments.exact_tilt import trial as module
from toys.experiments.exact_tilt.runs import (
    SUMMARY,
    file_of,
    measure,
    run,
    summary,
    truth_of,
)
from toys.experiments.exact_tilt.trial import PooledTask, Trial, fine_tune, trials
from toys.networks.corrected import Corrected, network_with_divergence, push, starts
from toys.networks.mlp import StackedMLP

ROOT_SUMMARY = SUMMARY.absolute()
TINY = Trial("note_1d", "implicit", 2.0, 2, 8, 64, seeds=2, width=8, batch=32)


def network(dim: int, blocks: int = 2, depth: int = 2) -> StackedMLP:
    made = StackedMLP(dim, dim, 12, depth, Draws.seeded(list(range(blocks))))
    return made.to(torch.float64).requires_grad_(False)


# --- the divergence in closed form


@settings(max_examples=12, deadline=None)
@given(dim=st.integers(1, 6), blocks=st.integers(1, 3), t=st.floats(0, 1), seed=st.integers(0, 99))
def test_divergence_is_the_trace_of_the_jacobian(dim, blocks, t, seed):
    net = network(dim, blocks)
    x = torch.randn(blocks * 4, dim, dtype=torch.float64,
                    generator=torch.Generator().manual_seed(seed))  # fmt: skip
    value, spread = network_with_divergence(net, x, t)
    time = x.new_full((len(x),), t)
    assert ALGEBRA.holds(value, net(x, time), 1.0)
    x.requires_grad_(True)
    out = net(x, time)
    trace = sum(torch.autograd.grad(out[:, i].sum(), x, retain_graph=True)[0][:, i]
                for i in range(dim))  # fmt: skip
    assert ALGEBRA.holds(spread, trace.detach(), 1.0)
    swapped = net.weight[1].mT.clone()
    net.weight[1].copy_(swapped)  # a transposed layer is seen
    assert not ALGEBRA.holds(network_with_divergence(net, x.detach(), t)[1], trace.detach(), 1.0)


def test_another_depth_is_refused():
    with pytest.raises(ValueError, match="depth must be 2, got 3"):
        network_with_divergence(network(2, depth=3), torch.zeros(2, 2, dtype=torch.float64), 0.5)


# --- the law


@pytest.mark.parametrize("name", ["note_1d", "bump_2d"])
def test_push_of_the_base_is_the_base(name):
    problem = load_problem(name)
    x, log_p = push(problem.base_field.with_divergence, starts(512, problem.dim))
    error = (log_p - problem.base.log_density(x)).abs()
    assert float(error.mean()) < 2e-3
    assert float((log_p - problem.base.log_density(x + 0.1)).abs().mean()) > 2e-2


@pytest.mark.slow
def test_an_exact_field_measures_its_own_bias():
    """What is trained to NFT's optimum measures NFT's exact error, of the target it measures 0."""
    problem, total = load_problem("note_1d"), 6.0
    target = problem.tilt(Exponential(total))
    to_go = truth_of("note_1d", total).to_go
    exact = reached(problem, "nft", total)
    assert to_go == pytest.approx(exact.to_go, rel=0.01)
    for field, expected in (
        (problem.cumulant_field(total, 1), exact.share),
        (problem.tilted_field(Exponential(total)), 0.0),
    ):
        x, log_p = push(field.with_divergence, starts(2048, 1))
        found = total_variation(log_p, target.log_density(x)).value / to_go
        assert abs(found - expected) < 0.01


def test_the_reward_s_law_of_the_target():
    truth = truth_of("bump_2d", 8.0)
    problem = load_problem("bump_2d")
    generator = torch.Generator().manual_seed(1)
    law = problem.tilt(Exponential(8.0)).law
    drawn = problem.reward(law.sample(2000, generator))
    base = problem.reward(problem.base.sample(2000, generator))
    assert truth.distance(drawn) < 1.5 * truth.floor(2000)
    assert truth.distance(base) == pytest.approx(truth.reward_to_go, rel=0.05)
    assert truth.distance(base) > 10 * truth.floor(2000)


# --- training


def test_the_start_is_the_base():
    trial = replace(TINY, learning_rate=1e-12)
    found = measure(trial, *fine_tune(trial))
    assert found["shares"] == pytest.approx([1.0, 1.0], abs=0.02)


def test_training_comes_nearer():
    trial = Trial("note_1d", "implicit", 3.0, 1, 120, 2048, seeds=1, width=32, batch=256)
    assert max(measure(trial, *fine_tune(trial))["shares"]) < 0.4


def test_the_pool_is_all_that_is_rewarded():
    problem = load_problem("note_1d")
    task = PooledTask([problem, problem])
    draws = Draws.seeded([0, 1])
    model = Corrected(problem.to(torch.float32), network(1).to(torch.float32))
    task.fill(model, 16, draws)
    x1 = task.endpoints(500, draws)[1]
    assert len(task.pool) == 32
    for block, rows in enumerate(x1.split(500)):
        own = task.pool[16 * block : 16 * (block + 1)]
        assert set(rows.flatten().tolist()) <= set(own.flatten().tolist())
        assert len(set(rows.flatten().tolist())) > 12


def test_a_copy_stays_and_shares_the_base():
    problem = load_problem("note_1d").to(torch.float32)
    model = Corrected(problem, network(1).to(torch.float32))
    twin = model.frozen_copy()
    x, t = torch.randn(8, 1), torch.rand(8)
    before = twin(x, t)
    with torch.no_grad():
        model.network.bias[-1].add_(1.0)
    assert torch.equal(twin(x, t), before)
    assert torch.allclose(model(x, t) - before, torch.ones(8, 1), atol=1e-5)
    # Other points at the same places in memory are other points.
    assert not torch.equal(twin(x + 1, t), before)


def test_schemes_of_one_level_cost_the_same():
    levels: dict[tuple[str, int], set[int]] = {}
    for trial in trials():
        levels.setdefault((trial.problem, trial.steps), set()).add(trial.rewards)
    assert all(len(rewards) == 1 for rewards in levels.values())


# --- what is kept


def test_a_finished_trial_is_kept_and_a_damaged_one_made_again(tmp_path, monkeypatch):
    first = run(tmp_path, [TINY])
    path = file_of(tmp_path, TINY)
    stamp = path.stat().st_mtime_ns
    assert run(tmp_path, [TINY]) == first
    assert path.stat().st_mtime_ns == stamp
    path.write_text(path.read_text()[:40])
    again = run(tmp_path, [TINY])
    assert again[0]["shares"] == first[0]["shares"]  # the same seeds, the same numbers
    other = replace(TINY, stages=1)
    assert file_of(tmp_path, other) != path
    assert run(tmp_path, [other])[0]["shares"] != first[0]["shares"]


def test_the_command_writes_a_summary(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "trials", lambda: [TINY])
    monkeypatch.setattr(runs, "SUMMARY", tmp_path / "docs" / "exact_tilt.json")
    assert main(["exact-tilt", "--out", str(tmp_path), "--processes", "1", "--write"]) == 0
    written = json.loads((tmp_path / "docs" / "exact_tilt.json").read_text())
    assert [row["loss"] for row in written["rows"]] == ["implicit"]
    assert "2 stages" in capsys.readouterr().out
    assert main(["exact-tilt", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == written


def test_the_committed_summary_is_of_these_trials():
    """Made by this code: otherwise `python -m toys exact-tilt --write` was forgotten."""
    found = json.loads(ROOT_SUMMARY.read_text())
    keys = ("problem", "loss", "stages", "steps", "rewards", "total")
    assert [[row[k] for k in keys] for row in found["rows"]] == [
        [getattr(t, k) for k in keys] for t in trials()
    ]
    assert summary([])["command"] == found["command"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "other"}, "loss must be one of nft, .*got 'other'"),
        ({"total": 0.0}, "total must .*got 0.0"),
        ({"stages": 3}, "steps must be a multiple of stages = 3, got 8"),
        ({"stages": 0}, "stages must .*got 0"),
        ({"rewards": 63}, "rewards must be a multiple of stages = 2, got 63"),
    ],
)
def test_bad_trials(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_a_loss_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="the loss must stay finite"):
        fine_tune(replace(TINY, learning_rate=1e30))


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--processes", "0"], "--processes must .*got 0"), (["--out", __file__], r"\(a file\)")],
)
def test_bad_options(words, message, capsys):
    assert main(["exact-tilt", *words]) == 2
    assert re.search(message, capsys.readouterr().err)
