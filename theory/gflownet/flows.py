"""A denoising chain as a GFlowNet: the exact flows, and the kernels that balance them.

The chain is `theory.samplers.chain`'s with ancestral kernels; its last state X_T keeps the noise
sigma_end and is the terminal state. Its noising kernels P_B(x | x') = N(ratio x', variance I)
compose to q(x_k | x_T) = N((a_k/a_T) x_T, (s_k^2 - (a_k/a_T)^2 s_T^2) I), and a weight W of the
last state, a Gaussian sum, has the flows and the forward kernels

    F_k(x) = int W(x_T) q(x_k = x | x_T) dx_T,     P_F(x' | x) = P_B(x | x') F_{k+1}(x') / F_k(x),

the latter mixtures with one component for each of W's. Two weights:

    W = R^beta          no prior: R^beta must be integrable
    W = R^beta p_T      p_T the base's law with the noise sigma_end: what the exact chain samples

and the residual flow F_k / F#_k = E#[R^beta(X_T) | X_k = x], F# the flow of W = p_T. R^beta is a
wrapper of the reward r: Exponential(beta) where r = log R, Power(beta) where r = R.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from theory.common.checks import check_choice, check_instance, check_order
from theory.gflownet.kernels import gradient
from theory.laws.gaussians import GaussianSum
from theory.laws.posterior import Posterior
from theory.laws.spectrum import Spectrum
from theory.samplers.chain import Chain
from theory.tilts.bump_rewards import BumpReward
from theory.tilts.quadratic import QuadraticReward
from theory.tilts.rewards import Reward
from theory.tilts.tilt import tilt
from theory.tilts.wrappers import Exponential, Power, Wrapper

# gamma_k of the forward-looking part, by the signal coefficient a_k of the state.
LOOK_AHEADS = ("off", "one", "signal", "signal_squared")


@dataclass(frozen=True, eq=False)
class ChainFlows:
    """The flows F_k, k = 0 .. T, of a weight W, and the kernels P_F of the exact policy.

    weight: W, not normalised: its mass is Z, that of every F_k. x: (n, d) float64 throughout.
    """

    chain: Chain
    weight: GaussianSum

    def __post_init__(self) -> None:
        check_instance("chain", self.chain, Chain)
        check_instance("weight", self.weight, GaussianSum)
        _ = self.chain.noising

    @property
    def log_z(self) -> Tensor:
        """log Z."""
        return self.weight.total()[0]

    def given(self, k: int, x: Tensor) -> Posterior:
        """X_T given X_k = x under W noised, and F_k(x)."""
        return self.weight.noised(x, *self.noise(k))

    def noise(self, k: int) -> tuple[float, float]:
        """(a, s) with X_k = a X_T + s N(0, I) given X_T."""
        check_order("k", k, 0, self.chain.steps)
        alpha, sigma = (level.tolist() for level in self.chain.levels)
        a = alpha[k] / alpha[-1]
        return a, math.sqrt(max(sigma[k] ** 2 - (a * sigma[-1]) ** 2, 0.0))

    def log_flow(self, k: int, x: Tensor) -> Tensor:
        """log F_k(x), (n,)."""
        return self.given(k, x).log_abs

    def score(self, k: int, x: Tensor) -> Tensor:
        """grad log F_k(x), (n, d)."""
        return self.given(k, x).score

    def kernel(self, k: int, x: Tensor) -> GaussianSum:
        """P_F(. | X_k = x) as a batch (n,) of mixtures, k < T.

        Component j of F_{k+1} is N(a' mu, Q V' Q'), with V = ratio^2 V' + variance its variances in
        F_k and z = Q'(x - a mu): P_F's has mean a' mu + Q (ratio V' / V) z, covariance
        Q (variance V' / V) Q' and j's weight in F_k(x).
        """
        check_order("k", k, 0, self.chain.steps - 1)
        ratio, variance = (row[k] for row in self.chain.noising)
        post, spectrum = self.given(k, x), self.weight.spectrum
        a, s = self.noise(k + 1)
        after = a**2 * spectrum.variances + s**2  # V': (K, d|1)
        share = after / (ratio**2 * after + variance)  # V' / V
        moved = spectrum.rotate(ratio * share[..., None] * post.eigen_offsets)
        mean = (a * self.weight.mean[..., None] + moved).permute(2, 0, 1)  # (n, K, d)
        own = Spectrum(spectrum.axes, variance * share, spectrum.dim)
        sign = self.weight.sign[:, None] * post.sign
        cov = own.matrix().expand(*mean.shape, self.weight.dim)
        kernel = GaussianSum(post.log_weights.mT, sign.mT, mean, cov)
        return kernel.with_spectrum(own.expanded(mean.shape[:1]))

    def log_density(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """log P_F(x_next | x), (n,)."""
        return self.kernel(k, x).log_density(x_next[:, None])[:, 0]

    def log_pairs(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        """log P_F(x_next_j | x_i) of x (n, d) and x_next (m, d), (n, m)."""
        return self.kernel(k, x).log_density(x_next.expand(len(x), *x_next.shape))

    def rollout(self, start: Tensor, generator: torch.Generator) -> Tensor:
        """States (n, T + 1, d) of the exact policy from X_0 = start (n, d)."""
        states = [start]
        for k in range(self.chain.steps):
            states.append(self.kernel(k, states[-1]).sample(1, generator)[:, 0])
        return torch.stack(states, 1)

    def start_law(self) -> GaussianSum:
        """F_0 / Z, the law of X_0 from which P_F samples W / Z."""
        return self.weight.convolved(*self.noise(0)).normalised()


# --- the weights


def last_law(chain: Chain, base: GaussianSum) -> GaussianSum:
    """p_T: the base's law with the noise sigma_end, which the exact reverse chain samples."""
    return base.convolved(1.0, chain.sigma_end)


def pretrained_flows(chain: Chain, base: GaussianSum) -> ChainFlows:
    """F#, of W = p_T: the densities of the exact chain's states."""
    return ChainFlows(chain, last_law(chain, base))


def reward_flows(chain: Chain, reward: Reward, wrapper: Wrapper) -> ChainFlows:
    """F of W = R^beta, without a prior.

    Raises:
        ValueError: R^beta is not an integrable Gaussian sum.
    """
    return ChainFlows(chain, reward_sum(reward, wrapper))


def reward_sum(reward: Reward, wrapper: Wrapper) -> GaussianSum:
    """R^beta as a Gaussian sum: a power of bumps, or exp of a concave quadratic.

    Raises:
        ValueError: it is none, or not integrable.
    """
    if isinstance(wrapper, Power) and isinstance(reward, BumpReward):
        indices = reward.indices(wrapper.exponent, 1)
        terms, sign, log_coef = reward.expand(indices, None)
        bumps = terms.weighted(sign, log_coef)
        widths = bumps.values.expand(bumps.centre.shape)
        if bool((widths > 0).all()):
            spectrum = Spectrum(bumps.axes, 1 / bumps.values, reward.dim)
            log_mass = 0.5 * (2 * math.pi / widths).log().sum(-1)
            cov = spectrum.matrix()
            weight = GaussianSum(bumps.log_abs + log_mass, bumps.sign, bumps.centre, cov)
            return weight.with_spectrum(spectrum)
    if isinstance(wrapper, Exponential) and isinstance(reward, QuadraticReward):
        precision = -torch.as_tensor(wrapper.scale, dtype=reward.dtype) * reward.matrix
        factor, failed = torch.linalg.cholesky_ex(precision)
        if not bool(failed.any()):
            eye = torch.eye(reward.dim, dtype=reward.dtype)
            cov = torch.cholesky_solve(eye, factor)
            peak = wrapper.scale * (cov @ reward.vector[..., None])[..., 0]
            half_log_det = factor.diagonal().log().sum()
            size = wrapper.log_abs(reward(peak[None])) - half_log_det
            size = size + 0.5 * reward.dim * math.log(2 * math.pi)
            return GaussianSum(size, torch.ones_like(size), peak[None], 0.5 * (cov + cov.mT)[None])
    raise ValueError(
        "R^beta must be an integrable Gaussian sum (a power of bumps of finite width, or exp of a "
        f"concave quadratic), got {wrapper.label} of a {type(reward).__name__}: without a prior it "
        "is the target itself; use the residual flows, whose target is R^beta times the prior"
    )


# --- residual flows


@dataclass(frozen=True, eq=False)
class ResidualFlows:
    """Ft_k = F_k / F#_k, k = 0 .. T, of W = R^beta p_T over the pretrained chain's F#.

    tilted: F, whose kernels are the exact policy; base: F#, whose kernels are the pretrained chain.
    """

    tilted: ChainFlows
    base: ChainFlows
    reward: Reward
    wrapper: Wrapper

    @property
    def chain(self) -> Chain:
        return self.base.chain

    @property
    def log_z(self) -> Tensor:
        """log E#[R^beta(X_T)]."""
        return self.tilted.log_z

    def log_flow(self, k: int, x: Tensor) -> Tensor:
        """log E#[R^beta(X_T) | X_k = x], (n,)."""
        return self.tilted.log_flow(k, x) - self.base.log_flow(k, x)

    def score(self, k: int, x: Tensor) -> Tensor:
        """Its gradient, (n, d): from the gap of the two posterior means where the noise is large,
        so that it keeps its digits where both scores are those of pure noise."""
        a, _ = self.base.noise(k)
        return a * self.tilted.given(k, x).displacement_from(self.base.given(k, x))

    def log_reward(self, x: Tensor) -> Tensor:
        """log R^beta(x), (n,)."""
        return self.wrapper.log_abs(self.reward(x))

    # --- forward-looking

    def predicted(self, k: int, x: Tensor) -> Tensor:
        """xhat(x) = E#[X_T | X_k = x], (n, d); x itself at k = T."""
        return self.base.given(k, x).mean

    def look_ahead(self, k: int, x: Tensor, gamma: float) -> Tensor:
        """gamma grad_x log R^beta(xhat(x)), (n, d)."""
        if gamma == 0:
            return torch.zeros_like(x)
        return gamma * gradient(lambda y: self.log_reward(self.predicted(k, y)), x)

    def remainder(self, k: int, x: Tensor, gamma: float) -> Tensor:
        """g(x), what the flow's score is beyond the forward-looking part (15), (n, d)."""
        return self.score(k, x) - self.look_ahead(k, x, gamma)


def residual_flows(
    chain: Chain, base: GaussianSum, reward: Reward, wrapper: Wrapper
) -> ResidualFlows:
    """Of a base law, and R^beta as a wrapper of the reward.

    Raises:
        ValueError: R^beta p_T is no Gaussian sum, or its mass does not exist; R^beta takes negative
            values.
    """
    last = last_law(chain, base)
    target = tilt(last, reward, wrapper)
    if target.law is None:
        raise ValueError(
            "R^beta must make a Gaussian sum of the base's law (exp of a linear, quadratic or bump "
            f"reward, or a polynomial of bumps), got {wrapper.label} of a {type(reward).__name__}"
        )
    tilted = ChainFlows(chain, target.law.scaled(target.log_z))
    return ResidualFlows(tilted, ChainFlows(chain, last), reward, wrapper)


def look_ahead_strengths(chain: Chain, kind: str) -> list[float]:
    """gamma_k, k = 0 .. T: 1, the signal coefficient a_k of the state or its square; gamma_T = 1
    but for "off"."""
    check_choice("look_ahead", kind, LOOK_AHEADS)
    alpha = chain.levels[0] / chain.levels[0][-1]
    power = {"off": None, "one": 0, "signal": 1, "signal_squared": 2}[kind]
    return [0.0] * len(alpha) if power is None else (alpha**power).tolist()
