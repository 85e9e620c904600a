"""Wrappers, rewards and the densities that they tilt to, against formulas and brute force."""

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
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.tilts import bump_rewards, wrappers
from theory.tilts.bump_rewards import bump_reward, bumps_reward
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.rewards import CallableReward
from theory.tilts.tilt import tilt
from theory.tilts.wrappers import ClippedExponential, Exponential, Power, TruncatedExponential

R = torch.linspace(-3.0, 2.5, 57, dtype=torch.float64)

WRAPPERS = [
    (Exponential(1.7), lambda r: np.exp(1.7 * r)),
    (Exponential(-0.6), lambda r: np.exp(-0.6 * r)),
    (TruncatedExponential(1.7, 1), lambda r: 1 + 1.7 * r),
    (TruncatedExponential(-0.8, 3), lambda r: 1 - 0.8 * r + 0.32 * r**2 - 0.512 / 6 * r**3),
    (Power(1), lambda r: r),
    (Power(3), lambda r: r**3),
    (ClippedExponential(1.3, 4.0), lambda r: np.minimum(np.exp(1.3 * r), 4.0)),
    (ClippedExponential(-1.3, 4.0), lambda r: np.minimum(np.exp(-1.3 * r), 4.0)),
]
each_wrapper = pytest.mark.parametrize(
    ("wrapper", "formula"), WRAPPERS, ids=[w.label for w, _ in WRAPPERS]
)


@each_wrapper
def test_wrapper_values(wrapper, formula):
    expected = formula(R.numpy())
    assert ALGEBRA.holds(wrapper(R), expected, scale=1.0)
    assert not ALGEBRA.holds(wrapper(R + 0.1), expected, scale=1.0)
    keep = np.abs(expected) > 0
    found = wrapper.log_abs(R)[torch.as_tensor(keep)]
    assert ALGEBRA.holds(found, np.log(np.abs(expected[keep])), scale=1.0)
    assert wrapper(R.float()).dtype == torch.float32


@each_wrapper
def test_coefficients(wrapper, formula):
    if not isinstance(wrapper, wrappers.Polynomial):
        assert wrapper.coefficients is None
        return
    value = sum(c * R**j for j, c in enumerate(wrapper.coefficients))
    assert ALGEBRA.holds(value, formula(R.numpy()), scale=1.0)


@pytest.mark.parametrize("kind", [Exponential, lambda a: TruncatedExponential(a, 3)])
def test_a_batch_of_scales_is_its_loop(kind):
    scales, r = tensor(0.4, -1.2, 2.0), R.reshape(3, 19)
    looped = torch.stack([kind(float(a))(row) for a, row in zip(scales, r, strict=True)])
    assert ALGEBRA.holds(kind(scales)(r), looped, scale=1.0)
    assert not ALGEBRA.holds(kind(scales.flip(0))(r), looped, scale=1.0)


def test_truncated_exponentials_approach_the_exponential():
    r = R.clamp(-1.5, 1.5)
    assert ALGEBRA.holds(TruncatedExponential(1.4, 32)(r), torch.exp(1.4 * r))
    errors = [ALGEBRA.error(TruncatedExponential(1.4, n)(r), torch.exp(1.4 * r)) for n in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2] > ALGEBRA.rtol


def test_the_clip_begins_at_the_threshold():
    wrapper = ClippedExponential(0.7, 3.0)
    assert ALGEBRA.holds(math.exp(0.7 * wrapper.threshold), 3.0)
    assert ClippedExponential(0.0, 3.0).threshold == math.inf


# --- least values


class AnyPolynomial(wrappers.Polynomial):
    """Coefficients as given."""

    def __init__(self, coefficients):
        self._coefficients = coefficients

    @property
    def coefficients(self):
        return self._coefficients

    @property
    def label(self):
        return "any"


coefficients = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=6)
intervals = st.tuples(st.floats(-3, 3), st.floats(0, 4)).map(lambda v: (v[0], v[0] + v[1]))


