"""Prior strength eta: the target (10), and what the residual conditions (11)-(14) sample instead.

With P# the pretrained chain's kernels and p_T the law of its last state,

    target (10)      R^beta p_T^eta
    (11)-(14)        Ft_T = R^beta,  Ft_k(x) = int P#(x'|x)^eta Ft_{k+1}(x') dx',
                     P_F = P#(x'|x)^eta Ft_{k+1}(x') / Ft_k(x),
    which sample     R^beta(x_T) int P_0(x_0) / Ft_0(x_0) prod P#(x_{k+1} | x_k)^eta dx_{0:T-1}.

The two agree at any eta where the chain is in detailed balance with the noising, P# = P_B F'/F, and
its first state is noise alone: the powers of F cancel, and those of P_B are again Gaussians, which
integrate to one number. They do not where the kernels are Gaussian and the base is none (P# is not
in balance then; eta = 1 gives R^beta times the kernels' own law), nor from a later start.
The target is closed for whole eta and for one Gaussian; the rest on grids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from theory.common.checks import check_positive
from theory.gflownet.kernels import Kernels, log_start
from theory.gflownet.policy_law import backward_sums, cell_size, forward_sums
from theory.laws.components import check_terms
from theory.laws.distances import Array, GridLaw
from theory.laws.gaussians import GaussianSum
from theory.samplers.chain import Chain, check_axes, grid_law, grid_points
from theory.tilts.rewards import Reward
from theory.tilts.tilt import Tilt, tilt
from theory.tilts.wrappers import Wrapper

MAX_POWER = 64


def prior_power(last: GaussianSum, prior: float) -> GaussianSum:
    """p_T^eta / its mass, a mixture.

    Raises:
        ValueError: eta is no whole number and p_T is no Gaussian; too many components.
    """
    check_positive("prior", prior)
    if last.n_components == 1:
        return GaussianSum.mixture([1.0], last.mean, covs=last.cov / prior)
    if prior != int(prior) or prior > MAX_POWER:
        raise ValueError(
            f"prior must be a whole number up to {MAX_POWER}, or the base one Gaussian, for a "
            f"closed form, got {prior!r}; use prior_target_on_grid (d <= 2)"
        )
    check_terms("prior", last.n_components ** int(prior))
    return last.power(int(prior)).normalised()


def prior_target(last: GaussianSum, reward: Reward, wrapper: Wrapper, prior: float) -> Tilt:
    """(10): R^beta p_T^eta, normalised; the tilt's log Z is over p_T^eta's own mass."""
    return tilt(prior_power(last, prior), reward, wrapper)


def prior_target_on_grid(
    last: GaussianSum, reward: Reward, wrapper: Wrapper, prior: float, axes: tuple[Array, ...]
) -> GridLaw:
    """(10) on a uniform grid that holds its mass, any eta > 0, d = 1 and 2."""
    check_axes(axes)
    check_positive("prior", prior)
    points = grid_points(axes)
    log_density = (prior * last.log_density(points) + wrapper.log_abs(reward(points))).numpy()
    return grid_law(axes, np.exp(log_density - logsumexp(log_density)) / cell_size(axes))


@dataclass(frozen=True, eq=False)
class PriorSolution:
    """The one policy at which (11)-(14) are zero, on a grid of states.

    log_flows: log Ft_k at the grid's points (n, d), (T + 1, n); law: of X_T.
    """

    chain: Chain
    pretrained: Kernels
    prior: float
    axes: tuple[Array, ...]
    log_flows: Tensor
    law: GridLaw

    def log_kernel(self, k: int, row: int) -> Tensor:
        """log P_F(x_j | x_row) at the grid's points, (n,)."""
        points = grid_points(self.axes)
        before = points[row].expand(points.shape)
        base = self.pretrained.log_density(k, before, points)
        return self.prior * base + self.log_flows[k + 1] - self.log_flows[k, row]


def prior_solution(
    chain: Chain,
    pretrained: Kernels,
    reward: Reward,
    wrapper: Wrapper,
    prior: float,
    axes: tuple[Array, ...],
) -> PriorSolution:
    """On a uniform grid that holds every state's mass and whose step is a fraction of the kernels'
    standard deviations (over sqrt eta), d = 1 and 2.

    Raises:
        ValueError: d is above 2, or the grid loses more than 1e-3 of the mass or is too coarse.
    """
    check_axes(axes)
    check_positive("prior", prior)
    points, cell = grid_points(axes), cell_size(axes)
    log_flows = [wrapper.log_abs(reward(points))]
    for k in reversed(range(chain.steps)):
        top = log_flows[0].max()
        total = backward_sums(pretrained, k, points, (log_flows[0] - top).exp(), prior)
        log_flows.insert(0, top + (total * cell).log())
    mass = log_start(chain, points) - log_flows[0]
    for k in range(chain.steps):
        top = mass.max()
        total = forward_sums(pretrained, k, points, (mass - top).exp(), prior)
        mass = top + (total * cell).log()
    law = grid_law(axes, (mass + log_flows[-1]).exp().numpy())
    return PriorSolution(chain, pretrained, prior, axes, torch.stack(log_flows), law)


def fixed_variance_remainder(chain: Chain, prior: float) -> Tensor:
    """(eta - 1) / s_k^2, (T,): the slope in x' of grad' log P_F - eta grad' log P# between kernels
    of the chain's own variance, which no choice of their means removes."""
    variance = chain.coefficients(torch.zeros(1, dtype=torch.float64))[2] ** 2
    return (prior - 1) / variance
