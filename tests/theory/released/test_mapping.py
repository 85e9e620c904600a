"""theory.released.mapping: the released reward mapping's law, its errors and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import MANY, seeds
from theory.common.tolerances import ALGEBRA, QUADRATURE_TIGHT
from theory.methods.matching.reward_mapping import CLIP, SPREAD, STD_FLOOR
from theory.released.mapping import (
    MappedRewards,
    Rewards,
    batch_std,
    finite_batch_slopes,
    gaussian_batch_share,
    ideal_tilt,
)
from theory.released.modes import MODES


def random_rewards(seed: int, parts: int = 2) -> Rewards:
    rng = np.random.default_rng(seed)
    return Rewards(
        rng.dirichlet(np.ones(parts)), 2 * rng.normal(size=parts), rng.uniform(0.3, 2, 2)
    )


@MANY
@given(
    seed=seeds,
    group=st.sampled_from([None, 2, 5, 24]),
    size=st.floats(0.1, 5.0),
    name=st.sampled_from(sorted(MODES)),
)
def test_slope_is_the_regression_of_the_expected_reward(seed, group, size, name):
    """Cov(E[r | R], R) by Gauss-Legendre: the conditional mean and the slope are one law."""
    law = random_rewards(seed)
    mapped = MappedRewards(law, size, group, adv_mode=name)
    low, high = (law.means - 10 * law.stds).min(), (law.means + 10 * law.stds).max()
    cuts = [law.mean + side * CLIP * (size + STD_FLOOR) for side in (-1, 0, 1)]  # kinks, n infinite
    edges = np.unique(np.clip([*np.linspace(low, high, 41), *cuts], low, high))
    x, w = np.polynomial.legendre.leggauss(24)
    half = 0.5 * np.diff(edges)[:, None]
    y, w = (edges[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel()
    p = (law.weights * np.exp(-0.5 * ((y[:, None] - law.means) / law.stds) ** 2) / law.stds).sum(1)
    cov = p * w / math.sqrt(2 * math.pi) @ (mapped.expected(y) * (y - law.mean))
    assert abs(cov / law.variance - mapped.slope) <= QUADRATURE_TIGHT.rtol
    assert abs(cov / law.variance - 1.01 * mapped.slope) > QUADRATURE_TIGHT.rtol
    plain = MappedRewards(law, size, group, clip=1e3)
    assert plain.slope == pytest.approx(plain.own / (SPREAD * (size + STD_FLOOR)), rel=ALGEBRA.rtol)


def test_expected_reward_stays_in_the_unit_interval_and_rises():
    mapped = MappedRewards(Rewards.gaussian(1.0, 2.0), 2.0)
    values = mapped.expected(np.linspace(-40, 40, 400))
    assert values.min() >= 0
    assert values.max() <= 1
    assert (np.diff(values) >= 0).all()
    assert values[0] == pytest.approx(0.0)
    assert values[-1] == pytest.approx(1.0)
    assert float(mapped.expected(1.0)) == pytest.approx(0.5)


def test_tilt_tends_to_the_ideal_one():
    law = Rewards.gaussian(3.0, 0.7)
    shares = [
        MappedRewards(law, 0.7, n).effective_tilt(0.5) / ideal_tilt(0.5) for n in (2, 24, 2000)
    ]
    assert shares == pytest.approx([0.5, 23 / 24, 0.9995], rel=1e-3)
    assert MappedRewards(law, 0.7, None).effective_tilt(0.5) == pytest.approx(0.4, rel=1e-3)


def test_own_group_is_never_clipped():
    """One prompt of n rows is the batch: |A| <= sqrt(n - 1), below 5 for 24 rows."""
    raw = torch.zeros(24, dtype=torch.float64)
    raw[0] = 1e6
    advantage = (raw - raw.mean()) / (raw.std(correction=0) + STD_FLOOR)
    assert float(advantage.max()) == pytest.approx(math.sqrt(23))
    assert math.sqrt(23) < CLIP < math.sqrt(26)


def test_batch_std_holds_the_spread_of_means():
    laws = [Rewards.gaussian(m, s) for m, s in ((0.0, 1.0), (3.0, 0.5))]
    assert batch_std(laws) == pytest.approx(math.sqrt(0.5 * 1.25 + 2.25))
    assert batch_std(laws, [1.0, 0.0]) == pytest.approx(1.0)
    draws = np.concatenate(
        [
            np.random.default_rng(i).normal(m, s, 200_000)
            for i, (m, s) in enumerate(((0.0, 1.0), (3.0, 0.5)))
        ]
    )
    assert batch_std(laws) == pytest.approx(draws.std(), rel=0.01)


def test_prompts_share_one_tilt_per_raw_reward():
    laws = [Rewards.gaussian(m, s) for m, s in ((0.0, 1.0), (3.0, 0.25))]
    size = batch_std(laws)
    slopes = [MappedRewards(law, size, None, clip=1e3).slope for law in laws]
    assert slopes[0] == pytest.approx(slopes[1], rel=ALGEBRA.rtol)
    tilts = [MappedRewards(law, size).effective_tilt(1.0) for law in laws]
    assert tilts[0] / tilts[1] == pytest.approx(4.0, rel=1e-6)


def test_constant_rewards_get_no_tilt_by_the_floor():
    """S far below 1e-4: the floor takes over."""
    law = Rewards.gaussian(0.0, 1e-6)
    assert MappedRewards(law, 1e-6).effective_tilt(1.0) < 0.01 * ideal_tilt(1.0)


def test_finite_batches_tend_to_the_large_one():
    assert gaussian_batch_share(24, 10_000) == pytest.approx(23 / 24, rel=1e-5)
    assert gaussian_batch_share(2, 1) == pytest.approx(1 / math.sqrt(math.pi))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rewards([0.5, 0.4], [0, 1], [1, 1]), "weights"),
        (lambda: Rewards([1.0], [0, 1], [1]), "means must be .*got shape"),
        (lambda: Rewards([1.0], [np.nan], [1]), "means must hold finite"),
        (lambda: Rewards([1.0], [0], [0]), "stds must"),
        (lambda: MappedRewards(Rewards.gaussian(), 0.0), "std must .*got 0.0"),
        (lambda: MappedRewards(Rewards.gaussian(), 1.0, 1), "group must .*got 1"),
        (
            lambda: MappedRewards(Rewards.gaussian(), 1.0, adv_mode="none"),
            "adv_mode must .*got 'none'",
        ),
        (lambda: MappedRewards(Rewards([0.25] * 4, range(4), [1] * 4), 1.0, 60), "splits"),
        (lambda: MappedRewards(Rewards.gaussian(), 1.0).effective_tilt(0.0), "nft_beta"),
        (lambda: batch_std([]), "prompts"),
        (lambda: batch_std([Rewards.gaussian()], [0.5]), "shares"),
        (lambda: gaussian_batch_share(1, 2), "group must .*got 1"),
        (lambda: gaussian_batch_share(2, 0), "prompts must .*got 0"),
        (lambda: finite_batch_slopes([[0, 1]], [[0.5, 0.4]], 2), "chances"),
        (lambda: finite_batch_slopes([[0, 1]], [[0.5]], 2), "one shape"),
        (lambda: finite_batch_slopes([[0, 1, 2, 3]] * 6, [[0.25] * 4] * 6, 6), "at most"),
        (lambda: ideal_tilt(-1), "nft_beta"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
