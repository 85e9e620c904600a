"""Riccati, its chain's own optimum, and the named cases, each by a second route."""

import re

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from tests.theory.ledger.oracle.references import discrete_optimum
from theory.common.tolerances import ALGEBRA, FALSE_FAILURE_RATE, QUADRATURE, QUADRATURE_TIGHT
from theory.control.cases import CASES, DoubleWell, control_case
from theory.control.linear import LinearQuadratic, of_gaussian
from theory.fields.diffusion import Diffusion
from theory.ledger.oracle.control.line import line_expectation, uniform_clock
from theory.ledger.settings.linear import LinearProblems
from theory.problems.problem import load_problem


def scalar(k=0.0, g=1.0, q=0.8, lin=0.0):
    eye = np.eye(1)
    return LinearQuadratic(
        matrix=lambda t: k * eye,
        shift=lambda t: np.zeros(1),
        noise=lambda t: g,
        final_matrix=q * eye,
        final_vector=np.array([lin]),
        mean=np.zeros(1),
        cov=eye,
    )


def test_brownian_motion_with_a_quadratic_end_by_hand():
    """A = 0, g = 1, c = q x^2/2: P = q/(1 + q (1 - t)), V = P x^2/2 + log(1 + q (1 - t))/2."""
    q, x = 0.8, np.array([[0.7], [-1.2]])
    for t in (0.0, 0.4, 1.0):
        grown = 1 + q * (1 - t)
        expected = 0.5 * q / grown * x[:, 0] ** 2 + 0.5 * np.log(grown)
        assert QUADRATURE_TIGHT.holds(scalar(q=q).value(x, t), expected, 1.0)
        assert QUADRATURE_TIGHT.holds(scalar(q=q).control(x, t), -q / grown * x, 1.0)
    assert not QUADRATURE_TIGHT.holds(scalar(q=q).value(x, 0.0), 0.5 * q * x[:, 0] ** 2, 1.0)


@pytest.mark.parametrize(("dim", "n"), [(1, 6), (2, 9), (3, 5)])
def test_optimum_on_a_time_grid_by_least_squares(dim, n):
    """Values, controls and laws of the chain, against linear policies found by dense algebra."""
    setting, x0 = LinearProblems().draw(dim, 4), np.linspace(-0.4, 0.9, dim)
    problem = setting.problem
    best = problem.discrete(np.linspace(0, 1, n + 1))
    theirs = discrete_optimum(setting.numbers(), x0, n)
    assert QUADRATURE_TIGHT.holds(best.value(x0[None]), theirs.value, 1.0)
    assert QUADRATURE_TIGHT.holds(best.control(x0[None], 0)[0], theirs.control, 1.0)
    # The continuous optimum is another one: an error floor, not an error.
    assert not QUADRATURE_TIGHT.holds(problem.value(x0[None], 0.0), theirs.value, 1.0)


def test_distance_of_the_two_optima_shrinks_with_the_step():
    """Relative control error of the continuous optimum on its chain: second order in the step."""
    for name in ("ou_linear", "ou_quadratic"):
        problem = control_case(name)
        found = [problem.discrete(np.linspace(0, 1, n + 1)).distance() for n in (32, 64, 128)]
        ratios = np.array(found[:-1]) / np.array(found[1:])
        assert ((ratios > 3) & (ratios < 5)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"double_well_20d"}))
def test_named_cases_are_their_least_cost(name):
    """J(u*) by simulation is V within its standard error, J(0) and J(u*/2) are not."""
    case, n, steps = control_case(name), 3000, 100
    rng, dt = np.random.default_rng(1), 1 / steps
    best, costs = case.discrete(np.linspace(0, 1, steps + 1)), {}
    for share in (1.0, 0.5):
        linear = isinstance(case, LinearQuadratic)
        if linear:
            x = case.mean + rng.normal(size=(n, case.dim)) @ np.linalg.cholesky(case.cov).T
        else:
            x = np.tile(case.begin, (n, 1))
        start, total = best.value(x), np.zeros(n)
        for k in range(steps):
            u = share * best.control(x, k)
            total += dt * 0.5 * (u**2).sum(1)
            if linear:
                total += 0.5 * dt * np.einsum("ni,ij,nj->n", x, case.running_matrix, x)
                drift = x @ case.matrix(k * dt).T
            else:
                drift = case.drift(x)
            x = x + dt * (drift + u) + np.sqrt(dt) * rng.normal(size=x.shape)
        if linear:
            total += 0.5 * np.einsum("ni,ij,nj->n", x, case.final_matrix, x) + x @ case.final_vector
        else:
            total += case.terminal(x)
        costs[share] = total - start
    bound = -_normal_quantile(FALSE_FAILURE_RATE / 2)
    z = {s: c.mean() / (c.std() / np.sqrt(n)) for s, c in costs.items()}
    assert abs(z[1.0]) < bound
    assert z[0.5] > bound


def _normal_quantile(p):
    return float(torch.special.ndtri(torch.tensor(p, dtype=torch.float64)))


