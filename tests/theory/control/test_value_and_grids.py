"""Closed value functions against their equation on grids; laws of optima; bad input."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D, QUADRATURE_TIGHT
from theory.control.equation import Equation, Frame, differences, solve
from theory.control.grid import GridOptimum, law_frame
from theory.control.linear import of_gaussian
from theory.control.steered import SteeredField
from theory.control.value import MemorylessOptimum, value_at_noise
from theory.fields.diffusion import Diffusion
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import Problem, load_problem
from theory.samplers.sde import sde_law
from theory.tilts.quadratic import quadratic_reward
from theory.tilts.wrappers import Exponential

TIMES = (0.7, 0.1, 0.02)
MEMORYLESS = Diffusion.of_memoryless(1.0, 0.02)
ONE = Diffusion.of_constant(1.0)


def seen(problem, x, t, depth):
    """Points where X_t's density is within e^-depth of its peak."""
    alpha, sigma = torch.tensor(t), torch.tensor(1 - t)
    log_p = problem.base.noised(torch.as_tensor(x), alpha.double(), sigma.double()).log_abs
    return (log_p > log_p.max() - depth).numpy()


def errors(problem, order=8, points=201, scale=1.0):
    """Largest errors of V and grad V on the grid against the closed form at `scale` times a."""
    optimum = MemorylessOptimum(problem, scale * problem.scale)
    grid = GridOptimum(problem, problem.scale, MEMORYLESS, points=points)
    run = grid.solve_at(TIMES, order=order)
    value, slope = [], []
    for t in TIMES:
        x = run.points(t)
        inside = seen(problem, x, t, 12.0)
        at = torch.as_tensor(x[inside])
        value.append(np.abs(run.at(t)[inside] - optimum.value(at, t).numpy()).max())
        slope.append(np.abs(run.gradient_at(t)[inside] - optimum.gradient(at, t).numpy()).max())
    return max(value), max(slope)


@pytest.mark.slow
def test_closed_value_function_solves_the_equation_on_a_grid():
    problem = load_problem("note_1d")
    assert max(errors(problem)) < QUADRATURE.rtol
    assert min(errors(problem, points=61, scale=1.01)) > QUADRATURE.rtol


@pytest.mark.slow
def test_order_of_the_grid():
    """Halving the step divides the error by about 2^4 with stencils of order 4."""
    problem = load_problem("note_1d")
    coarse, fine = (errors(problem, 4, n)[0] for n in (61, 121))
    assert 3 < np.log2(coarse / fine) < 6


def test_plane_against_the_closed_form():
    """A Gaussian base: V is smooth enough for a small grid."""
    base = GaussianSum.mixture([1.0], [[0.3, -0.2]], covs=[[[0.6, 0.2], [0.2, 0.4]]])
    reward = quadratic_reward([[-0.3, 0.1], [0.1, -0.2]], [0.5, 0.2], 0.1)
    problem = Problem("one", base, reward, 1.2)
    optimum = MemorylessOptimum(problem, 1.2)
    run = GridOptimum(problem, 1.2, Diffusion.of_memoryless(1.0, 0.2), points=21).solve_at([0.2])
    x = run.points(0.2)
    inside = seen(problem, x, 0.2, 9.0)
    at = torch.as_tensor(x[inside])
    assert QUADRATURE_2D.holds(run.at(0.2)[inside], optimum.value(at, 0.2), 1.0)
    assert QUADRATURE_2D.holds(run.gradient_at(0.2)[inside], optimum.gradient(at, 0.2), 1.0)
    assert not QUADRATURE_2D.holds(run.at(0.2)[inside], optimum.value(at, 0.25), 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("g", [0.3, 1.0])
def test_gaussian_optimum_by_riccati_and_by_grid(g):
    """Value, gradient and law of X_1 under a schedule that is not memoryless."""
    base = GaussianSum.mixture([1.0], [[0.4]], stds=[0.8])
    problem = Problem("one", base, quadratic_reward([[-0.3]], [0.7], 0.1), 1.5)
    schedule = Diffusion.of_constant(g)
    linear, grid = of_gaussian(problem, 1.5, schedule), GridOptimum(problem, 1.5, schedule)
    x = grid.at_start.points(0.0)[100:200]
    assert QUADRATURE_TIGHT.holds(grid.at_start.at(0.0)[100:200], linear.value(x, 0.0), 1.0)
    mean, cov = linear.law()
    own_mean, own_cov = grid.law.moments()
    assert QUADRATURE.holds(own_mean, mean[1:], 1.0)
    assert QUADRATURE.holds(own_cov, cov[1:, 1:], 1.0)
    tilt = problem.tilt(Exponential(1.5)).law
    assert not QUADRATURE.holds(own_mean, tilt.mean[0], 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.0, 0.3])
