"""Couplings of noise and data: against what can be done by hand, and finite differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.helpers import points, tensor
from theory.common.tolerances import ALGEBRA, QUADRATURE
from theory.fields.mixture import MixtureField
from theory.laws.couplings import CouplingFamily
from theory.laws.gaussians import GaussianSum

TIMES = (0.0, 0.2, 0.5, 0.9)
SCALES = (0.0, 0.4, -0.3)


def one_gaussian(B, c, noise, rates=(0.0, 0.0, 0.0)) -> CouplingFamily:
    """X_0 ~ N(0, I), X_1 = B X_0 + c + noise * N(0, I); rates of B, c and noise in a."""
    B, c = np.atleast_2d(B).astype(float), np.atleast_1d(c).astype(float)
    d, (dB, dc, dn) = len(c), rates
    eye, zero = np.eye(d), np.zeros((d, d))
    factor = np.block([[eye, zero], [B, noise * eye]])
    rate = np.block([[zero, zero], [dB * np.ones((d, d)), dn * eye]])
    return CouplingFamily(
        tensor([0.0]),
        tensor([[0.0] * d + c.tolist()]),
        torch.as_tensor(factor)[None],
        tensor([0.0]),
        tensor([[0.0] * d + [dc] * d]),
        torch.as_tensor(rate)[None],
    )


def by_hand(b, c, s, t, x):
    """On the line X_t = (t b + 1 - t) X_0 + t c + t s Z: X_1 - X_0 by regression on X_t."""
    u = t * b + 1 - t
    var = u**2 + t**2 * s**2
    cov = (b - 1) * u + t * s**2
    return c + cov / var * (x - t * c)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("a", SCALES)
def test_line_by_hand(t, a):
    b, c, s, rates = 0.7, 1.2, 0.5, (0.3, -0.8, 0.2)
    family = one_gaussian(b, c, s, rates)
    x = points(9, 1)
    stated = by_hand(b + a * rates[0], c + a * rates[1], s + a * rates[2], t, x)
    assert ALGEBRA.holds(family.velocity(x, t, a), stated, 1.0)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("which", range(3))
def test_slope_on_the_line_by_hand(t, which):
    """Autograd through the regression: B, c and the noise, one at a time."""
    rates = [0.0, 0.0, 0.0]
    rates[which] = 0.9
    family = one_gaussian(0.7, 1.2, 0.5, tuple(rates))
    x = points(7, 1)
    for a in SCALES:
        place = torch.tensor(a, dtype=torch.float64)
        stated = torch.func.jacrev(
            lambda p: by_hand(0.7 + p * rates[0], 1.2 + p * rates[1], 0.5 + p * rates[2], t, x)
        )(place)
        assert ALGEBRA.holds(family.velocity_slope(x, t, a), stated, 1.0)


def test_plane_by_hand():
    """X_1 = B X_0 + c + noise with a B that is not symmetric: the regression in matrices."""
    B, c, s, t = np.array([[0.3, 0.9], [-0.4, 0.6]]), np.array([1.0, -0.5]), 0.6, 0.35
    x = points(8, 2)
    mix = t * B + (1 - t) * np.eye(2)
    cov = (B - np.eye(2)) @ mix.T + t * s**2 * np.eye(2)
    var = mix @ mix.T + t**2 * s**2 * np.eye(2)
    stated = c + (x.numpy() - t * c) @ np.linalg.solve(var, cov.T)
    assert ALGEBRA.holds(one_gaussian(B, c, s).velocity(x, t, 0.0), stated, 1.0)


def test_shift_is_seen_at_once():
    """X_1 = X_0 + c: the velocity is c everywhere, its slope the rate of c."""
    family = one_gaussian(1.0, 2.0, 1e-5, (0.0, 0.7, 0.0))
    x = points(5, 1)
    assert QUADRATURE.holds(family.velocity(x, 0.5, 0.0), torch.full_like(x, 2.0))
    assert QUADRATURE.holds(family.velocity_slope(x, 0.5, 0.0), torch.full_like(x, 0.7))


def mixture(d: int, seed: int, dependent: bool = True, k: int = 3) -> CouplingFamily:
    g = np.random.default_rng(seed)
    keep = np.tril(np.ones((2 * d, 2 * d)))
    keep[:d] = 0
    if not dependent:
        keep[:, :d] = 0
    factors = 0.4 * keep * g.normal(size=(k, 2 * d, 2 * d))
    factors = factors * (1 - np.eye(2 * d)) + np.diag([1.0] * d + [0.7] * d)
    late = np.array([0.0] * d + [1.0] * d)
    parts = (
        g.normal(size=k),
        late * g.normal(size=(k, 2 * d)),
        factors,
        g.normal(size=k),
        late * g.normal(size=(k, 2 * d)),
        0.2 * keep * g.normal(size=(k, 2 * d, 2 * d)),
    )
    return CouplingFamily(*map(torch.as_tensor, parts))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("a", SCALES)
def test_independent_coupling_is_the_field_of_a_mixture(d, t, a):
    family = mixture(d, 4, dependent=False)
    factors = (family.factors + a * family.factor_rates)[:, d:, d:]
    law = GaussianSum.mixture(
        torch.softmax(family.logits + a * family.logit_rates, 0),
        (family.means + a * family.mean_rates)[:, d:],
        covs=factors @ factors.mT,
    )
    x = points(6, d)
    assert ALGEBRA.holds(family.velocity(x, t, a), MixtureField(law)(x, t), 1.0)


def difference(family: CouplingFamily, x, t, a, h=2e-3):
    """Central differences of the velocity, eighth order."""
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    return (
        sum(
            w * (family.velocity(x, t, a + j * h) - family.velocity(x, t, a - j * h))
            for j, w in weights.items()
        )
        / h
    )


@pytest.mark.parametrize("dependent", [True, False])
@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("a", SCALES)
def test_slope_against_differences(dependent, d, t, a):
    family, x = mixture(d, 7, dependent), points(4, d)
    slope = family.velocity_slope(x, t, a)
    assert QUADRATURE.holds(slope, difference(family, x, t, a), max(1.0, float(slope.abs().max())))
    assert not QUADRATURE.holds(1.001 * slope, difference(family, x, t, a), 0.0)


def test_frozen_family_has_no_slope():
    family = mixture(2, 1)
    still = replace(
        family,
        logit_rates=0 * family.logit_rates,
        mean_rates=0 * family.mean_rates,
        factor_rates=0 * family.factor_rates,
    )
    x = points(5, 2)
    assert ALGEBRA.holds(still.velocity_slope(x, 0.4, 0.3), torch.zeros_like(x), 1.0)
    assert torch.equal(still.velocity(x, 0.4, 0.0), still.velocity(x, 0.4, 0.9))


def test_a_shift_of_all_logits_changes_nothing():
    family, x = mixture(1, 2), points(5, 1)
    other = replace(family, logits=family.logits + 3.0, logit_rates=family.logit_rates - 2.0)
    for of in ("velocity", "velocity_slope"):
        assert ALGEBRA.holds(getattr(other, of)(x, 0.6, 0.3), getattr(family, of)(x, 0.6, 0.3), 1.0)


def test_upper_triangular_factors():
    """Only L L' counts: any square root of the same covariances gives the same field."""
    family, x = mixture(2, 3), points(5, 2)
    turn = torch.linalg.qr(points(4, 4, seed=1))[0]
    other = replace(family, factors=family.factors @ turn, factor_rates=family.factor_rates @ turn)
    for of in ("velocity", "velocity_slope"):
        assert ALGEBRA.holds(getattr(other, of)(x, 0.6, 0.3), getattr(family, of)(x, 0.6, 0.3), 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logits", torch.zeros(2)),
        ("logit_rates", torch.zeros(3, 1)),
        ("mean_rates", torch.zeros(3, 3)),
        ("factors", torch.zeros(3, 2)),
        ("factor_rates", torch.zeros(3, 2, 3)),
    ],
)
def test_shapes_that_do_not_fit(name, value):
    with pytest.raises(ValueError, match=rf"{name} must have shape \(.*got "):
        replace(mixture(1, 0), **{name: value.double()})


