"""Sums of Gaussians in batches, in other dtypes and on other devices."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import (
    LINE,
    LINE_B,
    PLANE,
    PLANE_B,
    SPACE,
    points,
    random_plain,
    stack,
    tensor,
)
from tests.theory.laws.test_gaussians import quadratic
from theory.common.tolerances import ALGEBRA
from theory.laws.gaussians import GaussianSum

(H2, B2, C2), _ = quadratic(2)


OPERATIONS = {
    "log_density": lambda s, x: s.log_density(x),
    "density": lambda s, x: s.density(x),
    "score": lambda s, x: s.score(x),
    "total": lambda s, x: s.product(s).total()[0],
    "expectation": lambda s, x: s.expectation(),
    "covariance": lambda s, x: s.covariance(),
    "normalised": lambda s, x: s.scaled(0.3).normalised().log_density(x),
    "scaled": lambda s, x: s.scaled(0.3, -1.0).density(x),
    "sum_of": lambda s, x: GaussianSum.sum_of([s, s.scaled(0.5)]).density(x),
    "product": lambda s, x: s.product(s).log_density(x),
    "power": lambda s, x: s.power(3).log_density(x),
    "marginal": lambda s, x: s.marginal([1]).log_density(x[..., :1]),
    "affine": lambda s, x: s.affine(H2[0].to(x.dtype), B2[0].to(x.dtype)).log_density(x),
    "convolved": lambda s, x: s.convolved(0.7, 0.4).score(x),
    "quadratic": lambda s, x: s.times_exp_quadratic(
        *(v.to(x.dtype) for v in (H2, B2, C2))
    ).log_density(x),
    "cdf": lambda s, x: s.marginal([1]).cdf(x[..., 0]),
    "posterior": lambda s, x: s.noised(x, 0.6, 0.5).covariance(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_batch_is_its_loop(name):
    laws = [random_plain(s, 2, 3) for s in (1, 2, 3)]
    x = torch.stack([points(7, 2, s) for s in range(3)])
    operation = OPERATIONS[name]
    batched = operation(stack(laws), x)
    looped = torch.stack([operation(p.law, xi) for p, xi in zip(laws, x, strict=True)])
    assert batched.shape == looped.shape
    assert ALGEBRA.holds(batched, looped, scale=1.0)
    assert not ALGEBRA.holds(batched, looped.flip(0), scale=1.0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_dtype_is_kept(name):
    law, x = PLANE.law.to(torch.float32), points(5, 2)
    assert OPERATIONS[name](law, x.float()).dtype == torch.float32
    assert OPERATIONS[name](PLANE.law, x).dtype == torch.float64


def test_parameters_keep_their_dtype():
    parts = [v.float() for v in (tensor(0.75, 0.25), PLANE_B.means, PLANE_B.covs)]
    law = GaussianSum.mixture(parts[0], parts[1], covs=parts[2])
    assert {law.log_abs.dtype, law.sign.dtype, law.mean.dtype, law.cov.dtype} == {torch.float32}
    assert law.sample(3, torch.Generator().manual_seed(0)).dtype == torch.float32


def test_weights_and_covs_may_carry_float32_rounding():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        weights = torch.softmax(torch.randn(7, generator=generator), 0)
        roots = torch.randn(7, 3, 3, generator=generator)
        scales = torch.rand(3, generator=generator) + 0.1
        covs = roots @ torch.diag(scales) @ roots.mT + torch.eye(3)
        assert GaussianSum.mixture(weights, roots[:, 0], covs=covs).dtype == torch.float32


@pytest.mark.parametrize("name", ["log_density", "score", "density", "cdf"])
def test_mixed_dtypes_are_refused(name):
    for law, x in (
        (PLANE.law, points(5, 2).float()),
        (PLANE.law.to(torch.float32), points(5, 2)),
    ):
        with pytest.raises(TypeError, match=r"must have the dtype"):
            OPERATIONS[name](law, x)


def test_to_rounds_the_spectrum_rather_than_recomputing_it():
    moved = PLANE.law.to(torch.float32)
    assert torch.equal(moved.spectrum.variances, PLANE.law.spectrum.variances.float())
    assert torch.equal(moved.spectrum.axes, PLANE.law.spectrum.axes.float())
    assert torch.equal(moved.mean, PLANE.law.mean.float())
    back = moved.to(torch.float64)
    assert back.dtype == back.spectrum.variances.dtype == torch.float64


META = ["log_density", "density", "score", "total", "expectation", "covariance", "cdf"]


@pytest.mark.parametrize("name", META)
@pytest.mark.parametrize("plain", [PLANE, LINE], ids=["full", "line"])
def test_evaluation_stays_on_the_device(name, plain):
    if name == "cdf" and plain is PLANE:
        pytest.skip("cdf of a marginal needs its spectrum, which meta tensors cannot give")
    law, x = plain.law, points(5, plain.means.shape[-1])
    operation = OPERATIONS[name] if name != "cdf" else (lambda s, y: s.cdf(y[:, 0]))
    here, there = operation(law, x), operation(law.to(device="meta"), x.to("meta"))
    assert there.device.type == "meta"
    assert there.shape == here.shape


def test_algebra_stays_on_the_device():
    law, (H, b, _) = PLANE.law.to(device="meta"), quadratic(2)[0]
    H, b = H.to("meta"), b.to("meta")
    laws = [
        law.product(law),
        law.power(2),
        law.marginal([1]),
        law.affine(H[0], b[0]),
        law.convolved(0.5, 0.4),
        law.scaled(0.2, -1.0),
        GaussianSum.sum_of([law, law]),
    ]
    for made in laws:
        assert {p.device.type for p in (made.log_abs, made.sign, made.mean, made.cov)} == {"meta"}


def test_the_reference_laws_are_asymmetric():
    for plain in (LINE, LINE_B, PLANE, PLANE_B, SPACE):
        assert len(set(plain.weights.tolist())) == len(plain.weights)
        assert not torch.equal(plain.covs[0], plain.covs[1])
