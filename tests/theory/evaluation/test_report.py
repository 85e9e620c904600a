"""Reports of laws end to end, and the honesty of their numbers where laws are hard."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D, QUADRATURE_TIGHT
from theory.evaluation import grids as grid_laws
from theory.evaluation.choices import choose_field
from theory.evaluation.draw import draw_report, save
from theory.evaluation.grids import mixture_on_grid
from theory.evaluation.report import law_report
from theory.fields.diffusion import Diffusion
from theory.fields.mixture import MixtureField
from theory.fields.paths import VarianceExploding, VariancePreserving
from theory.laws.distances import GridLaw, grid_distances, sample_distances
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem, load_problem
from theory.samplers.flow import FlowLaw
from theory.samplers.sde import sde_law
from theory.tilts.bump_rewards import bump_reward
from theory.tilts.wrappers import ClippedExponential, TruncatedExponential


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bump_2d", "plane_5d"])
def test_report_and_picture_in_the_plane_and_beyond(name, tmp_path, monkeypatch):
    monkeypatch.setattr(grid_laws, "PLANE_POINTS", 41)
    problem = load_problem(name)
    found = law_report(problem, choose_field(problem, "nft"), samples=400)
    data = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert data["distances"]["base"]["TV"]["value"] > data["distances"]["exp(2r)"]["TV"]["value"]
    assert data["mean_reward"] > data["mean_reward_of_target"]["base"]
    assert all(path.stat().st_size > 5000 for path in save(draw_report(found), tmp_path, name))


@pytest.mark.parametrize("shift", [0.7, 3.0, 6.0])
def test_distances_by_draws_are_the_textbook_ones(shift):
    """Gaussians in d = 3, shifted: TV, KL and sliced W2 are known, also far apart."""
    generator = torch.Generator().manual_seed(0)
    p = GaussianSum.mixture([1.0], [[0.0, 0.0, 0.0]], stds=[1.0])
    q = GaussianSum.mixture([1.0], [[shift, 0.0, 0.0]], stds=[1.0])
    x = p.sample(20_000, generator)
    pair = [q.sample(20_000, generator) for _ in range(2)]
    found = sample_distances(x, p.log_density(x), q.log_density(x), *pair)
    tv = math.erf(shift / (2 * math.sqrt(2)))
    for name, truth in (("TV", tv), ("KL", shift**2 / 2)):
        assert abs(found[name].value - truth) <= found[name].floor
        assert found[name].floor < 0.1 * truth
    # E over directions of the squared projection is 1/d; 64 directions know it to a tenth.
    assert abs(found["SW2"].value - shift / math.sqrt(3)) < 0.1 * shift + found["SW2"].floor


def test_a_law_too_thin_for_the_grid_is_refused_before_it_is_measured():
    problem = load_problem("note_1d")
    parts = []
    with pytest.raises(ValueError, match="% of its mass must be denser than one a cell"):
        law_report(
            problem, choose_field(problem, "nft", nft_beta=0.05),
            watch=lambda part, share: parts.append(part),
        )  # fmt: skip
    assert set(parts) == {"there"}


@pytest.mark.slow
def test_a_thin_peak_is_seen():
    """A component of 30 % of the mass and std 0.0008: distances of the base to itself vanish."""
    base = GaussianSum.mixture([0.7, 0.3], [[-1.0], [1.0]], stds=[0.9, 0.0008])
    problem = Problem("thin", base, bump_reward(1.0, [0.5], width=1.0), 1.0)
    found = law_report(problem, choose_field(problem, "base"))
    for distance in found.distances["base"].values():
        assert abs(found.mass - 1) <= distance.floor < QUADRATURE_2D.rtol
        assert abs(distance.value) <= distance.floor


def test_lost_mass_is_in_the_floor():
    axis = np.linspace(-8, 1, 901)
    law = mixture_on_grid(GaussianSum.mixture([1.0], [[0.0]], stds=[1.0]), (axis,))
    assert grid_distances(law, law)["TV"].floor > 0.1


def test_kl_where_the_target_vanishes():
    """1 - 2 r has an isolated zero at the bump's top: KL is finite; a gap of mass: infinite."""
    base = load_problem("note_1d").base
    problem = Problem("zero", base, bump_reward(0.5, [0.0], width=1.0), 2.0)
    row = law_report(problem, choose_field(problem, "nft_minus")).distances["1-2r"]
    assert math.isfinite(row["KL"].value)
    assert row["KL"].value > 0.001
    axis = np.linspace(-5, 5, 501)
    p = mixture_on_grid(base, (axis,))
    with np.errstate(divide="ignore"):
        holed = GridLaw(p.axes, np.where(abs(axis) < 1, -np.inf, p.log_density), p.cdf)
    assert grid_distances(p, holed)["KL"].value == math.inf


@pytest.mark.slow
def test_narrow_reward_does_not_underflow():
    base = load_problem("note_1d").base
    problem = Problem("narrow", base, bump_reward(1.0, [2.0], width=0.2), 2.0)
    row = law_report(problem, choose_field(problem, "nft")).distances["r"]
    assert all(math.isfinite(d.value) for d in row.values())


@pytest.mark.slow
def test_law_of_a_clipped_tilt():
    """Backward from t = 1, where the component's posterior has no spread."""
    problem = load_problem("linear_1d")
    target = problem.tilt(ClippedExponential(1.5, 2.0))
    y = torch.linspace(-3, 3, 41, dtype=torch.float64)[:, None]
    found = FlowLaw(problem.tilted_field(target.wrapper)).log_density(y)
    assert QUADRATURE.holds(found, target.log_density(y), scale=1.0)


