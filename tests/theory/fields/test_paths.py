"""Paths against automatic differentiation, and conversions against the definitions."""

import itertools
import math
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import FEW, PLANE, derivative, points, tensor
from theory.common.tolerances import ALGEBRA
from theory.fields.mixture import MixtureField
from theory.fields.paths import (
    PATHS,
    RECTIFIED_FLOW,
    Prediction,
    RectifiedFlow,
    Trigonometric,
    VarianceExploding,
    VariancePreserving,
)

CASES = {
    "rf": RectifiedFlow(),
    "trig": Trigonometric(),
    "vp": VariancePreserving(),
    "vp_slow": VariancePreserving(beta_min=0.3, beta_max=4.0),
    "ve": VarianceExploding(),
    "ve_line": VarianceExploding(sigma_max=3.0, rho=1.0),
}
KINDS = get_args(Prediction)
INSIDE = torch.linspace(0.03, 0.97, 25, dtype=torch.float64)
ZERO, ONE = tensor(0.0), tensor(1.0)

paths = pytest.mark.parametrize("path", CASES.values(), ids=CASES)


def right_rates(path):
    """Whether alpha' and sigma' are the derivatives of alpha and sigma."""
    return all(
        ALGEBRA.holds(claimed(INSIDE), derivative(value, INSIDE))
        for value, claimed in ((path.alpha, path.dalpha), (path.sigma, path.dsigma))
    )


@dataclass(frozen=True)
class WrongSign(Trigonometric):
    """A mutant."""

    def dsigma(self, t):
        return -super().dsigma(t)


@paths
def test_rates_are_derivatives(path):
    assert right_rates(path)


def test_a_wrong_rate_is_seen():
    assert not right_rates(WrongSign())


@paths
def test_products_of_rates(path):
    alpha, sigma = path.alpha(INSIDE), path.sigma(INSIDE)
    dalpha, dsigma = derivative(path.alpha, INSIDE), derivative(path.sigma, INSIDE)
    half_square = derivative(lambda t: 0.5 * path.sigma(t) ** 2, INSIDE)
    assert ALGEBRA.holds(path.sigma_dsigma(INSIDE), half_square)
    gain = sigma * (dalpha * sigma - alpha * dsigma)
    assert ALGEBRA.holds(path.gain(INSIDE), gain)
    assert ALGEBRA.holds(path.eta(INSIDE), sigma * (sigma * dalpha / alpha - dsigma))
    assert not ALGEBRA.holds(path.gain(INSIDE), sigma * (dalpha * sigma + alpha * dsigma))


def test_every_path_is_tested():
    assert {type(path) for path in CASES.values()} == set(PATHS.values())


@pytest.mark.parametrize(
    ("path", "ends"),
    [
        (RectifiedFlow(), (0, 1, 1, 0)),
        (Trigonometric(), (0, 1, 1, 0)),
        (VariancePreserving(), (math.exp(-5.025), math.sqrt(1 - math.exp(-10.05)), 1, 0)),
        (VariancePreserving(0.3, 4.0), (math.exp(-1.075), math.sqrt(1 - math.exp(-2.15)), 1, 0)),
        (VarianceExploding(), (1, 80, 1, 0)),
        (VarianceExploding(3.0, 2.0), (1, 3, 1, 0)),
    ],
)
def test_boundary_values(path, ends):
    found = [f(t) for t in (ZERO, ONE) for f in (path.alpha, path.sigma)]
    assert ALGEBRA.holds(found, ends)
    assert path.sigma(ONE) == 0
    assert path.alpha(ONE) == 1


@paths
def test_finite_where_documented(path):
    t = tensor(0.0, 0.5, 1.0)
    for f in (path.gain, path.sigma_dsigma, path.alpha, path.sigma, path.dalpha):
        assert torch.isfinite(f(t)).all()
    eta = path.eta(t)
    assert torch.isfinite(eta[1:]).all()
    assert (eta >= 0).all()
    assert torch.isinf(eta[0]) == (path.alpha(ZERO) == 0)


def test_memoryless_schedules_of_the_literature():
    t = INSIDE
    assert ALGEBRA.holds(2 * RectifiedFlow().eta(t), 2 * (1 - t) / t)
    assert ALGEBRA.holds(RectifiedFlow().gain(t), 1 - t)
    beta = 0.3 + (4.0 - 0.3) * (1 - t)  # DDPM's rate: dX = -beta X/2 dt + sqrt(beta) dB, reversed
    assert ALGEBRA.holds(2 * VariancePreserving(0.3, 4.0).eta(t), beta)
    assert not ALGEBRA.holds(VariancePreserving(0.3, 4.0).eta(t), beta)


@paths
def test_the_memoryless_drift_is_twice_the_velocity_less_the_linear_part(path):
    x, t = points(25, 2), INSIDE[:, None]
    score = points(25, 2, seed=1)
    ratio, eta = path.dalpha(t) / path.alpha(t), path.eta(t)
    velocity = ratio * x + eta * score
    drift = path.sde_drift(velocity, score, (2 * eta).sqrt())
    assert ALGEBRA.holds(drift, 2 * velocity - ratio * x, scale=1.0)
    assert torch.equal(path.sde_drift(velocity, score, 0.0), velocity)


# --- conversions

numbers = st.floats(-3, 3).map(lambda v: round(v, 6))
vectors = st.lists(numbers, min_size=2, max_size=2).map(lambda v: tensor([v]))
times = st.floats(0.05, 0.95).map(lambda v: tensor(v))


