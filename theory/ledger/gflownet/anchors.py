"""nabla, output regularisation: G12, for one Gaussian and a linear log R.

The policy moves the means of the pretrained chain's Gaussian kernels by s_k^2 u_k; its flows have
the scores h_k; no residual depends on the state. First route: the conditions' residuals of
`theory.gflownet.balance`, probed one unknown at a time, in least squares; what the pretrained
chain's own law tilts to. Second route: the same blocks written out by regression
(`theory.ledger.oracle.gflownet.anchored`), round after round where the anchor moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from theory.common.tolerances import QUADRATURE
from theory.fields.mixture import MixtureField
from theory.gflownet.balance import ResidualBalance
from theory.gflownet.kernels import GaussianKernels
from theory.laws.gaussians import GaussianSum
from theory.ledger.core import Array, Context, Finding, Identity, Region, number
from theory.ledger.oracle.gflownet.anchored import AnchoredNumbers, after_rounds, settled
from theory.ledger.settings.gflownet import FlowProblems, FlowSetting
from theory.samplers.chain import Chain

ONE = FlowProblems(forms=("log",), kinds=("linear",), late=False, steps=(2, 3))
ROUNDS = 3000


@dataclass(frozen=True, eq=False)
class Moved:
    """The pretrained Gaussian kernels, their means moved by s_k^2 u_k; u: (T, d)."""

    base: GaussianKernels
    shifts: Tensor

    def mean(self, k: int, x: Tensor) -> Tensor:
        chain = self.base.chain
        return chain.mean(self.base.model, k, x) + chain.coefficients(x)[2][k] ** 2 * self.shifts[k]

    def log_density(self, k: int, x: Tensor, x_next: Tensor) -> Tensor:
        variance = self.base.chain.coefficients(x)[2][k] ** 2
        square = ((x_next - self.mean(k, x)) ** 2).sum(-1)
        return -0.5 * (square / variance + x.shape[-1] * (2 * torch.pi * variance).log())


@dataclass(frozen=True, eq=False)
class Flat:
    """Flows whose scores h (T + 1, d) do not depend on the state."""

    scores: Tensor

    def log_flow(self, k: int, x: Tensor) -> Tensor:
        return x @ self.scores[k]

    def score(self, k: int, x: Tensor) -> Tensor:
        return self.scores[k].expand(x.shape)


@dataclass(frozen=True, eq=False)
class OneGaussian:
    """A base N(mean, cov), log R^beta = w . x, a chain; strength: lambda, in the kernels' means."""

    chain: Chain
    mean: Array
    cov: Array
    w: Array
    strength: float

    @cached_property
    def kernels(self) -> GaussianKernels:
        law = GaussianSum.mixture([1.0], self.mean[None].tolist(), covs=self.cov[None].tolist())
        return GaussianKernels(self.chain, MixtureField(law, self.chain.path))

    def residuals(self, unknowns: Tensor) -> Tensor:
        """All that is squared, for u and h (2 T + 1, d), in one vector."""
        steps, kernels = self.chain.steps, self.kernels
        u, h = unknowns[:steps], unknowns[steps:]
        policy = Moved(kernels, u)
        balance = ResidualBalance(policy, kernels, Flat(h))
        x = torch.linspace(-1.0, 0.7, len(self.mean), dtype=torch.float64)[None]
        parts = []
        for k in range(steps):
            parts += [balance.forward(k, x, 0.3 - x), balance.reverse(k, x, 0.3 - x)]
            move = policy.mean(k, x) - self.chain.mean(kernels.model, k, x)
            parts.append(self.strength**0.5 * move)
        parts.append(h[-1:] - torch.as_tensor(self.w)[None])
        return torch.cat(parts).flatten()

    def settled(self) -> Tensor:
        """u (T, d) of the least sum of squares."""
        shape = (2 * self.chain.steps + 1, len(self.mean))
        zero = torch.zeros(shape, dtype=torch.float64)
        start = self.residuals(zero)
        columns = []
        for i in range(zero.numel()):
            probe = zero.flatten().clone()
            probe[i] = 1.0
            columns.append(self.residuals(probe.reshape(shape)) - start)
        matrix = torch.stack(columns, 1)
        solution = torch.linalg.solve(matrix.T @ matrix, -matrix.T @ start)
        return solution.reshape(shape)[: self.chain.steps]

    def last_mean(self, shifts: Tensor) -> Array:
        """The mean of X_T: means are affine in the state."""
        policy = Moved(self.kernels, shifts)
        place = torch.zeros(1, len(self.mean), dtype=torch.float64)
        for k in range(self.chain.steps):
            place = policy.mean(k, place)
        return place[0].numpy()

    def tilted_mean(self) -> Array:
        """Of R^beta times the pretrained chain's own law, whose covariance is pushed through."""
        d, kernels = len(self.mean), self.kernels
        eye, zero = torch.eye(d, dtype=torch.float64), torch.zeros(1, d, dtype=torch.float64)
        cov = float(self.chain.start(torch.ones(1, dtype=torch.float64))) ** 2 * eye
        s = self.chain.coefficients(eye)[2]
        for k in range(self.chain.steps):
            slope = (
                self.chain.mean(kernels.model, k, eye) - self.chain.mean(kernels.model, k, zero)
            ).T
            cov = slope @ cov @ slope.T + s[k] ** 2 * eye
        still = torch.zeros(self.chain.steps, d, dtype=torch.float64)
        return self.last_mean(still) + cov.numpy() @ self.w


