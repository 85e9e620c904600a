"""Fixed points in the plane, against closed forms of linear kernels and against the line's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import root

from tests.helpers import tensor
from theory.common.tolerances import QUADRATURE_2D
from theory.control.chain_optimum import regularised_optimum
from theory.gflownet import blocks
from theory.gflownet.class_best import Weights, nabla_best, scalar_best
from theory.gflownet.line import Line
from theory.gflownet.plane import Plane
from theory.methods.gflownet.truth import Case
from theory.methods.registry import parse_method
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain, state_axes
from theory.tilts.bump_rewards import BumpReward

NOTE = load_problem("note_1d")
SHORT, LONG = Chain(2, 0.3), Chain(4, 0.1)


def square(reach, n):
    return (np.linspace(-reach, reach, n),) * 2


def even(steps):
    """Weights that are all 1, without an anchor."""
    one = np.ones(steps)
    return Weights(one, one, 1.0, 0 * one)


def error(found, exact):
    return QUADRATURE_2D.error(found, exact, np.abs(exact).max())


def visited(places):
    return np.random.default_rng(0).normal(size=(places, 2))


# --- linear kernels, whose Jacobians are not symmetric

CHAIN = Chain(3, 0.2)
TURN, DRIFT = np.array([[-0.4, 0.9], [-0.5, 0.2]]), np.array([0.5, -0.3])
END = np.array([[-0.7, 0.2, 0.8], [0.2, -0.4, -0.5]])  # r = END (x, 1)
UNEVEN = Weights(
    np.array([1.3, 0.9, 1.1]), np.array([0.6, 0.8, 1.2]), 0.7, np.array([0.1, 0.2, 0.05])
)


def linear_velocity(x, t, cond=None):
    return x @ torch.as_tensor(TURN).T + torch.as_tensor(DRIFT)


def quadratic(x):
    matrix, shift = torch.as_tensor(END[:, :2]), torch.as_tensor(END[:, 2])
    return 0.5 * ((x @ matrix) * x).sum(1) + x @ shift


LINEAR = Plane(CHAIN, linear_velocity, square(6.0, 40))


def linear_best(weights, eta):
    """u_k and h_{k+1}, (2, 3) each and applied to (x, 1): (1)-(3) are matrix equations, the
    policy's law is Gaussian, and averages behind are regressions."""
    P, Q, s = (c.numpy() for c in CHAIN.coefficients(torch.zeros(1, dtype=torch.float64)))
    T, last = CHAIN.steps, np.array([[0.0, 0.0, 1.0]])
    base = [np.column_stack([P[k] * np.eye(2) + Q[k] * TURN, Q[k] * DRIFT]) for k in range(T)]

    def left(flat):
        u, h = flat.reshape(2, T, 2, 3)
        mean, cov, parts = np.zeros(2), np.eye(2), []
        for k in range(T):
            f, b = weights.forward[k], weights.backward[k]
            step = base[k] + s[k] ** 2 * u[k]
            ahead = h[k] @ np.vstack([step, last])
            parts.append(f * (eta * u[k] - ahead) + weights.anchor[k] * u[k])
            F = step[:, :2]
            mean_after, cov_after = step @ [*mean, 1.0], F @ cov @ F.T + s[k] ** 2 * np.eye(2)
            gain = cov @ F.T @ np.linalg.inv(cov_after)
            behind = u[k] @ np.vstack([np.column_stack([gain, mean - gain @ mean_after]), last])
            mean, cov = mean_after, cov_after
            score = -np.linalg.solve(cov, np.column_stack([np.eye(2), -mean]))
            b, other = weights.terminal, END
            if k + 1 < T:
                b, other = weights.backward[k + 1], eta * base[k + 1][:, :2].T @ u[k + 1]
            parts.append(f * (h[k] - eta * behind - (1 - eta) * score) + b * (h[k] - other))
        return np.ravel(parts)

    found = root(left, np.zeros(12 * T), tol=1e-12)
    assert found.success
    return found.x.reshape(2, T, 2, 3), s


def linear_gaps(plane, weights, eta):
    """QUADRATURE_2D's error of every kernel's shift and flow, in its largest value."""
    found = nabla_best(plane, quadratic, weights, prior=eta)
    (u, h), s = linear_best(weights, eta)
    places = 0.5 * visited(50)  # well inside the policy's law: rare states are left out
    ones = np.column_stack([places, np.ones(50)])
    pairs = [(found.shifts[k](places) / s[k] ** 2, ones @ u[k].T) for k in range(CHAIN.steps)]
    pairs += [(found.flows[k + 1](places), ones @ h[k].T) for k in range(CHAIN.steps)]
    return [error(a, b) for a, b in pairs]


