"""N6: a field known at some times, samplers' maps and laws, and the row that uses them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import SOME, seeds
from tests.theory.ledger.oracle.references import heun_steps, multistep
from tests.theory.ledger.test_second_routes import offences, quick, strangers
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.laws.gaussians import GaussianSum
from theory.ledger.core.claim import PROFILES, Context
from theory.ledger.core.identity import Identity
from theory.ledger.core.search import search
from theory.ledger.liu.laws import plain_numbers
from theory.ledger.oracle.released import times as oracle
from theory.ledger.released.sampling import times as row
from theory.ledger.released.sampling.moves import EVALUATION, GRID, TRAINING, move, times_region
from theory.ledger.run import measure
from theory.methods.contract.task import heun
from theory.problems.problem import load_problem
from theory.released.times import (
    MODELS,
    KnownAtTimes,
    Sampler,
    distances_to,
    laws,
    shifted_times,
    total_variation,
    uniform_times,
)
from theory.samplers.chain import Chain
from theory.samplers.flow import FlowLaw

IDENTITIES = [p for p in row.N6.parts if isinstance(p, Identity)]
named = pytest.mark.parametrize("part", IDENTITIES, ids=lambda p: p.name)
models = pytest.mark.parametrize("between", MODELS)
NOTE = load_problem("note_1d")
FULL = NOTE.nft_field(1.0)
X = torch.linspace(-2.5, 2.5, 7, dtype=torch.float64)[:, None]


def test_the_row():
    result = measure(row.N6, PROFILES["fast"])
    assert result.verdict == row.N6.recorded == "conditional"
    assert not result.findings[0].holds


@pytest.mark.parametrize("part", row.N6.parts, ids=lambda p: getattr(p, "name", "function"))
def test_every_part_and_its_mutants(part):
    found = part(Context(PROFILES["fast"]))
    assert found.holds == (found.role != "claim")
    assert found.mutants
    assert all(found.mutants.values())


@named
def test_second_routes_are_independent(part):
    assert offences(part.second) == set()
    assert strangers(quick(part, part.second)) == set()


@named
def test_search_climbs(part):
    found = search(part, replace(PROFILES["fast"], starts=2, steps=2), seed=1)
    assert max(found.errors) <= part.tier.rtol


# --- the field


@models
def test_at_trained_times_it_is_the_optimum_and_elsewhere_not(between):
    field = KnownAtTimes(FULL, uniform_times(10), between)
    for t in uniform_times(10):
        assert ALGEBRA.holds(field(X, t), FULL(X, t), 1.0)
        for ours, theirs in zip(
            field.with_divergence(X, t), FULL.with_divergence(X, t), strict=True
        ):
            assert ALGEBRA.holds(ours, theirs, 1.0)
    assert not ALGEBRA.holds(field(X, 0.43), FULL(X, 0.43), 1.0)


def test_models_between_by_hand():
    times = (0.2, 0.6)

    def step(t):
        return FULL(X, t) - NOTE.base_field(X, t)

    def of(between, t):
        return KnownAtTimes(FULL, times, between)(X, t) - NOTE.base_field(X, t)

    assert ALGEBRA.holds(of("linear", 0.3), 0.75 * step(0.2) + 0.25 * step(0.6), 1.0)
    for between in ("linear", "nearest"):
        assert ALGEBRA.holds(of(between, 0.1), step(0.2), 1.0)
        assert ALGEBRA.holds(of(between, 1.0), step(0.6), 1.0)
    assert ALGEBRA.holds(of("nearest", 0.39), step(0.2), 1.0)
    assert ALGEBRA.holds(of("nearest", 0.41), step(0.6), 1.0)
    assert ALGEBRA.holds(of("none", 0.59), 0 * X, 1.0)


@given(seed=seeds, t=st.floats(0.0, 1.0), between=st.sampled_from(MODELS))
@SOME
def test_divergence_is_the_derivative(seed, t, between):
    field = KnownAtTimes(FULL, uniform_times(1 + seed % 12), between)
    velocity, trace = field.with_divergence(X, t)
    by_autograd = super(KnownAtTimes, field).with_divergence(X, t)
    assert ALGEBRA.holds(velocity, by_autograd[0], 1.0)
    assert QUADRATURE_TIGHT.holds(trace, by_autograd[1], 1.0)


def test_score_and_posterior_mean_belong_to_its_velocity():
    field = KnownAtTimes(FULL, GRID)
    mean = field.posterior_mean(X, 0.4)
    assert ALGEBRA.holds(field(X, 0.4), (mean - X) / 0.6, 1.0)
    assert ALGEBRA.holds(field.score(X, 0.4), (0.4 * mean - X) / 0.36, 1.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: KnownAtTimes(FULL, ()), "increasing numbers"),
        (lambda: KnownAtTimes(FULL, (0.5, 0.5)), "increasing numbers"),
        (lambda: KnownAtTimes(FULL, (0.5, 1.5)), "increasing numbers"),
        (
            lambda: KnownAtTimes(FULL, GRID, "cubic"),
            "one of linear, nearest or none, got 'cubic'",
        ),
        (
            lambda: KnownAtTimes(FULL, GRID)(X, torch.linspace(0, 1, 7, dtype=torch.float64)),
            "one time for all points",
        ),
        (lambda: Sampler("euler", (0.1, 0.5)), "increasing numbers from 0"),
        (lambda: Sampler("rk4", GRID), "method must be .*euler.*got 'rk4'"),
        (lambda: uniform_times(0), "n must .*got 0"),
        (lambda: shifted_times(1), "n must .*got 1"),
        (lambda: shifted_times(5, 0.0), "shift must .*got 0.0"),
        (
            lambda: TRAINING.push(load_problem("bump_2d").base_field, X),
            "field must be in d = 1, got d = 2",
        ),
        (lambda: oracle.known_field(plain_numbers(NOTE), 1.0, GRID, "cubic"), "linear, nearest"),
        (lambda: oracle.distribution(-oracle.STARTS, X.numpy()), "does not increase"),
    ],
)
def test_bad_input_is_refused_by_name(make, said):
    with pytest.raises(ValueError, match=said):
        make()


# --- grids of times


def test_sd3_grid_by_hand():
    """Ten steps, shift 3, and the last noise level 3e-3 before the second shift."""
    times = shifted_times(10)
    assert times[0] == 0.0
    level = 3 * 1e-3 / (1 + 2 * 1e-3)
    assert ALGEBRA.holds(1 - times[-1], 3 * level / (1 + 2 * level))
    assert all(a < b for a, b in pairwise(times))
    even = shifted_times(10, 1.0)
    assert ALGEBRA.holds(np.diff(even), (1 - 1e-3) / 9)
    assert not ALGEBRA.holds(np.diff(times), (1 - 1e-3) / 9)


# --- samplers


def test_heun_is_that_of_the_tasks():
    ours = Sampler("heun", uniform_times(7)).push(FULL, X)[0]
    assert ALGEBRA.holds(ours[:, None], heun(FULL, NOTE.path, X, 7), 1.0)


def test_deterministic_chain_without_noise_is_euler():
    """On the rectified flow the DDIM step is Euler's."""
    x = X
    for t, stop in pairwise((*GRID, 1.0)):
        data = x + (1 - t) * FULL(x, t)
        noise = x - t * FULL(x, t)
        x = stop * data + (1 - stop) * noise
    assert ALGEBRA.holds(TRAINING.push(FULL, X)[0], x[:, 0], 1.0)
    assert Chain(10, sigma_end=0.04).times.tolist() == pytest.approx(list(GRID))


