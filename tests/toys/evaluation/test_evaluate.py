"""The exact side of a comparison, checked by exact fields in a network's place."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from tests.toys.small import DDPO_KL, NFT_OLD, configs, copied, trained
from theory.common.tolerances import (
    ALGEBRA,
    FALSE_FAILURE_RATE,
    FLOAT32,
    QUADRATURE,
    QUADRATURE_2D,
    TRAINED_SHARE,
)
from theory.evaluation.grids import mixture_on_grid
from theory.evaluation.sampler_laws import BIN, Bench, Law, levels, sample_distance, sampling_floor
from theory.laws.distances import GridLaw
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import load_problem
from theory.samplers.flow import FlowLaw
from toys.evaluation import compare as compare_module
from toys.evaluation import evaluate as evaluate_module
from toys.evaluation.compare import compare, finished
from toys.evaluation.evaluate import Sampling, Truth, curves, draw, evaluate, is_good, kept
from toys.networks.mlp import StackedMLP, single
from toys.training.runs import Run

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "my_method.py"
# What the exact side may get wrong, as a share of the way: a thousandth of what learning may.
FLOOR = TRAINED_SHARE / 1000
FEW = Sampling(n=2000)


def as_network(field):
    """A field as a trained network comes: nothing but a function of (x, t)."""
    return lambda x, t, cond=None: field(x, t)


@pytest.fixture(scope="module")
def nft():
    """(config, truth) of NFT on the note's problem."""
    (config,) = configs("nft")
    return config, Truth.of(config)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(configs, folder) of trained runs that can be compared: a line's two samplers, a plane."""
    out = tmp_path_factory.mktemp("done")
    wanted = configs("nft", 2) + configs(DDPO_KL) + configs("flow_matching", problem="bump_2d")
    trained(out, wanted)
    return wanted, out


@pytest.fixture(scope="module")
def results(done):
    wanted, out = done
    return compare(out, wanted, FEW, processes=1)


# --- exact fields in the network's place


@pytest.mark.slow
def test_the_optimum_in_the_networks_place_has_no_error(nft):
    config, truth = nft
    best = as_network(config.parsed.optimum(config.parsed_problem).velocity)
    to_go = truth.start.distance(truth.target)
    assert truth.bench.of_velocity(best).distance(truth.optimum) < FLOOR * to_go
    # A velocity that is off by 0.01 everywhere is seen.
    off = truth.bench.of_velocity(lambda x, t, cond=None: best(x, t) + 0.01)
    assert off.distance(truth.optimum) > 100 * FLOOR * to_go


def test_the_base_in_the_networks_place_has_all_of_it(nft):
    config, truth = nft
    to_go = truth.start.distance(truth.target)
    base = truth.bench.of_velocity(as_network(config.parsed_problem.base_field))
    assert base.distance(truth.start) < FLOOR * to_go
    all_of_it = truth.start.distance(truth.optimum)
    assert abs(base.distance(truth.optimum) - all_of_it) < FLOOR * to_go
    assert all_of_it > TRAINED_SHARE * to_go
    # NFT's optimum is not the tilt it claims (liu, Theorem 1.1), and the truth says so.
    assert truth.optimum.distance(truth.target) > TRAINED_SHARE * to_go


def test_the_exact_tilt_has_no_bias():
    (config,) = configs("weighted_flow_matching:scale=2")
    truth = Truth.of(config)
    assert truth.optimum.distance(truth.target) < FLOOR * truth.start.distance(truth.target)


def test_a_plane():
    problem = load_problem("linear_2d")
    axes = tuple(np.linspace(-4, 4, 5) for _ in range(2))
    bench, base = Bench(problem, "ode", axes), problem.base_field
    best = problem.nft_field(1.0)
    one, other = bench.of_velocity(best), bench.of_velocity(as_network(best))
    assert one.distance(one) == 0.0
    assert QUADRATURE_2D.holds(one.distance(other), 0.0, scale=1.0)
    start = bench.of_velocity(as_network(base))
    assert QUADRATURE_2D.holds(start.distance(bench.of_base()), 0.0, scale=1.0)
    assert QUADRATURE_2D.holds(start.distance(one), bench.of_base().distance(one))
    assert start.distance(one) > TRAINED_SHARE


