"""Guided fields: their algebra, divergence, and what the sampler's law is in solvable cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import LINE, LINE_B, PLANE, PLANE_B, points, tensor
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.fields.guidance import GuidedField
from theory.fields.mixture import MixtureField
from theory.fields.paths import PATHS, RectifiedFlow
from theory.laws.gaussians import GaussianSum
from theory.ledger.zhu.guidance import ALIKE, MIXED, Classes
from theory.samplers.flow import FlowLaw

PAIRS = {1: (LINE, LINE_B), 2: (PLANE, PLANE_B)}
TIMES = (0.0, 0.3, 0.8)


def guided(dim: int, weight: float, path=None) -> GuidedField:
    one, other = (MixtureField(p.law, path or RectifiedFlow()) for p in PAIRS[dim])
    return GuidedField(one, other, weight)


@pytest.mark.parametrize("dim", PAIRS)
@pytest.mark.parametrize("t", TIMES)
def test_weight_zero_is_the_conditional_field(dim, t):
    field, x = guided(dim, 0.0), points(6, dim)
    assert torch.equal(field(x, t), field.conditional(x, t))
    for ours, theirs in zip(
        field.with_divergence(x, t), field.conditional.with_divergence(x, t), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dim", PAIRS)
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("of", ["__call__", "score", "posterior_mean"])
def test_mix(dim, t, of):
    """(1 + w) of one less w of the other, not the other way round."""
    field, x, w = guided(dim, 1.7), points(6, dim), 1.7
    one, other = (getattr(f, of)(x, t) for f in (field.conditional, field.unconditional))
    stated = (1 + w) * one - w * other
    assert ALGEBRA.holds(getattr(field, of)(x, t), stated, 1.0)
    if t > 0 or of == "__call__":  # at t = 0 all scores are -x
        assert not ALGEBRA.holds(stated, (1 - w) * one + w * other, 1.0)


def test_same_fields_at_any_weight():
    law = MixtureField(LINE.law)
    x = points(6, 1)
    assert ALGEBRA.holds(GuidedField(law, law, 30.0)(x, 0.4), law(x, 0.4), 1.0)


@pytest.mark.parametrize("dim", PAIRS)
@pytest.mark.parametrize("t", TIMES)
def test_divergence_against_autograd(dim, t):
    field, x = guided(dim, 1.3), points(5, dim)
    velocity, divergence = field.with_divergence(x, t)
    assert ALGEBRA.holds(velocity, field(x, t), 1.0)
    slopes = torch.func.vmap(torch.func.jacrev(lambda y: field(y[None], t)[0]))(x)
    stated = slopes.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert ALGEBRA.holds(divergence, stated, 1.0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dim", PAIRS)
def test_velocity_score_and_mean_are_one(dim, path):
    """The three mixes are the path's conversions of one another: their weights sum to 1."""
    field, x, t = guided(dim, 0.8, PATHS[path]()), points(6, dim), 0.6
    velocity = field(x, t)
    size = float(velocity.abs().max())
    score = field.score(x, t)
    assert ALGEBRA.holds(
        field.path.convert(velocity, x, t, "velocity", "score"), score, float(score.abs().max())
    )
    assert ALGEBRA.holds(field.path.convert(score, x, t, "score", "velocity"), velocity, size)
    alpha, sigma = (float(f(tensor(t))) for f in (field.path.alpha, field.path.sigma))
    mean = (x + sigma**2 * score) / alpha  # Tweedie
    assert ALGEBRA.holds(field.posterior_mean(x, t), mean, float(mean.abs().max()) / alpha)


def test_score_is_that_of_the_powers():
    """grad log p_t(x|c)^(1+w) p_t(x)^-w, by autograd of the closed densities."""
    field, t, w = guided(2, 1.5), 0.55, 1.5
    x = points(6, 2).requires_grad_(True)
    logs = [
        f.law.noised(x, tensor(t), tensor(1 - t)).log_abs
        for f in (field.conditional, field.unconditional)
    ]
    (stated,) = torch.autograd.grad(((1 + w) * logs[0] - w * logs[1]).sum(), x)
    assert ALGEBRA.holds(field.score(x.detach(), t), stated, 1.0)


