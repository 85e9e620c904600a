r"""The noise of one sample's gradient: NFT against the loss weighted by Phi = 1 + a r.

At (x, t) with V = X_1 - X_0 (or the path's own velocity), v_0 = E[V|x], D = V - v_0, m = E[r|x]
and c = Cov(r, V|x), the gradient in the field's value mu over the loss's own curvature is a Newton
step:

    NFT       curvature 2 beta^2      step (mu - v_0) - (2r - 1) D / beta
    weighted  curvature 2 (1 + a m)   step (1 + a r) (mu - V) / (1 + a m)

Traces of their covariances given x:

    NFT       (E[(2r - 1)^2 |D|^2] - 4 |c|^2) / beta^2                 at every mu: additive noise
    weighted  (E[(1 + a r)^2 |w - D|^2] - |(1 + a m) w - a c|^2) / (1 + a m)^2,   w = mu - v_0

w = 0 at v_0 and w = a c / (1 + a m) at the weighted loss's optimum. NFT's regression target is
v_0 + (2/beta)(r - 1/2) D: the weighted loss's with v_0 as a control variate, which takes the 1 of
1 + a r out of the noise, and with the baseline 1/2 for r. Matched target: a = 2 / beta.

Shapes: points x (n, d) give (n,) of every number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from theory import BumpReward, Problem, QuadraticReward, check_finite, check_positive
from theory.common.checks import check_choice
from theory.fields.paths import Path
from theory.laws.posterior import Posterior
from theory.tilts.moments import BumpMoments

Place = Literal["v0", "optimum"]
ORDER = 2


@dataclass(frozen=True, eq=False)
class NoiseMoments:
    """E[r^j|x] (n, 3), E[r^j D|x] (n, 3, d) and E[r^j |D|^2|x] (n, 3), j = 0, 1, 2."""

    powers: Tensor
    vectors: Tensor
    squares: Tensor

    def affine(self, level: float, factor: float) -> NoiseMoments:
        """The same of the reward level + factor r."""
        check_finite("level", level)
        check_finite("factor", factor)

        def moved(value: Tensor) -> Tensor:
            first = level * value[:, 0] + factor * value[:, 1]
            return torch.stack([value[:, 0], first, self._polynomial(value, level, factor)], 1)

        return NoiseMoments(moved(self.powers), moved(self.vectors), moved(self.squares))

    @property
    def mean(self) -> Tensor:
        """m = E[r|x]."""
        return self.powers[:, 1]

    @property
    def covariance(self) -> Tensor:
        """c = Cov(r, V|x), (n, d)."""
        return self.vectors[:, 1]

    def _polynomial(self, value: Tensor, level: float, slope: float) -> Tensor:
        """E[(level + slope r)^2 (.)] of one of the three moments."""
        return level**2 * value[:, 0] + 2 * level * slope * value[:, 1] + slope**2 * value[:, 2]

    def nft(self, nft_beta: float) -> Tensor:
        """Trace of the covariance of NFT's Newton step, the same at every mu."""
        check_positive("nft_beta", nft_beta)
        noise = self._polynomial(self.squares, -1.0, 2.0)
        return (noise - 4 * _square(self.covariance)) / nft_beta**2

    def weighted(self, scale: float, place: Place = "v0") -> Tensor:
        """The same of the loss weighted by 1 + scale r.

        Raises:
            ValueError: 1 + scale m is not positive somewhere: the loss has no minimum there.
        """
        check_finite("scale", scale)
        check_choice("place", place, get_args(Place))
        curvature = 1 + scale * self.mean
        if bool((curvature <= 0).any()):
            raise ValueError(
                f"E[1 + scale r|x] must be > 0, got {curvature.min().item():g} for scale {scale!r}"
            )
        at_v0 = self._polynomial(self.squares, 1.0, scale)
        push = scale * self.covariance
        if place == "v0":
            return (at_v0 - _square(push)) / curvature**2
        move = push / curvature[:, None]
        cross = (move * self._polynomial(self.vectors, 1.0, scale)).sum(-1)
        own = _square(move) * self._polynomial(self.powers, 1.0, scale)
        return (at_v0 - 2 * cross + own) / curvature**2

    def baseline(self) -> Tensor:
        """The b that makes the noise of v_0 + a (r - b) D least: E[r |D|^2] / E|D|^2; NFT has 1/2.

        The mean, and so the optimum, does not depend on b."""
        return self.squares[:, 1] / self.squares[:, 0]

    def controlled(self, scale: float, baseline: float | Tensor = 0.5) -> Tensor:
        """Trace of the covariance of scale (r - baseline) D: NFT's for baseline 1/2 and
        scale 2/beta."""
        check_finite("scale", scale)
        second, first, zero = self.squares[:, 2], self.squares[:, 1], self.squares[:, 0]
        noise = second - 2 * baseline * first + baseline**2 * zero
        return scale**2 * (noise - _square(self.covariance))