def test_a_chain_is_its_own_sampler():
    (config,) = configs(DDPO_KL)
    truth = Truth.of(config)
    problem = config.parsed_problem
    best = config.parsed.optimum(problem).velocity
    assert truth.bench.of_velocity(as_network(best)).distance(truth.optimum) == 0.0
    base = truth.bench.of_velocity(as_network(problem.base_field))
    assert base.distance(truth.optimum) > TRAINED_SHARE * truth.start.distance(truth.target)


# --- laws


@pytest.mark.slow
def test_quantiles_by_the_ode_are_those_of_the_density(nft):
    config, truth = nft
    field = config.parsed.optimum(config.parsed_problem).velocity
    axis = truth.bench.axes[0]
    cdf = FlowLaw(field).cdf(torch.as_tensor(axis)[:, None]).numpy()
    grid = GridLaw(truth.bench.axes, truth.optimum.grid.log_density, cdf)
    to_go = truth.start.distance(truth.target)
    assert np.abs(grid.quantile(levels()) - truth.optimum.quantiles).mean() < FLOOR * to_go
    assert QUADRATURE.holds(truth.optimum.grid.mass(), 1.0)
    assert truth.optimum.lost == abs(1 - truth.optimum.grid.mass())


def test_w1_of_a_shift_is_the_shift():
    problem = load_problem("note_1d")
    bench = Bench.of(problem, "ode", [])
    law = bench.of_base()
    shifted = Law(law.grid, law.quantiles + 0.3)
    assert law.distance(law) == 0.0
    assert ALGEBRA.holds(law.distance(shifted), 0.3)


def normal_2d(mean, axes):
    return Law(mixture_on_grid(GaussianSum.mixture([1.0], [mean], stds=[1.0]), axes))


def test_tv_of_shifted_normals_has_a_closed_form():
    axes = tuple(np.linspace(-7, 7, 141) for _ in range(2))
    law, shifted = normal_2d([0.0, 0.0], axes), normal_2d([0.6, -0.8], axes)
    assert law.distance(law) == 0.0
    # TV(N(0, I), N(m, I)) = 2 Phi(|m|/2) - 1.
    expected = 2 * stats.norm.cdf(0.5) - 1
    bend = 0.1**2  # the sum's error at the line where the densities cross: O(spacing^2)
    assert abs(law.distance(shifted) - expected) < bend * expected
    assert abs(law.distance(normal_2d([0.6, -0.7], axes)) - expected) > bend * expected


# --- samples