def _strength(s: FlowSetting) -> float:
    """lambda: eta over the largest kernel's variance squared, so that it matters."""
    return s.eta / float(s.numbers.sigma[1] ** 4)


def _one(s: FlowSetting, share: float = 1.0, power: float = 1.0) -> OneGaussian:
    p = s.case.parameters
    w = power * s.power * p["vector"]
    return OneGaussian(s.chain, s.case.means[0], s.case.covs[0], w, share * _strength(s))


def _numbers(s: FlowSetting) -> AnchoredNumbers:
    n = s.numbers
    return AnchoredNumbers(
        mean=s.case.means[0],
        cov=s.case.covs[0],
        w=s.case.parameters["vector"],
        power=s.power,
        alpha=n.alpha,
        sigma=n.sigma,
        gains=np.ones(n.steps),
        strength=_strength(s),
    )


def _anchored_mean(s: FlowSetting, share: float = 1.0) -> Array:
    one = _one(s, share)
    return one.last_mean(one.settled())


def _mean_after_rounds(s: FlowSetting) -> Array:
    return after_rounds(_numbers(s), ROUNDS).mean


def _settled_mean(s: FlowSetting) -> Array:
    return settled(_numbers(s)).mean


TO_THE_BASE = Identity(
    "anchored to the pretrained model: mean of X_T at the least sum of squares",
    ONE,
    _anchored_mean,
    _settled_mean,
    {
        "no anchor": lambda s: _anchored_mean(s, 0.0),
        "2 lambda": lambda s: _anchored_mean(s, 2.0),
        "the tilt": lambda s: _one(s).tilted_mean(),
    },
    role="instead",
    tier=QUADRATURE,
    dims=(1, 2),
)
TO_THE_LAST_STEP = Identity(
    "anchored to the last step: rounds end at the mean of R^beta P#",
    ONE,
    lambda s: _one(s).tilted_mean(),
    _mean_after_rounds,
    {
        "anchored to the base": _anchored_mean,
        "R^2 beta": lambda s: _one(s, power=2.0).tilted_mean(),
    },
    role="condition",
    tier=QUADRATURE,
    dims=(1, 2),
    share=0.5,
)


def _kept(strength: float, steps: int = 4) -> float:
    """The share of the tilt's shift of the mean that an anchor at the base keeps, in d = 1."""
    one = OneGaussian(
        Chain(steps, 0.2), np.array([0.4]), np.array([[0.5]]), np.array([1.2]), strength
    )
    still = one.last_mean(torch.zeros(steps, 1, dtype=torch.float64))[0]
    return float((one.last_mean(one.settled())[0] - still) / (one.tilted_mean()[0] - still))


def anchors(context: Context) -> Finding:
    """What is left of the tilt's shift with an anchor at the base."""
    found = {strength: _kept(strength) for strength in (0.0, 0.1, 1.0, 10.0)}
    return Finding(
        name="output regularisation leaves the target where it is",
        role="claim",
        kind="exact",
        holds=abs(found[10.0] - 1) <= QUADRATURE.rtol,
        figure="share of the mean's shift that is left with Algorithm 1's anchor: "
        + ", ".join(f"{number(v)} (lambda = {k:g})" for k, v in found.items()),
        numbers={"kept": {str(k): v for k, v in found.items()}},
        worst="N(0.4, 0.5), log R^beta = 1.2 x, 4 steps, lambda in units of the kernels' means",
        mutants={"no anchor": abs(found[0.0] - 1) <= QUADRATURE.rtol},
    )


def anchor_region(cells: int) -> Region:
    """What an anchor at the base takes of the tilt's shift."""
    strengths = np.geomspace(0.01, 30.0, max(2, cells // 2))
    steps = np.arange(2, 5)  # sigma_end = 0.2 must be less than the noise before it
    errors = [[1 - _kept(float(a), int(t)) for t in steps] for a in strengths]
    return Region(
        "the share of the tilt's shift that an anchor at the base takes",
        "lambda",
        strengths,
        "steps",
        steps.astype(np.float64),
        np.array(errors),
        "1 - share of the shift",
        log_axes="x",
    )


G12_PARTS = (anchors, TO_THE_BASE, TO_THE_LAST_STEP)
