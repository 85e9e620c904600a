"""Online NFT over epochs: second routes, closed forms, limits, errors, and mutants of each."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import theory.recursion.moments as moments
import theory.recursion.online as online
from tests.theory.recursion.gaussian_reference import (
    affine_flow,
    blend,
    gaussian_covariance,
    gaussian_epoch,
    gaussian_tilt,
    gaussian_velocity,
)
from theory.common.tolerances import (
    ALGEBRA,
    QUADRATURE,
    QUADRATURE_2D,
    QUADRATURE_TIGHT,
    SLOPE,
)
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem, load_problem
from theory.recursion import Recursion, carry
from theory.samplers.flow import FlowLaw
from theory.tilts.bump_rewards import bumps_reward
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.wrappers import Exponential

# Log-density below the peak that holds 99.9 % of a Gaussian's mass and more.
CENTRAL = 6.0
MODES = ("frozen", "refit", "student")


def central(law, depth=CENTRAL):
    return law.log_density > law.log_density.max() - depth


def gaussian_problem(reward, mean=0.4, std=0.9):
    return Problem("gaussian", GaussianSum.mixture([1.0], [[mean]], stds=[std]), reward)


QUADRATIC = quadratic_reward([[-0.5]], [0.6], 0.1)
LINEAR = linear_reward([0.7], 0.2)
SMOOTH_2D = Problem(
    "smooth plane",
    GaussianSum.mixture([0.6, 0.4], [[-0.4, -0.2], [0.5, 0.4]], stds=[0.9, 1.0]),
    bumps_reward([1.0], [[0.8, -0.5]], widths=[1.2]),
)


def moments_of(law):
    mean, covariance = law.moments()
    return float(mean[0]), math.sqrt(float(covariance[0, 0]))


# --- one epoch against the field's own law


@pytest.mark.slow
@pytest.mark.parametrize("name", ["note_1d", "bumps_1d"])
def test_first_epoch_is_nfts_law(name):
    problem = load_problem(name)
    law = carry(problem, Recursion(1.0), 1).laws[1]
    here = central(law)
    y = torch.as_tensor(law.axes[0][here])[:, None]
    exact = FlowLaw(problem.nft_field(1.0))
    assert QUADRATURE.holds(law.log_density[here], exact.log_density(y), scale=1.0)
    assert QUADRATURE.holds(law.cdf[here], exact.cdf(y), scale=1.0)


@pytest.mark.slow
def test_first_epoch_is_nfts_law_in_the_plane():
    law = carry(SMOOTH_2D, Recursion(2.0), 1, grid=56).laws[1]
    points = np.argwhere(central(law))[::40]
    y = torch.as_tensor([[law.axes[0][i], law.axes[1][j]] for i, j in points])
    exact = FlowLaw(SMOOTH_2D.nft_field(2.0), rtol=1e-7, atol=1e-8).log_density(y)
    assert QUADRATURE_2D.holds(law.log_density[tuple(points.T)], exact, scale=1.0)


def test_frozen_adds_the_first_covariance_every_epoch():
    problem, spec = load_problem("note_1d"), Recursion(4.0, "frozen")
    law = carry(problem, spec, 3).laws[3]
    here = central(law)
    y = torch.as_tensor(law.axes[0][here])[:, None]
    exact = FlowLaw(problem.cumulant_field(3 * spec.lam, 1)).log_density(y)
    assert QUADRATURE.holds(law.log_density[here], exact, scale=1.0)


def test_second_refit_epoch_by_another_route():
    """Its moments by quadrature over the carried density, at one point of space and time."""
    problem, spec = load_problem("note_1d"), Recursion(2.0)
    law = carry(problem, spec, 1).laws[1]
    y, t = law.axes[0], 0.6
    tables = moments.Tables(law.axes, online.Clock.even(6), problem.reward)
    fields = tables.fields(law.log_density)
    k = int(np.argmin(np.abs(tables.clock.times - t)))
    t = float(tables.clock.times[k])
    r = problem.reward(torch.as_tensor(y)[:, None]).numpy()
    for j in (120, 150, 170):
        x = tables.x_points(k)[j, 0]
        weight = np.exp(law.log_density - 0.5 * ((x - t * y) / (1 - t)) ** 2)
        weight = weight / weight.sum()
        mean, rbar = weight @ y, weight @ r
        assert QUADRATURE_TIGHT.holds(fields.u[k, j, 0], (mean - x) / (1 - t), scale=1.0)
        expected = weight @ ((y - mean) * (r - rbar)) / (1 - t)
        assert QUADRATURE_TIGHT.holds(fields.cov[k, j, 0], expected, scale=1.0)
        assert QUADRATURE_TIGHT.holds(fields.mean[k, j], rbar, scale=1.0)


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(load_problem("note_1d"), id="d1"),
        pytest.param(SMOOTH_2D, id="d2", marks=pytest.mark.slow),
    ],
)
def test_fields_against_closed_forms(problem):
    """Every channel at every stage time, also where local nodes take over and at t = 1."""
    axes = online.default_axes(problem, Recursion(10.0), 1, 300 if problem.dim == 1 else 64)
    points = torch.as_tensor(np.stack(np.meshgrid(*axes, indexing="ij"), -1))
    log_q = problem.base.log_density(points.reshape(-1, problem.dim)).numpy()
    tables = moments.Tables(axes, online.Clock.even(4), problem.reward)
    fields = tables.fields(log_q.reshape(points.shape[:-1]))
    tier = QUADRATURE if problem.dim == 1 else QUADRATURE_2D
    assert tables.late
    assert tables.early
    for k in range(1, len(tables.clock.times)):
        t = float(tables.clock.times[k])
        x = torch.as_tensor(tables.x_points(k).reshape(-1, problem.dim))
        depth = problem.base_field.log_density(x, t)
        here = (depth > depth.max() - CENTRAL).numpy()
        u, div_u = problem.base_field.with_divergence(x, t)
        v, div_v = problem.nft_field(2.0).with_divergence(x, t)
        pairs = [
            (fields.u, u),
            (fields.div_u, div_u),
            (fields.cov, v - u),
            (fields.div_cov, div_v - div_u),
            (fields.score, problem.base_field.score(x, t)),
            (fields.mean, problem.conditional_reward.mean(x, t)),
            (fields.grad_mean, problem.conditional_reward.gradient(x, t)),
        ]
        for ours, exact in pairs:
            flat = ours[k].reshape(len(here), -1)[here]
            assert tier.holds(flat, exact.numpy().reshape(len(here), -1)[here], scale=1.0)


# --- nothing to do


@pytest.mark.parametrize("mode", MODES)
def test_zero_reward_keeps_the_law(mode):
    """Also the student's, whose factor 2 m - 1 = -1 then meets u - v = 0."""
    problem = replace(load_problem("note_1d"), reward=linear_reward([0.0], 0.0))
    run = carry(problem, Recursion(0.5, mode), 3, grid=128, steps=6)
    here = central(run.laws[0], 40.0)
    assert ALGEBRA.holds(run.laws[3].log_density[here], run.laws[0].log_density[here], scale=1.0)


