"""Rewards, their bounds, and the densities that they tilt."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.helpers import (
    points,
    tensor,
)
from theory.common.tolerances import ALGEBRA
from theory.tilts.bump_rewards import bump_reward, bumps_reward
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.rewards import CallableReward

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
