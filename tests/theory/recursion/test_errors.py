"""Every error of the recursion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import theory.recursion.online as online
from tests.theory.recursion import test_recursion as checks
from tests.theory.recursion.gaussian_reference import gaussian_epoch, gaussian_tilt
from theory.fields.paths import Trigonometric
from theory.problems.problem import load_problem
from theory.recursion import DivergedError, GridError, Recursion, TwoKL, carry

# --- errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recursion(0.0), "nft_beta must be a finite number > 0, got 0.0"),
        (lambda: Recursion(float("inf")), "nft_beta must .*got inf"),
        (lambda: Recursion(1.0, "online"), "mode must be one of frozen, .*got 'online'"),
        (lambda: Recursion(1.0, ema=1.0), r"ema must be a number in \[0, 1\), got 1.0"),
        (lambda: Recursion(1.0, ema=-0.1), "ema must .*got -0.1"),
        (
            lambda: Recursion(1.0, kl_weight=-1.0),
            "kl_weight must be a finite number >= 0, got -1.0",
        ),
        (lambda: TwoKL(0.0, 1.0), "eta_0 must .*got 0.0"),
        (lambda: TwoKL(1.0, -1.0), "eta_1 must .*got -1.0"),
        (lambda: Recursion(1.0).effective_tilt(-1), "k must .*got -1"),
        (lambda: gaussian_tilt(0.0, 1.0, 2.0, 1.0, 0.0), "allowed is less than"),
        (lambda: gaussian_epoch(0.0, 0.0, 1.0, 1.0, 0.0), "std must .*got 0.0"),
        (
            lambda: Recursion(1.0, reference=load_problem("note_1d").base_field),
            "kl_weight must be > 0 with a reference",
        ),
        (lambda: carry(load_problem("note_1d"), Recursion(1.0), -1), "epochs must .*got -1"),
        (lambda: carry(load_problem("note_1d"), Recursion(1.0), 1, grid=3), "grid must .*got 3"),
        (lambda: carry(load_problem("note_1d"), Recursion(1.0), 1, steps=1), "steps must .*got 1"),
        (
            lambda: carry(load_problem("full_5d"), Recursion(1.0), 1),
            "must be in d = 1 or 2, got d = 5",
        ),
        (
            lambda: carry(
                replace(load_problem("note_1d"), path=Trigonometric()), Recursion(1.0), 1
            ),
            "must be the rectified flow",
        ),
        (
            lambda: carry(
                load_problem("bump_2d"), Recursion(1.0), 1, grid=[np.linspace(-5, 5, 80)]
            ),
            "grid must be .*got 1 axes",
        ),
        (
            lambda: carry(
                load_problem("note_1d"), Recursion(1.0), 1, grid=[np.geomspace(1, 5, 80)]
            ),
            "must have uniform",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_types():
    problem = load_problem("note_1d")
    with pytest.raises(TypeError, match="must be a Recursion or a TwoKL"):
        carry(problem, 1.0, 1)
    with pytest.raises(TypeError, match="must be a Problem"):
        carry(None, Recursion(1.0), 1)
    with pytest.raises(TypeError, match=r"must have dtype torch\.float64"):
        carry(problem.to(torch.float32), Recursion(1.0), 1)
    with pytest.raises(TypeError, match=r"must have dtype torch\.float64"):
        Recursion(1.0, kl_weight=1.0, reference=problem.to(torch.float32).base_field)


def test_a_grid_too_coarse_names_the_epoch_and_the_size_that_would_do():
    """And that size does: the run gets further on it."""
    problem, spec = load_problem("note_1d"), Recursion(2.0)
    axes = online.default_axes(problem, spec, 16, 200)
    with pytest.raises(GridError, match=r"grid = 200 nodes is too coarse") as caught:
        carry(problem, spec, 16, grid=axes)
    epoch = int(str(caught.value).split("epoch ")[1].split(":")[0])
    size = int(str(caught.value).split("about ")[1].split()[0])
    assert epoch > 8
    assert 200 < size < 300
    carry(problem, spec, epoch, grid=[np.linspace(axes[0][0], axes[0][-1], size)])


def test_a_diverging_student_is_told():
    """Far from a concave reward's peak 2 m - 1 << 0 drives the student away from any u_q."""
    spec = Recursion(2 * 32 / 1.5, "student")
    with pytest.raises(DivergedError, match=r"epoch \d+: trajectories from \d+ nodes"):
        carry(load_problem("quadratic_1d"), spec, 34, steps=12)


def test_axes_that_do_not_hold_the_mass():
    axes = [np.linspace(-4.5, 4.5, 256)]
    with pytest.raises(GridError, match=r"epoch 0: .* does not hold the mass"):
        carry(load_problem("note_1d"), Recursion(1.0), 1, grid=axes)
    problem = checks.gaussian_problem(checks.LINEAR)
    with pytest.raises(GridError, match=r"epoch \d+: .* does not hold the mass"):
        carry(problem, Recursion(1.0), 9, grid=[np.linspace(-8, 8, 256)], steps=6)