@pytest.mark.parametrize("path", [VarianceExploding(sigma_max=40.0), VariancePreserving()])
def test_start_law_on_other_paths(path):
    """Started from N(0, sigma_0^2), a single Gaussian's law is known: its flow is affine."""
    m, s = 0.7, 0.5
    law = GaussianSum.mixture([1.0], [[m]], stds=[s])
    zero = torch.zeros((), dtype=torch.float64)
    alpha, sigma = float(path.alpha(zero)), float(path.sigma(zero))
    # x_1 = m + s (x_0 - alpha m) / sqrt(alpha^2 s^2 + sigma^2), X_0 ~ N(0, sigma^2)
    scale = s / math.sqrt(alpha**2 * s**2 + sigma**2)
    expected = GaussianSum.mixture([1.0], [[m - scale * alpha * m]], stds=[scale * sigma])
    y = torch.linspace(-1, 2, 9, dtype=torch.float64)[:, None]
    found = FlowLaw(MixtureField(law, path)).log_density(y)
    assert QUADRATURE.holds(found, expected.log_density(y), scale=1.0)
    assert not QUADRATURE.holds(found, law.log_density(y), scale=1.0)


def test_gradient_of_the_conditional_reward():
    """grad m_t by autodiff of m_t; Cov(X_1 - X_0, r | x) = ((1 - t)/t) grad m_t, 0 < t < 1."""
    for name in ("bumps_1d", "quadratic_2d", "plane_5d"):
        problem = load_problem(name)
        ask, t = problem.conditional_reward, 0.35
        x = torch.randn(
            5, problem.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        ).requires_grad_(True)
        (gradient,) = torch.autograd.grad(ask.mean(x, t).sum(), x)
        point = x.detach()
        assert ALGEBRA.holds(ask.gradient(point, t), gradient, scale=1.0)
        assert ALGEBRA.holds(ask.covariance(point, t), (1 - t) / t * gradient, scale=1.0)


def test_quantiles_on_a_grid_are_those_of_the_mixture():
    """Monotone interpolation of the inverse is off by some 1e-5 here."""
    problem = load_problem("note_1d")
    law = mixture_on_grid(problem.base, grid_laws.make_grid(problem, problem.base_field, {}))
    u = np.linspace(0.001, 0.999, 999)
    assert QUADRATURE.holds(problem.base.cdf(torch.as_tensor(law.quantile(u))), u, scale=1.0)
    beyond = GridLaw(law.axes, law.log_density, 0.1 + 0.8 * law.cdf)
    low, high = beyond.quantile(np.array([0.05, 0.95]))
    assert low == law.axes[0][0]
    assert law.quantile(np.array([1 - 1e-12])) < high <= law.axes[0][-1]


def test_multiples_of_the_memoryless_schedule():
    """g^2 is that multiple of 2 eta; every multiple keeps an exact field's law."""
    base = load_problem("note_1d").base
    field, t = MixtureField(base), torch.tensor(0.3, dtype=torch.float64)
    double = Diffusion.of_memoryless(2.0)
    assert ALGEBRA.holds(double.squared(field.path, t), 4 * (1 - 0.3) / 0.3)
    grid = np.linspace(-7, 7, 1201)
    found = sde_law(field, double, grid)
    assert QUADRATURE.holds(found.density, mixture_on_grid(base, (grid,)).density, scale=1.0)
    u = np.array([0.05, 0.5, 0.93])
    y = torch.as_tensor(found.quantile(u))
    assert QUADRATURE.holds(base.cdf(y), u, scale=1.0)


@pytest.mark.slow
def test_sde_report_holds_the_start_law():
    """A base that is much narrower than the noise it starts from."""
    base = GaussianSum.mixture([0.6, 0.4], [[-0.2], [0.2]], stds=[0.15, 0.1])
    problem = Problem("narrow", base, bump_reward(1.0, [0.2], width=0.2), 1.0)
    found = law_report(problem, choose_field(problem, "base"), diffusion=Diffusion.of_constant(1.0))
    assert abs(found.distances["base"]["TV"].value) <= found.distances["base"]["TV"].floor
    exploding = replace(load_problem("note_1d"), path=VarianceExploding())
    with pytest.raises(ValueError, match="start law"):
        sde_law(exploding.base_field, Diffusion.of_constant(1.0), np.linspace(-7, 7, 801))


def test_alternating_polynomials_are_refused_where_digits_are_lost():
    problem = load_problem("note_1d")
    with pytest.raises(ValueError, match="must be a ratio"):
        problem.tilt(TruncatedExponential(-10.0, 32))
    mild = problem.tilt(TruncatedExponential(-1.0, 6))
    x = torch.linspace(-2, 3, 11, dtype=torch.float64)[:, None]
    assert QUADRATURE_TIGHT.holds(mild.law.log_density(x), mild.log_density(x), scale=1.0)


def test_batch_of_scales_over_one_base():
    problem = load_problem("bumps_1d")
    scales = torch.tensor([0.5, 1.5], dtype=torch.float64)
    law = problem.reward.exponential_tilt(problem.base, scales).normalised()
    assert law.sample(3, torch.Generator().manual_seed(0)).shape == (2, 3, 1)
    assert ALGEBRA.holds(law.total()[0], torch.zeros(2), scale=1.0)


def test_law_by_quadrature_in_the_plane_is_refused():
    problem = replace(load_problem("bump_2d"), route="quadrature")
    with pytest.raises(ValueError, match="route = 'quadrature' for a law needs d = 1, got d = 2"):
        law_report(problem, choose_field(load_problem("bump_2d"), "nft"))