def test_law_with_a_running_cost(start):
    """f > 0 and a start after t = 0: grid against Riccati; without f the law is another."""
    base = GaussianSum.mixture([1.0], [[0.4]], stds=[0.8])
    problem = Problem("one", base, quadratic_reward([[-0.3]], [0.7], 0.1), 1.5)
    schedule = Diffusion(constant=1.0, start=start)
    plain = of_gaussian(problem, 1.5, schedule)
    linear = replace(plain, running_matrix=np.array([[0.8]]), running_vector=np.array([0.5]))
    grid = GridOptimum(
        problem, 1.5, schedule, lambda x, t: 0.4 * x[:, 0] ** 2 + 0.5 * x[:, 0], points=121
    )
    mean, cov = linear.law()
    own_mean, own_cov = grid.law.moments()
    assert abs(grid.mass - 1) < QUADRATURE.rtol
    assert QUADRATURE.holds(own_mean, mean[1:], 1.0)
    assert QUADRATURE.holds(own_cov, cov[1:, 1:], 1.0)
    assert not QUADRATURE.holds(own_mean, plain.law()[0][1:], 1.0)


@pytest.mark.slow
def test_control_between_the_kept_times():
    """Interpolated in time and space, against Riccati, and steered: velocity and divergence."""
    base = GaussianSum.mixture([1.0], [[0.4]], stds=[0.8])
    problem = Problem("one", base, quadratic_reward([[-0.3]], [0.7], 0.1), 1.5)
    linear, grid = of_gaussian(problem, 1.5, ONE), GridOptimum(problem, 1.5, ONE, points=81)
    x = np.linspace(-1.5, 1.5, 7)[:, None]
    for t in (0.0, 0.137, 0.61, 0.999, 1.0):
        assert QUADRATURE.holds(grid.value(x, t), linear.value(x, t), 1.0)
        assert QUADRATURE.holds(grid.control(x, t), linear.control(x, t), 1.0)
        assert QUADRATURE.holds(grid.laplacian(x, t), linear.coefficients(t)[0].trace(), 1.0)
    field, at = SteeredField(grid), torch.as_tensor(x)
    for t in (0.2, 0.8):
        step = 1e-5
        _, divergence = field.with_divergence(at, t)
        slope = (field(at + step, t) - field(at - step, t))[:, 0] / (2 * step)
        assert QUADRATURE.holds(divergence, slope, 1.0)
        eta = (1 - t) / t
        drift = problem.base_field(at, t) + 0.5 * problem.base_field.score(at, t)
        steered = field(at, t) + 0.5 * field.score(at, t)
        assert QUADRATURE.holds(steered - drift, linear.control(x, t), 1.0)
        assert QUADRATURE.holds(
            (field(at, t) - problem.base_field(at, t)) * (1 + 1 / (2 * eta)),
            linear.control(x, t),
            1.0,
        )


@pytest.mark.slow
def test_law_of_the_optimum_by_two_equations():
    """The factor of memory against Fokker-Planck with the control; the tilt is another law."""
    problem = load_problem("note_1d")
    grid = GridOptimum(problem, problem.scale, ONE, points=161, count=41)
    assert abs(grid.mass - 1) < QUADRATURE.rtol
    axis = grid.law.axes[0]
    uniform = np.linspace(axis[0], axis[-1], len(axis))
    law = sde_law(SteeredField(grid), ONE, uniform, 1e-8, 1e-10)
    assert QUADRATURE.holds(law.density, grid.law.density, 10.0)
    tilt = problem.tilt(Exponential(problem.scale))
    claimed = tilt.log_density(torch.as_tensor(axis)[:, None]).exp()
    assert not QUADRATURE.holds(claimed, grid.law.density, 10.0)


def test_memoryless_control_both_ways():
    """u* = (2/g)(v* - v) = -g grad V, V(x, 0) = -log Z for every x; d = 5."""
    problem = load_problem("full_5d")
    optimum = MemorylessOptimum(problem, problem.scale)
    x = problem.base.sample(20, torch.Generator().manual_seed(1))
    for t in (0.05, 0.5, 0.95):
        g = (2 * (1 - t) / t) ** 0.5
        gap = optimum.velocity(x, t) - problem.base_field(x, t)
        assert ALGEBRA.holds(optimum.control(x, t), 2 / g * gap, 1.0)
    assert ALGEBRA.holds(optimum.value(x, 0.0), value_at_noise(optimum), 1.0)


