"""`python -m toys gflownets`: what is measured, the floors, tiny budgets, bad input."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
import torch

from tests.toys.small import call
from theory.common.tolerances import ALGEBRA, QUADRATURE, TRAINED_SHARE
from theory.control.chain_optimum import NotUniqueError
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain
from toys.commands.gflownets import tables
from toys.evaluation import policies
from toys.evaluation.policies import PolicyTruth, measure_policy
from toys.experiments.gflownets import ablations, comparison, posterior, runs
from toys.experiments.gflownets.comparison import LONGER, METHODS, WITHOUT_PRIOR, Plan
from toys.training import config as training_config

NOTE = load_problem("note_1d")
PLAN = Plan(budget=3e4, batch=16, width=8)
METHOD = "relative_trajectory_balance:steps=4,sigma_end=0.1"


@pytest.fixture(scope="module")
def truth():
    return PolicyTruth.of(parse_method(METHOD), NOTE)


@pytest.fixture(scope="module", autouse=True)
def short_bases():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_config, "BASE_STEPS", 200)
        yield


# --- the measurement


def test_the_optimum_passes_and_the_base_fails(truth):
    best = measure_policy(truth, truth.best.velocity)
    base = measure_policy(truth, NOTE.base_field)
    assert best["law_share"] <= QUADRATURE.rtol
    assert abs(best["bound"] - best["bound_of_optimum"]) <= 5 * best["bound_se"]
    assert best["path_kl"] > 5 * best["path_kl_se"]
    assert ALGEBRA.holds(base["law_share"], 1.0)
    assert ALGEBRA.holds(base["path_kl"], 0.0, 1.0)
    # Without a control the bound is the mean reward alone.
    assert abs(base["bound"] - NOTE.scale * base["reward"]["base"]) <= 5 * base["bound_se"]
    assert base["bound"] < best["bound"] < best["log_z"]


def test_no_optimum_where_the_best_kernels_may_be_several():
    """Told as unknown; other refusals of a method's optimum still end the measurement."""
    method, problem = parse_method("trajectory_balance:scale=3"), load_problem("bumps_1d")
    with pytest.raises(NotUniqueError, match="so that the best kernel is unique"):
        method.optimum(problem)
    unknown = PolicyTruth.of(method, problem)
    assert unknown.best is unknown.optimum is None


def test_the_kl_is_that_of_the_kernels(truth):
    """A velocity that is off by a constant: the same KL at every state, known by hand."""
    shift = 0.1
    kl, spread, _, _ = policies.path_kl(
        truth, lambda x, t, cond=None: NOTE.base_field(x, t) + shift, 64
    )
    _, Q, s = truth.chain.coefficients(torch.zeros(1, dtype=torch.float64))
    assert ALGEBRA.holds(kl, float(0.5 * (shift * Q / s).square().sum()))
    assert ALGEBRA.holds(spread, 0.0, 1.0)


def test_without_a_prior_the_normaliser_is_the_rewards():
    method = parse_method("trajectory_balance:steps=4,sigma_end=0.1")
    row = measure_policy(PolicyTruth.of(method, NOTE), NOTE.base_field)
    x = torch.linspace(-9, 12, 4001, dtype=torch.float64)[:, None]
    mass = float(NOTE.reward(x).square().sum() * (x[1] - x[0]))
    assert QUADRATURE.holds(row["log_z"], np.log(mass), 1.0)
    assert row["bound"] is None


def test_the_paper_s_chain_of_first_order_is_the_ancestral_one():
    """SDE-DPM-Solver++ (Lu et al. 2022) from noise s to t, xhat held: Chain's kernels."""
    chain = Chain(20, 0.03)
    (alpha, sigma), (P, Q, s) = chain.levels, chain.coefficients(torch.zeros(1).double())
    h = (alpha[1:] / sigma[1:]).log() - (alpha[:-1] / sigma[:-1]).log()
    white = sigma[1:] * (1 - (-2 * h).exp()).sqrt()
    own, data = sigma[1:] / sigma[:-1] * (-h).exp(), alpha[1:] * (1 - (-2 * h).exp())
    # On the straight path xhat = x + (1 - t) v.
    assert ALGEBRA.holds(P[1:], (own + data)[1:])
    assert ALGEBRA.holds(Q[1:], (data * (1 - chain.times))[1:])
    assert ALGEBRA.holds(s[1:], white[1:])