@FEW
@given(coefficients, intervals)
def test_least_of_a_polynomial_on_an_interval(c, interval):
    r = np.linspace(*interval, 40_001)
    values = np.polynomial.polynomial.polyval(r, c)
    found, brute = AnyPolynomial(c).least(*interval), values.min()
    largest = max(1.0, float(np.abs(values).max()))
    assert found <= brute + ALGEBRA.rtol * largest
    assert QUADRATURE.holds(found, brute, scale=largest)


@pytest.mark.parametrize(
    ("c", "low", "high", "least"),
    [
        ([1.0, 2.0], -math.inf, 3.0, -math.inf),
        ([1.0, 2.0], -0.25, math.inf, 0.5),
        ([1.0, -2.0], -1.0, math.inf, -math.inf),
        ([3.0, -2.0, 1.0], -math.inf, math.inf, 2.0),
        ([3.0, -2.0, 1.0], -math.inf, 0.0, 3.0),
        ([3.0, -2.0, -1.0], 0.0, math.inf, -math.inf),
        ([0.0, 0.0, 0.0, 1.0], -math.inf, 0.0, -math.inf),
        ([0.0, 0.0, 0.0, 1.0], 0.5, math.inf, 0.125),
        ([2.0], -math.inf, math.inf, 2.0),
        ([2.0, 0.0, 0.0], -math.inf, 1.0, 2.0),
        ([2.0, 0.0], -math.inf, math.inf, 2.0),
        ([0.0], -1.0, 1.0, 0.0),
        ([1.0, -4.0, 6.0, -4.0, 1.0], -math.inf, math.inf, 0.0),
    ],
)
def test_least_with_infinite_ends_and_without_leading_terms(c, low, high, least):
    found = AnyPolynomial(c).least(low, high)
    assert found == least or QUADRATURE_TIGHT.holds(found, least, scale=1.0)


@pytest.mark.parametrize("order", [1, 2, 5, 8])
def test_least_of_truncated_exponentials_over_a_batch(order):
    scales = tensor(0.6, -1.1)
    r = torch.linspace(-4.0, 3.0, 100_001, dtype=torch.float64)
    brute = min(float(TruncatedExponential(float(a), order)(r).min()) for a in scales)
    assert QUADRATURE.holds(TruncatedExponential(scales, order).least(-4.0, 3.0), brute, scale=1.0)
    everywhere = TruncatedExponential(scales, order).least(-math.inf, math.inf)
    assert (everywhere > 0) if order % 2 == 0 else (everywhere == -math.inf)


@pytest.mark.parametrize("wrapper", [Exponential(-1.3), ClippedExponential(2.0, 5.0)])
def test_exponentials_are_never_negative(wrapper):
    assert 0 <= wrapper.least(-math.inf, math.inf) <= float(wrapper(R).min())


# --- rewards

H2, B2, C2 = [[-0.7, 0.2], [0.2, 0.3]], [0.8, -0.2], 0.1
HEIGHTS, CENTRES = [1.3, -0.8, 0.5], [[0.4, -0.2], [-1.0, 0.7], [1.5, 1.1]]
WIDTHS, AXES = [0.6, 1.1, 0.9], [[0.6, 0.9], [1.1, 0.5], [0.9, 1.4]]
PRECISIONS = [[[1.4, 0.5], [0.5, 0.9]], [[0.8, -0.3], [-0.3, 1.7]], [[2.0, 0.1], [0.1, 0.4]]]


def bumps_by_hand(x, precisions):
    total = 0.0
    for h, c, A in zip(HEIGHTS, CENTRES, precisions, strict=True):
        offset = x - np.array(c)
        total = total + h * np.exp(-0.5 * ((offset @ np.array(A)) * offset).sum(-1))
    return total


