"""Adjoints along trajectories, and critical points on the line, by second routes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate

from theory.common.tolerances import ALGEBRA, QUADRATURE, SLOPE
from theory.control.adjoints import (
    Process,
    chain_process,
    control_gradient,
    full_adjoint,
    lean_adjoint,
    matching_gradient,
    rollout,
)
from theory.fields.diffusion import Diffusion
from theory.ledger.domingo.line_chain import LineChain, Spline
from theory.problems.problem import load_problem
from theory.samplers.chain import Chain

KERNELS = {
    "g = 1": Diffusion.of_constant(1.0),
    "offset": Diffusion.of_offset(0.3),
    "ancestral": None,
}
CRITICAL = ["g = 1", "ancestral"]


def numbers(seed, *shape):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=shape))


def made_up(d, running=False):
    """A process that is not linear, its parameters, times, start and noise."""
    A, W, theta = 0.4 * numbers(1, d, d), numbers(2, d, d), 0.5 * numbers(3, d, d)
    theta.requires_grad_(True)
    process = Process(
        lambda x, t: torch.sin(x @ A + t),
        lambda x, t: torch.tanh(x @ W - t) @ theta,
        lambda t: 0.5 + 0.3 * t,
        lambda x: torch.cos(x[:, 0]) + 0.3 * (x**2).sum(1) + x[:, -1],
        (lambda x, t: 0.4 * torch.sin(x + t).sum(1)) if running else None,
    )
    times = torch.tensor([0.0, 0.15, 0.3, 0.6, 0.7, 1.0], dtype=torch.float64)
    return process, theta, times, numbers(4, 3, d), numbers(5, 3, 5, d)


def whole_cost(process, times, start, noise, held=None):
    """The sum of costs by one graph through the simulation; held: a control's values along it."""
    x, total = start, 0.0
    for k in range(len(times) - 1):
        t, dt = float(times[k]), float(times[k + 1] - times[k])
        u = process.control(x, t) if held is None else held[k]
        total = total + 0.5 * dt * (u**2).sum()
        if process.running is not None:
            total = total + dt * process.running(x, t).sum()
        g = process.noise(t)
        x = x + dt * (process.drift(x, t) + g * u) + g * math.sqrt(dt) * noise[:, k]
    return total + process.final(x).sum()


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("running", [False, True])
def test_full_adjoint_is_the_gradient_of_the_simulated_cost(d, running):
    process, theta, times, start, noise = made_up(d, running)
    states = rollout(process, times, start, noise)
    start = start.requires_grad_(True)
    at_start, by_theta = torch.autograd.grad(
        whole_cost(process, times, start, noise), [start, theta]
    )
    a = full_adjoint(process, times, states)
    assert ALGEBRA.holds(a[:, 0], at_start, 1.0)
    for gradient in (control_gradient, matching_gradient):
        found = gradient(process, times, states, a, [theta]) * len(start)
        assert ALGEBRA.holds(found, by_theta.flatten(), 1.0)
        for wrong, place in (
            (a, "own"),
            (-a, "next"),
            (lean_adjoint(process, times, states), "next"),
        ):
            found = gradient(process, times, states, wrong, [theta], place) * len(start)
            assert not ALGEBRA.holds(found, by_theta.flatten(), 1.0)
    for wrong in (
        full_adjoint(process, times, states, "heun"),
        lean_adjoint(process, times, states),
    ):
        assert not ALGEBRA.holds(wrong[:, 0], at_start, 1.0)


@pytest.mark.parametrize("d", [1, 2])
def test_lean_adjoint_holds_the_control(d):
    process, _, times, start, noise = made_up(d, True)
    states = rollout(process, times, start, noise)
    held = [process.control(states[:, k], float(times[k])).detach() for k in range(5)]
    start = start.requires_grad_(True)
    (at_start,) = torch.autograd.grad(whole_cost(process, times, start, noise, held), start)
    assert ALGEBRA.holds(lean_adjoint(process, times, states)[:, 0], at_start, 1.0)
    assert not ALGEBRA.holds(full_adjoint(process, times, states)[:, 0], at_start, 1.0)