def test_frames_hold_the_law_and_move_smoothly():
    problem = load_problem("linear_1d")
    for backwards in (False, True):
        frame = law_frame(problem, 6.0, backwards)
        for t in (0.1, 0.5, 0.9):
            step = 1e-6
            for part in (frame.centre, frame.width):
                slope = (part(t + step)[0] - part(t - step)[0]) / (2 * step)
                assert QUADRATURE.holds(slope, part(t)[1], 1.0)
    x = problem.base.sample(5000, torch.Generator().manual_seed(0)).numpy()
    assert np.abs(law_frame(problem, 6.0).find(x, 1.0)).max() < 1


@pytest.mark.parametrize(("order", "derivative"), [(4, 1), (4, 2), (8, 1), (8, 2)])
def test_differences_are_exact_for_polynomials(order, derivative):
    axis = np.linspace(-1, 2, 31)
    for power in range(order):
        expected = np.zeros_like(axis)
        if power >= derivative:
            factor = power * (power - 1) if derivative == 2 else power
            expected = factor * axis ** (power - derivative)
        found = differences(axis, order, derivative) @ axis**power
        assert QUADRATURE_TIGHT.holds(found, expected, 1.0)
    assert not QUADRATURE_TIGHT.holds(
        differences(axis, order, derivative) @ axis ** (order + 2),
        differences(axis, order + 2, derivative) @ axis ** (order + 2),
        1.0,
    )


FIVE = load_problem("full_5d")
LINE = load_problem("note_1d")


@pytest.mark.parametrize(
    ("call", "needles"),
    [
        (lambda: GridOptimum(FIVE, 1.0, ONE), ("d = 5", "d = 1 or 2")),
        (lambda: GridOptimum(LINE, -1.0, ONE), ("scale", "-1", "> 0")),
        (lambda: GridOptimum(LINE, 1.0, ONE).solve_at([1.0]), ("times", "1.0", r"\[0, 1\)")),
        (lambda: GridOptimum(LINE, 1.0, ONE, points=9).solve_at([0.5]), ("points", "9")),
        (
            lambda: GridOptimum(LINE, 1.0, MEMORYLESS, points=81).value(np.zeros((1, 1)), 0.0),
            ("t must", r"\[0.02, 1\]", "got 0"),
        ),
        (
            lambda: GridOptimum(LINE, 1.0, Diffusion(memoryless=1.0), points=81).at_start,
            ("memoryless", "t = 0", "offset"),
        ),
        (lambda: MemorylessOptimum(LINE, float("nan")), ("scale", "nan", "finite")),
        (
            lambda: MemorylessOptimum(LINE, 1.0).control(torch.zeros(1, 1).double(), 0.0),
            ("memoryless", "inf", "t = 0"),
        ),
        (
            lambda: MemorylessOptimum(LINE, 1.0).control(torch.zeros(1, 1).double(), 0.5, ONE),
            ("schedule", "g = 1", "memoryless"),
        ),
        (lambda: Diffusion.of_offset(0.0), ("offset", "0", "> 0")),
        (lambda: Diffusion(constant=-1.0), ("constant", "-1", "> 0")),
        (lambda: Diffusion(constant=float("nan")), ("constant", "nan")),
        (lambda: Diffusion(constant=1.0, offset=0.1), ("offset", "0.1", "g = 1")),
        (lambda: Diffusion(constant=1.0, start=2.0), ("start", "2")),
        (lambda: GridOptimum(LINE, 1.0, ONE, reach=-1.0), ("reach", "-1")),
        (lambda: GridOptimum(LINE, 1.0, ONE, count=1), ("count", "1")),
        (lambda: GridOptimum(LINE, 1.0, ONE, points=81).value(np.zeros(3), 0.5), (r"\(3,\)",)),
        (lambda: of_gaussian(LINE, float("nan"), ONE), ("scale", "nan")),
        (lambda: Diffusion(constant=1.0, memoryless=1.0), ("exactly one",)),
        (
            lambda: Diffusion.of_function("negative", lambda p, t: t - 1).squared(
                LINE.path, torch.tensor(0.5)
            ),
            ("negative", "-0.5"),
        ),
        (
            lambda: solve(Equation(3, None, None, None), [0.0], points=40, reach=1.0),
            ("grid must .*got d = 3", "d = 1 or 2"),
        ),
    ],
)
def test_bad_input(call, needles):
    with pytest.raises(ValueError, match=r"must|need") as caught:
        call()
    for needle in needles:
        assert re.search(needle, str(caught.value)), str(caught.value)


def test_an_equation_without_a_finite_solution_says_so():
    """A terminal reward that grows faster than the noise's tails: E exp(-c) is infinite."""
    with pytest.raises(ValueError, match=r"no finite solution.*must be"):
        solve(
            Equation(1, lambda x, t: 0 * x, lambda t: 4.0, lambda x: -2 * x[:, 0] ** 2),
            [0.0],
            points=33,
            reach=2.0,
            frame=Frame.still(1),
        )