@pytest.mark.parametrize("dim", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_exact_draws_stay_below_the_floor(dim):
    n, trials = 1000, 200
    if dim == 1:
        law = Bench.of(load_problem("note_1d"), "ode", []).of_base()
        exact = load_problem("note_1d").base.sample
    else:
        axes = tuple(np.linspace(-6, 6, 81) for _ in range(2))
        law = normal_2d([0.3, 0.0], axes)
        exact = GaussianSum.mixture([1.0], [[0.3, 0.0]], stds=[1.0]).sample
    generator = torch.Generator().manual_seed(0)

    def share_below(count):
        found = []
        for trial in range(trials):
            distance = sample_distance(exact(count, generator).numpy(), law)
            found.append(distance <= sampling_floor(law, n, trial))
        return np.mean(found)

    # The 95th percentile of 20 trials lies at the order statistic 1 + 0.95 * 19 of 20.
    expected = (1 + 0.95 * 19) / 21
    bound = stats.norm.isf(FALSE_FAILURE_RATE / 2) * math.sqrt(expected * (1 - expected) / trials)
    assert abs(share_below(n) - expected) < bound
    # Fewer draws lie further away: the floor is not generous either.
    assert share_below(n // {1: 8, 2: 2}[dim]) < expected - 5 * bound


@pytest.mark.parametrize("method", ["nft", DDPO_KL])
def test_draws_of_an_exact_velocity_follow_its_law(method, nft):
    (config,) = configs(method)
    truth, problem = nft[1] if method == "nft" else Truth.of(config), config.parsed_problem
    best = as_network(config.parsed.optimum(problem).velocity)
    n = 4000
    floor = sampling_floor(truth.optimum, n, 0)

    def error(model, steps):
        samples = draw(model, problem, truth.bench.sampler, Sampling(steps, n), 0)
        assert samples.shape == (n, 1)
        return sample_distance(samples, truth.optimum)

    assert error(best, 40) < 2 * floor
    assert error(as_network(problem.base_field), 40) > 4 * floor
    if method == "nft":  # a chain has steps of its own
        assert error(best, 1) > 4 * floor


def test_the_floor_falls_as_draws_grow():
    law = Bench.of(load_problem("note_1d"), "ode", []).of_base()
    assert 3 < sampling_floor(law, 500, 0) / sampling_floor(law, 16 * 500, 0) < 5


def test_draws_off_the_grid_count_as_distance():
    axes = tuple(np.linspace(-6, 6, 81) for _ in range(2))
    law = normal_2d([0.0, 0.0], axes)
    away = np.full((100, 2), 50.0)
    assert ALGEBRA.holds(sample_distance(away, law), 0.5 * (1 + law.grid.mass()), scale=1e6)
    assert BIN**2 * 20**2 == 80**2


# --- results


@pytest.mark.slow
def test_parts_bound_the_total(results):
    assert [r["distance"] for r in results] == ["W1", "W1", "W1", "TV"]
    assert [r["sampler"] for r in results] == [
        "Heun, 20 steps", "Heun, 20 steps", "chain of 4 steps", "Heun, 20 steps",
    ]  # fmt: skip
    for r in results:
        parts = r["method_bias"] + r["learning_error"] + r["sampling_error"]
        rounding = ALGEBRA.rtol * parts + r["lost_mass"]
        assert 0 < r["total"] <= parts + rounding
        assert r["total"] > r["learning_error"] - r["method_bias"] - r["sampling_error"] - rounding
        assert r["sampling_floor"] > 0
        assert r["lost_mass"] < TRAINED_SHARE
        assert ALGEBRA.holds(r["learning_share"], r["learning_error"] / r["to_go"])
        assert r["cpu_seconds"] > 0


def test_seeds_differ_and_share_their_truth(results):
    one, two, *_ = results
    assert (one["seed"], two["seed"]) == (0, 1)
    assert one["method_bias"] == two["method_bias"]
    assert one["learning_error"] != two["learning_error"]


def test_a_result_is_good_up_to_the_tier():
    assert is_good({"learning_share": TRAINED_SHARE})
    assert not is_good({"learning_share": np.nextafter(TRAINED_SHARE, 1)})
    assert not is_good({"learning_share": math.nan})


def test_untrained_networks_are_not_good(results):
    assert not any(is_good(r) for r in results)


def test_curves_are_kept(done, results):
    wanted, out = done
    found = curves(Run(out, wanted[0]))
    assert found.keys() == {"samples", "trained", "optimum", "target", "start", "axis.0"}
    assert found["samples"].shape == (FEW.n, 1)
    assert all(found[k].shape == found["axis.0"].shape for k in ("trained", "optimum", "target"))
    plane = curves(Run(out, wanted[3]))
    assert plane["trained"].shape == (len(plane["axis.0"]), len(plane["axis.1"]))
    assert plane["samples"].shape == (FEW.n, 2)


def test_results_are_measured_once(done, results, monkeypatch):
    wanted, out = done

    def again(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(compare_module, "_evaluate_all", again)
    assert compare(out, wanted[::-1], FEW, processes=1) == results[::-1]
    with pytest.raises(AssertionError, match="measured again"):
        compare(out, wanted[:1], Sampling(n=2001), processes=1)
    monkeypatch.setattr(evaluate_module, "code_key", lambda: "other code")
    with pytest.raises(AssertionError, match="measured again"):
        compare(out, wanted[:1], FEW, processes=1)


def test_one_name_in_two_files_is_no_reason_to_share_a_truth(tmp_path, monkeypatch):
    text, wanted = EXAMPLE.read_text(), []
    for file in ("one.py", "two.py"):
        (tmp_path / file).write_text(f"# {file}\n{text}")
        wanted += configs(str(tmp_path / file), 2)
    trained(tmp_path, wanted)
    jobs = []
    monkeypatch.setattr(compare_module, "side_by_side", lambda work, items, *_: jobs.extend(items))
    with pytest.raises(TypeError):  # nothing came back
        compare(tmp_path, wanted, FEW)
    assert [[c.digest for c in same] for _, same, *_ in jobs] == [
        [c.digest for c in wanted[:2]], [c.digest for c in wanted[2:]],
    ]  # fmt: skip


def test_runs_without_an_optimum_are_left_out_where_that_is_asked(done, results, tmp_path):
    wanted, source = done
    out = copied(source, tmp_path)
    bare = configs("ddpo", 1)
    trained(out, bare)
    skipped: list[str] = []
    assert compare(out, [*bare, *wanted], FEW, processes=1, skip=skipped) == results
    assert len(skipped) == 1
    assert "ddpo @ note_1d, seed 0: the method states no optimum" in skipped[0]
    with pytest.raises(ValueError, match="states no optimum"):
        compare(out, bare, FEW, processes=1)


def test_mass_beyond_the_grid_counts():
    axes = (np.linspace(-1, 1, 41),) * 2
    here = GridLaw(axes, np.full((41, 41), -np.log(4.1 / 2) - np.log(4.1 / 2)))
    half = GridLaw(axes, here.log_density + np.log(0.5))
    expected = 0.5 * (0.5 * here.mass() + 0.5 * here.mass())  # seen, and lost
    assert ALGEBRA.holds(Law(half).distance(Law(here)), expected)


def test_a_result_without_its_curves_is_measured_again(done, results, tmp_path):
    wanted, source = done
    run = Run(copied(source, tmp_path), wanted[0])
    assert kept(run, FEW) == results[0]
    (run.folder / "evaluation.safetensors").unlink()
    assert kept(run, FEW) is None


def test_the_same_run_asked_for_twice(done, results):
    wanted, out = done
    twice = compare(out, [wanted[0], wanted[0]], FEW, processes=1)
    assert twice == [results[0]] * 2


def test_evaluation_is_deterministic(done, results, nft):
    wanted, out = done
    again = evaluate(Run(out, wanted[0]), nft[1], FEW)
    assert again == results[0]


def test_a_result_measures_what_it_says(done, results, nft):
    wanted, out = done
    truth, result = nft[1], results[0]
    law = truth.bench.of_velocity(single(Run(out, wanted[0]).weights()))
    assert result["learning_error"] == law.distance(truth.optimum)
    assert result["method_bias"] == truth.optimum.distance(truth.target)
    assert result["to_go"] == truth.bench.of_base().distance(truth.target)
    samples = curves(Run(out, wanted[0]))["samples"].double().numpy()
    assert FLOAT32.holds(result["total"], sample_distance(samples, truth.target))
    assert FLOAT32.holds(result["sampling_error"], sample_distance(samples, law))


@pytest.mark.parametrize("factor", [1e300, math.inf])
def test_a_network_that_diverged_is_refused_by_name(factor, done, nft, tmp_path, monkeypatch):
    wanted, source = done
    run = Run(copied(source, tmp_path), wanted[0])
    forward = StackedMLP.forward
    monkeypatch.setattr(StackedMLP, "forward", lambda *a: factor * forward(*a))
    with pytest.raises(
        ValueError, match=r"nft @ note_1d, seed 0: .*must stay finite.*cannot be found"
    ):
        evaluate(run, nft[1], FEW)


# --- refused


def test_untrained_runs_are_refused(done):
    wanted, out = done
    (missing,) = configs("nft", width=9)
    with pytest.raises(ValueError, match=r"must be trained, .*: nft @ note_1d, seed 0.*"
                       r"`python -m toys train`"):  # fmt: skip
        compare(out, [wanted[0], missing], FEW, processes=1)


@pytest.mark.parametrize(
    ("method", "problem", "needles"),
    [
        ("ddpo", "note_1d", ["ddpo @ note_1d, seed 0", "no optimum"]),
        (NFT_OLD, "note_1d", ["refresh_every=5", "no optimum"]),
        ("flow_matching", "plane_5d", ["plane_5d", "d = 5", "must be in d = 1 or 2 for compare"]),
    ],
)
def test_what_has_no_truth_is_refused(method, problem, needles):
    (config,) = configs(method, problem=problem)
    with pytest.raises(ValueError, match="compare") as caught:
        Truth.of(config)
    assert [n for n in needles if n not in str(caught.value)] == []


@pytest.mark.parametrize("values", [{"steps": 0}, {"n": 99}, {"steps": 2.0}])
def test_bad_samplings_are_refused(values):
    with pytest.raises(ValueError, match="must be"):
        Sampling(**values)


def test_finished_runs_are_found_and_others_named(done, tmp_path):
    wanted, source = done
    out = copied(source, tmp_path)
    found, stale = finished(out)
    assert {c.digest for c in wanted} < {c.digest for c in found}
    assert stale == []
    moved = Run(out, wanted[0]).folder
    moved.rename(moved.with_name("elsewhere"))
    found, stale = finished(out)
    assert wanted[0].digest not in {c.digest for c in found}
    assert stale == ["elsewhere (moved)"]