def test_odd_width():
    zeros = torch.zeros(1, 3, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)[None]
    with pytest.raises(ValueError, match=r"means must have shape \(K, 2d\), got \(1, 3\)"):
        CouplingFamily(zeros[:, 0], zeros, eye, zeros[:, 0], zeros, 0 * eye)


def test_singular_factors():
    with pytest.raises(ValueError, match=r"factors must have singular values above 1e-6.*got 0"):
        one_gaussian(1.0, 0.0, 0.0)  # X_1 = X_0: no density
    falling = one_gaussian(0.5, 0.0, 0.5, (0.0, 0.0, -1.0))
    for of in (falling.velocity, falling.velocity_slope):
        with pytest.raises(ValueError, match=r"factors at a = 0.5 must have singular values"):
            of(points(2, 1), 0.3, 0.5)


@pytest.mark.parametrize("of", ["velocity", "velocity_slope"])
def test_bad_arguments(of):
    call = getattr(mixture(2, 0), of)
    x = points(3, 2)
    with pytest.raises(ValueError, match="must have shape"):
        call(points(3, 1), 0.5, 0.0)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        call(x, 1.5, 0.0)
    with pytest.raises(ValueError, match=r"a must be .*, got nan"):
        call(x, 0.5, float("nan"))
    with pytest.raises((ValueError, TypeError)):
        call(x.float(), 0.5, 0.0)