# --- closed forms of Gaussian laws


@pytest.mark.parametrize("reward", [LINEAR, QUADRATIC], ids=["linear", "quadratic"])
def test_gaussian_epochs(reward):
    """Ten refit epochs: means and stds in closed form, by ODE, and on the grid."""
    spec, problem = Recursion(4.0), gaussian_problem(reward)
    run = carry(problem, spec, 10)
    h, b = float(reward.matrix), float(reward.vector)
    state = 0.4, 0.9
    for law in run.laws[1:]:
        velocity = blend(
            (1.0, gaussian_velocity(*state)), (spec.lam, gaussian_covariance(*state, h, b))
        )
        state = gaussian_epoch(*state, spec.lam, h, b)
        assert ALGEBRA.holds(affine_flow(velocity), state, scale=1.0)
        assert QUADRATURE.holds(moments_of(law), state, scale=1.0)


def test_linear_reward_on_a_gaussian_is_the_tilt_in_every_mode():
    spec = Recursion(4.0)
    target = gaussian_tilt(0.4, 0.9, 6 * spec.lam, 0.0, 0.7)
    for mode in MODES:
        run = carry(gaussian_problem(LINEAR), replace(spec, mode=mode), 6)
        assert QUADRATURE.holds(moments_of(run.laws[-1]), target, scale=1.0)
        row = run.summary()[-1]
        assert QUADRATURE.holds([row["tilt"], row["tilt_explained"]], [6 * spec.lam, 1.0])


def test_frozen_and_anchored_gaussians_by_ode():
    spec = Recursion(2.0, "frozen", kl_weight=1.0)
    run = carry(gaussian_problem(QUADRATIC), spec, 4)
    base = gaussian_velocity(0.4, 0.9)
    term = gaussian_covariance(0.4, 0.9, -0.5, 0.6)
    for k, law in enumerate(run.laws):
        expected = affine_flow(blend((1.0, base), (spec.effective_tilt(k), term)))
        assert QUADRATURE.holds(moments_of(law), expected, scale=1.0)


def test_anchored_refit_gaussian_by_ode():
    spec = Recursion(2.0, ema=0.25, kl_weight=1.0)
    run = carry(gaussian_problem(QUADRATIC), spec, 4)
    base, state = gaussian_velocity(0.4, 0.9), (0.4, 0.9)
    for law in run.laws[1:]:
        own, term = gaussian_velocity(*state), gaussian_covariance(*state, -0.5, 0.6)
        w, g = spec.anchor, spec.ema
        state = affine_flow(
            blend((g + (1 - g) * w, own), ((1 - g) * w * spec.lam, term), ((1 - g) * (1 - w), base))
        )
        assert QUADRATURE.holds(moments_of(law), state, scale=1.0)


# --- small steps


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refit", "student"])
def test_small_steps_tend_to_the_tilt(mode):
    """At a fixed sum K lam = 2 the distance to the tilt falls like lam."""
    problem, total = load_problem("note_1d"), 2.0
    gaps = []
    for epochs in (10, 20, 40):
        law = carry(problem, Recursion(2 * epochs / total, mode), epochs, steps=8).laws[-1]
        y = torch.as_tensor(law.axes[0])[:, None]
        exact = problem.tilt(Exponential(total)).law.density(y).numpy()
        gaps.append(float(np.abs(law.density - exact).sum() * (law.axes[0][1] - law.axes[0][0])))
    slope = np.log2(gaps[1] / gaps[2])
    assert abs(slope - 1) < SLOPE
    assert gaps[2] > QUADRATURE.rtol


@pytest.mark.slow
def test_mass_over_200_epochs():
    run = carry(load_problem("note_1d"), Recursion(20.0), 200)
    assert run.mass_error < QUADRATURE_TIGHT.rtol
    assert len(run.summary()) == 201
    rewards = [row["reward"] for row in run.summary()]
    assert np.all(np.diff(rewards) > 0)
