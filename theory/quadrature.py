"""Any reward in d = 1 and 2: quadrature over every component's posterior.

Given x, component k has X_1 ~ N(m_k, S_k): expectations become integrals against N(0, I) after
y = m_k + S_k^{1/2} z. Smooth integrands use the trapezoidal rule over |z| <= Z_MAX, which converges
exponentially for analytic functions; with breakpoints (d = 1), composite Gauss-Legendre panels end
on them. Nodes follow the posterior, so accuracy does not fade as t -> 1: the base itself, t = 0, is
the hardest case, and `check_resolution` refuses what more nodes would change there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from theory.conditional import ConditionalTilt, Series
from theory.posterior import Posterior
from theory.rewards import Reward
from theory.wrappers import Wrapper

Z_MAX = 8.6  # the normal density there is 3e-17 of its peak
NODES_PER_AXIS = {1: 345, 2: 131}
PANELS, PANEL_ORDER = 10, 20
FINER = 1.4  # factor on the node count in the check of resolution


def standard_nodes(dim: int, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Trapezoidal nodes z (Q, d) and log-weights (Q,) against N(0, I), float64."""
    if dim not in NODES_PER_AXIS:
        raise ValueError(f"quadrature in d = {dim}: allowed are d = 1 and 2")
    axis = torch.linspace(-Z_MAX, Z_MAX, count or NODES_PER_AXIS[dim], dtype=torch.float64)
    log_weight = -0.5 * axis**2
    log_weight = log_weight - torch.logsumexp(log_weight, 0)
    if dim == 1:
        return axis[:, None], log_weight
    grid = torch.cartesian_prod(axis, axis)
    return grid, (log_weight[:, None] + log_weight[None, :]).reshape(-1)


@dataclass(frozen=True, eq=False)
class Nodes:
    """Points y (*b, K, n, Q, d), (y - E[X_1 | x]) / sigma^2, and log-weights."""

    points: Tensor
    displacement: Tensor
    log_weight: Tensor


def nodes_at(post: Posterior, breakpoints: tuple[float, ...], count: int | None = None) -> Nodes:
    """Quadrature nodes of every component at every point."""
    spectrum, dtype, device = post.law.spectrum, post.points.dtype, post.points.device
    dim = spectrum.dim
    # At sigma = 0 the posterior is a point: E[(X_1 - m) r] / sigma^2 is then the gradient of r, and
    # the quotient below a central difference with the usual step eps^{1/3}.
    sigma = post.sigma.clamp_min(torch.finfo(dtype).eps ** (1 / 3))
    root = (spectrum.variances[..., None] / post.variance).sqrt()  # (*b, K, d|1, n|1)
    means = post.component_means  # (*b, K, d, n)
    if breakpoints:
        panels = round(PANELS * (count or NODES_PER_AXIS[1]) / NODES_PER_AXIS[1])
        if dim != 1:
            raise ValueError(f"breakpoints in d = {dim}: allowed is d = 1")
        scale = (root[..., 0, :] * sigma).expand(means[..., 0, :].shape)
        z, log_weight = _panels(means[..., 0, :], scale, breakpoints, panels)
        z = z[..., None]  # (*b, K, n, Q, 1)
    else:
        z, log_weight = standard_nodes(dim, count)
        z, log_weight = z.to(dtype=dtype, device=device), log_weight.to(dtype=dtype, device=device)
    scaled = root.expand(*root.shape[:-2], dim, root.shape[-1]).mT[..., None, :] * z
    if spectrum.axes is not None:
        scaled = scaled @ spectrum.axes[..., None, :, :].mT
    step = sigma[..., None, None] if sigma.ndim else sigma
    points = means.mT[..., None, :] + step * scaled
    between = post.component_displacements.mT[..., None, :]
    log_weight = log_weight + post.weights.log()[..., None]
    return Nodes(points, between + scaled / step, log_weight)