def predictions(path, x1, eps, t):
    """(x, every prediction at x), from the definitions; the velocity by differentiation."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    velocity = torch.cat(
        [
            derivative(lambda s, i=i: path.alpha(s) * x1[0, i] + path.sigma(s) * eps[0, i], t)[None]
            for i in range(x1.shape[-1])
        ]
    )[None]
    return alpha * x1 + sigma * eps, {
        "x1": x1,
        "eps": eps,
        "score": -eps / sigma,
        "velocity": velocity,
        "v": alpha * eps - sigma * x1,
        "rf_velocity": x1 - eps,
    }


MODERATE = [CASES["rf"], CASES["trig"], CASES["vp"], CASES["vp_slow"], CASES["ve_line"]]


@FEW
@given(x1=vectors, eps=vectors, t=times, path=st.sampled_from(MODERATE))
def test_every_conversion(x1, eps, t, path):
    x, kinds = predictions(path, x1, eps, t)
    assert set(kinds) == set(KINDS)
    for source, target in itertools.product(KINDS, KINDS):
        found = path.convert(kinds[source], x, t, source, target)
        assert ALGEBRA.holds(found, kinds[target], scale=1.0), (source, target)


@FEW
@given(value=vectors, x=vectors, t=times, path=st.sampled_from(MODERATE))
def test_round_trips(value, x, t, path):
    for source, target in itertools.permutations(KINDS, 2):
        there = path.convert(value, x, t, source, target)
        assert ALGEBRA.holds(path.convert(there, x, t, target, source), value, scale=1.0)


def test_wrong_conversions_are_seen():
    path, t = VariancePreserving(), tensor(0.6)
    x, kinds = predictions(path, tensor([[0.7, -1.2]]), tensor([[0.3, 0.8]]), t)
    found = path.convert(kinds["eps"], x, t, "eps", "v")
    assert ALGEBRA.holds(found, kinds["v"], scale=1.0)
    for wrong in (-kinds["v"], kinds["rf_velocity"], kinds["velocity"]):
        assert not ALGEBRA.holds(found, wrong, scale=1.0)


def test_one_time_a_point():
    path, t = Trigonometric(), INSIDE
    x, value = points(25, 2), points(25, 2, seed=1)
    together = path.convert(value, x, t, "velocity", "eps")
    alone = [
        path.convert(value[i : i + 1], x[i : i + 1], t[i], "velocity", "eps") for i in range(len(t))
    ]
    assert ALGEBRA.holds(together, torch.cat(alone), scale=1.0)


@pytest.mark.parametrize("path", [RectifiedFlow(), Trigonometric()])
@pytest.mark.parametrize(
    ("t", "source", "targets"),
    [
        (0.0, "x1", ("eps", "velocity", "score", "v", "rf_velocity")),
        (0.0, "velocity", ("x1", "eps", "v")),
        (1.0, "eps", ("x1", "velocity", "v", "rf_velocity")),
        (1.0, "velocity", ("x1", "eps", "rf_velocity")),
    ],
)
def test_conversions_at_the_ends(path, t, source, targets):
    x1, eps, t = tensor([[0.7, -1.2]]), tensor([[0.3, 0.8]]), tensor(t)
    x, kinds = predictions(path, x1, eps, t)
    for target in targets:
        found = path.convert(kinds[source], x, t, source, target)
        assert ALGEBRA.holds(found, kinds[target], scale=1.0)


def test_conversion_keeps_float32():
    x = points(4, 2).float()
    assert VariancePreserving().convert(x, x, 0.4, "eps", "velocity").dtype == torch.float32
    y, s = Trigonometric().rf_point(x, torch.tensor(0.4))
    assert y.dtype == s.dtype == torch.float32


# --- every path seen on the rectified flow


@paths
def test_rf_point_of_a_pair(path):
    x1, eps = points(25, 2), points(25, 2, seed=1)
    t = INSIDE.clamp_max(0.9)
    x = path.alpha(t)[:, None] * x1 + path.sigma(t)[:, None] * eps
    y, s = path.rf_point(x, t)
    assert ALGEBRA.holds(y, s[:, None] * x1 + (1 - s)[:, None] * eps, scale=1.0)
    velocity = path.convert(x1, x, t, "x1", "rf_velocity")
    assert ALGEBRA.holds(velocity, x1 - eps, scale=1.0)
    on_rf = RECTIFIED_FLOW.convert(velocity, y, s, "velocity", "x1")
    assert ALGEBRA.holds(on_rf, x1, scale=1.0)
    assert not ALGEBRA.holds(x, y, scale=1.0) or path == RECTIFIED_FLOW


@paths
def test_rf_point_of_a_law(path):
    x, t = points(25, 2), INSIDE.clamp_max(0.9)
    y, s = path.rf_point(x, t)
    here, there = MixtureField(PLANE.law, path), MixtureField(PLANE.law)
    assert ALGEBRA.holds(here.posterior_mean(x, t), there.posterior_mean(y, s), scale=1.0)
    seen = path.convert(here(x, t), x, t, "velocity", "rf_velocity")
    # v = alpha' x_1 + sigma' eps with eps = (x - alpha x_1)/sigma: digits lost to 1/gain.
    assert ALGEBRA.holds(seen, there(y, s), scale=1.0)


@paths
def test_coefficients_stay_on_the_device(path):
    t = INSIDE.to("meta")
    for f in (path.alpha, path.sigma, path.dalpha, path.dsigma, path.eta, path.gain):
        assert f(t).device.type == "meta"
        assert f(t).shape == t.shape