def test_batch_of_weights():
    weights = tensor([0.0, 0.5, 2.0])
    laws = [LINE.law.expanded((3,)), LINE_B.law.expanded((3,))]
    many = GuidedField(*(MixtureField(law) for law in laws), weights)
    x = points(5, 1)
    batch = x.expand(3, 5, 1)
    velocity, divergence = many.with_divergence(batch, 0.4)
    for i, w in enumerate(weights.tolist()):
        one = guided(1, w)
        assert ALGEBRA.holds(many(batch, 0.4)[i], one(x, 0.4), 1.0)
        assert ALGEBRA.holds(velocity[i], one(x, 0.4), 1.0)
        assert ALGEBRA.holds(divergence[i], one.with_divergence(x, 0.4)[1], 1.0)
        assert ALGEBRA.holds(many.score(batch, 0.4)[i], one.score(x, 0.4), 1.0)


def test_what_the_field_is():
    field = guided(2, 1.0)
    assert field.dim == 2
    assert field.dtype == torch.float64
    assert field.path == RectifiedFlow()


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf"), tensor([1.0, -1.0])])
def test_bad_weight(weight):
    with pytest.raises(ValueError, match=r"weight must .*got "):
        guided(1, weight)


def test_fields_that_do_not_fit():
    line, plane = MixtureField(LINE.law), MixtureField(PLANE.law)
    with pytest.raises(ValueError, match="must have one dimension and one path"):
        GuidedField(line, plane, 1.0)
    other = MixtureField(LINE.law, PATHS["trigonometric"]())
    with pytest.raises(ValueError, match="must have one dimension and one path"):
        GuidedField(line, other, 1.0)


# --- laws


def test_gaussians_of_one_covariance_give_the_product():
    """p(x|c) = N(m, s^2), p(x) = N(n, s^2): the product is N(m + w (m - n), s^2)."""
    m, n, s, w = -0.5, 0.6, 0.8, 2.0
    one, other = (MixtureField(GaussianSum.mixture([1.0], [[mean]], stds=[s])) for mean in (m, n))
    x = tensor([[-3.5], [-2.7], [-1.9]])
    law = FlowLaw(GuidedField(one, other, w)).log_density(x)
    stated = GaussianSum.mixture([1.0], [[m + w * (m - n)]], stds=[s]).log_density(x)
    assert QUADRATURE.holds(law, stated, 1.0)


def test_gaussians_of_two_covariances_by_hand():
    """Centred Gaussians of variances p and q: dx/dt = (1 + w) v_p - w v_q is linear, and
    exp(int) of its coefficient scales the noise: std = p^((1 + w)/2) q^(-w/2), the product's
    std is another."""
    p, q, w = 0.5, 1.7, 1.0
    one, other = (MixtureField(GaussianSum.mixture([1.0], [[0.0]], stds=[v**0.5])) for v in (p, q))
    x = tensor([[-0.7], [0.2], [0.9]])
    law = FlowLaw(GuidedField(one, other, w)).log_density(x)
    std = p ** ((1 + w) / 2) * q ** (-w / 2)
    stated = GaussianSum.mixture([1.0], [[0.0]], stds=[std]).log_density(x)
    assert QUADRATURE.holds(law, stated, 1.0)
    product = 1 / ((1 + w) / p - w / q)
    assert not np.isclose(std**2, product)


def test_classes_of_the_ledger():
    """p(x) contains its class with the weight that it has: p(x) - P(c) p(x|c) >= 0."""
    x = points(200, 1, spread=4.0)
    for classes in (MIXED, ALIKE, Classes()):
        share = sum(classes.weights[i] for i in classes.members) / sum(classes.weights)
        rest = classes.law(False).density(x) - share * classes.law(True).density(x)
        assert float(rest.min()) >= 0
