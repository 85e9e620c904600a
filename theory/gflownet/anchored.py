r"""Output regularisation of residual nabla-DB, lambda |f - f_anchor|^2: where it settles.

One Gaussian base and log R^beta linear, so that everything is closed. The policy moves the means of
the pretrained chain's kernels N(J_k x + const, s_k^2 I) by s_k^2 u_k, and neither u_k nor the
scores h_k of its flows depend on the state. Along an eigenvector of the base's covariance J_k is a
number j_k, and with w the slope of log R^beta the losses (12)-(14) and the penalty are

    sum_k w_F (u_k - h_{k+1})^2 + w_B (h_k - j_k u_k)^2 + l_k (u_k - anchor_k)^2  +  w_T (h_T - w)^2

with l_k = lambda (s_k^2 / gain_k)^2, gain_k the mean's response to the network's output f. Each h_k
is tied to its neighbours alone, as a bar between two springs, which are as stiff as one of
c = w_F w_B / (w_F + w_B):

    sum_k c (u_{k-1} - j_k u_k)^2 + l_k (u_k - anchor_k)^2  +  c_T (u_{T-1} - w)^2.

    anchor 0          the pretrained model (Algorithm 1): solved from the first state on, one
                      spring after the other; less than the tilt for any lambda > 0
    anchor its own    the last step's output (section 4.3): a round takes every mode of K v =
                      mu L v, K and L the losses' and the penalty's matrices, towards the tilt by
                      1 - 1 / (1 + mu); what does not move is the tilt itself
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from theory.common.checks import (
    check_choice,
    check_nonnegative,
    check_order,
    check_positive,
    check_shape,
)
from theory.fields.mixture import MixtureField
from theory.laws.gaussians import GaussianSum
from theory.samplers.chain import Chain
from theory.tilts.quadratic import linear_reward
from theory.tilts.tilt import tilt
from theory.tilts.wrappers import Exponential

OUTPUTS = ("velocity", "noise")


def output_gains(chain: Chain, output: str = "velocity") -> Tensor:
    """How far the kernels' means move with a network's output, (T,): a velocity, or the noise of
    the state; infinite for the noise of a state without signal."""
    check_choice("output", output, OUTPUTS)
    gains = chain.coefficients(chain.times)[1]
    if output == "velocity":
        return gains
    path, t = chain.path, chain.times
    return gains * (path.dsigma(t) - path.dalpha(t) * path.sigma(t) / path.alpha(t))


@dataclass(frozen=True, eq=False)
class AnchoredChain:
    """A chain over one Gaussian, the slope (d,) of log R^beta, and the losses' weights.

    strength: lambda; gains: (T,), `output_gains`. Shifts u are (T, d), scores h (T + 1, d).
    """

    chain: Chain
    base: GaussianSum
    slope: Tensor
    strength: float
    gains: Tensor
    w_forward: float = 1.0
    w_backward: float = 1.0
    w_terminal: float = 1.0

    def __post_init__(self) -> None:
        if self.base.n_components != 1:
            raise ValueError(f"base must be one Gaussian, got {self.base.n_components}")
        check_shape("slope", self.slope, (self.base.dim,))
        check_shape("gains", self.gains, (self.chain.steps,))
        check_nonnegative("strength", self.strength)
        for name in ("w_forward", "w_backward", "w_terminal"):
            check_positive(name, getattr(self, name))

    @cached_property
    def axes(self) -> Tensor:
        """The eigenvectors of the base's covariance, as columns (d, d)."""
        return torch.linalg.eigh(self.base.cov[0])[1]

    @cached_property
    def factors(self) -> Tensor:
        """j_k along them, (T, d): how a kernel's mean follows the state."""
        field = MixtureField(self.base, self.chain.path)
        origin = torch.zeros_like(self.slope)[None]
        found = []
        for k in range(self.chain.steps):
            moved = self.chain.mean(field, k, self.axes.mT) - self.chain.mean(field, k, origin)
            found.append((moved * self.axes.mT).sum(-1))
        return torch.stack(found)

    @cached_property
    def penalties(self) -> Tensor:
        """l_k, (T,)."""
        variance = self.chain.coefficients(self.gains)[2] ** 2
        return self.strength * (variance / self.gains) ** 2

    @property
    def springs(self) -> tuple[float, float]:
        """c and c_T: what two losses that share a flow's score are together."""
        forward, backward, terminal = self.w_forward, self.w_backward, self.w_terminal
        return (
            forward * backward / (forward + backward),
            forward * terminal / (forward + terminal),
        )

    def loss(self, shifts: Tensor, scores: Tensor, anchor: Tensor) -> Tensor:
        """The losses and the penalty on (T, d), (T + 1, d) and the anchor's shifts (T, d)."""
        parts = [
            self.w_forward * (shifts - scores[1:]) ** 2,
            self.w_backward * (scores[:-1] - self._carried(shifts)) ** 2,
            self.w_terminal * (scores[-1:] - self.slope) ** 2,
            self.penalties[:, None] * (shifts - anchor) ** 2,
        ]
        return torch.stack([part.sum() for part in parts]).sum()

    # --- fixed points

    def tilted(self) -> Tensor:
        """u without a penalty, all losses zero: u_k = j_{k+1} ... j_{T-1} w."""
        found = [self._slopes]
        for factor in self.factors.flip(0)[:-1]:
            found.insert(0, factor * found[0])
        return torch.stack(found) @ self.axes.mT

    def anchored_to_base(self) -> Tensor:
        """u with the anchor at the pretrained model."""
        between, last = self.springs
        stiffness, shares = self.penalties[0].expand(self.slope.shape), []
        for k in range(1, self.chain.steps):
            shares.append(between / (between + stiffness))
            stiffness = self.penalties[k] + self.factors[k] ** 2 * shares[-1] * stiffness
        found = [last / (last + stiffness) * self._slopes]
        for k in reversed(range(1, self.chain.steps)):
            found.insert(0, shares[k - 1] * self.factors[k] * found[0])
        return torch.stack(found) @ self.axes.mT

    def after_rounds(self, rounds: int) -> Tensor:
        """u after as many rounds, each solved with the anchor at what the one before put out, the
        first at the pretrained model."""
        check_order("rounds", rounds, 0)
        left, modes = self._modes
        tilted = (self.tilted() @ self.axes).mT[..., None]  # (d, T, 1)
        kept = modes @ (left[..., None] ** rounds * torch.linalg.solve(modes, tilted))
        return (tilted - kept)[..., 0].mT @ self.axes.mT

    @property
    def slowest(self) -> float:
        """What a round leaves of the slowest mode's way to the tilt: in [0, 1)."""
        return float(self._modes[0].max())

    @cached_property
    def _modes(self) -> tuple[Tensor, Tensor]:
        """1 / (1 + mu), (d, T), and the modes v as columns (d, T, T): L v = K v / mu."""
        factor = torch.linalg.cholesky(self._losses)
        half = torch.linalg.solve_triangular(
            factor, torch.diag(self.penalties).expand_as(factor), upper=False
        )
        matrix = torch.linalg.solve_triangular(factor, half.mT, upper=False)
        inverse, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
        inverse = inverse.clamp_min(0.0)
        modes = torch.linalg.solve_triangular(factor.mT, vectors, upper=True)
        return inverse / (1 + inverse), modes

    @cached_property
    def _losses(self) -> Tensor:
        """K, (d, T, T), by the eigenvectors of the base's covariance."""
        between, last = self.springs
        steps, factors = self.chain.steps, self.factors.mT
        matrix = torch.zeros(len(self.slope), steps, steps, dtype=self.slope.dtype)
        k = torch.arange(1, steps)
        matrix[:, k, k] += between * factors[:, 1:] ** 2
        matrix[:, k - 1, k - 1] += between
        matrix[:, k - 1, k] = matrix[:, k, k - 1] = -between * factors[:, 1:]
        matrix[:, -1, -1] += last
        return matrix

    @property
    def _slopes(self) -> Tensor:
        """w along the eigenvectors, (d,)."""
        return self.slope @ self.axes

    # --- what follows from the shifts

    def scores(self, shifts: Tensor) -> Tensor:
        """h (T + 1, d), the flows' scores with the least losses at given shifts."""
        carried = self._carried(shifts)
        forward, backward, terminal = self.w_forward, self.w_backward, self.w_terminal
        middle = (forward * shifts[:-1] + backward * carried[1:]) / (forward + backward)
        last = (forward * shifts[-1] + terminal * self.slope) / (forward + terminal)
        return torch.cat([carried[:1], middle, last[None]])

    def _carried(self, shifts: Tensor) -> Tensor:
        """J_k u_k, (T, d)."""
        return self.factors * (shifts @ self.axes) @ self.axes.mT

    def law(self, shifts: Tensor) -> GaussianSum:
        """The law of X_T, from the chain's own start."""
        field = MixtureField(self.base, self.chain.path)
        mean = torch.zeros_like(self.slope)[None]
        variance = self.chain.coefficients(mean)[2] ** 2
        spread = self.chain.start(torch.ones_like(self.slope)) ** 2  # by eigenvectors
        for k in range(self.chain.steps):
            mean = self.chain.mean(field, k, mean) + variance[k] * shifts[k]
            spread = self.factors[k] ** 2 * spread + variance[k]
        cov = (self.axes * spread) @ self.axes.mT
        return GaussianSum.mixture([1.0], mean, covs=0.5 * (cov + cov.mT)[None])

    def target(self) -> GaussianSum:
        """R^beta P# / Z, P# the law of the pretrained kernels; the law of the shifts `tilted` where
        the first state keeps no signal."""
        own = self.law(torch.zeros_like(self.factors))
        law = tilt(own, linear_reward(self.slope), Exponential(1.0)).law
        assert law is not None
        return law
