"""Exact fields: protocol, precision at both ends of time, divergences, batches, dtypes, routes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.fields.mixture import DisplacedField, ExactField, MixtureField, VelocityModel
from theory.fields.paths import PATHS, RectifiedFlow
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem, load_problem, problem_names
from theory.tilts.bump_rewards import bump_reward, bumps_reward
from theory.tilts.quadratic import linear_reward
from theory.tilts.rewards import CallableReward
from theory.tilts.wrappers import ClippedExponential, Exponential, Power, TruncatedExponential

ENDS = [0.0, 1e-9, 0.3, 0.5, 0.7, 1 - 1e-9, 1.0]


def points(dim: int, n: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fields_of(problem: Problem) -> dict[str, ExactField]:
    return {
        "base": problem.base_field,
        "tilt": problem.tilted_field(Exponential(problem.scale)),
        "polynomial": problem.tilted_field(TruncatedExponential(problem.scale, 2)),
        "nft": problem.nft_field(1.0),
        "cumulant": problem.cumulant_field(0.7, 3),
    }


@pytest.mark.parametrize("name", problem_names())
def test_shapes_dtype_and_protocol(name):
    problem = load_problem(name)
    x = points(problem.dim)
    for label, field in fields_of(problem).items():
        assert isinstance(field, VelocityModel), label
        for t in (0.0, 0.4, 1.0, torch.linspace(0, 1, 7, dtype=torch.float64)):
            assert field(x, t).shape == x.shape
            assert bool(torch.isfinite(field(x, t)).all()), (label, t)
            assert bool(torch.isfinite(field.score(x, t)).all()), (label, t)
        small = fields_of(problem.to(torch.float32))[label]
        value = small(x.float(), 0.4)
        assert value.dtype == torch.float32
        assert float((value - field(x, 0.4)).abs().max()) < 1e-3 * float(field(x, 0.4).abs().max())
        with pytest.raises(TypeError, match="dtype"):
            field(x.float(), 0.4)


@pytest.mark.parametrize("name", ["bumps_1d", "linear_1d", "quadratic_2d", "bump_2d", "full_5d"])
def test_closed_divergence_is_that_of_autodiff(name):
    problem = load_problem(name)
    x = points(problem.dim)
    for field in fields_of(problem).values():
        for t in (0.0, 0.3, 0.8, 1.0, torch.linspace(0, 1, 7, dtype=torch.float64)):
            velocity, divergence = field.with_divergence(x, t)
            other, trace = ExactField.with_divergence(field, x, t)
            assert ALGEBRA.holds(velocity, other, scale=1.0)
            assert ALGEBRA.holds(divergence, trace, scale=1.0)


@pytest.mark.parametrize("name", ["bumps_1d", "bump_2d", "quadratic_2d", "linear_1d"])
def test_one_time_a_point_is_one_call_a_point(name):
    problem = load_problem(name)
    x, t = points(problem.dim), torch.tensor(ENDS, dtype=torch.float64)
    for field in fields_of(problem).values():
        together, score = field(x, t), field.score(x, t)
        for i, time in enumerate(ENDS):
            assert ALGEBRA.holds(together[i], field(x[i : i + 1], time)[0], scale=1.0)
            assert ALGEBRA.holds(score[i], field.score(x[i : i + 1], time)[0], scale=1.0)


def test_chunks_change_nothing(monkeypatch):
    problem = load_problem("bump_2d")
    x, t = points(2, 5000), torch.rand(5000, dtype=torch.float64)
    for field in fields_of(problem).values():
        whole = field(x, t), *field.with_divergence(x, t)
        monkeypatch.setattr("theory.fields.mixture.CHUNK_NUMBERS", 1)
        for a, b in zip(whole, (field(x, t), *field.with_divergence(x, t)), strict=True):
            assert ALGEBRA.holds(a, b, scale=1.0)
        monkeypatch.undo()


def test_a_batch_of_problems_is_each_of_them():
    centres = torch.tensor([[[1.0]], [[-0.5]], [[2.0]]], dtype=torch.float64)
    base = GaussianSum.mixture([0.65, 0.35], [[-1.2], [1.1]], stds=[0.6, 0.9])

    def problem(centre: torch.Tensor, law: GaussianSum) -> Problem:
        heights = torch.ones(centre.shape[:-1], dtype=torch.float64)
        widths = 0.8 * heights
        return Problem("batch", law, bumps_reward(heights, centre, widths=widths))

    together = problem(centres, base.expanded((3,)))
    x = points(1, 5).expand(3, 5, 1)
    for make in (
        lambda p: p.tilted_field(Exponential(1.5)),
        lambda p: p.nft_field(0.8),
        lambda p: p.cumulant_field(1.5, 3),
    ):
        velocity, divergence = make(together).with_divergence(x, 0.6)
        for i in range(3):
            alone = make(problem(centres[i], base)).with_divergence(x[i], 0.6)
            assert ALGEBRA.holds(velocity[i], alone[0], scale=1.0)
            assert ALGEBRA.holds(divergence[i], alone[1], scale=1.0)


# --- digits at the ends of time -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["bumps_1d", "linear_1d", "quadratic_2d", "plane_5d"])
def test_covariance_keeps_its_digits_near_the_data(name):
    """Cov(X_1 - X_0, r | x) = ((1 - t)/t) grad m_t -> (1 - t) grad r(x): relative digits."""
    problem = load_problem(name)
    x = points(problem.dim).requires_grad_(True)
    (gradient,) = torch.autograd.grad(problem.reward(x).sum(), x)
    left = 1e-9
    ours = problem.conditional_reward.covariance(x.detach(), 1 - left) / left
    # The limit is approached linearly in 1 - t; digits lost to cancellation would show as 1e-7.
    assert QUADRATURE_TIGHT.error(ours, gradient, float(gradient.abs().max())) < 100 * left
    naive = _naive_covariance(problem, x.detach(), 1 - left) / left
    assert float((naive - gradient).abs().max()) > 1e-8 * float(gradient.abs().max())
    at_end = problem.conditional_reward.gradient(x.detach(), 1.0)
    assert ALGEBRA.holds(at_end, gradient, scale=float(gradient.abs().max()))


def _naive_covariance(problem: Problem, x: torch.Tensor, t: float) -> torch.Tensor:
    """The mutant: E[(X_1 - x)/(1-t) r] - E[(X_1 - x)/(1-t)] E[r], from posterior means."""
    post = problem.base_field.posterior(x, t)
    series = problem.moments.series(post, 1).uncentred()
    mean_r = series.F[..., 1, None]
    cross = series.N[..., 1, :] * (1 - t) ** 2 + post.mean * mean_r
    return (cross - x * mean_r) / (1 - t) - (post.mean - x) / (1 - t) * mean_r


def test_start_of_time_is_the_plain_covariance():
    """At t = 0, X_t says nothing: Cov(X_1 - X_0, r | x) = Cov(X_1, r)."""
    problem = load_problem("linear_2d")
    expected = problem.base.covariance() @ problem.reward.vector
    ours = problem.conditional_reward.covariance(points(2), 0.0)
    assert ALGEBRA.holds(ours, expected.expand_as(ours), scale=1.0)


@pytest.mark.parametrize("path", PATHS)
def test_velocity_score_and_mean_agree_on_every_path(path):
    """One linear relation ties the three together: theory.fields.paths holds it."""
    problem = replace(load_problem("bumps_1d"), path=PATHS[path]())
    x = points(1)
    for field in fields_of(problem).values():
        for t in (0.2, 0.6, 0.95):
            velocity = field(x, t)
            for kind, value in (("score", field.score(x, t)), ("x1", field.posterior_mean(x, t))):
                other = problem.path.convert(value, x, t, kind, "velocity")
                # From x1 the velocity is a difference of numbers as large as x sigma'/sigma.
                time = torch.tensor(t, dtype=torch.float64)
                terms = x.abs().max() * problem.path.dsigma(time) / problem.path.sigma(time)
                scale = max(float(velocity.abs().max()), float(terms.abs()))
                assert QUADRATURE_TIGHT.holds(other, velocity, scale=scale)


def test_far_tails_are_finite_and_linear():
    """1e3 standard deviations out one component rules: v is that Gaussian's linear field."""
    law = GaussianSum.mixture([0.7, 0.3], [[-1.0], [1.5]], stds=[0.5, 1.1])
    x, t = torch.tensor([[1e3], [-1e3]], dtype=torch.float64), 0.6
    variance = t**2 * 1.1**2 + (1 - t) ** 2
    slope = (t * 1.1**2 - (1 - t)) / variance
    expected = 1.5 + slope * (x - t * 1.5)
    assert ALGEBRA.holds(MixtureField(law)(x, t), expected)


