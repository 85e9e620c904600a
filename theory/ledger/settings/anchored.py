"""Where output regularisation of residual nabla-DB is tried: one Gaussian, a linear log R."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from theory import GaussianSum
from theory.fields.paths import PATHS
from theory.laws.distances import Array
from theory.ledger.oracle.gflownet.anchored import AnchoredNumbers
from theory.ledger.oracle.gflownet.numbers import levels
from theory.ledger.settings.domain import AnySetting, Domain
from theory.ledger.settings.gflownet import ENDS, MOST_END, SMOOTH, STEPS
from theory.samplers.chain import Chain

PULLS = (0.02, 20.0)  # the largest l_k of a chain's kernels
WEIGHTS = (0.3, 3.0)
GAINS = (0.05, 1.0)
ROUNDS = 12
EIGENVALUES = (0.1, 2.0)


@dataclass(frozen=True, eq=False)
class AnchoredSetting(AnySetting):
    """N(mean, cov), the slope of log R^beta, a chain, gains (T,) of its means with the network's
    output, lambda, the losses' weights, and rounds that each start from the last one's output."""

    mean: Array
    cov: Array
    slope: Array
    path: str
    steps: int
    sigma_end: float
    first_time: float
    gains: Array
    strength: float
    w_forward: float
    w_backward: float
    w_terminal: float
    rounds: int

    @property
    def dim(self) -> int:
        return len(self.mean)

    # --- first route

    @cached_property
    def chain(self) -> Chain:
        return Chain(self.steps, self.sigma_end, PATHS[self.path](), self.first_time)

    @cached_property
    def base(self) -> GaussianSum:
        return GaussianSum.mixture(
            [1.0], torch.as_tensor(self.mean)[None], covs=torch.as_tensor(self.cov)[None]
        )

    # --- second route

    @cached_property
    def numbers(self) -> AnchoredNumbers:
        alpha, sigma = levels(self.path, self.steps, self.sigma_end, self.first_time)
        return AnchoredNumbers(
            mean=self.mean,
            cov=self.cov,
            w=self.slope,
            power=1.0,
            alpha=alpha,
            sigma=sigma,
            gains=self.gains,
            strength=self.strength,
            w_forward=self.w_forward,
            w_backward=self.w_backward,
            w_terminal=self.w_terminal,
        )

    # --- tables

    @property
    def pull(self) -> float:
        """The largest l_k."""
        variances = np.array([self.numbers.kernel(k)[2] for k in range(self.steps)])
        return float(self.strength * ((variances / self.gains) ** 2).max())

    def describe(self) -> str:
        return (
            f"d = {self.dim}, one Gaussian, linear log R, {self.path.replace('_', ' ')}, T = "
            f"{self.steps}, sigma_end = {self.sigma_end:.2g}, t_0 = {self.first_time:.2g}, largest "
            f"l = {self.pull:.3g}, w = {self.w_forward:.2g}, {self.w_backward:.2g}, "
            f"{self.w_terminal:.2g}, {self.rounds} rounds"
        )


@dataclass(frozen=True)
class AnchoredChains(Domain[AnchoredSetting]):
    """Random ones. pulls: of the largest l_k; late: whether some begin at first_time > 0."""

    setting = AnchoredSetting

    paths: tuple[str, ...] = SMOOTH
    steps: tuple[int, int] = STEPS
    pulls: tuple[float, float] = PULLS
    late: bool = True

    def draw(self, dim: int, seed: int) -> AnchoredSetting:
        rng = np.random.default_rng([seed, dim, 59])
        steps = int(rng.integers(self.steps[0], self.steps[1] + 1))
        path = str(rng.choice(self.paths))
        late = self.late and rng.random() < 0.4
        first_time = float(rng.uniform(0.05, 0.5)) if late else 0.0
        axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        values = _between(rng, EIGENVALUES, dim)
        weights = _between(rng, WEIGHTS, 3).tolist()
        end = float(_between(rng, ENDS, 1)[0])
        setting = AnchoredSetting(
            mean=rng.normal(size=dim),
            cov=(axes * values) @ axes.T,
            slope=rng.normal(size=dim),
            path=path,
            steps=steps,
            sigma_end=min(end, MOST_END * _noise_before(path, steps, first_time)),
            first_time=first_time,
            gains=_between(rng, GAINS, steps),
            strength=1.0,
            w_forward=weights[0],
            w_backward=weights[1],
            w_terminal=weights[2],
            rounds=int(rng.integers(1, ROUNDS + 1)),
        )
        pull = float(_between(rng, self.pulls, 1)[0])
        return replace(setting, strength=pull / setting.pull)

    def nudge(
        self, setting: AnchoredSetting, rng: np.random.Generator, step: float
    ) -> AnchoredSetting | None:
        dim = setting.dim
        turn = np.eye(dim) + 0.5 * step * rng.normal(size=(dim, dim))
        cov = turn @ setting.cov @ turn.T
        first_time = setting.first_time
        if first_time > 0:
            first_time = min(max(first_time + step * rng.normal(), 0.02), 0.6)
        stretch = np.exp(step * rng.normal(size=5))
        new = replace(
            setting,
            mean=setting.mean + step * rng.normal(size=dim),
            cov=0.5 * (cov + cov.T),
            slope=setting.slope + step * rng.normal(size=dim),
            sigma_end=float(setting.sigma_end * stretch[0]),
            first_time=first_time,
            gains=setting.gains * np.exp(step * rng.normal(size=setting.steps)),
            strength=float(setting.strength * stretch[1]),
            w_forward=float(setting.w_forward * stretch[2]),
            w_backward=float(setting.w_backward * stretch[3]),
            w_terminal=float(setting.w_terminal * stretch[4]),
        )
        return new if self._allows(new) else None

    def _allows(self, s: AnchoredSetting) -> bool:
        most = MOST_END * _noise_before(s.path, s.steps, s.first_time)
        if s.sigma_end > most:
            return False
        weights = (s.w_forward, s.w_backward, s.w_terminal)
        inside = [(s.sigma_end, (min(ENDS[0], most), ENDS[1])), (s.pull, self.pulls)]
        inside += [(w, WEIGHTS) for w in weights] + [(float(g), GAINS) for g in s.gains]
        inside += [(float(v), EIGENVALUES) for v in np.linalg.eigvalsh(s.cov)]
        return all(0.9 * low <= value <= 1.1 * high for value, (low, high) in inside)


def _between(rng: np.random.Generator, ends: tuple[float, float], count: int) -> Array:
    """Numbers whose logarithms are uniform."""
    low, high = np.log(ends)
    return np.exp(rng.uniform(low, high, size=count))


def _noise_before(path: str, steps: int, first_time: float) -> float:
    """The noise of state T - 1 in units of the last one's scale: sigma_end must be below it."""
    alpha, sigma = levels(path, steps, 0.0, first_time)
    return float(sigma[-2] / alpha[-2] * alpha[-1]) if alpha[-2] > 0 else math.inf
