r"""Where NFT goes when every branch's squared error is divided by its own mean absolute size.

The released code divides |e+-|^2, e+- = v_0 +- u - V with u = nft_beta (mu - v_0), by
w+- = mean over coordinates of |e+-|, held fixed (theory.methods.matching.nft, `_branch`; w+- at
least a floor of 1e-5). A stationary point is a zero of the semi-gradient

    E[r e+ / w+ - (1 - r) e- / w- | X_t = x] = 0,

an equation in u alone: nft_beta only divides the step, in every dimension, as for NFT itself.

d = 1, no floor: e / |e| is a sign, and the equation reads

    E[r sgn(v_0 + u - V)|x] = E[(1 - r) sgn(v_0 - u - V)|x].

Its left side less its right is E sgn(u - xi) for xi = +D with probability r, -D with probability
1 - r, D = V - v_0: u is the median of xi, where NFT's u = 2 Cov(r, V|x) = E[(2r - 1) D] is its
mean. So it exists for every r in [0, 1], is unique where V has a positive density, and minimises
E[r |e+| + (1 - r) |e-|]. It is not v_0 where r is constant, unless r = 1/2.

d > 1: e / |e|_1 is no gradient (its Jacobian is not symmetric), and depends on the axes. Where the
problem varies along one axis only and the others carry independent N(0, s_i^2) given x,

    E[1 / (a + sum_i |D_i|)] = int_0^inf exp(-l a) prod_i erfcx(l s_i / sqrt 2) dl

makes the equation one of d = 1, with h(e) = d e int exp(-l |e|) prod_i erfcx(l s_i / sqrt 2) dl
for sgn(e): odd and increasing, so that its root is unique too. As sum s_i grows,
h(e) -> e / (sqrt(2/pi) mean s_i): w+- become one constant, and u tends to NFT's.

All in units of X_1: D = gain (X_1 - E[X_1|x]), and u scales with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import erfcx, ndtr
from torch import Tensor

from theory import BumpReward, Problem
from theory.common.checks import check_choice
from theory.laws.distances import Array
from theory.laws.posterior import Posterior
from theory.ledger.liu.noise import velocity_gain
from theory.methods.matching.nft import LEAST_WEIGHT
from theory.tilts.moments import BumpMoments

STEP = 0.35  # of log l: the trapezoidal rule's error is exp(-pi^2 / STEP)
SAME = 1e-9  # how far laws along the other axes may differ from independent ones
LEAST = 1e-300
NARROW = 2e-3  # floors below so many standard deviations are expanded


@dataclass(frozen=True)
class SignedLaw:
    """sum_j shares_j N(means_j, stds_j^2) on the line; shares of any sign."""

    shares: Array
    means: Array
    stds: Array

    @property
    def mass(self) -> float:
        return float(self.shares.sum())

    @property
    def first(self) -> float:
        """int y S(y) dy."""
        return float(self.shares @ self.means)


@dataclass(frozen=True)
class LinePosterior:
    """X_1 along the axis that a problem varies in, given X_t = x, in units of X_1.

    law: of X_1 (mass 1); rewarded: r times it (mass m); companions (d - 1,): standard deviations
    of X_1 given x along the other axes; gain: dV / dX_1; old: v_0 along the axis.
    """

    law: SignedLaw
    rewarded: SignedLaw
    companions: Array
    gain: float
    old: float

    def __post_init__(self) -> None:
        mass = self.rewarded.mass
        if not -SAME <= mass <= 1 + SAME:
            raise ValueError(f"rewards must be in [0, 1], got E[r|x] = {mass:g}")

    @property
    def mean(self) -> float:
        return self.law.first

    def nft_step(self) -> float:
        """2 Cov(r, X_1|x), the mean of xi."""
        return 2 * (self.rewarded.first - self.rewarded.mass * self.mean)

    def cdf(self, u: float) -> float:
        """P(xi <= u), xi = +-(X_1 - E[X_1|x]) with probability r and 1 - r."""
        return 0.5 * (1 + self._condition(u, _sign))

    def step(self, floor: float = LEAST_WEIGHT) -> float:
        """The u (in units of X_1) where the semi-gradient vanishes; floor: of w+-, in these
        units, d = 1 only (in d > 1 a mean of d sizes falls below it too rarely to be seen).

        Raises:
            ValueError: floor < 0.
        """
        if not floor >= 0:
            raise ValueError(f"floor must be a number >= 0, got {floor!r}")
        if len(self.companions):
            kernel = _companions_kernel(self._scale, self.companions)
        else:
            kernel = _sign if floor == 0 else _clipped_sign(floor)
        return self._root(kernel)

    def velocity_step(self, floor: float = LEAST_WEIGHT) -> float:
        """u in units of V: nft_beta (mu - v_0)."""
        return self.gain * self.step(floor)

    def optimum(self, nft_beta: float, floor: float = LEAST_WEIGHT) -> float:
        """The stationary mu along the axis."""
        return self.old + self.velocity_step(floor) / nft_beta

    def with_companions(self, stds: Array) -> LinePosterior:
        """The same line among other axes with these standard deviations of X_1 given x."""
        return replace(self, companions=np.asarray(stds, dtype=float))

    def with_reward(self, low: float, high: float) -> LinePosterior:
        """The reward low + (high - low) r."""
        rewarded = SignedLaw(
            np.concatenate([low * self.law.shares, (high - low) * self.rewarded.shares]),
            np.concatenate([self.law.means, self.rewarded.means]),
            np.concatenate([self.law.stds, self.rewarded.stds]),
        )
        return replace(self, rewarded=rewarded)

    @property
    def _scale(self) -> tuple[float, float]:
        """The narrowest and widest lengths along the axis."""
        stds = np.concatenate([self.law.stds, self.rewarded.stds])
        means = np.concatenate([self.law.means, self.rewarded.means])
        return float(stds.min()), float(np.abs(means - self.mean).max() + stds.max())

    def _root(self, kernel: Kernel) -> float:
        reach = 12 * self._scale[1]
        return float(brentq(lambda u: self._condition(u, kernel), -reach, reach, xtol=1e-15))

    def _condition(self, u: float, kernel: Kernel) -> float:
        """E[r h(e+) - (1 - r) h(e-)] for an odd h, in one call of its kernel."""
        r, law = self.rewarded, self.law
        up, down = self.mean + u, self.mean - u
        m = np.concatenate([up - r.means, down - r.means, down - law.means])
        s = np.concatenate([r.stds, r.stds, law.stds])
        return float(np.concatenate([r.shares, r.shares, -law.shares]) @ kernel(m, s))


# E[h(e)] for e ~ N(m, s^2), (J,), (J,) -> (J,)
Kernel = Callable[[Array, Array], Array]


def _sign(m: Array, s: Array) -> Array:
    return np.asarray(2 * ndtr(m / s) - 1)


def _clipped_sign(floor: float) -> Kernel:
    """h(e) = e / max(|e|, floor) = ((e + floor)_+ - (e - floor)_+) / floor - 1; where the floor is
    narrow, as the mean of signs over a shift of +-floor, expanded to its fourth power."""

    def ramp(m: Array, s: Array) -> Array:
        z = m / s
        return np.asarray(m * ndtr(z) + s * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))

    def kernel(m: Array, s: Array) -> Array:
        z, k = m / s, floor / s
        bell = 2 * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
        narrow = 2 * ndtr(z) - 1 - bell * (z * k**2 / 6 + (z**3 - 3 * z) * k**4 / 120)
        wide = (ramp(m + floor, s) - ramp(m - floor, s)) / floor - 1
        return np.asarray(np.where(k < NARROW, narrow, wide))

    return kernel


def _companions_kernel(scale: tuple[float, float], companions: Array) -> Kernel:
    """h(e) = int exp(-l |e|) prod_i erfcx(l s_i / sqrt 2) dl, times e, averaged over N(m, s^2)."""
    stds, counts = np.unique(companions, return_counts=True)
    widest = scale[1] + float(companions.sum())
    narrowest = min(scale[0], float(stds.min()))
    nodes = np.exp(np.arange(math.log(1e-15 / widest), math.log(1e8 / narrowest), STEP))
    logs = (counts * np.log(erfcx(nodes[:, None] * stds / math.sqrt(2)))).sum(1)
    weights = STEP * nodes * np.exp(logs)
    keep = weights > LEAST
    nodes, weights = nodes[keep], weights[keep] * widest  # h of order one

    def kernel(m: Array, s: Array) -> Array:
        return np.asarray(weights @ _damped(m, s, nodes[:, None]))

    return kernel


def _damped(m: Array, s: Array, l: Array) -> Array:  # noqa: E741
    """E[e exp(-l |e|)] for e ~ N(m, s^2)."""
    return _damped_half(m, s, l) - _damped_half(-m, s, l)


def _damped_half(m: Array, s: Array, l: Array) -> Array:  # noqa: E741
    """E[e exp(-l e); e > 0] = exp(l^2 s^2/2 - l m) s (z Phi(z) + phi(z)), z = m/s - l s; where
    z < 0 the exponent, z^2/2 - m^2/(2 s^2), overflows unless erfcx takes its first part."""
    z = m / s - l * s
    root = math.sqrt(2 * math.pi)
    peak = np.exp(-0.5 * (m / s) ** 2)
    exponent = np.where(z > 0, l * (0.5 * l * s**2 - m), 0.0)
    near = np.exp(exponent) * z * ndtr(z) + peak / root
    left = np.minimum(z, 0.0)
    far = peak * (0.5 * left * erfcx(-left / math.sqrt(2)) + 1 / root)
    return np.asarray(s * np.where(z > 0, near, far))


# --- from a problem


def line_posterior(problem: Problem, x: Tensor, t: float) -> LinePosterior:
    """At one point x (1, d). Mixture and reward vary along the first axis only; along the others
    the data are independent, one Gaussian each.

    Raises:
        ValueError: the reward is no bump reward, or something varies along another axis.
    """
    reward = problem.reward
    check_choice("reward", type(reward).__name__, (BumpReward.__name__,))
    assert isinstance(reward, BumpReward)
    if x.shape != (1, problem.dim):
        raise ValueError(f"x must have shape (1, {problem.dim}), got {tuple(x.shape)}")
    time = torch.as_tensor(t, dtype=x.dtype)
    path = problem.path
    post = problem.base.noised(x, path.alpha(time), path.sigma(time))
    other = post.of(reward.power_terms(problem.base, 1))
    share = float(BumpMoments(problem.base, reward).series(post, 1).F[0, 1])
    law, companions = _split(post.weights, post.component_means, _cov(post))
    rewarded, again = _split(share * other.weights, other.component_means, _cov(other))
    if len(again) and np.abs(again - companions).max() > SAME:
        raise ValueError("the reward must vary along the first axis alone")
    gain = float(velocity_gain(path, time))
    return LinePosterior(law, rewarded, companions, gain, float(problem.base_field(x, time)[0, 0]))


def _cov(post: Posterior) -> Tensor:
    """S_k, (K, d, d), at one point."""
    return post.sigma**2 * post.component_precision_gain[:, 0]


def _split(weights: Tensor, means: Tensor, cov: Tensor) -> tuple[SignedLaw, Array]:
    """The first axis, and the standard deviations of the others."""
    axes = cov.diagonal(dim1=-2, dim2=-1).numpy()
    between = (cov - torch.diag_embed(cov.diagonal(dim1=-2, dim2=-1))).abs().max()
    rest = means[:, 1:, 0].numpy()
    spread = np.ptp(rest, axis=0).max(initial=0.0) + np.ptp(axes[:, 1:], axis=0).max(initial=0.0)
    if max(float(between), float(spread)) > SAME:
        raise ValueError("the mixture must vary along the first axis alone")
    law = SignedLaw(weights[:, 0].numpy(), means[:, 0, 0].numpy(), np.sqrt(axes[:, 0]))
    return law, np.sqrt(axes[0, 1:])