def _panels(
    mean: Tensor, scale: Tensor, breakpoints: tuple[float, ...], panels: int
) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes z (*b, K, n, Q) on panels that end at the breakpoints."""
    x, w = np.polynomial.legendre.leggauss(PANEL_ORDER)
    as_is: dict[str, Any] = {"dtype": mean.dtype, "device": mean.device}
    cuts = torch.tensor(sorted(breakpoints), **as_is)
    inner = ((cuts - mean[..., None]) / scale[..., None]).clamp(-Z_MAX, Z_MAX)
    regular = torch.linspace(-Z_MAX, Z_MAX, panels + 1, **as_is).expand(*mean.shape, panels + 1)
    edges = torch.cat([regular, inner], -1).sort(-1).values
    half = 0.5 * edges.diff(dim=-1)
    middle = 0.5 * (edges[..., 1:] + edges[..., :-1])
    z = middle[..., None] + half[..., None] * torch.as_tensor(x, **as_is)
    weight = half[..., None] * torch.as_tensor(w, **as_is)
    log_weight = weight.log() - 0.5 * z**2 - 0.5 * math.log(2 * math.pi)
    return z.flatten(-2), log_weight.flatten(-2)


@dataclass(frozen=True, eq=False)
class QuadratureMoments:
    """The moment series of any reward."""

    reward: Reward
    breakpoints: tuple[float, ...] = ()
    count: int | None = None

    def series(self, post: Posterior, order: int) -> Series:
        nodes = nodes_at(post, self.breakpoints, self.count)
        weight = nodes.log_weight.exp()
        r = _at_nodes(self.reward, nodes.points)
        centre = (weight * r).sum((-1, -3))
        offset = r - centre[..., None, :, None]
        F, N, power = [], [], torch.ones_like(offset)
        for j in range(order + 1):
            share = weight * power / float(math.factorial(j))
            F.append(share.sum((-1, -3)))
            N.append((share[..., None] * nodes.displacement).sum((-2, -4)))
            power = power * offset
        N[0] = torch.zeros_like(N[0])
        return Series(torch.stack(F, -1), torch.stack(N, -2), centre)

    def series_and_divergences(self, post: Posterior, order: int) -> tuple[Series, Tensor] | None:
        """None: divergences come from automatic differentiation."""
        return None


@dataclass(frozen=True, eq=False)
class QuadratureTilt(ConditionalTilt):
    """E[Phi(r) | x] for any reward and wrapper."""

    reward: Reward
    wrapper: Wrapper
    breakpoints: tuple[float, ...] = ()
    count: int | None = None

    def evaluate(self, post: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        nodes = nodes_at(post, self.breakpoints, self.count)
        r = _at_nodes(self.reward, nodes.points)
        shape = r.shape
        values = r.movedim(-3, -1).reshape(*shape[:-3], -1)  # the batch's axes lead for Phi
        log_phi = self.wrapper.log_abs(values).reshape(*shape[:-3], *shape[-2:], shape[-3])
        sign = self.wrapper(values).sign().reshape(log_phi.shape)
        log_phi, sign = log_phi.movedim(-1, -3), sign.movedim(-1, -3)
        log_parts = nodes.log_weight + log_phi
        top = log_parts.detach().amax((-1, -3), keepdim=True)
        parts = sign * (log_parts - top).exp()
        mass = parts.sum((-1, -3))
        move = (parts[..., None] * nodes.displacement).sum((-2, -4)) / mass[..., None]
        return mass.abs().log() + top[..., 0, :, 0], mass.sign(), move


def check_resolution(
    evaluate: Callable[[int], Tensor], dim: int, tolerance: float, what: str
) -> None:
    """Refuse a quadrature that changes by more than `tolerance` with FINER times the nodes.

    Raises:
        ValueError: it does; the message says by how much.
    """
    count = NODES_PER_AXIS.get(dim)
    if count is None:
        raise ValueError(f"route = 'quadrature' in d = {dim}: allowed are d = 1 and 2")
    change = float((evaluate(count) - evaluate(round(FINER * count))).abs().max())
    if not change <= tolerance:
        raise ValueError(
            f"quadrature of {what} changes by {change:.1e} with {FINER:g} times the nodes: allowed "
            f"is {tolerance:g}; give kinks as breakpoints (d = 1), use a smoother or wider reward, "
            "or accept the error with a larger quadrature_tolerance"
        )


def _at_nodes(reward: Reward, points: Tensor) -> Tensor:
    """r at (*b, K, n, Q, d), as (*b, K, n, Q); the reward's own batch axes stay in front."""
    *batch, k, n, q, d = points.shape
    return reward(points.reshape(*batch, k * n * q, d)).reshape(*batch, k, n, q)