REWARDS = {
    "linear": (linear_reward(B2, C2), lambda x: x @ np.array(B2) + C2),
    "quadratic": (
        quadratic_reward(H2, B2, C2),
        lambda x: 0.5 * ((x @ np.array(H2)) * x).sum(-1) + x @ np.array(B2) + C2,
    ),
    "bump": (
        bump_reward(-0.9, [0.4, 1.0], width=0.7),
        lambda x: -0.9 * np.exp(-((x - np.array([0.4, 1.0])) ** 2).sum(-1) / 0.98),
    ),
    "widths": (
        bumps_reward(HEIGHTS, CENTRES, widths=WIDTHS),
        lambda x: bumps_by_hand(x, [np.eye(2) / w**2 for w in WIDTHS]),
    ),
    "axes": (
        bumps_reward(HEIGHTS, CENTRES, widths=AXES),
        lambda x: bumps_by_hand(x, [np.diag(np.array(w) ** -2.0) for w in AXES]),
    ),
    "precisions": (
        bumps_reward(HEIGHTS, CENTRES, precisions=PRECISIONS),
        lambda x: bumps_by_hand(x, PRECISIONS),
    ),
    "callable": (
        CallableReward(lambda x: torch.sin(x[:, 0]) * x[:, 1], 2),
        lambda x: np.sin(x[..., 0]) * x[..., 1],
    ),
}


@pytest.mark.parametrize("name", REWARDS)
def test_reward_values(name):
    reward, formula = REWARDS[name]
    x = points(30, 2)
    assert reward.dim == 2
    assert ALGEBRA.holds(reward(x), formula(x.numpy()), scale=1.0)
    assert not ALGEBRA.holds(reward(x.flip(-1)), formula(x.numpy()), scale=1.0)
    several = x.reshape(3, 10, 2)
    assert ALGEBRA.holds(reward(several), formula(several.numpy()), scale=1.0)
    assert reward.to(torch.float32)(x.float()).dtype == torch.float32


@pytest.mark.parametrize("kind", ["linear", "quadratic", "bumps"])
def test_a_batch_of_rewards_is_its_loop(kind):
    A = torch.tensor(PRECISIONS[:2], dtype=torch.float64)
    b, c = points(2, 2, seed=5), tensor(0.3, -0.5)
    h, at = tensor([[1.0, -0.4], [0.2, 0.9]]), points(4, 2, seed=6).reshape(2, 2, 2)
    makers = {
        "linear": lambda i: linear_reward(b[i], c[i]),
        "quadratic": lambda i: quadratic_reward(A[i], b[i], c[i]),
        "bumps": lambda i: bumps_reward(h[i], at[i], widths=h[i].abs() + 0.5),
    }
    make, x = makers[kind], points(14, 2).reshape(2, 7, 2)
    looped = torch.stack([make(i)(x[i]) for i in range(2)])
    assert ALGEBRA.holds(make(slice(None))(x), looped, scale=1.0)
    assert not ALGEBRA.holds(make(slice(None))(x.flip(0)), looped, scale=1.0)


@pytest.mark.parametrize(
    ("reward", "bounds"),
    [
        (linear_reward([0.5, -0.2]), (-math.inf, math.inf)),
        (linear_reward([0.0, 0.0], 0.7), (0.7, 0.7)),
        (quadratic_reward(H2, B2, C2), (-math.inf, math.inf)),
        (quadratic_reward([[-2.0]], [3.0], 0.5), (-math.inf, 0.5 + 9 / 4)),
        (quadratic_reward([[2.0]], [3.0], 0.5), (0.5 - 9 / 4, math.inf)),
        (quadratic_reward([[2.0, 0.0], [0.0, 0.0]], [3.0, 0.0], 0.5), (0.5 - 9 / 4, math.inf)),
        (quadratic_reward([[2.0, 0.0], [0.0, 0.0]], [3.0, 0.1], 0.5), (-math.inf, math.inf)),
        (bump_reward(1.4, [0.3], width=0.5), (0.0, 1.4)),
        (bump_reward(-1.4, [0.3], width=0.5), (-1.4, 0.0)),
    ],
)
def test_bounds_known_by_hand(reward, bounds):
    found = reward.bounds()
    for actual, expected in zip(found, bounds, strict=True):
        same = actual == expected
        assert same or ALGEBRA.holds(actual, expected, scale=1.0)