def noise_moments(problem: Problem, x: Tensor, t: Tensor | float) -> NoiseMoments:
    """The moments at points x (n, d) and time t, for bump and quadratic rewards.

    Raises:
        ValueError: the reward has no closed form (neither bumps nor quadratic).
    """
    time = torch.as_tensor(t, dtype=x.dtype)
    path = problem.path
    post = problem.base.noised(x, path.alpha(time), path.sigma(time))
    reward = problem.reward
    if isinstance(reward, BumpReward):
        powers, vectors, squares = _of_bumps(post, BumpMoments(problem.base, reward))
    elif isinstance(reward, QuadraticReward):
        powers, vectors, squares = _of_quadratic(post, reward)
    else:
        raise ValueError(
            "reward must be linear, quadratic or of bumps, got "
            f"{type(reward).__name__}, which has no closed form here"
        )
    gain = velocity_gain(path, time).expand(len(x))[:, None]
    return NoiseMoments(powers, gain[..., None] * vectors, gain**2 * squares)


def velocity_gain(path: Path, t: Tensor | float) -> Tensor:
    """dV / dX_1 at fixed X_t: alpha' - sigma' alpha / sigma; 1 / (1 - t) on the rectified flow."""
    time = torch.as_tensor(t, dtype=torch.float64)
    return path.dalpha(time) - path.dsigma(time) * path.alpha(time) / path.sigma(time)


def _square(value: Tensor) -> Tensor:
    return (value**2).sum(-1)


def _of_bumps(post: Posterior, moments: BumpMoments) -> tuple[Tensor, Tensor, Tensor]:
    """r^j is a sum of bumps: its mean, and those of r^j D and r^j |D|^2, given x.

    E[r^j |D|^2] = E[r^j] E|D|^2 + sigma^4 / alpha times the divergence of E[D r^j] / sigma^2.
    """
    square = (post.sigma**2).mT if post.sigma.ndim else post.sigma**2
    spread = _trace(post.covariance())
    powers, vectors = [torch.ones_like(post.log_abs)], [torch.zeros_like(post.mean)]
    squares = [spread]
    for j, (F, N, slope) in enumerate(moments.parts(post, ORDER, True), start=1):
        size = math.factorial(j)
        powers.append(size * F)
        vectors.append(size * square * N)
        own = square[..., 0] if square.ndim else square
        squares.append(size * (F * spread + own**2 * slope))
    return torch.stack(powers, 1), torch.stack(vectors, 1), torch.stack(squares, 1)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _of_quadratic(post: Posterior, reward: QuadraticReward) -> tuple[Tensor, Tensor, Tensor]:
    """Joint cumulants of r and q = |X_1 - E[X_1|x]|^2, both quadratic in every component's
    Gaussian z ~ N(0, S): with Q_i = z'A_i z/2 + b_i'z + c_i,

        kappa(Q_1) = c_1 + tr(S A_1)/2,   kappa(Q_1, Q_2) = b_1'S b_2 + tr(S A_1 S A_2)/2,
        kappa(r, r, q) = tr(S A_r S A_r S A_q) + b_r'S A_q S b_r + 2 b_r'S A_r S b_q.
    """
    weights = post.weights.mT  # (n, K)
    means = post.component_means.permute(2, 0, 1)  # (n, K, d)
    gain = post.component_precision_gain.permute(1, 0, 2, 3)  # (n|1, K, d, d)
    sigma = post.sigma.mT if post.sigma.ndim else post.sigma
    S = sigma[..., None, None] ** 2 * gain
    H = reward.matrix
    offset = means - post.mean[:, None, :]
    slope = means @ H + reward.vector
    value = 0.5 * ((slope + reward.vector) * means).sum(-1) + reward.constant
    SH = S @ H
    r = value + 0.5 * _trace(SH)
    push, pull = _times(S, slope), 2 * _times(S, offset)  # S b_r, S b_q
    rr = (slope * push).sum(-1) + 0.5 * _trace(SH @ SH)
    q = _square(offset) + _trace(S)
    rq = (slope * pull).sum(-1) + _trace(SH @ S)
    rrq = 2 * _trace(SH @ SH @ S) + 2 * _square(push) + 2 * (push * _times(H, pull)).sum(-1)
    powers = [torch.ones_like(r), r, rr + r**2]
    first = r[..., None] * offset + push
    second = (rr + r**2)[..., None] * offset + 2 * r[..., None] * push
    second = second + 2 * _times(S, _times(H, push))
    vectors = [torch.zeros_like(offset), first, second]
    squares = [q, rq + r * q, rrq + 2 * rq * r + rr * q + r**2 * q]

    def mixed(parts: list[Tensor]) -> Tensor:
        rows = torch.stack(parts, 2)  # (n, K, 3, ...)
        w = weights.reshape(*weights.shape, *[1] * (rows.ndim - 2))
        return (w * rows).sum(1)

    return mixed(powers), mixed(vectors), mixed(squares)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