# --- plans


@pytest.mark.parametrize(("problem", "times"), [("note_1d", 1.0), ("bumps_1d", 3.5)])
def test_all_methods_have_one_budget(problem, times):
    """But for the runs that are longer on purpose."""
    longer = {("note_1d", "nabla_printed_longer"): 3.5, ("bumps_1d", "nabla_bidirectional"): 7.0}
    for name, config in Plan().configs(problem).items():
        spent = comparison.evaluations.of_run(config).total
        asked = Plan().budget * longer.get((problem, name), times)
        assert abs(spent - asked) <= 0.5 * spent / config.steps


def test_methods_without_a_prior_run_where_the_reward_can_be_normalised():
    assert set(Plan().configs("note_1d")) == set(METHODS)
    assert set(Plan().configs("bumps_1d")) == set(METHODS) - set(LONGER)
    assert set(Plan().configs("bump_2d")) == set(METHODS) - set(WITHOUT_PRIOR)  # beta = 2.5
    assert set(Plan().configs("linear_2d")) == set(METHODS) - set(WITHOUT_PRIOR)


def test_ablations_are_six():
    plan = ablations.Plan()
    assert {*plan.exact(), *(name for name, _ in plan.configs())} == set(ablations.NAMES)
    assert len(ablations.NAMES) == 6
    for cases in plan.exact().values():
        for _, _, method in cases:
            parse_method(method)


def test_a_fixed_point_and_its_targets():
    row = ablations.fixed_point("residual_db:held=true,steps=4,sigma_end=0.1,prior=2", "note_1d")
    assert 0 < row["optimum_to_target_share"] < 1
    # At eta = 2 what is claimed is narrower than what Gaussian kernels can be taught.
    assert row["optimum_to_claimed_share"] > row["optimum_to_target_share"]
    assert row["std"]["claimed"] < row["std"]["target"]
    one = ablations.fixed_point("residual_db:held=true,steps=4,sigma_end=0.1", "note_1d")
    assert QUADRATURE.holds(one["optimum_to_claimed_share"], one["optimum_to_target_share"])


# --- the whole


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    out = tmp_path_factory.mktemp("gflownets")
    return out, comparison.compare(out, ["note_1d"], ["rtb", "ddpo"], processes=1, plan=PLAN)


def test_rows_are_whole_kept_and_written(rows, monkeypatch):
    out, found = rows
    assert [r["name"] for r in found] == ["rtb", "ddpo"]
    assert found[0]["log_z_learnt"] is not None
    assert found[1]["log_z_learnt"] is None
    assert all(r["cpu_seconds"] > 0 and np.isfinite(r["law_share"]) for r in found)
    monkeypatch.setattr(PolicyTruth, "of", None)  # nothing is measured twice
    again = comparison.compare(out, ["note_1d"], ["rtb", "ddpo"], processes=1, plan=PLAN)
    assert again == found
    path = runs.write(out, {"rows": found})
    runs.write(out, {"ablations": {}})
    assert json.loads(path.read_text())["rows"] == found
    path.write_text("{")  # damaged: written anew
    runs.write(out, {"rows": found})
    assert json.loads(path.read_text())["rows"] == found
    (shown,) = tables({"rows": found})
    assert shown.row_count == len(found)


def test_floors(rows):
    _, found = rows
    good = {**found[0], "law_share": TRAINED_SHARE}
    assert comparison.failures([good, {**good, "law_share": None}]) == []
    for value in (1.01 * TRAINED_SHARE, float("nan")):
        (line,) = comparison.failures([{**good, "law_share": value}])
        assert "rtb @ note_1d: law" in line