# --- the quadrature route ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bumps_1d", "linear_1d", "quadratic_1d", "bump_2d"])
def test_routes_agree(name):
    closed = load_problem(name)
    by_nodes = replace(closed, route="quadrature")
    x = points(closed.dim, 4)
    for t in (0.0, 0.4, 0.97):
        for order in (1, 3):
            a, b = closed.cumulant_field(1.0, order), by_nodes.cumulant_field(1.0, order)
            assert QUADRATURE_TIGHT.holds(b(x, t), a(x, t), scale=1.0)
        wrapper = Exponential(closed.scale)
        a, b = closed.tilted_field(wrapper), by_nodes.tilted_field(wrapper)
        assert QUADRATURE_TIGHT.holds(b(x, t), a(x, t), scale=1.0)
    assert QUADRATURE_TIGHT.holds(by_nodes.tilt(wrapper).log_z, closed.tilt(wrapper).log_z, 1.0)


def test_clipped_exponential_closed_against_nodes_with_breakpoints():
    base = load_problem("linear_1d").base
    for scale in (1.3, -0.9):
        closed = Problem("clip", base, linear_reward([0.6], 0.2), 1.0)
        by_nodes = replace(closed, route="quadrature")
        wrapper = ClippedExponential(scale, 1.8)
        x = points(1)
        for t in (0.0, 0.5, 0.99, 1.0):
            a, b = closed.tilted_field(wrapper)(x, t), by_nodes.tilted_field(wrapper)(x, t)
            assert QUADRATURE_TIGHT.holds(b, a, scale=1.0)