# --- over all of X_t and t


@dataclass(frozen=True, eq=False)
class PathNodes:
    """Points of X_t (n, 1), their times (n,) and the shares of the path's law there (n,)."""

    x: Tensor
    t: Tensor
    shares: Tensor


def path_nodes(problem: Problem, times: int = 12, points: int = 81) -> PathNodes:
    """Quadrature nodes of (X_t, t), t uniform in [0, 1], for a problem on the line.

    Raises:
        ValueError: the problem is not on the line.
    """
    if problem.dim != 1:
        raise ValueError(f"problem must have d = 1, got d = {problem.dim}")
    roots, weights = _legendre(times)
    rows_x, rows_w = [], []
    base = problem.base
    spread = base.covariance()[0, 0].sqrt()
    line = torch.linspace(-7.0, 7.0, points, dtype=torch.float64)
    for t, w in zip(roots.tolist(), weights.tolist(), strict=True):
        now = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = float(problem.path.alpha(now)), float(problem.path.sigma(now))
        law = base.convolved(alpha, sigma)
        width = (alpha**2 * spread**2 + sigma**2) ** 0.5
        x = (law.expectation() + width * line)[:, None]
        density = law.density(x)
        rows_x.append(x)
        rows_w.append(w * density / density.sum())
    return PathNodes(torch.cat(rows_x), roots.repeat_interleave(points), torch.cat(rows_w))


def _legendre(n: int) -> tuple[Tensor, Tensor]:
    """Gauss and Legendre's nodes and weights on [0, 1], by Golub and Welsch."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return 0.5 * (values + 1), vectors[0] ** 2


@dataclass(frozen=True, eq=False)
class MarginalNoise:
    """The noise of both losses averaged over (X_t, t), for r = low + (high - low) (own reward).

    The problem's own reward must lie in [0, 1], so that r lies between low and high.
    """

    moments: NoiseMoments
    shares: Tensor

    @classmethod
    def of(cls, problem: Problem) -> MarginalNoise:
        nodes = path_nodes(problem)
        return cls(noise_moments(problem, nodes.x, nodes.t), nodes.shares)

    def ratio(self, low: float, high: float, nft_beta: float = 1.0, place: Place = "v0") -> float:
        """NFT's over that of the loss weighted by 1 + (2/nft_beta) r."""
        m = self.moments.affine(low, high - low)
        weighted = m.weighted(2 / nft_beta, place)
        return float((self.shares * m.nft(nft_beta)).sum() / (self.shares * weighted).sum())

    def per_signal(self, low: float, high: float, nft_beta: float = 1.0) -> float:
        """The same at v_0 of noise over the square of the mean step: NFT's step is 1 + a m times
        as long as the weighted loss's."""
        m = self.moments.affine(low, high - low)
        a, s = 2 / nft_beta, self.shares
        curvature = 1 + a * m.mean
        square = a**2 * _square(m.covariance)
        nft = (s * m.nft(nft_beta)).sum() / (s * square).sum()
        other = (s * m.weighted(a)).sum() / (s * square / curvature**2).sum()
        return float(nft / other)

    def best_baseline(self, low: float, high: float) -> tuple[float, float]:
        """(the best constant baseline, NFT's noise over that with it)."""
        m = self.moments.affine(low, high - low)
        best = float((self.shares * m.squares[:, 1]).sum() / (self.shares * m.squares[:, 0]).sum())
        own = (self.shares * m.controlled(2.0)).sum()
        return best, float(own / (self.shares * m.controlled(2.0, best)).sum())