def test_heun_solves_the_ode():
    """Along a smooth curve, to second order, against an integrator of high order."""
    process, *_ = made_up(2, True)

    def curve(n):
        times = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        return times, torch.stack([torch.sin(3 * times), torch.cos(2 * times)], 1)[None]

    def solved(lean):
        def rate(t, a):
            x = torch.tensor(
                [[math.sin(3 * t), math.cos(2 * t)]], requires_grad=True, dtype=torch.float64
            )
            u = process.control(x, t)
            move = process.drift(x, t) + (0 if lean else process.noise(t) * u)
            total = (move * torch.as_tensor(a)).sum() + process.running(x, t).sum()
            total = total if lean else total + 0.5 * (u**2).sum()
            return -torch.autograd.grad(total, x)[0][0].numpy()

        last = curve(1)[1][:, -1].clone().requires_grad_(True)
        end = torch.autograd.grad(process.final(last).sum(), last)[0][0].numpy()
        return integrate.solve_ivp(rate, (1, 0), end, rtol=ALGEBRA.rtol, atol=ALGEBRA.rtol / 100).y[
            :, -1
        ]

    for solve, lean in ((full_adjoint, False), (lean_adjoint, True)):
        right, orders = solved(lean), {}
        for rule in ("heun", "step"):
            errors = [
                np.linalg.norm(solve(process, *curve(n), rule)[0, 0].numpy() - right)
                for n in (200, 400)
            ]
            orders[rule] = math.log2(errors[0] / errors[1])
        assert abs(orders["heun"] - 2) <= SLOPE
        assert abs(orders["step"] - 1) <= SLOPE


@pytest.mark.parametrize("label", KERNELS)
def test_chain_process_is_the_chain(label):
    problem = load_problem("bump_2d")
    chain = Chain(6, sigma_end=0.1, schedule=KERNELS[label])
    policy = problem.nft_field(1.5)
    process, times = chain_process(chain, problem.base_field, policy, problem.reward)
    noise = numbers(6, 4, 7, 2)
    states = rollout(process, times, chain.start(noise[:, 0]), noise[:, 1:])
    assert ALGEBRA.holds(states, chain.rollout(policy, noise), 1.0)
    s, dt = chain.coefficients(noise)[2], 1 / 6
    for k in (0, 3, 5):
        gap = chain.mean(policy, k, states[:, k]) - chain.mean(problem.base_field, k, states[:, k])
        kl = 0.5 * (gap / s[k]) ** 2
        assert ALGEBRA.holds(0.5 * dt * process.control(states[:, k], k / 6) ** 2, kl, 1.0)


def test_adjoints_refuse_bad_input():
    process, theta, times, start, noise = made_up(2)
    states = rollout(process, times, start, noise)
    with pytest.raises(ValueError, match="ascending"):
        full_adjoint(process, times.flip(0), states)
    with pytest.raises(ValueError, match=r"states must have shape .*got \(3, 5, 2\)"):
        lean_adjoint(process, times, states[:, 1:])
    with pytest.raises(ValueError, match=r"rule must .*got 'euler'"):
        full_adjoint(process, times, states, "euler")
    with pytest.raises(ValueError, match="noise"):
        rollout(process, times, start, noise[:, 1:])
    with pytest.raises(ValueError, match="adjoint must have shape"):
        control_gradient(process, times, states, states[:, 1:], [theta])
    with pytest.raises(ValueError, match=r"place must .*got 'last'"):
        control_gradient(process, times, states, states, [theta], "last")
    bad = states.clone()
    bad[1, 2] = math.inf
    with pytest.raises(ValueError, match="step 2, sample 1"):
        full_adjoint(process, times, bad)
    steep = replace(process, final=lambda x: torch.sqrt(x[:, 0] - x[2, 0].detach()))
    with pytest.raises(ValueError, match="step 5, sample"):
        full_adjoint(steep, times, states)


# Critical points


def line_of(label, factor=1.0, steps=4, name="note_1d", points=241):
    problem = load_problem(name)
    chain = Chain(steps, sigma_end=0.12, schedule=KERNELS[label])
    return LineChain.of_problem(problem, chain, factor * problem.scale, points)


def bent(line):
    """Means of some policy that is no optimum of anything."""
    u = 0.4 * np.sin(line.axis)[None] + 0.2 * np.arange(line.steps)[:, None]
    return line.base + line.std[:, None] * u


@pytest.mark.parametrize("label", CRITICAL)
def test_full_adjoints_are_slopes_of_the_cost(label):
    line = line_of(label, points=481)
    means = bent(line)
    J, A = line.cost_to_go(means), line.adjoints(means)[0]
    inner = np.abs(line.axis) < 4
    slopes = np.array([Spline(line.axis, row).slope(line.axis) for row in J])
    size = np.abs(A).max()
    assert QUADRATURE.holds(slopes[:, inner], A[:, inner], size)
    assert not QUADRATURE.holds(line.adjoints(means, "lean")[0][:, inner], A[:, inner], size)