def made_up() -> dict:
    """A policy of 25 modes that is the optimum."""
    weights = np.linspace(0.001, 0.02, 25)
    weights[:9] = [0.04, 0.1, 0.08, 0.12, 0.15, 0.11, 0.09, 0.14, 0.045]
    modes = (weights / weights.sum()).tolist()
    return {
        "name": "rtb",
        "problem": "grid25",
        "log_z": 1.3,
        "log_z_learnt": 1.29,
        "bound": 1.28,
        "bound_of_optimum": 1.29,
        "modes": {key: [*modes] for key in ("target", "optimum", "trained")},
    }


def moved(key: str, value: float) -> dict:
    return {**made_up(), key: value}


def weighed(mode: int, factor: float) -> dict:
    row = copy.deepcopy(made_up())
    row["modes"]["trained"][mode] *= factor
    return row


def test_floors_of_the_posterior():
    assert posterior.misses(made_up()) == []
    assert posterior.misses(moved("log_z_learnt", 1.36))[0].startswith("log Z 1.360")
    assert posterior.misses(moved("bound", 1.23))[0].startswith("E[log w] 1.230")
    assert posterior.misses(weighed(4, 1.09)) == []
    assert posterior.misses(weighed(4, 0.89))[0].startswith("mode 4 off by 11.0 %")
    assert posterior.misses(weighed(0, 1.14)) == []  # light: 15 % allowed
    assert posterior.misses(weighed(0, 1.16))[0].startswith("mode 0 off by 16.0 %")
    assert posterior.misses(weighed(20, 2.0)) == []  # none of the nine
    row = made_up()
    assert posterior.failures({"rows": [row]}) == []
    assert posterior.failures({"rows": [moved("bound", float("nan"))]})
    assert "without training" in posterior.failures({"rows": [{**row, "name": "base"}]})[0]
    worse = {**weighed(4, 2.0), "name": "untrained", "bound": 0.0, "log_z_learnt": 0.0}
    assert posterior.failures({"rows": [worse]}) == []


@pytest.mark.slow
def test_posterior_and_ablations_end_to_end(tmp_path, monkeypatch):
    """On a small problem, with the quick fixed points: the same code, measured once and kept."""
    held = {name: loss for name, loss in ablations.LOSSES.items() if "held" in loss}
    monkeypatch.setattr(ablations, "LOSSES", held)
    monkeypatch.setattr(ablations, "SECOND_ORDER", {})
    monkeypatch.setattr(ablations, "TRAINED", "residual_db:held=true")
    steps = dict.fromkeys(posterior.METHODS, 3)
    plan = posterior.Plan(steps=steps, batch=16, width=8, problem="note_1d")
    found = posterior.posterior(tmp_path, processes=1, plan=plan)
    assert [r["name"] for r in found["rows"]] == [*posterior.UNTRAINED, *posterior.METHODS]
    assert posterior.posterior(tmp_path, processes=1, plan=plan) == found
    small = ablations.Plan(
        budget=3e4,
        batch=16,
        width=8,
        betas=(2.0,),
        priors=(2.0,),
        chains=(10,),
        looks=("one",),
        subsets=(2,),
    )
    tried = ablations.ablations(tmp_path, processes=1, plan=small)
    assert sum(map(len, tried.values())) == 3 + 2
    assert ablations.ablations(tmp_path, processes=1, plan=small) == tried
    assert len(tables({"posterior": found, "ablations": tried})) == 3


# --- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "nothing"], "--only must be one of methods, .*got 'nothing'"),
        (["--only", "methods", "--method", "nothing"], "method must be one of .*got 'nothing'"),
        (["--only", "methods", "--problem", "nowhere"], "nowhere"),
        (["--only", "ablations", "--ablation", "x"], "--ablation must be one of .*got 'x'"),
        (["--jobs", "0"], "--jobs must .*got 0"),
    ],
)
def test_bad_input(words, message, capsys, tmp_path):
    code, _, err = call(capsys, "gflownets", "--out", str(tmp_path), *words)
    assert code == 2
    assert re.search(message, err)


def test_refused_truths():
    with pytest.raises(ValueError, match="d = 1 or 2, got 'full_5d' in d = 5"):
        PolicyTruth.of(parse_method(METHOD), load_problem("full_5d"))
    with pytest.raises(ValueError, match="must aim at a target"):
        PolicyTruth.of(parse_method("ddpo"), NOTE)
