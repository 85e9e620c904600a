"""The chain's regularised optimum: by search over a kernel's mean, by hand, limits, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline, RectBivariateSpline
from scipy.optimize import minimize_scalar

from tests.helpers import tensor
from tests.theory.samplers.chain_routes import (
    NOTE,
    SCALE,
    SHORT,
    bayes_kernel,
    bump,
    matrix_law,
    normal,
    note_axes,
)
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D, QUADRATURE_TIGHT, SLOPE
from theory.control import chain_optimum
from theory.control.chain_optimum import regularised_optimum
from theory.laws.distances import GridLaw, grid_distances
from theory.laws.gaussians import GaussianSum
from theory.methods.chain.rollouts import GRID_SPACING
from theory.problems.problem import Problem, load_problem
from theory.samplers import chain as chains
from theory.samplers.chain import Chain, chain_law, state_axes
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.wrappers import Exponential


@pytest.fixture(scope="module")
def best():
    return regularised_optimum(SHORT, NOTE.base_field, NOTE.reward, SCALE, note_axes(SHORT))


def searched(chain, scale, states, step=0.02):
    """[(V_k, m_k) at `states`] by search: V_k on a grid, W_k by adaptive sums, max over m."""
    x = np.arange(-9, 9 + step / 2, step)
    later, found = bump(x), []
    for k in range(chain.steps - 1, -1, -1):
        mean, std = bayes_kernel(chain, k, x)
        kernel = normal(x[:, None], x, std) * step
        smooth = CubicSpline(x, (kernel @ later) / kernel.sum(1))
        at, best = bayes_kernel(chain, k, states)[0], []
        for m in at:
            cost = lambda y, m=m, s=std, f=smooth: (y - m) ** 2 / (2 * scale * s**2) - f(y)  # noqa: E731
            best.append(minimize_scalar(cost, bounds=(m - 3, m + 3), options={"xatol": 1e-10}))
        found.insert(0, ([-b.fun for b in best], [b.x for b in best]))
        # Every state of the grid: all means at once, then a parabola through the best three.
        table = smooth(x)[None, :] - (x[None, :] - mean[:, None]) ** 2 / (2 * scale * std**2)
        top = np.clip(table.argmax(1), 1, len(x) - 2)
        left, middle, right = (table[np.arange(len(x)), top + i] for i in (-1, 0, 1))
        later = middle + (right - left) ** 2 / (8 * (2 * middle - left - right))
    return found


STATES = np.linspace(-2.5, 2.5, 9)


def against_search(optimum):
    """Largest errors of values and of kernel means."""
    points = torch.as_tensor(STATES)[:, None]
    worst_value = worst_mean = 0.0
    for k, (values, means) in enumerate(searched(SHORT, SCALE, STATES)):
        t = k / SHORT.steps
        ours = SHORT.mean(optimum, k, points)[:, 0]
        worst_value = max(worst_value, QUADRATURE.error(optimum.value(points, t)[:, 0], values, 1))
        worst_mean = max(worst_mean, QUADRATURE_2D.error(ours, means, 1.0))
    return worst_value, worst_mean


def test_optimum_is_what_search_finds(best):
    """Values to the tier; an argument of a maximum is worth less: the plane's tier."""
    value, mean = against_search(best)
    assert value <= QUADRATURE.rtol
    assert mean <= QUADRATURE_2D.rtol


def test_default_grid_is_fine_enough():
    """Half a kernel, as the methods use it in d = 1."""
    axes = note_axes(SHORT, GRID_SPACING[1])
    coarse = regularised_optimum(SHORT, NOTE.base_field, NOTE.reward, SCALE, axes)
    assert max(against_search(coarse)) <= QUADRATURE_2D.rtol


def test_value_is_reward_less_divergence(best):
    """log Z / scale = E[r(X_T)] - KL / scale, both from the law of the optimal chain."""
    axes = note_axes(SHORT)
    x, cell = axes[0], axes[0][1] - axes[0][0]
    density, divergence = normal(x, 0.0, 1.0), 0.0
    for k in range(SHORT.steps):
        base, std = bayes_kernel(SHORT, k, x)
        mean = SHORT.mean(best, k, torch.as_tensor(x)[:, None])[:, 0].numpy()
        divergence += (density * (mean - base) ** 2).sum() * cell / (2 * std**2)
        density = (normal(x[:, None], mean, std) * cell) @ density
    reached = SCALE * (density * bump(x)).sum() * cell - divergence
    assert QUADRATURE.holds(best.log_z, reached)
    # Below the unrestricted optimum, log E[exp(scale r(X_T))], and above staying at the base.
    base = matrix_law(SHORT, x)
    assert SCALE * (base * bump(x)).sum() * cell < best.log_z
    assert best.log_z < np.log((base * np.exp(SCALE * bump(x))).sum() * cell)