@pytest.mark.parametrize("label", CRITICAL)
def test_gradient_fields_are_functional_derivatives(label):
    """Of the cost along densities, forwards, when one kernel's means move a little."""
    line = line_of(label, points=481)
    means, dx = bent(line), float(line.axis[1] - line.axis[0])
    density = line.densities(means)
    G = line.gradient_fields(means)
    lean = line.gradient_fields(means, "lean")

    def cost(moved):
        p, u = line.densities(moved), line.controls(moved)
        return float((0.5 * p[:-1] * u**2).sum() + p[-1] @ line.final(line.axis)) * dx

    for k in range(line.steps):
        way = np.zeros_like(means)
        way[k] = line.std[k] * np.cos(0.7 * line.axis)
        step = 1e-3
        one, two = (
            (cost(means + h * way) - cost(means - h * way)) / (2 * h) for h in (step, 2 * step)
        )
        slope = (4 * one - two) / 3
        right = dx * float((density[k] * G[k] * way[k] / line.std[k]).sum())
        assert QUADRATURE.holds(right, slope, 1.0)
        if k < line.steps - 1:
            wrong = dx * float((density[k] * lean[k] * way[k] / line.std[k]).sum())
            assert not QUADRATURE.holds(wrong, slope, 1.0)


@pytest.mark.parametrize("label", CRITICAL)
def test_critical_point_has_no_gradient_and_least_cost(label):
    line = line_of(label)
    found = line.critical()
    assert found.unique
    size = np.abs(line.controls(found.means)).max()
    for adjoint in ("full", "lean"):
        assert ALGEBRA.holds(line.gradient_fields(found.means, adjoint), 0.0, size)
        half = 0.5 * (found.means + line.base)
        assert not ALGEBRA.holds(line.gradient_fields(half, adjoint), 0.0, size)
    dropped, terms = line.dropped(found.means)
    assert ALGEBRA.holds(dropped, 0.0, terms.max())
    assert not ALGEBRA.holds(line.dropped(half)[0], 0.0, terms.max())
    best = line.start_mean(line.cost_to_go(found.means)[0])
    rng = np.random.default_rng(0)
    for _ in range(5):
        move = 0.1 * rng.normal(size=(line.steps, 1)) * np.cos(line.axis + rng.normal())
        assert line.start_mean(line.cost_to_go(found.means + move)[0]) > best


def test_smoothing_against_an_integral():
    line = line_of("g = 1")
    m = np.array([-1.3, 0.4, 2.0])
    value, slope, curve = line.curved(1, line.final, m)
    s = line.std[1]

    def mean(weight):
        return [
            integrate.quad(
                lambda z, m=m: (
                    line.final(np.array([m + s * z]))[0]
                    * weight(z)
                    * math.exp(-0.5 * z * z)
                    / math.sqrt(2 * math.pi)
                ),
                -9,
                9,
                epsabs=1e-12,
            )[0]
            for m in m
        ]

    assert QUADRATURE.holds(value, mean(lambda z: 1), 1.0)
    assert QUADRATURE.holds(slope, np.array(mean(lambda z: z)) / s, 1.0)
    assert QUADRATURE.holds(curve, np.array(mean(lambda z: z * z - 1)) / s**2, 1.0)


def test_two_wide_steps_have_three_critical_points():
    problem = load_problem("bumps_1d")
    line = LineChain.of_problem(problem, Chain(2), 2 * problem.scale, 401)
    points = [line.critical([i, 0]) for i in range(3)]
    assert points[0].roots[0].tolist() == [3] * 401
    assert points[0].roots[1].tolist() == [1] * 401
    assert not points[0].unique
    starts = [p.means[0, 0] for p in points]
    assert starts[0] < starts[1] < starts[2]
    for p in points:
        assert ALGEBRA.holds(line.gradient_fields(p.means), 0.0, 1.0)
    costs = [line.start_mean(line.cost_to_go(p.means)[0]) for p in points]
    assert costs[2] < costs[0] < costs[1]
    assert LineChain.of_problem(problem, Chain(2), problem.scale, 401).critical().unique


def test_critical_refuses_bad_input():
    with pytest.raises(ValueError, match="d = 1, got 'bump_2d' in d = 2"):
        LineChain.of_problem(load_problem("bump_2d"), Chain(4), 1.0)
    with pytest.raises(ValueError, match="scale"):
        LineChain.of_problem(load_problem("note_1d"), Chain(4), 0.0)
    line = line_of("ancestral")
    with pytest.raises(ValueError, match="means must be finite numbers of shape"):
        line.adjoints(line.base[1:])
    with pytest.raises(ValueError, match="finite: False"):
        line.cost_to_go(line.base * math.nan)
    with pytest.raises(ValueError, match=r"adjoint must .*got 'half'"):
        line.adjoints(line.base, "half")
    with pytest.raises(ValueError, match="narrowest kernel"):
        line_of("ancestral", points=61).densities(line_of("ancestral", points=61).base)
    with pytest.raises(ValueError, match="base, std and axis must have shapes"):
        replace(line, base=line.base[:, 1:])
    pulled = replace(line, final_slope=lambda x: np.full_like(x, -1e6))
    with pytest.raises(ValueError, match="no critical mean"):
        pulled.critical()
