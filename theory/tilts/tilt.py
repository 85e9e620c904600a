"""Tilted targets base(x) Phi(r(x)) / Z, with log Z, for every reward and wrapper.

`tilt` picks the closed form. Where there is none it says so, and route="quadrature" (d <= 2) must
be asked for by name. log Z = log E[Phi(r(X_1))] is the conditional expectation at alpha = 0, where
X_t is pure noise and tells nothing: no code of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from theory.common.checks import check_choice, check_instance, check_points
from theory.laws.gaussians import GaussianSum
from theory.laws.rounding import UNIT, Rounding, is_bounded, refuse_lost
from theory.tilts.bump_quadrature import (
    BumpQuadratureMoments,
    BumpQuadratureTilt,
    check_nested,
)
from theory.tilts.bump_rewards import BumpReward
from theory.tilts.conditional import ClippedLinearTilt, ConditionalTilt, PolynomialTilt, moments_of
from theory.tilts.moments import blind_posterior
from theory.tilts.quadratic import QuadraticReward
from theory.tilts.quadrature import (
    STANDARD,
    Grid,
    QuadratureMoments,
    QuadratureTilt,
    check_resolution,
    nodes_at,
    other_grids,
)
from theory.tilts.rewards import CallableReward, Reward, check_reward
from theory.tilts.wrappers import ClippedExponential, Exponential, Polynomial, Wrapper

Route = Literal["closed", "quadrature"]
QUADRATURE_TOLERANCE = 1e-9
# Relative accuracy is asked for where Phi is at least this, absolute accuracy below it.
LEAST_PHI = 1e-3


@dataclass(frozen=True, eq=False)
class Tilt:
    """The density base(x) Phi(r(x)) / Z.

    law: the same as a (normalised) Gaussian sum where it is one, else None.
    conditional: E[Phi | X_t = x] and its displacement, where law is None.
    """

    base: GaussianSum
    reward: Reward
    wrapper: Wrapper
    log_z: Tensor
    law: GaussianSum | None
    conditional: ConditionalTilt | None

    def log_density(self, x: Tensor) -> Tensor:
        """log base(x) + log Phi(r(x)) - log Z at x (*b, n, d), as (*b, n)."""
        check_points(x, self.base.dim, self.base.dtype)
        if self.law is not None and isinstance(self.reward, QuadraticReward):
            return _checked_log_density(self.law, x)  # r and log Z may cancel, the law does not
        log_phi = self.wrapper.log_abs(self.reward(x))
        return _checked_log_density(self.base, x) + log_phi - self.log_z[..., None]

    def expectation(self) -> Tensor:
        """The tilt's mean, (*b, d)."""
        if self.law is not None:
            return self.law.expectation()
        assert self.conditional is not None
        _, _, move = self.conditional.evaluate(blind_posterior(self.base))
        return self.base.expectation() + move[..., 0, :]


def _checked_log_density(law: GaussianSum, x: Tensor) -> Tensor:
    """log of the law's density at x, where rounding leaves it its digits."""
    post = law.noised(x, 1.0, 0.0)
    if is_bounded(x) and law.extent.may_lose(x, post.alpha, post.sigma):
        error = (post.weights * Rounding(post).log_parts).sum(-2)
        _check_logarithm("the log-density", error, post.log_abs)
    return post.log_abs


def _check_logarithm(what: str, error: Tensor, value: Tensor) -> None:
    """Errors of what it is the logarithm of; beyond exp(+-700) the logarithm is all there is."""
    size = value.abs()
    refuse_lost(what, error, torch.where(size > 700, size, 1.0))


def tilt(
    base: GaussianSum,
    reward: Reward,
    wrapper: Wrapper,
    route: Route = "closed",
    quadrature_tolerance: float = QUADRATURE_TOLERANCE,
) -> Tilt:
    """base(x) Phi(r(x)) / Z; quadrature_tolerance: how far more nodes may move log Z and means.

    Raises:
        ValueError: the normaliser does not exist, is not positive or float64 cannot carry it;
            Phi(r) takes negative values (it is no density then); the closed form does not exist
            or is too large (the message says so; route='quadrature' may serve, d <= 2); unknown
            route; reward and base of different dimension.
        TypeError: reward and base of different dtype; reward or wrapper of another kind.
    """
    check_choice("route", route, get_args(Route))
    check_instance("wrapper", wrapper, Wrapper)
    check_reward(reward, base)
    _check_positive(reward, wrapper, base)
    law: GaussianSum | None = None
    level: Tensor | None = None
    size: Tensor | None = None
    conditional: ConditionalTilt | None = None
    if route == "quadrature":
        conditional = _by_quadrature(base, reward, wrapper, quadrature_tolerance)
    elif isinstance(wrapper, Exponential) and isinstance(reward, (QuadraticReward, BumpReward)):
        if isinstance(reward, BumpReward):
            law = reward.exponential_tilt(base, wrapper.scale)
        else:
            law, level, size = reward.tilt_about_mean(base, wrapper.scale)
    elif isinstance(wrapper, Polynomial) and isinstance(reward, BumpReward):
        law = polynomial_sum(base, reward, wrapper)
    elif isinstance(wrapper, Polynomial):
        conditional = PolynomialTilt(moments_of(base, reward), wrapper)
    elif (
        isinstance(wrapper, ClippedExponential)
        and isinstance(reward, QuadraticReward)
        and reward.is_linear
    ):
        conditional = ClippedLinearTilt(reward, wrapper)
    else:
        raise ValueError(
            f"wrapper {wrapper.label} of a {type(reward).__name__} has no closed form: must be exp "
            "or a polynomial of a linear, quadratic or bump reward, or the clipped exponential of "
            "a linear one; use route='quadrature' (d <= 2)"
        )
    if law is not None:
        log_mass, sign = law.total()
        log_z = log_mass if level is None else log_mass + level
    else:
        assert conditional is not None
        log_z, sign, _ = (part[..., 0] for part in conditional.evaluate(blind_posterior(base)))
    _check_normaliser(log_z, sign, wrapper)
    if law is not None:
        law = law.scaled(-log_mass)
        if size is not None and is_bounded(base.mean):
            _check_logarithm("log Z", UNIT * size, log_z)
    return Tilt(base, reward, wrapper, log_z, law, conditional)


