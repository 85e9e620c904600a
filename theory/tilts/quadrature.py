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

from theory.common.checks import check_dim
from theory.laws.posterior import Posterior
from theory.tilts.conditional import ConditionalTilt
from theory.tilts.moments import Series
from theory.tilts.rewards import Reward
from theory.tilts.wrappers import Wrapper

Z_MAX = 8.6  # the normal density there is 3e-17 of its peak
NODES_PER_AXIS = {1: 345, 2: 131}
PANELS, PANEL_ORDER = 10, 20
FINER = 1.4  # factor on the node count in the check of resolution
WIDER = 1.3  # and on how far panels reach
SEARCH = {1: 20.0, 2: 4.0}  # the same where nothing is known of a reward but its values


@dataclass(frozen=True)
class Grid:
    """How many times as fine as by default the nodes lie, and how many times as far they reach."""

    finer: float = 1.0
    wider: float = 1.0

    @property
    def reach(self) -> float:
        return Z_MAX * self.wider

    def per_axis(self, dim: int) -> int:
        return round(NODES_PER_AXIS[dim] * self.finer * self.wider)


STANDARD = Grid()


def standard_nodes(dim: int, grid: Grid = STANDARD) -> tuple[Tensor, Tensor]:
    """Trapezoidal nodes z (Q, d) and log-weights (Q,) against N(0, I), float64."""
    check_dim("quadrature", dim, 2)
    axis = torch.linspace(-grid.reach, grid.reach, grid.per_axis(dim), dtype=torch.float64)
    log_weight = -0.5 * axis**2
    log_weight = log_weight - torch.logsumexp(log_weight, 0)
    if dim == 1:
        return axis[:, None], log_weight
    return torch.cartesian_prod(axis, axis), (log_weight[:, None] + log_weight).reshape(-1)


def standard_z(
    means: Tensor, scale: Tensor | None, cuts: tuple[float, ...], grid: Grid
) -> tuple[Tensor, Tensor]:
    """z (*b, K, n, Q, d) or (Q, d) and log-weights against N(0, I); with cuts (d = 1) on panels
    that end where means (*b, K, d, n) + scale (*b, K, n) z is at one."""
    dim = means.shape[-2]
    if not cuts:
        z, log_weight = standard_nodes(dim, grid)
        return z.to(means), log_weight.to(means)
    check_dim("breakpoints", dim)
    assert scale is not None
    z, log_weight = _panels(means[..., 0, :], scale, cuts, grid)
    return z[..., None], log_weight


def least_step(sigma: Tensor) -> Tensor:
    """sigma, or where it is less the step of a difference: at sigma = 0 the posterior is a point,
    E[(X_1 - m) r] / sigma^2 is the gradient of r, and the quotient over nodes a central difference
    with the usual step eps^{1/3}."""
    return sigma.clamp_min(torch.finfo(sigma.dtype).eps ** (1 / 3))


@dataclass(frozen=True, eq=False)
class Nodes:
    """Points y (*b, K, n, Q, d), (y - E[X_1 | x]) / sigma^2, and log-weights."""

    points: Tensor
    displacement: Tensor
    log_weight: Tensor

    def at(self, reward: Reward | None) -> Tensor:
        """r at the points, (*b, K, n, Q), the reward's own batch axes in front; 0 for None."""
        *batch, k, n, q, d = self.points.shape
        if reward is None:
            return torch.zeros_like(self.points[..., 0])
        return reward(self.points.reshape(*batch, k * n * q, d)).reshape(*batch, k, n, q)


def nodes_at(post: Posterior, breakpoints: tuple[float, ...], grid: Grid = STANDARD) -> Nodes:
    """Quadrature nodes of every component at every point."""
    spectrum = post.law.spectrum
    dim, sigma = spectrum.dim, least_step(post.sigma)
    root = (spectrum.variances[..., None] / post.variance).sqrt()  # (*b, K, d|1, n|1)
    means = post.component_means  # (*b, K, d, n)
    scale = (root[..., 0, :] * sigma).expand(means[..., 0, :].shape)
    z, log_weight = standard_z(means, scale, breakpoints, grid)
    scaled = root.expand(*root.shape[:-2], dim, root.shape[-1]).mT[..., None, :] * z
    if spectrum.axes is not None:
        scaled = scaled @ spectrum.axes[..., None, :, :].mT
    step = sigma[..., None, None] if sigma.ndim else sigma
    points = means.mT[..., None, :] + step * scaled
    between = post.component_displacements.mT[..., None, :]
    log_weight = log_weight + post.log_weights[..., None]
    return Nodes(points, between + scaled / step, log_weight)


def _panels(
    mean: Tensor, scale: Tensor, breakpoints: tuple[float, ...], grid: Grid
) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes z (*b, K, n, Q) on panels that end at the breakpoints."""
    x, w = np.polynomial.legendre.leggauss(round(PANEL_ORDER * grid.finer))
    as_is: dict[str, Any] = {"dtype": mean.dtype, "device": mean.device}
    cuts = torch.tensor(sorted(breakpoints), **as_is)
    inner = ((cuts - mean[..., None]) / scale[..., None]).clamp(-grid.reach, grid.reach)
    count = round(PANELS * grid.wider) + 1
    regular = torch.linspace(-grid.reach, grid.reach, count, **as_is).expand(*mean.shape, count)
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
    grid: Grid = STANDARD

    def series(self, post: Posterior, order: int) -> Series:
        nodes = nodes_at(post, self.breakpoints, self.grid)
        weight = nodes.log_weight.exp()
        r = nodes.at(self.reward)
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
    grid: Grid = STANDARD

    def evaluate(self, post: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        nodes = nodes_at(post, self.breakpoints, self.grid)
        r = nodes.at(self.reward)
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
    evaluate: Callable[[Grid], Tensor], dim: int, tolerance: float, what: str, others: list[Grid]
) -> None:
    """Refuse a quadrature that other grids change by more than `tolerance`.

    Raises:
        ValueError: one does; the message says by how much.
    """
    check_dim("route = 'quadrature'", dim, 2)
    found = evaluate(STANDARD)
    for grid in others:
        change = float((found - evaluate(grid)).abs().max())
        if not change <= tolerance:
            more = f"{grid.finer:g} times the nodes"
            if grid.wider > 1:
                more = f"nodes that reach {grid.wider:g} times as far"
            raise ValueError(
                f"quadrature of {what} must change by at most {tolerance:g} with {more}, got "
                f"{change:.1e}; give kinks as breakpoints (d = 1), use a smoother or wider reward, "
                "or accept the error with a larger quadrature_tolerance"
            )


def other_grids(dim: int, cuts: bool, unknown: bool) -> list[Grid]:
    """What a quadrature is held against: finer nodes, with panels (which would converge to an
    integral cut off) wider ones, and far finer ones for a reward that is known by its values only:
    features down to 1/400 (d = 1) or 1/30 (d = 2) of a component's deviation are seen."""
    grids = [Grid(finer=FINER)]
    grids += [Grid(wider=WIDER)] if cuts else []
    return grids + ([Grid(finer=SEARCH.get(dim, 1.0))] if unknown and not cuts else [])
