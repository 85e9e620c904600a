"""Rewards averaged over noise: closed forms against sums over nodes, second derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers import points
from theory.common.tolerances import ALGEBRA, QUADRATURE, QUADRATURE_TIGHT
from theory.gflownet.smoothing import laplacian, smoothed_reward
from theory.tilts.bump_rewards import bumps_reward
from theory.tilts.quadratic import linear_reward, quadratic_reward
from theory.tilts.rewards import CallableReward

REWARDS = {
    "bumps": bumps_reward(
        [0.9, -0.6],
        [[1.0, 0.2], [-0.5, 0.4]],
        precisions=[[[1.4, 0.5], [0.5, 0.9]], [[1.0, 0.0], [0.0, 1.0]]],
    ),
    "quadratic": quadratic_reward([[-1.0, 0.3], [0.3, 0.6]], [0.4, -0.2], 0.1),
    "linear": linear_reward([0.4, -0.7]),
}
C = 0.5


def averaged(reward, x, c):
    nodes = np.arange(-8.0, 8.01, 0.2)
    weights = torch.as_tensor(np.exp(-(nodes**2) / 2) / np.exp(-(nodes**2) / 2).sum())
    steps = c * torch.as_tensor(np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1))
    values = reward((x[:, None] + steps.reshape(1, -1, 2)).reshape(-1, 2))
    return values.reshape(len(x), -1) @ torch.outer(weights, weights).ravel()


@pytest.mark.parametrize("kind", REWARDS)
def test_average_over_noise(kind):
    reward, x = REWARDS[kind], points(4, 2)
    found = smoothed_reward(reward, C)(x)
    assert QUADRATURE_TIGHT.holds(found, averaged(reward, x, C), 1.0)
    assert QUADRATURE_TIGHT.holds(found, reward(x), 1.0) == (kind == "linear")
    assert ALGEBRA.holds(smoothed_reward(reward, 0.0)(x), reward(x), 1.0)


@pytest.mark.parametrize("kind", REWARDS)
def test_laplacian(kind):
    """Twice what is gained by a small noise, over its variance, to fourth order in the noise."""
    reward, x = REWARDS[kind], points(4, 2)

    def gained(c):
        return 2 * (smoothed_reward(reward, c)(x) - reward(x)) / c**2

    limit = (4 * gained(0.01) - gained(0.02)) / 3
    assert QUADRATURE.holds(laplacian(reward, x), limit, 1.0)
    assert QUADRATURE.holds(gained(0.02), limit, 1.0) == (kind != "bumps")
    trace = {"quadratic": -0.4, "linear": 0.0}.get(kind)
    if trace is not None:
        assert ALGEBRA.holds(laplacian(reward, x), torch.full((4,), trace, dtype=x.dtype), 1.0)


def test_twice_is_once_with_the_variances_added():
    reward, x = REWARDS["bumps"], points(4, 2)
    twice = smoothed_reward(smoothed_reward(reward, 0.3), 0.4)(x)
    assert ALGEBRA.holds(twice, smoothed_reward(reward, 0.5)(x), 1.0)
    assert not ALGEBRA.holds(twice, smoothed_reward(reward, 0.7)(x), 1.0)


def test_bad_input():
    with pytest.raises(ValueError, match="std must be"):
        smoothed_reward(REWARDS["bumps"], -0.1)
    with pytest.raises(ValueError, match="reward must be bumps, quadratic or linear"):
        smoothed_reward(CallableReward(lambda x: x[..., 0], 2), 0.1)