def _by_quadrature(
    base: GaussianSum, reward: Reward, wrapper: Wrapper, tolerance: float
) -> ConditionalTilt:
    cuts = breakpoints(base, reward, wrapper)

    def over(grid: Grid) -> ConditionalTilt:
        if isinstance(reward, BumpReward):
            return BumpQuadratureTilt(reward, wrapper, cuts, grid)
        return QuadratureTilt(reward, wrapper, cuts, grid)

    def blind(grid: Grid) -> Tensor:
        log_z, _, move = over(grid).evaluate(blind_posterior(base))
        return torch.cat([log_z[..., None], move], -1)

    what = f"{wrapper.label} over the base"
    if isinstance(reward, QuadraticReward) and isinstance(wrapper, Exponential):
        _check_seen(tilt(base, reward, wrapper), over(STANDARD), tolerance, what)
    others = other_grids(base.dim, bool(cuts), isinstance(reward, CallableReward))
    if isinstance(reward, BumpReward):
        check_nested(reward, base)
    check_resolution(blind, base.dim, tolerance, what, others)
    return over(STANDARD)


def _check_seen(known: Tilt, nodes: ConditionalTilt, tolerance: float, what: str) -> None:
    """Nodes over the base against the closed form: they would not notice that the integral
    diverges, nor that exp(scale r) is a spike between them."""
    log_z, _, _ = nodes.evaluate(blind_posterior(known.base))
    change = float((log_z[..., 0] - known.log_z).abs().max())
    if not change <= tolerance:
        raise ValueError(
            f"quadrature of {what} must have log Z to {tolerance:g}, got an error of {change:.1e}; "
            "use route='closed'"
        )


def polynomial_sum(base: GaussianSum, reward: BumpReward, wrapper: Polynomial) -> GaussianSum:
    """base(x) sum_j c_j r(x)^j, unnormalised.

    Raises:
        ValueError: terms of both signs cancel so far that float64 misses the quadrature_tight tier.
    """
    _check_cancellation(reward, wrapper)
    parts = []
    for j, c in enumerate(wrapper.coefficients):
        factor = torch.as_tensor(c, dtype=base.dtype, device=base.mean.device)
        if not bool((factor == 0).all()):
            power = base if j == 0 else reward.power_terms(base, j)
            parts.append(power.scaled(factor.abs().log(), factor.sign()))
    return GaussianSum.sum_of(parts)


def _check_cancellation(reward: BumpReward, wrapper: Polynomial) -> None:
    """Relative error of an alternating sum: eps sum |c_j| (sum |h|)^j over Phi's least value."""
    height = reward.heights.abs().sum(-1)
    terms = [torch.as_tensor(c).abs() * height**j for j, c in enumerate(wrapper.coefficients)]
    signed = bool((reward.heights < 0).any()) or any(
        bool((torch.as_tensor(c) < 0).any()) for c in wrapper.coefficients
    )
    size = float(torch.stack(torch.broadcast_tensors(*terms)).sum(0).max())
    least = max(wrapper.least(*reward.bounds()), LEAST_PHI)
    if signed and size * torch.finfo(torch.float64).eps > QUADRATURE_TOLERANCE * least:
        raise ValueError(
            f"the terms of {wrapper.label} add up to {size:.1e} in size where Phi itself is as "
            f"small as {least:.1e}: must be a ratio that float64 can carry to "
            f"{QUADRATURE_TOLERANCE:g}; use a lower order or route='quadrature' (d <= 2)"
        )