def test_callable_reward_is_its_closed_form():
    problem = load_problem("bumps_1d")
    reward = problem.reward
    free = Problem("any", problem.base, CallableReward(reward, 1), 2.0, route="quadrature")
    x = points(1)
    assert QUADRATURE_TIGHT.holds(free.nft_field(1.0)(x, 0.5), problem.nft_field(1.0)(x, 0.5), 1.0)
    with pytest.raises(ValueError, match="route='quadrature'"):
        replace(free, route="closed").nft_field(1.0)


def test_unresolved_quadrature_is_refused():
    spike = CallableReward(lambda y: torch.exp(-(((y[:, 0] - 0.3) / 0.004) ** 2)), 1)
    base = load_problem("note_1d").base
    with pytest.raises(ValueError, match="quadrature_tolerance"):
        Problem("spike", base, spike, 1.0, route="quadrature").nft_field(1.0)
    kinked = CallableReward(lambda y: (y[:, 0] - 0.25).abs(), 1)
    with pytest.raises(ValueError, match="breakpoints"):
        Problem("kink", base, kinked, 1.0, route="quadrature").nft_field(1.0)
    mended = replace(kinked, breakpoints=(0.25,))
    Problem("kink", base, mended, 1.0, route="quadrature").nft_field(1.0)


def test_quadrature_stops_at_two_dimensions():
    with pytest.raises(ValueError, match=r"d = 1 (and|or) 2"):
        replace(load_problem("plane_5d"), route="quadrature").nft_field(1.0)


# --- liu, Theorem 1.1 and the reward-weighted field ----------------------------------------------


@pytest.mark.parametrize("name", ["note_1d", "bump_2d", "plane_5d"])
def test_nft_is_the_extrapolation_towards_the_reward_weighted_field(name):
    """v* = v0 + (2/nft_beta) m_t (vhat - v0), vhat the field of base r / Z."""
    problem = load_problem(name)
    x, t = points(problem.dim), 0.7
    m = problem.conditional_reward.mean(x, t)[:, None]
    gap = problem.reward_weighted_field()(x, t) - problem.base_field(x, t)
    for nft_beta in (0.5, 2.0):
        expected = problem.base_field(x, t) + (2 / nft_beta) * m * gap
        assert ALGEBRA.holds(problem.nft_field(nft_beta)(x, t), expected, scale=1.0)


@pytest.mark.parametrize("name", problem_names())
def test_cumulants_are_the_derivatives_of_the_tilted_velocity(name):
    """d^n/da^n v^a at a = 0, by Chebyshev interpolation of exactly tilted fields."""
    problem = load_problem(name)
    x, t = points(problem.dim, 3), 0.6
    spread = float(
        problem.reward(problem.base.sample(2000, torch.Generator().manual_seed(1))).std()
    )
    radius = 0.2 / spread
    a = radius * np.cos(np.pi * (np.arange(16) + 0.5) / 16)
    values = np.stack([problem.tilted_field(Exponential(float(s)))(x, t).numpy() for s in a])
    series = np.polynomial.chebyshev.Chebyshev.fit(a, values.reshape(16, -1)[:, 0], 15)
    for n in range(1, 4):
        ours = problem.conditional_reward.mixed_cumulant(n, x, t).numpy().reshape(-1)[0]
        # Differentiation at radius R multiplies rounding by n!/R^n.
        assert QUADRATURE_TIGHT.holds(ours * radius**n, series.deriv(n)(0.0) * radius**n, 1.0)


def test_field_is_a_displaced_base():
    """posterior mean, velocity and score of a tilt move together (theory.tilts.conditional)."""
    problem = load_problem("quadratic_2d")
    field = problem.nft_field(1.0)
    assert isinstance(field, DisplacedField)
    x, t = points(2), 0.3
    moved = (field.posterior_mean(x, t) - problem.base_field.posterior_mean(x, t)) / (1 - t) ** 2
    gap = (field.score(x, t) - problem.base_field.score(x, t)) / t
    assert ALGEBRA.holds(moved, gap, scale=1.0)
    assert isinstance(problem.path, RectifiedFlow)


def test_power_tilt_twice_is_power_two():
    """base r, tilted again by r, is base r^2."""
    base = load_problem("note_1d").base
    reward = bump_reward(0.8, [1.4], width=0.9)
    once = Problem("once", base, reward).tilt(Power(1)).law
    again = Problem("again", once, reward).tilt(Power(1))
    x = points(1)
    both = Problem("both", base, reward).tilt(Power(2))
    assert ALGEBRA.holds(again.log_density(x), both.log_density(x), scale=1.0)


def test_no_hidden_cpu_tensors():
    """What the base field computes lives where its input lives (tried on the meta device)."""
    for name in ("bumps_1d", "quadratic_2d", "full_5d"):
        problem = load_problem(name)
        warm = fields_of(problem)
        x = points(problem.dim)
        for field in warm.values():
            field(x, 0.5)
        law = problem.base.to(device="meta")
        assert MixtureField(law)(x.to("meta"), 0.5).device.type == "meta"