def test_linear_reward_shifts_by_hand():
    """r = b x on one Gaussian: V_k is linear with slope b prod of the later slopes of the mean."""
    law = GaussianSum.mixture([1.0], [[0.3]], stds=[0.8])
    problem, chain, b, scale = Problem("one", law, linear_reward([0.6])), Chain(4, 0.2), 0.6, 1.5
    axes = state_axes(chain, [law], 0.5)
    best = regularised_optimum(chain, problem.base_field, problem.reward, scale, axes)
    x, slope = tensor([[-1.0], [0.2], [1.3]]), b
    s = chain.coefficients(x)[2].tolist()
    for k in reversed(range(chain.steps)):
        t = k / chain.steps
        moved = chain.mean(best, k, x) - chain.mean(problem.base_field, k, x)
        assert QUADRATURE.holds(moved, scale * s[k] ** 2 * slope, scale=1.0)
        ends = chain.mean(problem.base_field, k, tensor([[0.0], [1.0]]))
        slope *= float(ends[1] - ends[0])
        assert QUADRATURE.holds(best.value(x + 1, t) - best.value(x, t), slope, scale=1.0)


@pytest.mark.slow
def test_finer_grids_and_more_nodes_change_nothing(monkeypatch):
    """d = 2: the accuracy that rollouts' default grid has."""
    problem, chain = load_problem("bump_2d"), Chain(3, 0.25)
    x = torch.randn(300, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, nodes, spacing in (("default", 48, 0.15), ("nodes", 64, 0.15), ("grid", 48, 0.12)):
        monkeypatch.setattr(chain_optimum, "HERMITE_NODES", nodes)
        monkeypatch.setattr(chains, "STD_SPACING", spacing)
        axes = state_axes(chain, [problem.base], 4.0)
        best = regularised_optimum(chain, problem.base_field, problem.reward, 2.5, axes)
        found[name] = torch.cat([best.value(x, t) for t in chain.times.tolist()], 1)
        found[name + " v"] = torch.cat([best(x, t) for t in chain.times.tolist()], 1)
    for kind in ("", " v"):
        for name in ("nodes", "grid"):
            assert QUADRATURE_2D.holds(found["default" + kind], found[name + kind], scale=1.0)


def test_law_tends_to_the_tilt_at_first_order():
    """TV to base exp(scale r)/Z, the last noise shrinking with the step."""
    target = NOTE.tilt(Exponential(SCALE)).law
    gaps = []
    for steps in (6, 12, 24):
        chain = Chain(steps, 0.5 / steps)
        axes = state_axes(chain, [NOTE.base, target], 0.5)
        best = regularised_optimum(chain, NOTE.base_field, NOTE.reward, SCALE, axes)
        law = chain_law(chain, best, axes)
        grid = torch.as_tensor(axes[0])[:, None]
        exact = GridLaw(axes, target.log_density(grid).numpy(), target.cdf(grid[:, 0]).numpy())
        gaps.append(grid_distances(law, exact)["TV"].value)
    orders = -np.diff(np.log2(gaps))
    assert np.all(np.abs(orders - 1) < 3 * SLOPE), (gaps, orders)
    assert abs(best.log_z - float(NOTE.tilt(Exponential(SCALE)).log_z)) < SLOPE


def test_refusals_of_the_optimum(best):
    axes, field, reward = note_axes(SHORT), NOTE.base_field, NOTE.reward
    with pytest.raises(ValueError, match="must be 16 or more points in equal steps"):
        regularised_optimum(SHORT, field, reward, SCALE, (np.linspace(-5, 5, 9),))
    for scale in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match=r"scale must be a finite number > 0, got .*"):
            regularised_optimum(SHORT, field, reward, scale, axes)
    for t in (0.1, 1.0, 0.2001):
        with pytest.raises(ValueError, match="t must be one of the chain's 5 times"):
            best(tensor([[0.0]]), t)
        with pytest.raises(ValueError, match="t must be one of the chain's 5 times"):
            best.value(tensor([[0.0]]), t)


def test_kernels_that_are_not_unique_are_refused():
    """A convex reward at a scale where two means are as good: 1 - scale s^2 W'' crosses zero."""
    bowl = quadratic_reward([[1.5]], [0.0])
    with pytest.raises(ValueError, match=r"kernel \d: .*must stay above 0.*use more steps or a"):
        regularised_optimum(SHORT, NOTE.base_field, bowl, 30.0, note_axes(SHORT))
    plane = load_problem("bump_2d")
    with pytest.raises(ValueError, match=r"kernel \d: .*the best kernel is unique"):
        regularised_optimum(
            Chain(3, 0.3), plane.base_field, plane.reward, 100.0, (np.linspace(-6, 6, 61),) * 2
        )