def _check_positive(reward: Reward, wrapper: Wrapper, base: GaussianSum) -> None:
    if isinstance(wrapper, Exponential | ClippedExponential):
        return
    if isinstance(reward, CallableReward):  # its range where the base lives
        values = reward(nodes_at(blind_posterior(base), ()).points)
        low, high = float(values.min()), float(values.max())
    else:
        low, high = reward.bounds()
    least = wrapper.least(low, high)
    # Rounding may put the least value of r a hair below an exact zero.
    if least < -1e-12:
        raise ValueError(
            f"wrapper {wrapper.label} must be Phi(r) >= 0 on rewards in [{low:g}, {high:g}], as "
            f"base Phi(r) is no density otherwise, got {least:g}"
        )


def _check_normaliser(log_z: Tensor, sign: Tensor, wrapper: Wrapper) -> None:
    if bool((log_z == -math.inf).any()):
        raise ValueError(f"the normaliser of {wrapper.label} must be Z > 0, got 0")
    largest = math.log(torch.finfo(log_z.dtype).max)
    if bool((~torch.isfinite(log_z) | (log_z.abs() > largest)).any()):
        raise ValueError(
            f"the normaliser of {wrapper.label} must have |log Z| <= {largest:.0f}, what "
            f"{log_z.dtype} can carry, got log Z = {log_z.tolist()}; use a smaller scale"
        )
    if bool((sign <= 0).any()):
        raise ValueError(
            f"the normaliser of {wrapper.label} must be Z > 0, got a negative one (log|Z| = "
            f"{log_z.tolist()})"
        )


def breakpoints(base: GaussianSum, reward: Reward, wrapper: Wrapper) -> tuple[float, ...]:
    """Where Phi(r(x)) has kinks in d = 1: the reward's own and those of a clipped exponential.

    Raises:
        ValueError: a clipped exponential in d = 2, whose kink is a curve.
    """
    own = reward.breakpoints if isinstance(reward, CallableReward) else ()
    if not isinstance(wrapper, ClippedExponential) or not math.isfinite(wrapper.threshold):
        return own
    if base.dim != 1:
        raise ValueError(
            f"wrapper {wrapper.label} of a {type(reward).__name__} must be in d = 1, or its reward "
            f"linear with route='closed', since the kink is a curve here, got d = {base.dim}"
        )
    centre, spread = base.mean[..., 0], base.cov[..., 0, 0].sqrt()
    low, high = float((centre - 10 * spread).min()), float((centre + 10 * spread).max())

    def excess(y: float) -> float:
        point = torch.tensor([[y]], dtype=base.dtype, device=base.mean.device)
        return float(reward(point).flatten()[0]) - wrapper.threshold

    grid = np.unique(np.concatenate([np.linspace(low, high, 4001), _near_features(reward)]))
    points = torch.as_tensor(grid, dtype=base.dtype, device=base.mean.device)[:, None]
    values = (reward(points) - wrapper.threshold).cpu().numpy()
    crossings = np.nonzero(np.sign(values[:-1]) * np.sign(values[1:]) < 0)[0]
    roots = [brentq(excess, grid[i], grid[i + 1], xtol=1e-14) for i in crossings]
    return (*own, *roots, *grid[values == 0.0])


def _near_features(reward: Reward) -> np.ndarray:
    """Points in d = 1 around every bump, or a parabola's vertex: no crossing hides there."""
    if isinstance(reward, BumpReward):
        centres = reward.centres[..., 0].flatten()
        widths = reward.precisions[..., 0, 0].flatten().clamp_min(1e-300).rsqrt()
        steps = torch.linspace(-9.0, 9.0, 361, dtype=centres.dtype, device=centres.device)
        return (centres[:, None] + widths[:, None] * steps).flatten().cpu().numpy()
    if isinstance(reward, QuadraticReward) and not reward.is_linear:
        return (-reward.vector[..., 0] / reward.matrix[..., 0, 0]).flatten().cpu().numpy()
    return np.zeros(0)


def quadrature_moments(
    base: GaussianSum, reward: Reward, quadrature_tolerance: float = QUADRATURE_TOLERANCE
) -> QuadratureMoments | BumpQuadratureMoments:
    """The moment series of any reward by quadrature, with its kinks respected.

    Raises:
        ValueError: the mean, the variance or the covariance with X_1 of r under the base are not
            resolved to quadrature_tolerance; reward and base of different dimension.
        TypeError: reward and base of different dtype.
    """
    check_reward(reward, base)
    cuts = reward.breakpoints if isinstance(reward, CallableReward) else ()

    def over(grid: Grid) -> QuadratureMoments | BumpQuadratureMoments:
        if isinstance(reward, BumpReward):
            return BumpQuadratureMoments(reward, cuts, grid)
        return QuadratureMoments(reward, cuts, grid)

    def blind(grid: Grid) -> Tensor:
        series = over(grid).series(blind_posterior(base), 2)
        return torch.cat([series.centre[..., None], series.F, series.N[..., 1, :]], -1)

    others = other_grids(base.dim, bool(cuts), isinstance(reward, CallableReward))
    check_resolution(blind, base.dim, quadrature_tolerance, "r over the base", others)
    if isinstance(reward, BumpReward):
        check_nested(reward, base)
    return over(STANDARD)