def search(reward, half=6.0):
    """(min, max) over a fine grid, and 0: the value at infinity."""
    count = {1: 20_001, 2: 401}[reward.dim]
    axis = torch.linspace(-half, half, count, dtype=torch.float64)
    mesh = torch.meshgrid(*[axis] * reward.dim, indexing="ij")
    values = reward(torch.stack([m.reshape(-1) for m in mesh], -1))
    return min(0.0, float(values.min())), max(0.0, float(values.max()))


@pytest.mark.parametrize("seed", range(12))
def test_bounds_of_bumps_against_a_search(seed):
    rng = np.random.default_rng(seed)
    dim, m = 1 + seed % 2, 2 + seed % 3
    reward = bumps_reward(
        rng.normal(size=m).tolist(),
        rng.normal(size=(m, dim)).tolist(),
        widths=rng.uniform(0.3, 1.5, size=m).tolist(),
    )
    (low, high), (least, most) = reward.bounds(), search(reward)
    slack = ALGEBRA.rtol * max(most, -least)
    assert low <= least + slack
    assert high >= most - slack
    # The search's own error: curvature times the squared step, far below a factor of 1.001.
    assert low >= 1.001 * least - slack
    assert high <= 1.001 * most + slack


@pytest.mark.parametrize(
    ("heights", "centres", "widths"),
    [
        # The widest bump's minimum is covered by a narrow one of the other sign.
        ([-1.0, 3.0], [[0.0], [0.2]], [2.0, 0.7]),
        ([1.0, -3.0, 0.3], [[0.0], [0.0], [1.5]], [2.0, 0.7, 0.4]),
        ([2.0, -2.0, -0.5], [[0.3], [0.3], [-1.2]], [0.5, 0.6, 1.0]),
        ([-1.0, 3.0, -0.2], [[0.1, 0.1], [0.1, 0.1], [1.2, 0.9]], [1.6, 0.7, 0.5]),
    ],
)
def test_bounds_where_bumps_hide_one_another(heights, centres, widths):
    reward = bumps_reward(heights, centres, widths=widths)
    (low, high), (least, most) = reward.bounds(), search(reward)
    assert low <= least + ALGEBRA.rtol
    assert high >= most - ALGEBRA.rtol


def test_bounds_of_a_batch_hold_for_all():
    batch = bumps_reward(
        tensor([[1.0, -0.4], [0.2, 1.9]]),
        points(4, 1).reshape(2, 2, 1),
        widths=tensor([[0.5, 0.8], [1.1, 0.3]]),
    )
    values = batch(torch.linspace(-5, 5, 2001, dtype=torch.float64)[:, None])
    low, high = batch.bounds()
    assert low <= float(values.min())
    assert high >= float(values.max())


# --- densities


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


# --- refusals


@pytest.mark.parametrize(
    ("reward", "wrapper", "message"),
    [
        (
            bump_reward(1.0, [0.5], width=1.0),
            Exponential(-8.01),
            r"-8\.01.*allowed is at least -\d",
        ),
        (
            bumps_reward([-5.0, -4.0, 9.0], [[0.5], [0.0], [1.0]], widths=[1.0, 1.0, 2.0]),
            Exponential(1.0),
            r"-9 .*allowed is at least -\d",
        ),
        (
            bumps_reward([1.0] * 5, [[0.5 * i] for i in range(5)], widths=[1.0] * 5),
            Exponential(3.0),
            r"\d{6,} Gaussian terms: allowed are at most 100000",
        ),
        (
            quadratic_reward([[1.5]], [0.2]),
            Exponential(2.0),
            r"normaliser does not exist.*scale = 2.*allowed",
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
