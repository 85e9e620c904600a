"""The recursion with an average of students and with an anchor."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from tests.theory.recursion.gaussian_reference import (
    blend,
    gaussian_covariance,
    gaussian_epoch,
    gaussian_velocity,
)
from tests.theory.recursion.test_recursion import MODES, QUADRATIC, central, gaussian_problem
from theory.common.tolerances import (
    ALGEBRA,
    QUADRATURE,
    QUADRATURE_2D,
    QUADRATURE_TIGHT,
)
from theory.fields.mixture import MixtureField
from theory.laws.gaussians import GaussianSum
from theory.problems.problem import load_problem
from theory.recursion import Recursion, TwoKL, carry
from theory.tilts.quadratic import linear_reward
from theory.tilts.wrappers import Exponential


@pytest.mark.parametrize("mode", MODES)
def test_an_average_is_a_larger_nft_beta(mode):
    problem = load_problem("note_1d")
    slow = carry(problem, Recursion(2.0, mode, ema=0.6), 3, steps=8)
    same = carry(problem, Recursion(5.0, mode), 3, steps=8)
    other = carry(problem, Recursion(4.0, mode), 3, steps=8)
    assert ALGEBRA.holds(slow.laws[3].log_density, same.laws[3].log_density, scale=1.0)
    assert not QUADRATURE.holds(slow.laws[3].log_density, other.laws[3].log_density, scale=1.0)


def test_the_students_first_epoch_is_the_refits():
    problem = load_problem("note_1d")
    refit, student = (carry(problem, Recursion(2.0, m), 2, steps=8) for m in MODES[1:])
    assert ALGEBRA.holds(student.laws[1].log_density, refit.laws[1].log_density, scale=1.0)
    assert not QUADRATURE.holds(student.laws[2].log_density, refit.laws[2].log_density, scale=1.0)


def student_by_ode(y, nft_beta):
    """log-density of the student's second epoch on a Gaussian with QUADRATIC, by hand.

    After one epoch the law is N(mu, s^2) in closed form and v' affine; m is quadratic in x.
    """
    lam, h, b, c = 2 / nft_beta, -0.5, 0.6, 0.1
    mean, std = gaussian_epoch(0.4, 0.9, lam, h, b)
    first = blend((1.0, gaussian_velocity(0.4, 0.9)), (lam, gaussian_covariance(0.4, 0.9, h, b)))
    own, term = gaussian_velocity(mean, std), gaussian_covariance(mean, std, h, b)

    def rate(t, state):
        x = state[: len(y)]
        (a0, c0), (a1, c1), (a2, c2) = first(t), own(t), term(t)
        variance = t**2 * std**2 + (1 - t) ** 2
        gain = t * std**2 / variance
        centre = gain * x + mean * (1 - gain * t)
        m = 0.5 * h * (centre**2 + (std * (1 - t)) ** 2 / variance) + b * centre + c
        gap, lead = (a1 - a0) * x + c1 - c0, 0.5 * lam * (2 * m - 1)
        v = a0 * x + c0 + lam * (a2 * x + c2) + lead * gap
        div = a0 + lam * a2 + lead * (a1 - a0) + lam * (h * centre + b) * gain * gap
        return np.concatenate([v, div])

    start = np.concatenate([y, np.zeros_like(y)])
    end = solve_ivp(rate, (1, 0), start, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    x0, gone = end[: len(y)], end[len(y) :]
    return -0.5 * x0**2 - 0.5 * math.log(2 * math.pi) + gone


def test_the_students_second_epoch_by_hand():
    law = carry(gaussian_problem(QUADRATIC), Recursion(2.0, "student"), 2).laws[2]
    here = central(law)
    expected = student_by_ode(law.axes[0][here], 2.0)
    assert QUADRATURE.holds(law.log_density[here], expected, scale=1.0)
    refit = carry(gaussian_problem(QUADRATIC), Recursion(2.0), 2, grid=law.axes).laws[2]
    assert not QUADRATURE_2D.holds(refit.log_density[here], expected, scale=1.0)


def test_closed_forms_of_the_tilt():
    for spec in (Recursion(2.0, ema=0.3), Recursion(2.0, ema=0.3, kl_weight=0.5)):
        tilt = 0.0
        for k in range(6):
            assert ALGEBRA.holds(spec.effective_tilt(k), tilt)
            tilt = spec.rate * tilt + (1 - spec.ema) * spec.anchor * spec.lam
    assert ALGEBRA.holds(spec.limit, 8.0)
    assert ALGEBRA.holds(spec.effective_tilt(10_000), spec.limit)
    two, tilt = TwoKL(3.0, 0.5), 0.0
    for k in range(6):
        assert ALGEBRA.holds(two.effective_tilt(k), tilt)
        tilt = two.rate * tilt + two.lam


def test_two_kl_densities():
    """p^k is the base tilted by B_k; with another law to pull to, the geometric mean."""
    problem, spec = load_problem("note_1d"), TwoKL(3.0, 1.0)
    run = carry(problem, spec, 5)
    y = torch.as_tensor(run.axes[0])[:, None]
    exact = problem.tilt(Exponential(spec.effective_tilt(5))).law.log_density(y)
    here = central(run.laws[5], 20.0)
    assert QUADRATURE_TIGHT.holds(run.laws[5].log_density[here], exact[here], scale=1.0)
    guided = GaussianSum.mixture([1.0], [[0.5]], stds=[1.0])
    run = carry(problem, replace(spec, reference=guided), 60)
    y = torch.as_tensor(run.axes[0])[:, None]
    here = central(run.laws[60], 20.0)
    target = guided.log_density(y).numpy() + spec.limit * run.rewards
    gap = (run.laws[60].log_density - target)[here]
    assert QUADRATURE.holds(gap, np.full_like(gap, gap.mean()), scale=1.0)


def test_the_anchor_has_a_fixed_point_and_its_rate():
    """Small steps against a small penalty: tilts go to 2 nft_beta / kl_weight at the rate w."""
    problem, spec = load_problem("note_1d"), Recursion(8.0, kl_weight=16.0)
    run = carry(problem, spec, 60, grid=160, steps=8)
    rows = run.summary()
    assert QUADRATURE.holds(rows[60]["reward"], rows[59]["reward"])
    still = run.laws[60].log_density - run.laws[59].log_density
    assert np.abs(still[central(run.laws[60])]).max() < QUADRATURE.rtol
    moves = [abs(rows[k + 1]["reward"] - rows[k]["reward"]) for k in (20, 21)]
    # The linearised rate differs from w by what the law's shape adds: order lam.
    assert abs(moves[1] / moves[0] / spec.rate - 1) < spec.lam
    assert abs(rows[60]["tilt"] / spec.limit - 1) < spec.lam


def test_a_reference_that_is_no_base():
    """Without reward the penalty moves the field to the reference: its law is the limit."""
    guided = GaussianSum.mixture([0.5, 0.5], [[-0.5], [1.0]], stds=[0.8, 0.8])
    problem = replace(load_problem("note_1d"), reward=linear_reward([0.0], 0.5))
    for mode in ("frozen", "student"):
        spec = Recursion(2.0, mode, kl_weight=12.0, reference=MixtureField(guided))
        run = carry(problem, spec, 14)
        here = central(run.laws[-1])
        exact = guided.log_density(torch.as_tensor(run.axes[0][here])[:, None])
        assert QUADRATURE.holds(run.laws[-1].log_density[here], exact, scale=1.0)
