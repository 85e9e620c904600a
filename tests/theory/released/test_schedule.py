"""theory.released.schedule: decays, full updates, averaged factors; the code's own copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.strategies import MANY, seeds
from theory.common.tolerances import ALGEBRA
from theory.methods.contract.online import follow
from theory.released.schedule import (
    SCHEDULES,
    Schedule,
    factor_gap,
    followed_gap,
    partial_gain,
    schedule,
)


@MANY
@given(
    flat=st.integers(0, 200),
    rate=st.floats(0, 0.5),
    most=st.floats(0, 0.999),
    epochs=st.integers(0, 400),
    steps=st.integers(1, 9),
)
def test_closed_sum(flat, rate, most, epochs, steps):
    """Against the decays one by one; the ramp read at the epoch's number would be seen."""
    rule = Schedule(flat, rate, most)
    decays = [rule.decay(steps * e) for e in range(1, epochs + 1)]
    assert decays == pytest.approx(list(rule.decays(epochs, steps)), abs=1e-15)
    whole = epochs - sum(decays)
    assert rule.full_updates(epochs, steps) == pytest.approx(whole, abs=1e-8)


def test_released_schedules():
    assert [SCHEDULES["half"].decay(k) for k in (0, 1, 499, 500, 501, 9999)] == pytest.approx(
        [0, 0.001, 0.499, 0.5, 0.5, 0.5]
    )
    late = SCHEDULES["late"]
    assert [late.decay(k) for k in (1, 74, 75, 76, 208, 209, 500)] == pytest.approx(
        [0, 0, 0, 0.0075, 0.9975, 0.999, 0.999]
    )
    assert SCHEDULES["none"].full_updates(200) == 200
    assert late.full_updates(1000) - late.full_updates(500) == pytest.approx(0.5)


def test_tilt_with_an_anchor_follows_the_product():
    rule, share, b = SCHEDULES["half"], 0.97, 0.0
    for d in rule.decays(300, 2):
        b = d * b + (1 - d) * share * (b + 0.1)
    assert rule.tilt(300, 0.1, share, 2) == pytest.approx(b, rel=ALGEBRA.rtol)
    assert rule.tilt(300, 0.1, 1.0, 2) == pytest.approx(0.1 * rule.full_updates(300, 2))
    assert rule.tilt(300, 0.1, 0.0, 2) == 0


def test_partial_gain_in_the_long_run():
    """A student that goes a fifth of the way each epoch, carried on."""
    d, reach, old, student = 0.5, 0.2, 0.0, 0.0
    for _ in range(200):
        student += reach * (old + 1.0 - student)
        before, old = old, d * old + (1 - d) * student
    assert old - before == pytest.approx(partial_gain(d, reach))
    assert partial_gain(0.9, 1.0) == pytest.approx(0.1)
    assert partial_gain(0.0, 0.2) == pytest.approx(0.2)


class _LoRA(nn.Module):
    def __init__(self, a: np.ndarray, b: np.ndarray) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.as_tensor(p)) for p in (a, b))


@MANY
@given(seed=seeds, decay=st.floats(0, 0.999))
def test_the_codes_copy_averages_factors(seed, decay):
    """`follow` of the training code on LoRA factors: its product misses the averaged one by the
    cross term."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, 3, 7)), rng.normal(size=(2, 5, 3))
    old, student = _LoRA(a[0].copy(), b[0].copy()), _LoRA(a[1], b[1])
    follow(old, student, decay)
    product = (old.b @ old.a).detach().numpy()
    average = decay * b[0] @ a[0] + (1 - decay) * b[1] @ a[1]
    gap = factor_gap(a[0], b[0], a[1], b[1], decay)
    assert np.abs(product - average - gap).max() <= 1e3 * ALGEBRA.rtol
    if 0.05 < decay < 0.95:
        assert np.abs(product - average).max() > 1e-3


def test_gap_does_not_know_the_split_into_factors():
    """B G^-1, G A of one G for both ends: the same gap."""
    rng = np.random.default_rng(1)
    a, b, g = rng.normal(size=(3, 2, 4)), rng.normal(size=(3, 6, 2)), rng.normal(size=(2, 2))
    turned = [g @ m for m in a], [m @ np.linalg.inv(g) for m in b]
    assert np.allclose(
        followed_gap(list(a), list(b), [0.3, 0.6]), followed_gap(*turned, [0.3, 0.6])
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(-1), "flat"),
        (lambda: Schedule(0, -0.1), "rate"),
        (lambda: Schedule(0, 0.1, 1.0), "most"),
        (lambda: Schedule().full_updates(-1), "epochs"),
        (lambda: Schedule().full_updates(3, 0), "steps"),
        (lambda: Schedule().tilt(3, 1.0, 1.5), "share"),
        (lambda: schedule("slow"), "ema must .*got 'slow'"),
        (lambda: schedule("half", 0.3), "changes nothing"),
        (lambda: schedule("constant"), "decay must .*got None"),
        (lambda: schedule("constant", 1.0), "decay must .*got 1.0"),
        (lambda: partial_gain(0.5, 0.0), "reach"),
        (lambda: partial_gain(1.0, 0.5), "decay must lie .*1.0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
