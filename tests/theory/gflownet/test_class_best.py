"""Fixed points over Gaussian kernels, against the loss written out and differentiated."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from theory.control.chain_optimum import Surface, regularised_optimum
from theory.gflownet.class_best import Weights, nabla_best, scalar_best
from theory.gflownet.line import Line
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain, chain_law, state_axes
from theory.tilts.wrappers import Exponential

NOTE = load_problem("note_1d")
BETA, STEPS = 2.0, 4
CHAIN = Chain(STEPS, 0.1)
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()


def terminal(x):
    return BETA * NOTE.reward(x)


def line_of(chain, factor=1.0):
    target = NOTE.tilt(Exponential(BETA)).law
    (axis,) = state_axes(chain, [NOTE.base, target], np.inf)
    return Line(chain, NOTE.base_field, (np.linspace(axis[0], axis[-1], int(factor * len(axis))),))


LINE = line_of(CHAIN)
ONE = np.ones(STEPS)
WEIGHTS = Weights(1.3 * ONE, np.array([0.6, 0.8, 1.0, 1.2]), 0.7, 0 * ONE)
ANCHORED = Weights(ONE, ONE, 1.0, np.array([0.1, 0.2, 0.3, 0.4]))


class Expectation:
    """Expectations along the policy's own trajectories by its law on a fine uniform grid (every
    kernel multiplied out) and Gauss-Hermite nodes: no code of the solver's."""

    def __init__(self, shifts):
        self.x = np.linspace(-7.5, 7.5, 1501)
        points = torch.as_tensor(self.x)[:, None]
        s = CHAIN.coefficients(points)[2].numpy()
        density = np.exp(-0.5 * self.x**2) / np.sqrt(2 * np.pi)
        self.base, self.slope, self.mean, self.mean_slope, self.mass = [], [], [], [], []
        step = self.x[1] - self.x[0]
        for k in range(STEPS):
            grad = points.clone().requires_grad_(True)
            base = CHAIN.mean(NOTE.base_field, k, grad)
            (slope,) = torch.autograd.grad(base.sum(), grad)
            base, slope = base.detach().numpy()[:, 0], slope.numpy()[:, 0]
            shift, h = shifts[k], 1e-4
            moved = shift(points.numpy())[:, 0]
            tilt = (shift(points.numpy() + h) - shift(points.numpy() - h))[:, 0] / (2 * h)
            self.base.append(base)
            self.slope.append(slope)
            self.mean.append(base + moved)
            self.mean_slope.append(slope + tilt)
            self.mass.append(density * step)
            kernel = np.exp(-0.5 * ((self.x[:, None] - self.mean[k]) / s[k]) ** 2)
            density = kernel @ self.mass[k] / (s[k] * np.sqrt(2 * np.pi))
        self.last = density * step
        self.s = s

    def after(self, k):
        """X_{k+1} for every x and node."""
        return self.mean[k][:, None] + self.s[k] * NODES

    def of(self, k, values):
        """E of values (x, nodes) along kernel k."""
        weights = torch.as_tensor(self.mass[k][:, None] * NODE_WEIGHTS)
        return (weights * values).sum()


SHAPES = (
    (lambda x: torch.ones_like(x), lambda x: torch.zeros_like(x)),
    (lambda x: torch.sin(x), lambda x: torch.cos(x)),
    (lambda x: torch.sin(2.1 * x + 0.4), lambda x: 2.1 * torch.cos(2.1 * x + 0.4)),
)


def features(theta, x):
    """(sum_j theta_j shape_j(x), its slope)."""
    pairs = [(t * value(x), t * slope(x)) for t, (value, slope) in zip(theta, SHAPES, strict=True)]
    return sum(p[0] for p in pairs), sum(p[1] for p in pairs)


def read(surface, x):
    flat = np.asarray(x).reshape(-1, 1)
    return torch.as_tensor(surface(flat)[:, 0].reshape(np.shape(x)))


