"""Any wrapper of a sum of bumps in d = 1 and 2: nodes lie where each bump meets each posterior.

Nodes spread over the posterior alone do not see a bump that is narrower than their spacing. So the
bumps are taken from the widest to the narrowest, with R_i = h_1 b_1 + ... + h_i b_i, and

    Phi(r) = Phi(0) + sum_i [Phi(R_i) - Phi(R_{i-1})].

Every increment is its bump times a function that is smooth on that bump's scale, and N(m_k, S_k)
times the bump is E_k[b_i] N(m', S') in closed form (theory.tilts.bumps): the nodes are N(m', S')'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from theory.laws.gaussians import GaussianSum
from theory.laws.posterior import Posterior
from theory.tilts.bump_rewards import BumpReward
from theory.tilts.bumps import Bumps, BumpsGiven
from theory.tilts.conditional import ConditionalTilt
from theory.tilts.moments import Series
from theory.tilts.quadrature import STANDARD, Grid, Nodes, least_step, standard_z
from theory.tilts.wrappers import Wrapper

# How much narrower, in some direction, a bump may be than one that is taken after it.
NESTED = 4.0
# Where a bump is below exp of this, its increment is the slope of Phi.
LEAST_LOG_BUMP = -600.0


@dataclass(frozen=True, eq=False)
class _Increment:
    """The nodes of one bump under all components, R_{i-1} and the bump there (*b, K, n, Q)."""

    nodes: Nodes
    before: Tensor
    height: Tensor  # (*b, 1, 1, 1)
    log_bump: Tensor

    @property
    def step(self) -> Tensor:
        """R_i - R_{i-1}."""
        return self.height * self.log_bump.exp()


def _increments(
    post: Posterior, reward: BumpReward, cuts: tuple[float, ...], grid: Grid
) -> Iterator[_Increment]:
    sigma = least_step(post.sigma)
    near = replace(post, sigma=sigma)
    for i, chosen in _widest_first(reward):
        bump = Bumps.products(
            torch.ones(1, 1, dtype=reward.dtype, device=reward.centres.device),
            reward.centres[..., i : i + 1, :],
            reward.precisions[..., i : i + 1, :, :],
        )
        given = BumpsGiven.of(near, bump)
        square = sigma[..., None, :] ** 2 if sigma.ndim else sigma**2
        push, half = given.push[..., 0, :, :], given.half_covariance()[..., 0, :, :, :]
        means = post.component_means + square * push
        step = sigma[..., None, None] if sigma.ndim else sigma
        scale = (half[..., 0, 0] * sigma).expand(means[..., 0, :].shape) if cuts else None
        z, log_weight = standard_z(means, scale, cuts, grid)
        offset = z @ half.mT  # (*b, K, n|1, Q, d)
        points = means.mT[..., None, :] + step * offset
        between = (post.component_displacements + push).mT[..., None, :]
        log_weight = log_weight + (post.log_weights + given.log_value[..., 0, :])[..., None]
        nodes = Nodes(points, between + offset / step, log_weight)
        before = nodes.at(_some(reward, chosen))
        apart = points - reward.centres[..., i, None, None, None, :]
        precision = reward.precisions[..., i, None, None, :, :]
        log_bump = (-0.5 * ((apart @ precision) * apart).sum(-1)).clamp_min(LEAST_LOG_BUMP)
        yield _Increment(nodes, before, reward.heights[..., i, None, None, None], log_bump)


def _widest_first(reward: BumpReward) -> Iterator[tuple[int, list[int]]]:
    """(a bump, those before it), from the widest to the narrowest."""
    precision = reward.precisions.diagonal(dim1=-2, dim2=-1).sum(-1)
    order = precision.reshape(-1, reward.n_bumps)[0].argsort().tolist()
    for place, i in enumerate(order):
        yield i, order[:place]


def _some(reward: BumpReward, which: list[int]) -> BumpReward | None:
    """The sum of some of the bumps; None for none."""
    if not which:
        return None
    return BumpReward(
        reward.heights[..., which],
        reward.centres[..., which, :],
        reward.precisions[..., which, :, :],
    )


def check_nested(reward: BumpReward, base: GaussianSum) -> None:
    """In d = 2, no bump lies across one that is taken after it.

    Raises:
        ValueError: one does: narrow ridges that cross, which no one frame of nodes follows.
    """
    if base.dim == 1:
        return
    own = torch.linalg.inv(base.cov)[..., :, None, :, :]  # (*b, K, 1, d, d)
    for i, before in _widest_first(reward):
        if not before:
            continue
        factor = torch.linalg.cholesky(own + reward.precisions[..., None, i : i + 1, :, :])
        half = torch.linalg.solve_triangular(
            factor, reward.precisions[..., None, before, :, :], upper=False
        )
        inner = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        ratio = float(torch.linalg.eigvalsh(0.5 * (inner + inner.mT)).max().clamp_min(0).sqrt())
        if ratio > NESTED:
            raise ValueError(
                f"bump {i} of the reward must be crossed by none that is over {NESTED:g} times "
                "narrower in some direction for route = 'quadrature' in d = 2, else its nodes miss "
                f"it, got {ratio:.3g} times; use route='closed'"
            )


@dataclass(frozen=True, eq=False)
class BumpQuadratureMoments:
    """The moment series of a sum of bumps, about zero."""

    reward: BumpReward
    cuts: tuple[float, ...] = ()
    grid: Grid = STANDARD

    def series(self, post: Posterior, order: int) -> Series:
        F = [torch.ones_like(post.log_abs)] + [torch.zeros_like(post.log_abs)] * order
        N = [torch.zeros_like(post.points.mT)] * (order + 1)
        for part in _increments(post, self.reward, self.cuts, self.grid):
            weight = part.nodes.log_weight.exp() * part.height
            after = part.before + part.step
            for j in range(1, order + 1):
                # (after^j - before^j) / step
                slope = sum(after**i * part.before ** (j - 1 - i) for i in range(j))
                share = weight * slope / float(math.factorial(j))
                F[j] = F[j] + share.sum((-1, -3))
                N[j] = N[j] + (share[..., None] * part.nodes.displacement).sum((-2, -4))
        return Series(torch.stack(F, -1), torch.stack(N, -2), torch.zeros_like(post.log_abs))

    def series_and_divergences(self, post: Posterior, order: int) -> tuple[Series, Tensor] | None:
        """None: divergences come from automatic differentiation."""
        return None


@dataclass(frozen=True, eq=False)
class BumpQuadratureTilt(ConditionalTilt):
    """E[Phi(r) | x] of a sum of bumps for any wrapper."""

    reward: BumpReward
    wrapper: Wrapper
    cuts: tuple[float, ...] = ()
    grid: Grid = STANDARD

    def evaluate(self, post: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        logs, signs, moves = [], [], []
        for part in _increments(post, self.reward, self.cuts, self.grid):
            shape = part.before.shape
            flat = (*shape[:-3], shape[-3] * shape[-2] * shape[-1])
            log_gap, sign = self.wrapper.log_difference(
                part.before.reshape(flat), part.step.expand(shape).reshape(flat)
            )
            logs.append(part.nodes.log_weight + log_gap.reshape(shape) - part.log_bump)
            signs.append(sign.reshape(shape))
            moves.append(part.nodes.displacement)
        log_parts, sign = torch.cat(logs, -1), torch.cat(signs, -1)
        nothing = torch.zeros_like(post.log_abs)
        log_rest, sign_rest = self.wrapper.log_abs(nothing), self.wrapper(nothing).sign()
        top = torch.maximum(log_parts.detach().amax((-1, -3)), log_rest)
        parts = sign * (log_parts - top[..., None, :, None]).exp()
        mass = parts.sum((-1, -3)) + sign_rest * (log_rest - top).exp()
        move = (parts[..., None] * torch.cat(moves, -2)).sum((-2, -4)) / mass[..., None]
        return mass.abs().log() + top, mass.sign(), move