def test_double_well_against_composed_kernels():
    """exp(-V) of one coordinate at t = 0, without an equation in x."""
    well = DoubleWell(np.array([2.0]), np.array([1.5]), np.array([-1.0]))
    axis, x = np.linspace(-2.4, 2.4, 601), np.array([-1.1, -0.3, 0.6])
    found = line_expectation(
        lambda z, t: -8.0 * z * (z**2 - 1),
        lambda t: 1.0,
        lambda z: np.exp(-1.5 * (z - 1) ** 2),
        x,
        axis,
        uniform_clock(0.0),
        steps=160,
        levels=2,
    ).value
    assert QUADRATURE.holds(well.value(x[:, None], 0.0), -np.log(found), 1.0)
    assert not QUADRATURE.holds(well.value(x[:, None], 0.01), -np.log(found), 1.0)


@pytest.mark.slow
def test_double_well_is_the_sum_of_its_coordinates():
    case = control_case("double_well_20d")
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.5, 1.5, size=(3, case.dim))
    parts = [
        DoubleWell(case.kappa[i : i + 1], case.nu[i : i + 1], case.begin[i : i + 1])
        for i in (0, 4, 9, 13, 19)
    ]
    for i, part in zip((0, 4, 9, 13, 19), parts, strict=True):
        own = case.control(x, 0.3)[:, i : i + 1]
        assert ALGEBRA.holds(own, part.control(x[:, i : i + 1], 0.3), 1.0)
    step = 1e-5
    move = np.zeros(case.dim)
    move[7] = step
    slope = (case.value(x + move, 0.3) - case.value(x - move, 0.3)) / (2 * step)
    assert QUADRATURE.holds(case.gradient(x, 0.3)[:, 7], slope, 1.0)


@pytest.mark.slow
def test_chain_of_a_double_well_tends_to_the_diffusion():
    case = control_case("double_well_10d")
    gaps = [
        case.discrete(np.linspace(0, 1, n + 1)).value(case.begin[None])[0] - case.expected_value()
        for n in (128, 256)
    ]
    assert 1.7 < gaps[0] / gaps[1] < 2.3


def test_the_law_of_the_controlled_process_by_its_own_moments():
    """The law under any feedback: closed moments of a scalar case."""
    problem, feedback = scalar(k=-0.3, g=0.7), lambda t: (np.array([[0.5]]), np.array([0.2]))
    mean, cov = problem.steered(feedback)

    def rate(t, s):
        k = -0.3 - 0.49 * 0.5
        return [k * s[0] - 0.49 * 0.2, 2 * k * s[1] + 0.49]

    m, v = solve_ivp(rate, (0, 1), [0.0, 1.0], rtol=ALGEBRA.rtol / 10, atol=ALGEBRA.rtol / 1000).y[
        :, -1
    ]
    assert QUADRATURE_TIGHT.holds([mean[1], cov[1, 1]], [m, v], 1.0)


@pytest.mark.parametrize(
    ("call", "needles"),
    [
        (lambda: control_case("nobody"), ("nobody", "double_well_10d")),
        (lambda: scalar().coefficients(1.5), ("t must .*got 1.5",)),
        (lambda: scalar().discrete([0.0, 0.5]), ("times", "end at 1")),
        (lambda: scalar(q=-3.0).value(np.zeros((1, 1)), 0.0), ("not finite", "before t")),
        (
            lambda: LinearQuadratic(
                lambda t: np.eye(2),
                lambda t: np.zeros(2),
                lambda t: 1.0,
                np.array([[1.0, 2.0], [0.0, 1.0]]),
                np.zeros(2),
                np.zeros(2),
                np.eye(2),
            ),
            ("final_matrix", "symmetric"),
        ),
        (
            lambda: of_gaussian(load_problem("note_1d"), 1.0, Diffusion.of_constant(1.0)),
            ("note_1d", "2 Gaussians", "one Gaussian"),
        ),
        (lambda: DoubleWell(np.array([-1.0]), np.array([1.0]), np.zeros(1)), ("kappa", "-1")),
        (lambda: DoubleWell(np.ones(2), np.ones(1), np.zeros(2)), ("nu", r"\(1,\)")),
        (lambda: control_case("double_well_10d").value(np.full((1, 10), 9.0), 0.0), ("9", "in")),
        (lambda: control_case("double_well_10d").discrete(np.linspace(0, 1, 9)), ("more steps",)),
        (
            lambda: control_case("double_well_10d").value(np.zeros((1, 10)), 2.0),
            ("t must.*got 2",),
        ),
        (lambda: DoubleWell(np.ones(1), np.ones(1), np.zeros(1), g=-1.0), (r"\bg\b", "-1")),
        (lambda: DoubleWell(np.array([1e4]), np.ones(1), np.zeros(1)), ("kappa", "10000")),
        (lambda: scalar(k=1.0, q=-3.0).discrete([0.0, 1.0]), ("least cost", "-2")),
        (lambda: scalar().discrete([0.5, 1.0]), ("times", "ascend from 0")),
    ],
)
def test_bad_input(call, needles):
    with pytest.raises(ValueError, match=r"must|need") as caught:
        call()
    for needle in needles:
        assert re.search(needle, str(caught.value)), str(caught.value)