def nabla_gradient(found, weights, prior=1.0, second_order=False, held=False):
    """The expected gradient in 3 features of each mean and each flow, (2 T + 1, 3): autograd on the
    loss as it is written, at given states."""
    at = Expectation(found.shifts)
    theta = torch.zeros(STEPS, 3, dtype=torch.float64, requires_grad=True)
    phi = torch.zeros(STEPS + 1, 3, dtype=torch.float64, requires_grad=True)
    x = torch.as_tensor(at.x)[:, None]
    total = torch.zeros((), dtype=torch.float64)
    for k in range(STEPS):
        s2 = at.s[k] ** 2
        y = torch.as_tensor(at.after(k))
        base, slope = (torch.as_tensor(v[k])[:, None] for v in (at.base, at.slope))
        move, tilt = features(theta[k], x)
        mean = torch.as_tensor(at.mean[k])[:, None] + move
        jacobian = torch.as_tensor(at.mean_slope[k])[:, None] + tilt
        before = jacobian * (y - mean) / s2
        if not second_order:
            before = before.detach()
        later = read(found.flows[k + 1], y) + features(phi[k + 1], y)[0]
        if held:
            later = later.detach()
        forward = -(y - mean) / s2 + prior * (y - base) / s2 - later
        here = read(found.flows[k], x) + features(phi[k], x)[0]
        reverse = before - prior * slope * (y - base) / s2 + here
        total = total + at.of(k, weights.forward[k] * forward**2)
        total = total + at.of(k, weights.backward[k] * reverse**2)
        # a u, squared so that its gradient in the mean is 2 a u/s^2
        shift = mean - base
        total = total + at.of(k, (weights.anchor[k] * shift**2 / s2**2).expand_as(y))
    end = torch.as_tensor(at.x)[:, None].clone().requires_grad_(True)
    (score,) = torch.autograd.grad(terminal(end).sum(), end)
    left = read(found.flows[STEPS], x) + features(phi[STEPS], x)[0] - score
    total = total + weights.terminal * (torch.as_tensor(at.last)[:, None] * left**2).sum()
    return torch.cat(torch.autograd.grad(total, (theta, phi)))


def scalar_gradient(found, prior=1.0, held=False, anchor=(0.0,) * STEPS):
    """The same of detailed balance, (2 T, 3)."""
    at = Expectation(found.shifts)
    theta = torch.zeros(STEPS, 3, dtype=torch.float64, requires_grad=True)
    phi = torch.zeros(STEPS, 3, dtype=torch.float64, requires_grad=True)
    x = torch.as_tensor(at.x)[:, None]
    total = torch.zeros((), dtype=torch.float64)
    for k in range(STEPS):
        s = torch.tensor(at.s[k], dtype=torch.float64)
        y = torch.as_tensor(at.after(k))
        base = torch.as_tensor(at.base[k])[:, None]
        mean = torch.as_tensor(at.mean[k])[:, None] + features(theta[k], x)[0]
        own, other = (torch.distributions.Normal(m, s).log_prob(y) for m in (mean, base))
        here = read(found.flows[k], x) + features(phi[k], x)[0]
        later = read(found.flows[k + 1], y)
        if k + 1 < STEPS:
            later = later + features(phi[k + 1], y)[0]
        if held:
            later = later.detach()
        left = own - prior * other + here - later
        shift = (anchor[k] * (mean - base) ** 2 / s**4).expand_as(y)
        total = total + at.of(k, left**2 + shift)
    return torch.cat(torch.autograd.grad(total, (theta, phi)))


def regularised(chain, line, prior=1.0):
    return regularised_optimum(chain, NOTE.base_field, terminal, 1 / prior, line.axes)


@pytest.mark.parametrize(
    ("weights", "options"),
    [
        (WEIGHTS, {}),
        pytest.param(WEIGHTS, {"prior": 0.7}, marks=pytest.mark.slow),
        pytest.param(WEIGHTS, {"second_order": True}, marks=pytest.mark.slow),
        (WEIGHTS, {"second_order": True, "prior": 1.4}),
        (ANCHORED, {}),
        (ANCHORED, {"held": True, "prior": 0.7}),
    ],
)
def test_the_expected_gradient_of_nabla_db_vanishes_there_alone(weights, options):
    found = nabla_best(LINE, terminal, weights, **options)
    there = nabla_gradient(found, weights, **options).abs()
    # Next to it: means moved by a tenth of their shift, flows by a tenth of theirs.
    for part in ("shifts", "flows"):
        near = [Surface(v.axes, 1.1 * v.values) for v in getattr(found, part)]
        other = type(found)(**(vars(found) | {part: near}))
        assert there.max() < 1e-4 * nabla_gradient(other, weights, **options).abs().max()
    if not options.get("second_order"):
        return
    first = nabla_gradient(found, weights, **(options | {"second_order": False})).abs()
    assert there.max() < 1e-4 * first.max()


