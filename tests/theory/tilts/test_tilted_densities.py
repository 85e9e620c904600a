"""Densities that rewards tilt, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import (
    BY_DIM,
    FEW,
    LINE,
    PLANE,
    integral,
    points,
    random_plain,
    size,
    stack,
    tensor,
)
from tests.theory.tilts.test_rewards import B2, C2, CENTRES, HEIGHTS, PRECISIONS, REWARDS
from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.tilts import bump_rewards
from theory.tilts.bump_rewards import bump_reward, bumps_reward
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.tilt import tilt
from theory.tilts.wrappers import ClippedExponential, Exponential, Power, TruncatedExponential


@pytest.mark.parametrize("order", [0, 1, 2, 4])
@pytest.mark.parametrize("m", [1, 3])
def test_power_terms_are_base_times_powers(order, m):
    reward = bumps_reward(HEIGHTS[:m], CENTRES[:m], precisions=PRECISIONS[:m])
    x = points(40, 2)
    found = reward.power_terms(PLANE.law, order)
    expected = PLANE.density(x) * reward(x) ** order
    assert found.n_components == 3 * math.comb(order + m - 1, m - 1)
    assert ALGEBRA.holds(found.density(x), expected, scale=size(expected))
    wrong = PLANE.density(x) * reward(x) ** (order + 1)
    assert not ALGEBRA.holds(found.density(x), wrong, scale=size(expected))


TILTS = {
    "one": ([1.0], [[0.5]], [0.8], 5.0),
    "negative": ([1.0], [[0.5]], [0.8], -3.0),
    "with a zero": ([0.6, 0.0], [[0.5], [0.0]], [0.8, 1.0], -10.0),
    "mixed": ([1.2, -0.7, 0.4], [[0.8], [-0.6], [0.1]], [0.5, 0.9, 1.5], 1.6),
    "mixed plane": ([1.2, -0.9], [[0.8, 0.1], [-0.6, 0.4]], [[0.5, 0.9], [1.5, 0.6]], 1.6),
    "flat": ([1.2, -0.7], [[0.8], [-0.6]], [0.5, 0.9], 0.0),
}


@pytest.mark.parametrize("name", TILTS)
def test_exponential_tilts_of_bumps(name):
    heights, centres, widths, scale = TILTS[name]
    reward = bumps_reward(heights, centres, widths=widths)
    base, x = BY_DIM[reward.dim][0], points(40, reward.dim)
    found = reward.exponential_tilt(base.law, scale).density(x)
    expected = base.density(x) * (scale * reward(x)).exp()
    assert QUADRATURE_TIGHT.holds(found, expected)
    if scale:
        assert not QUADRATURE_TIGHT.holds(found, base.density(x) * (1.01 * scale * reward(x)).exp())


@FEW
@given(st.integers(0, 10_000), st.floats(-1.5, 1.5))
def test_exponential_tilts_of_quadratics(seed, scale):
    base, x = random_plain(seed, 2, 3), points(20, 2, seed)
    for reward in (linear_reward(B2, C2), quadratic_reward([[-0.1, 0.03], [0.03, 0.05]], B2, C2)):
        found = reward.exponential_tilt(base.law, scale).log_density(x)
        expected = base.reference.log_prob(x) + scale * reward(x)
        assert ALGEBRA.holds(found, expected, scale=1.0)


def test_a_batch_of_scales_and_laws_is_its_loop():
    laws, scales = [random_plain(s, 1, 2) for s in (1, 2)], tensor(1.4, -0.8)
    x = points(14, 1).reshape(2, 7, 1)
    for reward in (
        bumps_reward([1.0, -0.6], [[0.5], [-0.4]], widths=[0.8, 0.5]),
        quadratic_reward([[-0.5]], [0.4]),
    ):
        batched = tilt(stack(laws), reward, Exponential(scales))
        alone = [
            tilt(p.law, reward, Exponential(float(a))) for p, a in zip(laws, scales, strict=True)
        ]
        looped = torch.stack([t.log_density(xi) for t, xi in zip(alone, x, strict=True)])
        assert ALGEBRA.holds(batched.log_density(x), looped, scale=1.0)
        assert ALGEBRA.holds(batched.law.log_density(x), looped, scale=1.0)
        assert ALGEBRA.holds(batched.log_z, torch.stack([t.log_z for t in alone]), scale=1.0)


BUMPS_2D = REWARDS["precisions"][0]


CLOSED = {
    "bumps, exp": (BUMPS_2D, Exponential(1.3)),
    "bumps, 1 + a r": (BUMPS_2D, TruncatedExponential(0.9, 1)),
    "bumps, order 4": (BUMPS_2D, TruncatedExponential(-1.2, 4)),
    "bumps, square": (BUMPS_2D, Power(2)),
    "quadratic, exp": (REWARDS["quadratic"][0], Exponential(0.8)),
    "quadratic, order 2": (REWARDS["quadratic"][0], TruncatedExponential(0.8, 2)),
    "linear, exp": (REWARDS["linear"][0], Exponential(-1.1)),
    "linear, square": (REWARDS["linear"][0], Power(2)),
}


@pytest.mark.parametrize("name", CLOSED)
def test_tilts_are_normalised_products(name):
    reward, wrapper = CLOSED[name]
    found, x = tilt(PLANE.law, reward, wrapper), points(40, 2)

    def product(y):
        return PLANE.density(y) * wrapper(reward(y))

    mass = integral(product, 2)
    assert QUADRATURE_TIGHT.holds(found.log_z.exp(), mass)
    assert QUADRATURE_TIGHT.holds(found.log_density(x).exp(), product(x) / mass)
    mean = integral(lambda y: product(y)[:, None] * y, 2) / mass
    assert QUADRATURE_TIGHT.holds(found.expectation(), mean, scale=1.0)
    if found.law is not None:
        assert QUADRATURE_TIGHT.holds(
            found.law.density(x), product(x) / mass, scale=size(product(x))
        )
    assert not QUADRATURE_TIGHT.holds(found.expectation(), PLANE.law.expectation(), scale=1.0)


def test_clipped_exponential_of_a_linear_reward():
    reward, wrapper = linear_reward([0.9], 0.2), ClippedExponential(1.4, 3.0)
    found = tilt(LINE.law, reward, wrapper)
    cut = (wrapper.threshold - 0.2) / 0.9
    nodes, weights = (torch.as_tensor(v) for v in np.polynomial.legendre.leggauss(200))
    ends = [(-10.0, cut), (cut, 10.0)]
    mass, mean = 0.0, 0.0
    for a, b in ends:
        y = (0.5 * (a + b) + 0.5 * (b - a) * nodes)[:, None]
        part = 0.5 * (b - a) * weights * LINE.density(y) * wrapper(reward(y))
        mass, mean = mass + float(part.sum()), mean + float((part * y[:, 0]).sum())
    assert QUADRATURE_TIGHT.holds(found.log_z.exp(), mass)
    assert QUADRATURE_TIGHT.holds(found.expectation(), [mean / mass], scale=1.0)
    assert not QUADRATURE_TIGHT.holds(tilt(LINE.law, reward, Exponential(1.4)).log_z.exp(), mass)


def test_the_quadrature_route_agrees_where_both_exist():
    reward = bumps_reward([1.2, -0.7], [[0.8], [-0.6]], widths=[0.5, 0.9])
    for wrapper in (Exponential(1.6), TruncatedExponential(0.7, 1), Power(2)):
        closed, nodes = (
            tilt(LINE.law, reward, wrapper, route) for route in ("closed", "quadrature")
        )
        assert QUADRATURE_TIGHT.holds(nodes.log_z, closed.log_z, scale=1.0)
        assert QUADRATURE_TIGHT.holds(nodes.expectation(), closed.expectation(), scale=1.0)


@pytest.mark.parametrize(
    ("reward", "wrapper", "message"),
    [
        (
            bump_reward(1.0, [0.5], width=1.0),
            Exponential(-8.01),
            r"must be at least -\d.*got -8\.01",
        ),
        (
            bumps_reward([-5.0, -4.0, 9.0], [[0.5], [0.0], [1.0]], widths=[1.0, 1.0, 2.0]),
            Exponential(1.0),
            r"must be at least -\d.*got -9",
        ),
        (
            bumps_reward([1.0] * 5, [[0.5 * i] for i in range(5)], widths=[1.0] * 5),
            Exponential(3.0),
            r"at most 100000 Gaussian terms, got \d{6,}",
        ),
        (
            quadratic_reward([[1.5]], [0.2]),
            Exponential(2.0),
            r"normaliser does not exist.*scale = 2.*must be",
        ),
    ],
    ids=["deep", "deep in sum", "many", "diverging"],
)
def test_refusals(reward, wrapper, message):
    with pytest.raises(ValueError, match=message):
        tilt(LINE.law, reward, wrapper)


def test_the_last_quadratic_before_divergence_is_allowed():
    widest = float(LINE.covs.max())
    reward = quadratic_reward([[1 / widest]], [0.0])
    assert torch.isfinite(tilt(LINE.law, reward, Exponential(0.999)).log_z)
    with pytest.raises(ValueError, match="does not exist"):
        tilt(LINE.law, reward, Exponential(1.001))


@pytest.mark.parametrize(("centre", "width"), [(-1.0, 2.0), (-1.0, 0.3), (0.5, 0.8)])
def test_the_last_closed_form_before_refusal_meets_its_tier(centre, width):
    reward, x = bump_reward(1.0, [centre], width=width), points(100, 1)
    scale = -bump_rewards.MAX_NEGATIVE_EXPONENT
    found = reward.exponential_tilt(LINE.law, scale).density(x)
    assert QUADRATURE_TIGHT.holds(found, LINE.density(x) * (scale * reward(x)).exp())
