"""Wrappers, rewards and the densities that they tilt to, against formulas and brute force."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import (
    FEW,
    tensor,
)
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.tilts import wrappers
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