def test_ode_is_transport():
    law = FlowLaw(FULL)
    end, slope = Sampler("ode", uniform_times(80)).push(FULL, X)
    assert QUADRATURE.holds(end[:, None], law.push(X), 1.0)
    _, log_q = law.push_with_log_density(X)
    start = -0.5 * X[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)
    assert QUADRATURE.holds(start - slope.log(), log_q, 1.0)


@pytest.mark.parametrize("method", ["euler", "heun", "dpm2", "ode"])
def test_slopes_are_derivatives_and_steps_converge(method):
    sampler = Sampler(method, shifted_times(12))
    field = KnownAtTimes(FULL, GRID)
    slope = sampler.push(field, X)[1]
    h = 1e-5
    ends = [sampler.push(field, X + s * h)[0] for s in (1, -1)]
    assert QUADRATURE.holds((ends[0] - ends[1]) / (2 * h), slope, 1.0)
    # Twice the steps: nearer to the flow.
    exact = FlowLaw(FULL).push(X)[:, 0]
    coarse, fine = (
        (Sampler(method, uniform_times(n)).push(FULL, X)[0] - exact).abs().max() for n in (20, 40)
    )
    assert fine < 0.6 * coarse


@models
@pytest.mark.parametrize("method", ["euler", "heun", "dpm2"])
def test_maps_by_two_routes(method, between):
    case, times = plain_numbers(NOTE), shifted_times(9)
    theirs = {"euler": oracle.euler, "heun": heun_steps, "dpm2": multistep}[method](
        oracle.known_field(case, 2.0, GRID[1:], between), X[:, 0].numpy(), times
    )
    ours = Sampler(method, times).push(KnownAtTimes(FULL, GRID[1:], between), X)[0]
    assert QUADRATURE_TIGHT.holds(ours, theirs, 1.0)
    other = {"euler": "heun", "heun": "dpm2", "dpm2": "euler"}[method]
    wrong = Sampler(other, times).push(KnownAtTimes(FULL, GRID[1:], between), X)[0]
    assert not QUADRATURE_TIGHT.holds(wrong, theirs, 1.0)


