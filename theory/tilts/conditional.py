"""What X_t = x says about the reward: E[r^j | x], E[X_1 r^j | x] and E[Phi(r) | x], exactly.

Two questions are asked of a reward at every (x, t):

    series     F_j = E[(r - c)^j | x] / j!,  N_j = E[(X_1 - E[X_1|x]) (r - c)^j | x] / (j! sigma^2)
               with a centre c(x) of the reward's choice: the Taylor coefficients in a of
               E[exp(a (r - c)) | x] and of its X_1-weighted twin
    tilted     log|E[Phi(r) | x]|, its sign, and the displacement
               e = (E[X_1 Phi | x] / E[Phi | x] - E[X_1 | x]) / sigma^2

A displacement e changes the posterior mean by sigma^2 e, the velocity by `path.gain` e and the
score by alpha e; it is finite and loses no digits at both ends of time. Shapes: points (*b, n, d).

Routes: sums of Gaussians for bumps, the generating function E[exp(a r)] for quadratic rewards,
truncated Gaussians for a clipped exponential of a linear one, quadrature over each component's
posterior for the rest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.laws.gaussians import GaussianSum
from theory.laws.posterior import Posterior
from theory.tilts.bump_rewards import BumpReward
from theory.tilts.moments import BumpMoments, MomentSource, QuadraticMoments
from theory.tilts.quadratic import QuadraticReward
from theory.tilts.rewards import Reward
from theory.tilts.wrappers import ClippedExponential, Polynomial


class ConditionalTilt(ABC):
    """E[Phi(r) | x] and the displacement that Phi causes."""

    @abstractmethod
    def evaluate(self, post: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        """(log|E[Phi | x]|, sign, e): (*b, n), (*b, n), (*b, n, d)."""


# --- tilts


@dataclass(frozen=True, eq=False)
class PolynomialTilt(ConditionalTilt):
    """Phi(r) = sum_j c_j r^j from a moment series."""

    moments: MomentSource
    wrapper: Polynomial

    def evaluate(self, post: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        coefficients = self.wrapper.coefficients
        series = self.moments.series(post, len(coefficients) - 1).uncentred()
        mass = torch.zeros_like(post.log_abs)
        move = torch.zeros_like(post.points.mT)
        for j, c in enumerate(coefficients):
            factor = torch.as_tensor(c, dtype=mass.dtype, device=mass.device) * float(
                math.factorial(j)
            )
            mass = mass + factor[..., None] * series.F[..., j]
            move = move + factor[..., None, None] * series.N[..., j, :]
        return mass.abs().log(), mass.sign(), move / mass[..., None]


@dataclass(frozen=True, eq=False)
class ClippedLinearTilt(ConditionalTilt):
    """Phi = min(exp(a r), w) with r = b'x + c: one-dimensional truncated Gaussians, any d.

    With u = r ~ N(nu, s^2) in component k, tau = log(w) and a = scale:
    E_k[Phi] = exp(a nu + a^2 s^2/2) ndtr((tau - a nu - a^2 s^2)/|a s|)
             + w ndtr((a nu - tau)/|a s|);
    Stein: E_k[(X_1 - m) Phi] = S_k b a E_k[exp(a u); a u < tau].
    """

    reward: QuadraticReward
    wrapper: ClippedExponential

    def evaluate(self, post: Posterior) -> tuple[Tensor, Tensor, Tensor]:
        a, tau = self.wrapper.scale, math.log(self.wrapper.max_weight)
        mean = post.component_means.mT
        vector = self.reward.vector[..., None, :, None].expand(post.component_means.shape)
        slope = post.apply_precision_gain(vector).mT  # P b
        nu = a * (
            (mean * self.reward.vector[..., None, None, :]).sum(-1)
            + self.reward.constant[..., None, None]
        )
        spread = (
            abs(a)
            * post.sigma
            * (slope * self.reward.vector[..., None, None, :]).sum(-1).clamp_min(0).sqrt()
        ).expand(nu.shape)
        safe = spread.clamp_min(torch.finfo(nu.dtype).tiny)
        log_below = nu + 0.5 * spread**2 + _log_ndtr((tau - nu - spread**2) / safe)
        log_above = tau + _log_ndtr((nu - tau) / safe)
        log_own = torch.logaddexp(log_below, log_above)
        log_weights = post.weights.log() + log_own  # mixtures only: weights are positive
        log_mass = torch.logsumexp(log_weights, -2)
        tilted = (log_weights - log_mass[..., None, :]).exp()
        stein = a * (log_below - log_own).exp()
        move = post.component_displacements.mT + stein[..., None] * slope
        return log_mass, torch.ones_like(log_mass), (tilted[..., None] * move).sum(-3)


def _log_ndtr(z: Tensor) -> Tensor:
    """log of the normal cdf; beyond 1e4 its gradient would be 0 * inf where the spread is zero."""
    return torch.special.log_ndtr(z.clamp(-1e4, 1e4))


def moments_of(base: GaussianSum, reward: Reward) -> MomentSource:
    """The closed-form moment source of a reward, or ValueError where it has none."""
    if isinstance(reward, BumpReward):
        return BumpMoments(base, reward)
    if isinstance(reward, QuadraticReward):
        return QuadraticMoments(reward)
    raise ValueError(
        "reward must be linear, quadratic or bumps for a closed form, got "
        f"{type(reward).__name__}; use route='quadrature' (d <= 2)"
    )