@pytest.mark.parametrize("eta", [pytest.param(1.0, marks=pytest.mark.slow), 0.7])
def test_linear_kernels_meet_their_matrix_equations(eta):
    assert max(linear_gaps(LINEAR, UNEVEN, eta)) <= QUADRATURE_2D.rtol


# --- two independent coordinates, turned

ANGLE = 0.6
TURNED = torch.tensor(
    [[np.cos(ANGLE), -np.sin(ANGLE)], [np.sin(ANGLE), np.cos(ANGLE)]], dtype=torch.float64
)
ENDS = (lambda x: 2.0 * NOTE.reward(x), lambda x: -NOTE.reward(x))


def turned_velocity(x, t, cond=None):
    own = x @ TURNED
    times = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
    each = [NOTE.base_field(own[:, i : i + 1], times) for i in range(2)]
    return torch.cat(each, 1) @ TURNED.T


def turned_end(x):
    own = x @ TURNED
    return ENDS[0](own[:, :1]) + ENDS[1](own[:, 1:])


def turned_gaps(plane, solve):
    """Of every shift, in the largest one, to those of solve(grid, terminal) on two lines."""
    lines = Line(plane.chain, NOTE.base_field, state_axes(plane.chain, [NOTE.base], np.inf))
    whole, *parts = [solve(plane, turned_end)] + [solve(lines, end) for end in ENDS]
    places = visited(50)
    own = places @ TURNED.numpy()
    gaps = []
    for k in range(plane.chain.steps):
        each = [part.shifts[k](own[:, i : i + 1]) for i, part in enumerate(parts)]
        exact = np.hstack(each) @ TURNED.numpy().T
        gaps.append(error(whole.shifts[k](places), exact))
    return gaps


def nabla(prior=1.0):
    return lambda grid, end: nabla_best(grid, end, even(grid.chain.steps), prior=prior)


def scalar(prior=1.0):
    return lambda grid, end: scalar_best(grid, end, np.zeros(grid.chain.steps), prior=prior)


TWO = Plane(SHORT, turned_velocity, square(5.5, 80))


@pytest.mark.parametrize("solve", [pytest.param(nabla(), marks=pytest.mark.slow), scalar(0.7)])
def test_independent_coordinates_have_the_lines_fixed_points(solve):
    assert max(turned_gaps(TWO, solve)) <= QUADRATURE_2D.rtol


@pytest.mark.slow
@pytest.mark.parametrize("solve", [nabla(), nabla(0.7), scalar(), scalar(0.7)])
def test_independent_coordinates_converge_with_the_grid(solve):
    grids = [Plane(LONG, turned_velocity, square(5.5, n)) for n in (50, 100)]
    coarse, fine = (max(turned_gaps(grid, solve)) for grid in grids)
    assert fine <= min(QUADRATURE_2D.rtol, 0.1 * coarse)


# --- the projection

BUMP = load_problem("bump_2d")


def test_held_flows_have_the_regularised_optimum():
    def end(x):
        return 2.5 * BUMP.reward(x)

    plane = Plane(SHORT, BUMP.base_field, square(5.5, 72))
    best = regularised_optimum(SHORT, BUMP.base_field, end, 1.0, plane.axes)
    start = np.array([v.values.T.ravel() for v in best.shifts]) / plane.widths**2
    places = visited(50)
    for found in (
        nabla_best(plane, end, even(2), held=True, start=start),
        scalar_best(plane, end, np.zeros(2), held=True, start=start),
    ):
        for mine, exact in zip(found.shifts, best.shifts, strict=True):
            assert error(mine(places), exact(places)) <= QUADRATURE_2D.rtol


def test_second_order_is_refused():
    with pytest.raises(ValueError, match="second_order must be False"):
        nabla_best(LINEAR, quadratic, UNEVEN, second_order=True)


@pytest.mark.parametrize(("narrower", "resolved"), [(1.0, True), (400.0, False)])
def test_a_reward_narrower_than_the_grid_has_no_fixed_point_stated(narrower, resolved):
    """It would be read wrong between the points."""
    reward = BumpReward(tensor([1.0]), tensor([[1.2, -0.6]]), narrower * tensor(np.eye(2)[None]))
    case = Case(parse_method("residual_db:steps=4,sigma_end=0.1"), replace(BUMP, reward=reward))
    assert (case.grid is not None) == resolved
    assert resolved or case.method.optimum(case.problem) is None


def test_equations_that_are_not_solved_settle_nothing(monkeypatch):
    """Else what is left of a round would be small because nothing moved."""
    monkeypatch.setattr(blocks, "MOST_SWEEPS", 1)
    with pytest.raises(blocks.NotSettledError, match="must be solved in 1 sweeps"):
        scalar()(TWO, turned_end)
