"""TwoKL pulled to a law that is known by its field alone: what is carried, where, and errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import theory.recursion.axes as axes_module
from tests.theory.recursion.test_recursion import central
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_2D
from theory.fields.guidance import GuidedField
from theory.fields.mixture import MixtureField
from theory.fields.paths import Trigonometric
from theory.laws.gaussians import GaussianSum
from theory.ledger.zhu.guidance import MIXED
from theory.problems.problem import load_problem
from theory.recursion import TwoKL, carry
from theory.recursion.checks import EDGE
from theory.recursion.reference import closed_law, log_density
from theory.samplers.flow import FlowLaw
from theory.tilts.quadratic import linear_reward

CLASS = replace(load_problem("note_1d"), base=MIXED.law(True))
GUIDED = MIXED.field(0.8)


def gaussians(dim: int) -> GuidedField:
    """Guidance whose law is known: Gaussians of one covariance, N(m + w (m - n), s^2 I)."""
    fields = (
        MixtureField(GaussianSum.mixture([1.0], [[m] * dim], stds=[0.8])) for m in (-0.2, 0.3)
    )
    return GuidedField(*fields, 1.5)


def guided_gaussian(dim: int) -> GaussianSum:
    return GaussianSum.mixture([1.0], [[-0.2 - 1.5 * 0.5] * dim], stds=[0.8])


def proportional(log_p, log_q, scale=1.0):
    """|log p - log q| up to a constant."""
    gap = np.asarray(log_p) - np.asarray(log_q)
    return np.abs(gap - gap.mean()).max() / scale


# --- the law


@pytest.mark.parametrize("dim", [1, 2])
def test_density_of_a_field_whose_law_is_known(dim):
    x = torch.randn(20, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    stated = guided_gaussian(dim).log_density(x)
    tier = QUADRATURE if dim == 1 else QUADRATURE_2D
    assert tier.holds(log_density(gaussians(dim), x), stated, 1.0)
    # A look must tell where a law ends: axes end at DEPTH, where EDGE is asked.
    far = guided_gaussian(dim).mean[0] + 7 * x
    gap = (
        log_density(gaussians(dim), far, look=True) - guided_gaussian(dim).log_density(far).numpy()
    )
    seen = guided_gaussian(dim).log_density(far).numpy() > -axes_module.DEPTH
    assert np.abs(gap[seen]).max() < axes_module.DEPTH - EDGE


def test_closed_laws_take_no_paths(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("paths where the law is closed")

    monkeypatch.setattr(FlowLaw, "log_density", never)
    law, x = guided_gaussian(1), torch.tensor([[0.3]], dtype=torch.float64)
    for reference in (law, MixtureField(law)):
        assert closed_law(reference) is law
        assert ALGEBRA.holds(log_density(reference, x), law.log_density(x), 1.0)
    assert closed_law(GUIDED) is None
    assert closed_law(None) is None


# --- carried


def limit_gap(reference, epochs=60, eta_0=2.0):
    """How far the carried law is from p_ref exp(eta_0 r) / Z near its peak."""
    run = carry(CLASS, TwoKL(eta_0, 1.0, reference), epochs, grid=400)
    law = run.laws[-1]
    here = central(law, 20.0)
    y = torch.as_tensor(law.axes[0][here])[:, None]
    stated = FlowLaw(reference).log_density(y).numpy() + eta_0 * run.rewards[here]
    return proportional(law.log_density[here], stated)


def test_limit_with_a_guided_field():
    assert limit_gap(GUIDED) <= QUADRATURE.rtol


def test_limit_takes_as_many_epochs_as_it_says():
    """After k epochs w^k of the start is left: far more than the tier while k is small."""
    assert limit_gap(GUIDED, epochs=5) > QUADRATURE.rtol


def test_a_field_and_its_law_carry_the_same():
    law = guided_gaussian(1)
    runs = [carry(CLASS, TwoKL(2.0, 1.0, ref), 8, grid=300) for ref in (law, gaussians(1))]
    grid = runs[0].axes[0]
    again = carry(CLASS, TwoKL(2.0, 1.0, gaussians(1)), 8, grid=[grid])
    assert QUADRATURE.holds(again.laws[-1].density, runs[0].laws[-1].density, 1.0)
    step = grid[1] - grid[0]
    for ours, theirs in zip(runs[1].axes[0][[0, -1]], grid[[0, -1]], strict=True):
        # A look at fewer nodes may end further out: by two of them at most.
        assert abs(ours - theirs) < 2 * axes_module.STRIDE[1] * step


def test_in_the_plane():
    problem = replace(
        load_problem("linear_2d"),
        base=GaussianSum.mixture([0.6, 0.4], [[-0.4, 0.3], [0.5, -0.2]], stds=[0.8, 0.9]),
        reward=linear_reward([0.5, -0.3], 0.1),
    )
    run = carry(problem, TwoKL(1.0, 1.0, gaussians(2)), 20, grid=56)
    law, share = run.laws[-1], 0.5**20
    log_q = guided_gaussian(2)
    points = torch.as_tensor(np.stack(np.meshgrid(*run.axes, indexing="ij"), -1)).reshape(-1, 2)
    shape = run.rewards.shape
    start = problem.base.log_density(points).numpy().reshape(shape)
    anchor = log_q.log_density(points).numpy().reshape(shape)
    stated = share * start + (1 - share) * anchor + run.recursion.effective_tilt(20) * run.rewards
    here = central(law, 12.0)
    assert proportional(law.log_density[here], stated[here]) <= QUADRATURE_2D.rtol


def test_axes_reach_the_law_that_the_field_samples():
    """Guidance carries the law away from the base: axes for the base alone would not hold it."""
    away = GuidedField(
        *(MixtureField(GaussianSum.mixture([1.0], [[m]], stds=[0.8])) for m in (-2.0, 2.0)), 1.5
    )  # law N(-8, 0.8^2)
    run = carry(CLASS, TwoKL(2.0, 1.0, away), 30, grid=400)
    assert run.axes[0][0] < -8 - 0.8 * math.sqrt(2 * EDGE)
    assert run.mass_error <= QUADRATURE.rtol


# --- errors


@pytest.mark.parametrize("reference", [0.5, "base", FlowLaw(GUIDED)], ids=["number", "text", "law"])
def test_reference_of_another_type(reference):
    with pytest.raises(TypeError, match=r"(?s)reference must be a GaussianSum or an Exact"):
        TwoKL(1.0, 1.0, reference)


@pytest.mark.parametrize("kind", ["law", "field"])
def test_reference_of_another_dtype(kind):
    law = CLASS.base.to(torch.float32)
    with pytest.raises(
        TypeError, match=r"reference must have dtype torch.float64, got torch.float32"
    ):
        TwoKL(1.0, 1.0, law if kind == "law" else MixtureField(law))


def test_reference_that_is_no_law():
    law = replace(CLASS.base, sign=-CLASS.base.sign)
    with pytest.raises(ValueError, match="reference has negative weights: must be a law"):
        TwoKL(1.0, 1.0, law)


def test_reference_that_does_not_fit_the_problem():
    with pytest.raises(ValueError, match="reference must have d = 1, got 2"):
        carry(CLASS, TwoKL(1.0, 1.0, gaussians(2)), 1)
    other = MixtureField(CLASS.base, Trigonometric())
    with pytest.raises(ValueError, match=r"reference must have the rectified flow as path, got"):
        carry(CLASS, TwoKL(1.0, 1.0, other), 1)