def test_batches_are_their_members():
    a = torch.tensor([0.5, 2.0], dtype=torch.float64)
    many = laws(EVALUATION, KnownAtTimes(NOTE.cumulant_field(a, 1), GRID), (2,), 101)
    for scale, one in zip(a.tolist(), many, strict=True):
        (alone,) = laws(EVALUATION, KnownAtTimes(NOTE.cumulant_field(scale, 1), GRID), (), 101)
        assert ALGEBRA.holds(one.place, alone.place, 1.0)


# --- laws


def test_law_of_a_gaussian():
    """One Gaussian N(m, s²): the flow's map is m + s x_0."""
    base = GaussianSum.mixture([1.0], [[0.7]], stds=[0.5])
    problem = replace(NOTE, base=base)
    (law,) = laws(Sampler("ode", uniform_times(48)), problem.base_field)
    assert QUADRATURE.holds(law.place, 0.7 + 0.5 * law.start, 1.0)
    assert QUADRATURE.holds(law.mean(law.place), 0.7)
    tv, kl = distances_to(law, base.log_density(torch.as_tensor(law.place)[:, None]).numpy())
    assert max(tv, kl) <= QUADRATURE.rtol
    other = GaussianSum.mixture([1.0], [[0.9]], stds=[0.5])
    tv, kl = distances_to(law, other.log_density(torch.as_tensor(law.place)[:, None]).numpy())
    assert QUADRATURE.holds(kl, 0.5 * 0.4**2)
    # TV of two Gaussians one deviation 0.4 apart: 2 Phi(0.2) - 1; a kink at the crossing.
    exact = float(torch.erf(torch.tensor(0.2 / np.sqrt(2), dtype=torch.float64)))
    assert abs(tv - exact) < 1e-3 * exact
    (moved,) = laws(Sampler("ode", uniform_times(48)), replace(NOTE, base=other).base_field)
    assert QUADRATURE.holds(total_variation(law, moved), exact, 1.0)


def test_a_falling_map_is_refused():
    steep = KnownAtTimes(NOTE.cumulant_field(-40.0, 1), (0.5,), "linear")
    (law,) = laws(Sampler("euler", uniform_times(2)), steep)
    with pytest.raises(ValueError, match="take more steps"):
        law.density(np.zeros(1))


def test_moves_vanish_where_only_trained_times_are_asked():
    assert max(move("note_1d", TRAINING, GRID, m).tv for m in MODELS) <= QUADRATURE.rtol
    assert move("note_1d", TRAINING, GRID[:-1], "linear").tv > 1e3 * QUADRATURE.rtol


def test_region():
    region = times_region(4)
    assert region.errors.shape == (len(region.x), 4)
    # More times, smaller errors; a longer step, larger ones.
    assert np.all(np.diff(region.errors[:, -1]) < 0)
    assert np.all(np.diff(region.errors[0]) > 0)
