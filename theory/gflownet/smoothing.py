"""A reward whose gradient is averaged over noise: E grad r(x + eps), eps ~ N(0, c^2 I).

That is the gradient of r * N(0, c^2 I), so with r = log R in the terminal condition (14) the target
is exp(beta r * N(0, c^2 I)) p_T / Z. To second order in c it is the tilt itself,

    r * N(0, c^2 I) = r + c^2/2 (Laplacian of r) + O(c^4),
    TV              = beta c^2/4 E |lap r - E lap r| + O(c^4)    under R^beta p_T / Z,

and for linear and quadratic r, whose Laplacian is one number, exactly.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from theory.common.checks import check_nonnegative
from theory.gflownet.kernels import gradient
from theory.tilts.bump_rewards import BumpReward
from theory.tilts.quadratic import QuadraticReward
from theory.tilts.rewards import Reward


def smoothed_reward(reward: Reward, std: float) -> BumpReward | QuadraticReward:
    """r * N(0, std^2 I): bumps of the same volume whose covariances are larger by std^2, or a
    quadratic with another constant.

    Raises:
        ValueError: a reward of another kind.
    """
    check_nonnegative("std", std)
    if isinstance(reward, QuadraticReward):
        trace = reward.matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
        return replace(reward, constant=reward.constant + 0.5 * std**2 * trace)
    if not isinstance(reward, BumpReward):
        raise ValueError(
            "reward must be bumps, quadratic or linear for a closed form, got a "
            f"{type(reward).__name__}"
        )
    widened = torch.eye(reward.dim, dtype=reward.dtype) + std**2 * reward.precisions
    precisions = torch.linalg.solve(widened, reward.precisions)
    return BumpReward(
        reward.heights / torch.linalg.det(widened).sqrt(),
        reward.centres,
        0.5 * (precisions + precisions.mT),
    )


def laplacian(reward: Reward, x: Tensor) -> Tensor:
    """The sum of r's second derivatives along the axes, at x (n, d), (n,)."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        slope = gradient(reward, point)
        rows = [
            torch.autograd.grad(part.sum(), point, retain_graph=True)[0][:, i]
            for i, part in enumerate(slope.unbind(-1))
        ]
    return torch.stack(rows).sum(0).detach()