@pytest.mark.parametrize(
    "options", [{}, {"prior": 0.7}, {"held": True}, {"held": True, "prior": 1.5}]
)
@pytest.mark.parametrize("anchor", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_the_expected_gradient_of_detailed_balance_vanishes_there_alone(options, anchor):
    anchors = anchor * ONE
    found = scalar_best(LINE, terminal, anchors, **options)
    there = scalar_gradient(found, anchor=anchors, **options).abs().max()
    for part in ("shifts", "flows"):
        near = [Surface(v.axes, 1.1 * v.values) for v in getattr(found, part)]
        other = type(found)(**(vars(found) | {part: near}))
        away = scalar_gradient(other, anchor=anchors, **options).abs().max()
        assert there < 1e-4 * away


@pytest.mark.slow
@pytest.mark.parametrize("prior", [1.0, 0.7])
def test_held_flows_have_the_regularised_optimum(prior):
    # A spline's slope is three orders in its spacing: the values' grid is the finer one.
    line, best = line_of(CHAIN, 4.0), regularised(CHAIN, line_of(CHAIN, 8.0), prior)
    plain = Weights(ONE, 2 * ONE, 0.3, 0 * ONE)
    nabla = nabla_best(line, terminal, plain, prior=prior, held=True)
    scalar = scalar_best(line, terminal, 0 * ONE, prior=prior, held=True)
    points = np.linspace(-3, 3, 50)[:, None]
    s = CHAIN.coefficients(torch.zeros(1, dtype=torch.float64))[2].numpy()
    cost = (prior - 1) * (0.5 + np.log(s * np.sqrt(2 * np.pi)))
    for k in range(STEPS):
        exact = best.shifts[k](points)
        for found in (nabla, scalar):
            assert np.abs(found.shifts[k](points) - exact).max() < 1e-5 * np.abs(exact).max()
        value = best.values[k](points) - cost[k:].sum()
        assert np.abs(scalar.flows[k](points) - value).max() < 1e-5
        slope = (best.values[k](points + 1e-4) - best.values[k](points - 1e-4)) / 2e-4
        assert np.abs(nabla.flows[k](points) - slope).max() < 1e-5


def test_flows_up_to_constants_are_refused():
    with pytest.raises(ValueError, match="backward must be > 0"):
        nabla_best(LINE, terminal, Weights(ONE, 0 * ONE, 1.0, 0 * ONE))


def distances(steps, sigma_end):
    """Of the base, the loss as printed, detailed balance and the regularised optimum: W1 to the
    target."""
    chain = Chain(steps, sigma_end)
    line, target = line_of(chain), NOTE.tilt(Exponential(BETA))
    best = regularised(chain, line)
    one = np.ones(steps)
    start = np.array([v(line.points.numpy())[:, 0] for v in best.shifts]) / line.widths**2
    found = (
        nabla_best(line, terminal, Weights(one, one, 1.0, 0 * one), start=start),
        scalar_best(line, terminal, 0 * one, start=start),
    )
    still = [Surface(v.axes, 0 * v.values) for v in best.shifts]
    axes = state_axes(chain, [NOTE.base, target.law], 0.5)
    exact = np.exp(target.log_density(torch.as_tensor(axes[0])[:, None]).numpy())
    step = axes[0][1] - axes[0][0]
    gaps = []
    for shifts in (still, *(f.shifts for f in found), best.shifts):
        model = type(best)(chain, NOTE.base_field, 1.0, 0.0, shifts, [])
        law = chain_law(chain, model, axes).density
        gaps.append(float(np.abs(np.cumsum(law - exact)).sum() * step**2))
    return gaps


@pytest.mark.slow
def test_losses_as_printed_stop_short_of_the_projection():
    """At 10 steps: the share of the way to the target that is left."""
    base, nabla, scalar, best = distances(10, 0.04)
    assert 1.2 * best < scalar < nabla < 0.4 * base


@pytest.mark.slow
def test_more_steps_help_the_projection_more_than_the_losses_as_printed():
    rows = [distances(steps, end) for steps, end in ((10, 0.04), (50, 0.01))]
    shares = [[gap / base for gap in gaps] for base, *gaps in rows]
    for (_, _, best), (nabla, scalar, closer) in pairwise(shares):
        assert closer < 0.25 * best
        assert nabla > 3.5 * closer
        assert scalar > 2.5 * closer