def smoothing_errors(module=chain_optimum):
    """Of W, its slope and its curvature, W = E[V(m + s xi)], V = exp(-(x/1.1)^2/2 - (y/0.8)^2/2),
    on axes of different ends and steps."""
    axes = (np.linspace(-6, 6, 161), np.linspace(-5, 5.5, 181))
    x, y = np.meshgrid(*axes, indexing="ij")
    values = np.exp(-0.5 * (x / 1.1) ** 2 - 0.5 * (y / 0.8) ** 2).reshape(-1, 1)
    m = np.random.default_rng(0).normal(size=(50, 2))
    W, slope, curve = module._smoothed_plane(module.Surface(axes, values), 0.4)(m)
    widths = np.array([1.1, 0.8])
    wide = widths**2 + 0.4**2
    expected = (widths / np.sqrt(wide)).prod() * np.exp(-0.5 * (m**2 / wide).sum(1))
    gradient = -m / wide * expected[:, None]
    hessian = (m / wide)[:, :, None] * (m / wide)[:, None, :] - np.diag(1 / wide)
    pairs = ((W, expected), (slope, gradient), (curve, hessian * expected[:, None, None]))
    return [QUADRATURE.error(a, b, 1.0) for a, b in pairs]


def test_smoothing_in_the_plane():
    """One smoothed bump: W and its derivatives against the Gaussian's closed form."""
    assert max(smoothing_errors()) <= QUADRATURE_2D.rtol


def test_surfaces_are_fitpacks_splines():
    """Of two columns on axes of different steps: values and slopes, straight on beyond the ends."""
    axes = (np.linspace(-2, 3, 23), np.linspace(-1, 2, 17))
    x, y = np.meshgrid(*axes, indexing="ij")
    columns = [np.sin(x + 2 * y), x**2 * y]
    surface = chain_optimum.Surface(axes, np.stack([c.ravel() for c in columns], -1))
    points = np.random.default_rng(0).uniform((-4, -3), (5, 4), size=(200, 2))
    inside = points.clip((-2, -1), (3, 2))
    assert (inside == points).all(1).any()
    assert (inside != points).all(1).any()
    for i, column in enumerate(columns):
        spline = RectBivariateSpline(*axes, column)
        slopes = [spline.ev(*inside.T, dx=int(j == 0), dy=int(j == 1)) for j in range(2)]
        value = spline.ev(*inside.T)
        for j, slope in enumerate(slopes):
            assert ALGEBRA.holds(surface.slope(points, j)[:, i], slope, 1.0)
            value = value + slope * (points - inside)[:, j]
        assert ALGEBRA.holds(surface(points)[:, i], value, 1.0)


def test_averages_are_sums_of_what_the_spline_reads():
    """Also where nodes lie beyond the ends."""
    axis, steps = np.linspace(-2, 3, 23), np.array([-1.5, -0.2, 0.0, 0.9])
    rows = np.random.default_rng(1).normal(size=(3, 4))
    values = np.exp(-(axis**2))
    surface = chain_optimum.Surface((axis,), values[:, None])
    places = axis[:, None] + steps
    read = surface(places.reshape(-1, 1)).reshape(places.shape)
    found = chain_optimum._averages(axis, steps, rows) @ values
    assert ALGEBRA.holds(found, rows @ read.T, 1.0)


# --- a steep bowl at the end


def point_at_zero(x, t, cond=None):
    """The rectified-flow velocity of data that is 0: the kernels' means are r_k x."""
    return -x / (1 - t)[:, None]


def bowl_error(dim, module=chain_optimum):
    """Parabolas all along, axis by axis, their curvatures told: what is left is straight, although
    the best kernels of outer states lead far out of the grid. The largest error of a value or a
    shift against the parabolas by hand."""
    chain = Chain(4, 0.1)
    rates = [float(chain.mean(point_at_zero, k, tensor([[1.0]]))[0, 0]) for k in range(4)]
    gains = chain.coefficients(tensor([[1.0]]))[2].square().tolist()
    curve, slope, height = 80.0, 0.48, -0.1
    parabolas = [(curve, slope, height)]
    for rate, gain in zip(rates[::-1], gains[::-1], strict=True):
        left = 1 - gain * curve
        height += curve * gain / 2 + gain * slope**2 / (2 * left)
        curve, slope = rate**2 * curve / left, rate * slope / left
        parabolas.insert(0, (curve, slope, height))
    axes, told = (np.linspace(-3.0, 3.0, 41),) * dim, [curve for curve, _, _ in parabolas]
    best = module.regularised_optimum(
        chain, point_at_zero, lambda x: (0.48 * x - 0.1).sum(1), 1.0, axes, told
    )
    states = np.linspace(-2.5, 2.5, 7)[:, None] * np.linspace(1.0, 0.6, dim)
    errors = []
    for k in range(4):
        curve, slope, height = parabolas[k]
        value = (curve * states**2 / 2 + slope * states + height).sum(1)
        errors.append(QUADRATURE_TIGHT.error(best.values[k](states)[:, 0], value))
        curve, slope, _ = parabolas[k + 1]
        shift = (rates[k] * states + gains[k] * slope) / (1 - gains[k] * curve) - rates[k] * states
        errors.append(QUADRATURE_TIGHT.error(best.shifts[k](states), shift, 1.0))
    return max(errors)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_steep_bowl_by_hand(dim):
    assert bowl_error(dim) <= QUADRATURE_TIGHT.rtol
